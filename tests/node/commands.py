"""The command line, called in this process: what it exits with, and what it prints."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

from node.cli import main


class Done(NamedTuple):
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


def lazaretto(*argv: str) -> Done:
    """``lazaretto ARGV``, to its end."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(argv))
    return Done(code, out.getvalue(), err.getvalue())

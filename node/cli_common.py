"""What all commands share: flags, and lines on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

HomeFlag = Annotated[
    Path | None,
    Parameter(help="The node's directory. [env: LAZARETTO_HOME]", show_default=False),
]
CorpusFlag = Annotated[
    str | None,
    Parameter(help="Text to learn from: a folder, a file, or hf://datasets/OWNER/NAME."),
]
JsonFlag = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object on stdout.")]


def hint(why: str, command: str, home: Path | None) -> None:
    """The next command to type, on stderr."""
    where = f" --home {home}" if home is not None else ""
    progress(f"{why}:  {command}{where}")


def progress(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)

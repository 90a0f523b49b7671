"""``lazaretto down``, ``finish``: end the node of a home, and wait until it let go of its log."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from node.errors import NodeError, NotRunning
from node.state import read_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.settings import Home

PATIENCE_SECONDS: Final = 30.0
"""A run that is stopped ends within a moment; a disk may be slow."""


def stop(home: Home, patience: float = PATIENCE_SECONDS) -> int:
    """Ask the running node to end, as Ctrl-C would; returns its process id.

    Whatever was signed is kept; an unfinished run is found again or never counts.

    Raises:
        NotRunning: no node holds the log of this home.
        NodeError: it has not ended in time, or belongs to somebody else.
    """
    pid = read_state(home).pid
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has just ended
    except PermissionError:
        raise NodeError(
            f"the node (process {pid}) runs as another user; nothing was done",
            cure=f"sudo kill {pid}",
        ) from None
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            read_state(home)
        except NotRunning:
            return pid
        time.sleep(0.05)
    raise NodeError(
        f"the node (process {pid}) was asked to end and has not yet; nothing is lost either way",
        cure=f"wait, or: kill -9 {pid}",
    )


def finished(home: Home, tell: Callable[[str], None], every: float = 0.25) -> int:
    """Wait until a node that was told to finish has ended; returns its process id.

    ``tell`` is given what it waits for, whenever that is something else.

    Raises:
        NodeError: it goes on after all, because somebody said ``resume``.
    """
    pid, told = 0, ""
    while True:
        try:
            state = read_state(home)
        except NotRunning:
            return pid
        pid = state.pid
        if state.activity != told and state.activity.startswith("finish"):
            told = state.activity
            tell(told)
        elif told and not state.activity.startswith("finish"):
            raise NodeError("the node goes on: somebody said resume", cure="lazaretto status")
        time.sleep(every)

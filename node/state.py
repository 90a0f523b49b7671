"""What a running node says of itself in ``state.json``, for commands that look from outside."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from node.errors import NotRunning
from node.settings import write_atomic

if TYPE_CHECKING:
    from node.settings import Home


@dataclass(frozen=True, slots=True)
class Sensed:
    """What limits look at. None: this machine does not tell.

    ``others``: share of all cores that other programs use; ``quiet``: seconds for which it was
    small; ``hour``: local time of day in hours; ``free_gib``: room on the disk of the home;
    ``busy``: cores that this node and its runs use; ``run_mib``: resident memory of its runs, what
    they share counted in each; ``nice``: of the busiest of them, None without any;
    ``sent_kib_s``: data by hash, sent and fetched.
    """

    on_battery: bool | None
    others: float
    quiet: float
    hour: float
    free_gib: float
    celsius: float | None
    busy: float = 0.0
    run_mib: int = 0
    nice: int | None = None
    sent_kib_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RunningState:
    """A running node: times in seconds since 1970, peers and itself as peer ids.

    ``disk`` is the last failure to write the log, empty while all is well. ``clock_s``: how far
    peers' clocks are ahead of ours, in the median; None without peers. ``why``: for what reason
    the node does what it does (:mod:`node.agenda`). ``sensed``: what limits look at. ``kept``: what
    research keeps at home, and when it is claimed; empty for nothing.
    """

    pid: int
    started: float
    written: float
    peer: str
    addresses: tuple[str, ...]
    peers: tuple[str, ...]
    activity: str
    disk: str
    clock_s: float | None = None
    why: str = ""
    sensed: Sensed | None = None
    kept: str = ""


def write_state(home: Home, state: RunningState) -> None:
    """Replace ``state.json``; not durable, since a restart writes it anew.

    On a full disk the old file is written over, in the room that it has: that the disk is full is
    what it has to say. Raises OSError where that cannot be done either.
    """
    data = msgspec.json.encode(state)
    try:
        write_atomic(home.state, data, durable=False)
    except OSError:
        with open(home.state, "r+b") as file:
            old = file.seek(0, os.SEEK_END)
            os.pwrite(file.fileno(), data.ljust(old), 0)  # shorter than before: blanks behind it


def read_state(home: Home) -> RunningState:
    """What the running node of this home last said of itself.

    Raises:
        NotRunning: no node holds the log of this home.
    """
    try:
        if _is_held(home):
            return msgspec.json.decode(home.state.read_bytes(), type=RunningState)
    except (OSError, msgspec.MsgspecError):
        pass  # it is just starting, or the file is of another version
    raise NotRunning(f"no node is running in {home.path}", cure=f"lazaretto up --home {home.path}")


def _is_held(home: Home) -> bool:
    """Whether a process holds the lock of the log; a pid alone may be somebody else's by now."""
    handle = os.open(home.log.with_suffix(".lock"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False

"""Which kind of sandbox this process uses: bubblewrap, unless somebody asked for the other by name.

``bubblewrap`` is the whole of it: namespaces, a tree with nothing in it but what is needed, and all
that follows. ``landlock`` has no namespaces and no tree of its own, for machines where bubblewrap
cannot be had (see ``training.bare``). It is never chosen by falling back: only by the variable
``LAZARETTO_SANDBOX``, or by a node's setting ``sandbox``. What is measured in it says so.
"""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from training.errors import SandboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

BUBBLEWRAP: Final = "bubblewrap"
LANDLOCK: Final = "landlock"
KINDS: Final = (BUBBLEWRAP, LANDLOCK)
VARIABLE: Final = "LAZARETTO_SANDBOX"

NOT_HELD_BACK: Final = (
    "no namespaces beneath Landlock and the filter: a hole in both would open the host, its "
    "processes and its network; the host's name and process ids, and the folders of Python and "
    "torch can be seen; an ordinary user's id and limit of processes are shared with it"
)
"""What ``landlock`` lacks, in a line."""

_setting = BUBBLEWRAP
_tried: ContextVar[str] = ContextVar("_tried", default="")


def choose(setting: str) -> None:
    """Takes a node's setting; the variable goes before it. Raises SandboxUnavailable."""
    global _setting
    _setting = _known(setting, "The setting sandbox")


def chosen() -> str:
    """The kind in use, one of ``KINDS``; raises SandboxUnavailable for a name that is none."""
    if _tried.get():
        return _tried.get()
    said = os.environ.get(VARIABLE, "")
    return _known(said, f"The variable {VARIABLE}") if said else _setting


@contextlib.contextmanager
def trying(kind: str) -> Iterator[None]:
    """Another kind, here and now: to find out whether it can be had. Never for a candidate."""
    token = _tried.set(kind)
    try:
        yield
    finally:
        _tried.reset(token)


def evidence_class(hardware: str) -> str:
    """The class under which measurements on such hardware stand in records: a charter that wants
    those made without bubblewrap names ``cpu-landlock`` among a tier's classes."""
    return hardware if chosen() == BUBBLEWRAP else f"{hardware}-{chosen()}"


def _known(name: str, what: str) -> str:
    if name not in KINDS:
        raise SandboxUnavailable(
            f"{what} is {name[:40]!r}, which is no kind of sandbox; nothing runs without one.",
            cure=f"Set it to one of: {', '.join(KINDS)}.",
        )
    return name

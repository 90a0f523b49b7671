"""Which kind of sandbox this process uses: bubblewrap, unless somebody asked for the other by name.

``bubblewrap`` is the whole of it: namespaces, a tree with nothing in it but what is needed, and all
that follows. ``landlock`` has no namespaces and no tree of its own, for machines where bubblewrap
cannot be had (see ``training.bare``). It is never chosen by falling back: only by the variable
``LAZARETTO_SANDBOX``, or by a node's setting ``sandbox``. What is measured in it says so.
"""

from __future__ import annotations

import os
from typing import Final

from training.errors import SandboxUnavailable

BUBBLEWRAP: Final = "bubblewrap"
LANDLOCK: Final = "landlock"
KINDS: Final = (BUBBLEWRAP, LANDLOCK)
VARIABLE: Final = "LAZARETTO_SANDBOX"

_setting = BUBBLEWRAP


def choose(setting: str) -> None:
    """Takes a node's setting; the variable goes before it. Raises SandboxUnavailable."""
    global _setting
    _setting = _known(setting, "The setting sandbox")


def chosen() -> str:
    """The kind in use, one of ``KINDS``; raises SandboxUnavailable for a name that is none."""
    said = os.environ.get(VARIABLE, "")
    return _known(said, f"The variable {VARIABLE}") if said else _setting


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

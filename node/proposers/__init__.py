"""Whatever has ideas: samplers over the knobs of a train.py, behind one Protocol.

``open_proposer`` gives the one that a node's settings name. Optuna is imported only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.errors import UsageError
from node.proposers.protocol import (
    Change,
    Outcome,
    PastResult,
    Proposal,
    ProposalContext,
    Proposer,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "NAMES",
    "Change",
    "Outcome",
    "PastResult",
    "Proposal",
    "ProposalContext",
    "Proposer",
    "open_proposer",
]

NAMES = ("tpe", "random")


def open_proposer(name: str, directory: Path, *, seed: int) -> Proposer:
    """The proposer ``name`` with its memory in ``directory``; raises ``UsageError`` if unknown."""
    from node.proposers.memory import Memory

    if name not in NAMES:
        raise UsageError(
            f"there is no proposer {name[:40]!r}", cure=f"use one of: {', '.join(NAMES)}"
        )
    memory = Memory(directory / "proposals.sqlite")
    if name == "random":
        from node.proposers.sampling import RandomProposer

        return RandomProposer(memory, seed=seed)
    from node.proposers.tpe import TpeProposer

    return TpeProposer(memory, seed=seed)

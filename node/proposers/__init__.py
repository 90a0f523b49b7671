"""Whatever has ideas: samplers over the knobs of a train.py, language models; one Protocol.

``open_proposer`` gives the one that a node's settings name. Optuna and the SDK of a model are
imported only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.errors import UsageError
from node.proposers.protocol import (
    Change,
    Check,
    CheckReport,
    Outcome,
    PastResult,
    Paused,
    Proposal,
    ProposalContext,
    Proposer,
)

if TYPE_CHECKING:
    from pathlib import Path

    from node.settings import ClaudeSettings

__all__ = [
    "NAMES",
    "Change",
    "Check",
    "CheckReport",
    "Outcome",
    "PastResult",
    "Paused",
    "Proposal",
    "ProposalContext",
    "Proposer",
    "check_proposer",
    "open_proposer",
]

NAMES = ("tpe", "random", "claude")


def check_proposer(name: str, claude: ClaudeSettings) -> None:
    """Raise ``UsageError`` where there is no proposer of that name, or where it lacks a key."""
    if name not in NAMES:
        raise UsageError(
            f"there is no proposer {name[:40]!r}", cure=f"use one of: {', '.join(NAMES)}"
        )
    if name == "claude":
        from node.proposers.messages import find_key

        find_key(claude)


def open_proposer(
    name: str, directory: Path, *, seed: int, claude: ClaudeSettings | None = None
) -> Proposer:
    """The proposer ``name`` with its memory in ``directory``, a node's home.

    Raises ``UsageError`` where there is none of that name, or where it lacks a key.
    """
    from node.proposers.memory import Memory
    from node.settings import ClaudeSettings

    claude = claude or ClaudeSettings()
    check_proposer(name, claude)
    memory = Memory(directory / "proposals.sqlite")
    if name == "claude":
        from node.proposers.claude import ClaudeProposer

        return ClaudeProposer(memory, claude, directory)
    if name == "random":
        from node.proposers.sampling import RandomProposer

        return RandomProposer(memory, seed=seed)
    from node.proposers.tpe import TpeProposer

    return TpeProposer(memory, seed=seed)

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
    from collections.abc import Sequence
    from pathlib import Path

    from node.proposers.memory import Memory
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

NAMES = ("tpe", "random", "claude", "portfolio")


def check_proposer(name: str, claude: ClaudeSettings, portfolio: Sequence[str] = ()) -> None:
    """Raise ``UsageError`` where there is no proposer of that name, or where it lacks a key."""
    if name not in NAMES:
        raise UsageError(
            f"there is no proposer {name[:40]!r}", cure=f"use one of: {', '.join(NAMES)}"
        )
    if name == "portfolio":
        if not portfolio or len(set(portfolio)) < len(portfolio) or name in portfolio:
            raise UsageError(
                "a portfolio names different proposers, one or more",
                cure='set portfolio = ["tpe", "random"] in node.toml',
            )
        for part in portfolio:
            check_proposer(part, claude)
    if name == "claude":
        from node.proposers.messages import find_key

        find_key(claude)


def open_proposer(
    name: str,
    directory: Path,
    *,
    seed: int,
    claude: ClaudeSettings | None = None,
    portfolio: Sequence[str] = (),
) -> Proposer:
    """The proposer ``name`` with its memory in ``directory``, a node's home.

    ``portfolio`` names the parts of one. Raises ``UsageError`` where there is none of that name, or
    where it lacks a key.
    """
    from node.proposers.memory import Memory
    from node.settings import ClaudeSettings

    claude = claude or ClaudeSettings()
    check_proposer(name, claude, portfolio)
    memory = Memory(directory / "proposals.sqlite")
    if name == "portfolio":
        from node.proposers.portfolio import PortfolioProposer

        parts = [_open(part, memory, directory, seed, claude) for part in portfolio]
        return PortfolioProposer(memory, parts, seed=seed)
    return _open(name, memory, directory, seed, claude)


def _open(
    name: str, memory: Memory, directory: Path, seed: int, claude: ClaudeSettings
) -> Proposer:
    if name == "claude":
        from node.proposers.claude import ClaudeProposer

        return ClaudeProposer(memory, claude, directory)
    if name == "random":
        from node.proposers.sampling import RandomProposer

        return RandomProposer(memory, seed=seed)
    from node.proposers.tpe import TpeProposer

    return TpeProposer(memory, seed=seed)

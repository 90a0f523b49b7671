"""Several proposers on one node: effort goes to whose ideas are verified.

A bandit: each experiment of a proposer is a trial, and a success where its claim was adopted.
Thompson sampling (W. R. Thompson, Biometrika 25, 1933): each proposer draws from its Beta posterior
over a uniform prior, and the largest draw goes first. What looks good on dev text alone counts for
nothing, so a proposer of lucky finds gains no ground. Both counts survive restarts: experiments are
in the memory, adoptions in the log.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from node.errors import Paused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.proposers.memory import Memory
    from node.proposers.protocol import Outcome, Proposal, ProposalContext, Proposer


class PortfolioProposer:
    """Asks one of its proposers, all of which share one memory.

    Args:
        memory: what was tried, by whomever.
        proposers: with different names.
        seed: makes a sequence of draws repeatable.
    """

    name = "portfolio"

    def __init__(self, memory: Memory, proposers: Sequence[Proposer], *, seed: int) -> None:
        self._memory = memory
        self._proposers = tuple(proposers)
        self._random = random.Random(seed + memory.size)

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The idea of the first who has one; raises ``Paused`` where somebody only rests."""
        rests: list[Paused] = []
        for proposer in self._in_order(context):
            try:
                proposal = proposer.propose(context)
            except Paused as pause:
                rests.append(pause)
            else:
                if proposal is not None:
                    return proposal
        if rests:
            raise min(rests, key=lambda pause: pause.seconds)
        return None

    def observe(self, proposal_id: str, outcome: Outcome) -> None:
        """Remembers the outcome, for all of them."""
        self._memory.settle(proposal_id, outcome)

    def close(self) -> None:
        """Closes them all."""
        for proposer in self._proposers:
            proposer.close()
        self._memory.close()

    def _in_order(self, context: ProposalContext) -> list[Proposer]:
        tried = self._memory.tried()
        draws = {}
        for proposer in self._proposers:
            won = context.adopted.get(proposer.name, 0)
            lost = max(0, tried.get(proposer.name, 0) - won)
            draws[proposer.name] = self._random.betavariate(1 + won, 1 + lost)
        return sorted(self._proposers, key=lambda proposer: -draws[proposer.name])

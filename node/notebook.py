"""This node's own experiments, and what else its proposer may know.

Of peers only this gets in: whether a program of a given syntax hash was tried by them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from node.proposers import Outcome, PastResult, ProposalContext
from node.quickcheck import quick_check
from swarm.envelope import parse
from swarm.records import Claim, Experiment
from verification.states import Stage

if TYPE_CHECKING:
    from node.member import Node
    from node.trials import Trials


class Notebook:
    """Reads the node's own feed, and of it experiments and claims; goes on where it stopped."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen = -1
        self._experiments: list[Experiment] = []
        self._claims: dict[bytes, str] = {}

    async def context(self, trials: Trials) -> ProposalContext:
        """What a proposer may know about ``trials``."""
        node, tier = self._node, trials.tier
        await self._read_on()
        nice = node.settings.limits.nice_research
        executor = node.executor(tier.name)
        rules = node.state.rules
        assert rules is not None
        return ProposalContext(
            code=trials.stack.code,
            tier=tier,
            history=tuple(past(one) for one in self._experiments if one.tier == tier.name),
            scope=rules.charter.screen,
            adopted=self._adopted(),
            elsewhere=lambda identity: node.hearsay.is_tried(tier.name, trials.base_id, identity),
            check=lambda code, cancel: quick_check(
                code,
                tier,
                trials.train,
                trials.tokenizer,
                cancel=cancel,
                nice=nice,
                executor=executor,
            ),
        )

    async def _read_on(self) -> None:
        node = self._node
        read, key = node.log.store.records_after, node.key.public
        while data := await trio.to_thread.run_sync(read, key, self._seen, 500, 1 << 22):
            for record in (parse(one, check_signature=False) for one in data):
                self._seen = record.envelope.seq
                if isinstance(record.payload, Experiment):
                    self._experiments.append(record.payload)
                elif isinstance(record.payload, Claim):
                    self._claims[record.id] = record.payload.proposer.partition(" ")[0]

    def _adopted(self) -> Counter[str]:
        claims = self._node.state.claims
        return Counter(
            proposer
            for claim, proposer in self._claims.items()
            if claim in claims and claims[claim].stage is Stage.ADOPTED
        )


def past(experiment: Experiment) -> PastResult:
    """An experiment as a proposer reads it."""
    gains = [pair.d_nano for pair in experiment.dev_pairs]
    outcome = Outcome("failed")
    if gains and experiment.outcome != "failed":
        outcome = Outcome("measured", sum(gains) // len(gains))
    return PastResult(experiment.hypothesis, (), outcome)

"""From a find to a claim: what stands in the way, which slot it takes, and the record itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from node.environment import env_digest
from node.verifying import patience
from swarm.records import Claim, DevPair
from verification.reproduce import draw_bench
from verification.states import CLOSED, Stage

if TYPE_CHECKING:
    from node.judging import Stack
    from node.member import Node
    from node.trials import Measured, Trials
    from verification.states import ClaimState

PATIENCES = 2
"""A claim on which nothing has happened for as many patiences does not hold up the next one."""


class Claims:
    """The claims of one node: one is on its way at a time, and each takes a slot of the epoch."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._progress: dict[bytes, tuple[object, float]] = {}

    async def claim(self, trials: Trials, stack: Stack, measured: Measured) -> bytes | None:
        """Claim what was kept at home; its id, or None where something has come in the way."""
        if self.obstacle(trials):
            return None
        slot = self._free_slot()
        assert slot is not None
        claimed = await sign_claim(
            self._node, trials, stack.code, stack.hypothesis, stack.author,
            measured.pairs, measured.cost_ms, slot, merges=stack.merges,
        )  # fmt: skip
        await self._node.caught_up()
        return claimed

    def obstacle(self, trials: Trials) -> str:
        """Why nothing can be claimed against the base of ``trials`` now; empty when it can."""
        node = self._node
        if node.state.frontier.get(trials.tier.name) != trials.base_id:
            return "the frontier has moved"
        if any(self._is_on_its_way(claim) for claim in self._open()):
            return "another claim of this node is open"
        slot = self._free_slot()
        if slot is None:
            return "no claim slot is left in this epoch"
        rules = node.state.rules
        assert rules is not None
        if rules.frozen:
            return "two conflicting epochs freeze new claims until the governors settle it"
        epoch, tier = rules.epochs[node.epoch], trials.tier.name
        if draw_bench(epoch, node.key.public, slot, tier, node.policy(tier).n).waiting:
            return "too few verifiers of other operators in this epoch"
        return ""

    def _open(self) -> list[ClaimState]:
        own = self._node.key.public
        claims = self._node.state.claims.values()
        done = CLOSED | {Stage.FROZEN}
        return [claim for claim in claims if claim.author == own and claim.stage not in done]

    def _is_on_its_way(self, claim: ClaimState) -> bool:
        """Not one whose epoch has too few verifiers for ever, nor one that its bench has left alone
        for so long that this node goes on without it; should the bench come back, so does it.
        """
        if claim.epoch < self._node.epoch and claim.bench is not None and claim.bench.waiting:
            return False
        at = claim.settlement and (claim.settlement.seats.said, claim.settlement.open)
        now = trio.current_time()
        before, since = self._progress.get(claim.id, (None, now))
        if before != (claim.stage, at):
            self._progress[claim.id] = ((claim.stage, at), now)
            return True
        return now - since < PATIENCES * patience(self._node, claim.tier)

    def _free_slot(self) -> int | None:
        """The next unused claim slot of this node in the current epoch."""
        node = self._node
        rules = node.state.rules
        member = rules.member(node.epoch, node.key.public) if rules else None
        used = {
            claim.slot
            for claim in node.state.claims.values()
            if claim.author == node.key.public and claim.epoch == node.epoch
        }
        free = (slot for slot in range(member.slots if member else 0) if slot not in used)
        return next(free, None)


async def sign_claim(
    node: Node,
    trials: Trials,
    code: bytes,
    hypothesis: str,
    proposer: str,
    pairs: tuple[DevPair, ...],
    cost_ms: int,
    slot: int,
    planted: str = "",
    merges: tuple[bytes, ...] = (),
) -> bytes:
    """Sign and announce a claim; return its id. ``planted`` marks the demo's false ones."""
    from training.source import ast_hash

    record = await node.log.append(
        Claim(
            tier=trials.tier.name,
            type="improvement",
            slot=slot,
            base=trials.base_id,
            merges=merges,
            code=code,
            code_hash=hashlib.sha256(code).digest(),
            ast_hash=ast_hash(code),
            hypothesis=hypothesis,
            proposer=proposer,
            env_digest=env_digest(),
            dev_pairs=pairs,
            cost_ms=cost_ms,
        ),
        refs=(*((trials.base_id,) if trials.base_id else ()), *merges),
    )
    gains = [pair.d_nano for pair in pairs]
    node.journal.write(
        "claimed",
        claim=record.id.hex(),
        gain_bpb=sum(gains) / max(1, len(gains)) / 1e9,
        planted=planted,
    )
    return record.id

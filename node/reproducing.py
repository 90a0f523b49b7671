"""One position of a bench, filled by this node: train, seal, learn the fold, score, publish.

The pair is trained and its weights are kept by hash; then they are *sealed* in a record; only when
another member has opened its link for that seal is the holdout fold known; then the pair is scored
and published as a *block*. Each call does one half of that. A node that was killed in between finds
weights and seal again and goes on from there: nothing is run or counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from node.environment import env_digest
from node.errors import NodeError
from node.work import BaseFailure, Unfinished, cancellable
from swarm.records import Pair, Seal
from training.errors import BaseFailed
from verification.rechecks import NO_WEIGHTS

if TYPE_CHECKING:
    from node.member import Node
    from training.pair import PairResult, TrainedPair
    from verification.duty import PairDuty


class SealedWeightsLost(NodeError):
    """What was trained again is not what was sealed: the position cannot be filled honestly."""


class LentMemorySpent(NodeError):
    """A run ended for the memory that is lent here, of which the tier allows more."""


async def advance(node: Node, duty: PairDuty, hw_class: str) -> None:
    """Train and seal the pair of a duty, or score the sealed pair and publish it.

    Raises:
        SealedWeightsLost: the weights behind our seal are gone; the others will call us absent.
        LentMemorySpent: with the memory lent here nothing can be said of this claim.
        SwarmError, TrainingError, OSError: it was not done, and can be tried again.
    """
    shown = duty.claim.hex()
    node.activity = f"reproducing {shown[:8]}"
    unfinished = Unfinished(node.home.work, node.blobs)
    name = _name(duty)
    trained = await trio.to_thread.run_sync(unfinished.load, name)
    if duty.sealed is None:
        node.journal.write("verifying", claim=shown, round=duty.round)
        if trained is None:
            trained = await _train(node, duty)
            await trio.to_thread.run_sync(unfinished.save, name, trained)
        await node.log.append(_seal(duty, trained), refs=(duty.claim,))
        return
    if trained is None:
        trained = await _train_again(node, duty)
        await trio.to_thread.run_sync(unfinished.save, name, trained)
    pair, probes = await _score(node, duty, trained)
    block = duty.block(pair, probes=probes, hw_class=hw_class, env_digest=env_digest())
    await node.log.append(block, refs=(duty.claim, duty.sealed))
    await trio.to_thread.run_sync(unfinished.forget, name)
    node.lane_of.pop(name, None)
    if pair.status.startswith("base_"):
        node.journal.write("trouble", where="verify", error=f"the base failed: {pair.status}")
        return
    node.journal.write(
        "reproduced",
        claim=shown,
        round=duty.round,
        purpose=duty.purpose,
        status=pair.status,
        gain_bpb=pair.d_nano / 1e9,
        base_cost_ms=pair.base_cost_ms,
        candidate_cost_ms=pair.candidate_cost_ms,
    )


def _name(duty: PairDuty) -> str:
    """Under which its weights are kept until it is published."""
    return f"{duty.claim.hex()}-{duty.round}"


def _seal(duty: PairDuty, trained: TrainedPair | BaseFailure) -> Seal:
    if isinstance(trained, BaseFailure):
        return duty.seal(NO_WEIGHTS, NO_WEIGHTS, False)
    return duty.seal(
        trained.base.weights_digest, trained.candidate.weights_digest, trained.init_identical
    )


async def _train(node: Node, duty: PairDuty) -> TrainedPair | BaseFailure:
    """The trained pair, or how the base failed."""
    from training.pair import train_pair

    data = node.data
    assert data is not None
    base = await node.code_of(duty.base)
    candidate = await node.code_of(duty.candidate)
    tier, text = node.tier(duty.tier), data.train()
    tokenizer, nice = data.tokenizer(), node.settings.limits.nice_verify
    try:
        async with node.lane(duty.tier, bench=True) as lane:
            trained = await cancellable(
                lambda cancel: train_pair(
                    base, candidate, tier, text, duty.training_seed,
                    tokenizer=tokenizer, cancel=cancel, nice=nice, executor=lane.executor,
                )
            )  # fmt: skip
    except BaseFailed as error:
        _refuse_lent(node, duty, error.status)
        return BaseFailure(error.status)
    _refuse_lent(node, duty, trained.candidate.status)
    node.lane_of[_name(duty)] = lane
    return trained


def _refuse_lent(node: Node, duty: PairDuty, status: str) -> None:
    """A pair is never published as failed for a limit that is this machine's own."""
    if node.is_short_of_memory(duty.tier, status):
        mib = node.tier(duty.tier).max_memory_bytes >> 20
        raise LentMemorySpent(
            f"claim {duty.claim.hex()[:12]} needs more than the {mib} MiB that a run may take here",
            cure="raise limits.memory_mib in node.toml, and start the node again",
        )


async def _train_again(node: Node, duty: PairDuty) -> TrainedPair | BaseFailure:
    """The pair behind our own seal, whose weights are not here any more."""
    assert duty.sealed is not None
    record = await trio.to_thread.run_sync(node.log.store.get, duty.sealed)
    sealed = record.payload if record else None
    assert isinstance(sealed, Seal)
    trained = await _train(node, duty)
    if _seal(duty, trained) != sealed:
        raise SealedWeightsLost(
            f"the weights sealed for round {duty.round} of claim {duty.claim.hex()[:12]} are gone, "
            "and training again gave others",
            cure="nothing to do: the bench will go on without this pair",
        )
    return trained


async def _score(
    node: Node, duty: PairDuty, trained: TrainedPair | BaseFailure
) -> tuple[Pair, dict[str, int]]:
    """The pair as it is published, and the candidate's probes."""
    from training.pair import score_pair

    if isinstance(trained, BaseFailure):
        return _base_failed(duty, trained.status), {}
    data = node.data
    assert data is not None
    base = await node.code_of(duty.base)
    candidate = await node.code_of(duty.candidate)
    tier, text = node.tier(duty.tier), data.fold(duty.fold())
    tokenizer, nice = data.tokenizer(), node.settings.limits.nice_verify
    try:
        wanted = node.lane_of.get(_name(duty))  # the device that trained it, if it is known
        async with node.lane(duty.tier, bench=True, wanted=wanted) as lane:
            result = await cancellable(
                lambda cancel: score_pair(
                    base, candidate, trained, tier, text, duty.scoring_seed(),
                    tokenizer=tokenizer, cancel=cancel, nice=nice, executor=lane.executor,
                )
            )  # fmt: skip
    except BaseFailed as error:
        _refuse_lent(node, duty, error.status)
        return _base_failed(duty, error.status), {}
    _refuse_lent(node, duty, result.status)
    return pair_of(result, duty.fold()), result.candidate.probes if result.candidate else {}


def _base_failed(duty: PairDuty, status: str) -> Pair:
    """A base that fails says nothing about the candidate, and the next position must know it."""
    return Pair(0, duty.fold(), "base_first", 0, f"base_{status}", 0, 0, 0, 0, 0)


def pair_of(result: PairResult, fold: int) -> Pair:
    """A scored pair as it is published."""
    base, candidate, trained = result.base, result.candidate, result.trained
    return Pair(
        index=0,
        fold=fold,
        order=trained.order,
        d_nano=result.d_nano,
        status=result.status,
        base_nano=base.nano_bpb if base else 0,
        candidate_nano=candidate.nano_bpb if candidate else 0,
        base_cost_ms=result.base_cost_ms,
        candidate_cost_ms=result.candidate_cost_ms,
        tokens=trained.candidate.tokens,
    )

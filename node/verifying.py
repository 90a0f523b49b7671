"""Reproducing claims: what a seat on a bench asks of this node.

Order of one reproduction: the commit is signed when the claim is assigned; when it is our turn the
pair is trained, its weights are kept by hash and *sealed* in a record; only then is the holdout
fold known; then the pair is scored and published as a *block*. A node that was killed in between
finds weights and seal again and goes on from there: nothing is run or counted twice.

What is due, and the payloads that count, come from :mod:`verification.duty`; here they are done.
"""

from __future__ import annotations

import hmac
from collections import Counter
from typing import TYPE_CHECKING

import trio

from node.environment import env_digest
from node.work import Unfinished, cancellable
from swarm.errors import SwarmError
from swarm.records import Pair
from training.errors import TrainingError
from training.kinds import evidence_class
from verification.duty import CommitDuty, PairDuty, duties, lost_duties

if TYPE_CHECKING:
    from node.member import Node
    from training.pair import PairResult, TrainedPair
    from verification.states import State

RETRY_SECONDS = 5.0
_SECRET_DOMAIN = b"lazaretto/nonce-secret/1"


async def verify_forever(node: Node) -> None:
    """Commit to every claim whose bench seats us, and fill our positions when they are due."""
    secret = hmac.digest(node.key.seed, _SECRET_DOMAIN + node.swarm, "sha256")
    done: set[tuple[bytes, int]] = set()
    told: set[bytes] = set()
    tries: Counter[tuple[bytes, int]] = Counter()
    while True:
        state = await node.caught_up()
        changed = node.changed
        for lost in lost_duties(state, node.key.public, secret):
            if lost.claim not in told:
                told.add(lost.claim)
                node.journal.write(
                    "trouble",
                    where="verify",
                    error=f"claim {lost.claim.hex()[:12]} waits for a nonce of another key file: "
                    "restore the key that this node committed with",
                )
        # What was published and is asked for again does not count by some rule: never in circles.
        due = [
            duty
            for duty in duties(state, node.key.public, secret)
            if _place(duty) not in done and _would_count(node, state, duty, told)
        ]
        if not due:
            await changed.wait()
            continue
        duty = min(due, key=lambda item: (tries[_place(item)], _precedence(state, item)))
        done.add(_place(duty))
        if isinstance(duty, CommitDuty):
            await node.log.append(duty.payload, refs=(duty.claim,))
            node.journal.write("committed", claim=duty.claim.hex(), rank=duty.payload.rank)
            continue
        try:
            await _reproduce(node, duty)
        except (
            SwarmError,
            TrainingError,
            OSError,
        ) as error:  # not the candidate's: those are results
            done.discard(_place(duty))
            tries[_place(duty)] += 1  # other duties first: one claim must not hold up the rest
            node.trouble("verify", error)
            await trio.sleep(RETRY_SECONDS)


def _would_count(node: Node, state: State, duty: CommitDuty | PairDuty, told: set[bytes]) -> bool:
    """Whether the charter takes what this machine measures for the duty's tier."""
    tier = state.claims[duty.claim].tier
    rules = state.rules
    assert rules is not None
    classes = next(policy.classes for policy in rules.charter.tiers if policy.name == tier)
    own = _class(node, tier)
    if own not in classes and duty.claim not in told:
        told.add(duty.claim)
        node.journal.write(
            "trouble",
            where="verify",
            error=f"claim {duty.claim.hex()[:12]} waits: the charter takes {', '.join(classes)} "
            f"in tier {tier}, and what is measured here is {own}. Change this node's settings "
            "sandbox or hw_class, or ask a governor to take it off the roster's verifiers",
        )
    return own in classes


def _class(node: Node, tier: str) -> str:
    """The class under which a pair of this tier is published."""
    assert node.data is not None
    device = node.data.challenge.tier(tier).device
    return evidence_class(node.settings.hw_class if device == "cpu" else device)


def _place(duty: CommitDuty | PairDuty) -> tuple[bytes, int]:
    return (duty.claim, -1 if isinstance(duty, CommitDuty) else duty.round)


def _precedence(state: State, duty: CommitDuty | PairDuty) -> tuple[int, int, bytes]:
    """Commits first; then claims already begun, so that one is finished before the next begins."""
    if isinstance(duty, CommitDuty):
        return (0, 0, duty.claim)
    settlement = state.claims[duty.claim].settlement
    return (1, -len(settlement.reproductions) if settlement else 0, duty.claim)


async def _reproduce(node: Node, duty: PairDuty) -> None:
    """Fill one position: train, seal, learn the fold, score, publish."""
    from training.pair import BaseFailed

    shown = duty.claim.hex()
    node.activity = f"reproducing {shown[:8]}"
    node.journal.write("verifying", claim=shown, round=duty.round)
    unfinished = Unfinished(node.home.work, node.blobs)
    name = f"{shown}-{duty.round}"
    try:
        trained = await trio.to_thread.run_sync(unfinished.load, name)
        if trained is None:
            trained = await _train(node, duty)
            await trio.to_thread.run_sync(unfinished.save, name, trained)
        seal = duty.sealed or await _seal(node, duty, trained)
        result = await _score(node, duty, trained, seal)
    except BaseFailed as error:
        await _publish_base_failure(node, duty, error.status)
        return
    pair = _pair_of(result, duty.fold(seal))
    await _publish(node, duty, seal, pair, result.candidate.probes if result.candidate else {})
    await trio.to_thread.run_sync(unfinished.forget, name)
    node.journal.write(
        "reproduced",
        claim=shown,
        round=duty.round,
        status=pair.status,
        gain_bpb=pair.d_nano / 1e9,
        base_cost_ms=pair.base_cost_ms,
        candidate_cost_ms=pair.candidate_cost_ms,
    )
    node.activity = "ready"


async def _train(node: Node, duty: PairDuty) -> TrainedPair:
    from training.pair import train_pair

    data = node.data
    assert data is not None
    base = await node.code_of(duty.base)
    candidate = (await node.claim_record(duty.claim)).code
    tier, text = data.challenge.tier(duty.tier), data.train()
    tokenizer, nice = data.tokenizer(), node.settings.limits.nice_verify
    return await cancellable(
        lambda cancel: train_pair(
            base, candidate, tier, text, duty.training_seed,
            tokenizer=tokenizer, cancel=cancel, nice=nice,
        )
    )  # fmt: skip


async def _seal(node: Node, duty: PairDuty, trained: TrainedPair) -> bytes:
    payload = duty.seal(
        trained.base.weights_digest, trained.candidate.weights_digest, trained.init_identical
    )
    return (await node.log.append(payload, refs=(duty.claim,))).id


async def _score(node: Node, duty: PairDuty, trained: TrainedPair, seal: bytes) -> PairResult:
    from training.pair import score_pair

    data = node.data
    assert data is not None
    base = await node.code_of(duty.base)
    candidate = (await node.claim_record(duty.claim)).code
    tier, text = data.challenge.tier(duty.tier), data.fold(duty.fold(seal))
    seed, nice = duty.scoring_seed(seal), node.settings.limits.nice_verify
    tokenizer = data.tokenizer()
    return await cancellable(
        lambda cancel: score_pair(
            base, candidate, trained, tier, text, seed,
            tokenizer=tokenizer, cancel=cancel, nice=nice,
        )
    )  # fmt: skip


def _pair_of(result: PairResult, fold: int) -> Pair:
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


async def _publish_base_failure(node: Node, duty: PairDuty, status: str) -> None:
    """A base that fails says nothing about the candidate, and the next position must know it."""
    seal = duty.sealed
    if seal is None:
        payload = duty.seal(bytes(32), bytes(32), False)
        seal = (await node.log.append(payload, refs=(duty.claim,))).id
    pair = Pair(0, duty.fold(seal), "base_first", 0, f"base_{status}", 0, 0, 0, 0, 0)
    await _publish(node, duty, seal, pair, {})
    node.journal.write("trouble", where="verify", error=f"the base failed: {status}")


async def _publish(
    node: Node, duty: PairDuty, seal: bytes, pair: Pair, probes: dict[str, int]
) -> None:
    block = duty.block(
        seal, pair, probes=probes, hw_class=_class(node, duty.tier), env_digest=env_digest()
    )
    await node.log.append(block, refs=(duty.claim, seal))

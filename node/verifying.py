"""Reproducing claims: what a seat on a bench asks of this node.

Order of one reproduction: the commit is signed when the claim is assigned; when it is our turn the
pair is trained, its weights are kept by hash and *sealed* in a record; only then is the holdout fold
known; then the pair is scored and published as a *block*. A node killed in between finds weights and
seal again and goes on from there: nothing is run or counted twice.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from node.environment import env_digest
from node.work import Unfinished, cancellable
from swarm.records import Block, Commit, Pair, Seal
from training.challenge import TierSpec
from verification import reproduce
from verification.quarantine import CLOSED, ClaimState, Turn

if TYPE_CHECKING:
    from training.pair import PairResult, TrainedPair

    from node.service import Node

_SECRET_DOMAIN = b"lazaretto/nonce-secret/1"


async def verify_forever(node: Node) -> None:
    """Commit to every claim whose bench seats us, and fill our positions when they are due."""
    while True:
        state = await node.caught_up()
        changed = node.changed
        if not node.has_role("verifier") and not any(
            claim.bench and claim.bench.rank_of(node.key.public) is not None
            for claim in state.claims.values()
        ):
            await changed.wait()
            continue
        for claim in state.claims.values():
            await _commit_if_due(node, claim)
        due = [claim for claim in state.claims.values() if _is_our_turn(node, claim)]
        if due:
            await _reproduce(node, min(due, key=_precedence))
        else:
            await changed.wait()


def _precedence(claim: ClaimState) -> tuple[int, int, bytes]:
    """Claims already begun first, so that a bench finishes one before it starts the next."""
    settled = len(claim.settlement.reproductions) if claim.settlement else 0
    return (0 if settled else 1, -settled, claim.id)


def _is_our_turn(node: Node, claim: ClaimState) -> bool:
    return (
        claim.turn is not None
        and claim.turn.seat.key == node.key.public
        and claim.settlement is not None
        and None not in claim.settlement.commits
    )


async def _commit_if_due(node: Node, claim: ClaimState) -> None:
    if claim.stage in CLOSED or claim.bench is None or claim.settlement is None:
        return
    rank = claim.bench.rank_of(node.key.public)
    if rank is None or claim.settlement.commits[rank] is not None:
        return
    chains = _chains(node, claim)
    await node.log.append(
        Commit(
            claim=claim.id,
            claimant=claim.author,
            claim_epoch=claim.epoch,
            slot=claim.slot,
            rank=rank,
            nonce_hash=chains.seeds.anchor,
            fold_nonce_hash=chains.folds.anchor,
            calibration=None,
        ),
        refs=(claim.id,),
    )
    node.journal.write("committed", claim=claim.id.hex(), rank=rank)


@dataclass(frozen=True, slots=True)
class _Chains:
    seeds: reproduce.NonceChain
    folds: reproduce.NonceChain


def _chains(node: Node, claim: ClaimState) -> _Chains:
    secret = hmac.digest(node.key.seed, _SECRET_DOMAIN + node.swarm, "sha256")
    rounds = _rounds(node, claim)
    return _Chains(
        reproduce.nonce_chain(secret, claim.id, "seed", rounds),
        reproduce.nonce_chain(secret, claim.id, "fold", rounds),
    )


def _rounds(node: Node, claim: ClaimState) -> int:
    rules = node.state.rules
    assert rules is not None
    return next(tier.max_pairs for tier in rules.charter.tiers if tier.name == claim.tier)


@dataclass(frozen=True, slots=True)
class _Job:
    """One position to fill: everything that does not depend on the seal."""

    claim: ClaimState
    turn: Turn
    base: bytes
    candidate: bytes
    tier: TierSpec
    beacon: bytes
    nonce: bytes
    fold_nonce: bytes

    @property
    def name(self) -> str:
        return f"{self.claim.id.hex()}-{self.turn.round}"


async def _job(node: Node, claim: ClaimState) -> _Job:
    assert claim.turn is not None
    assert node.data is not None
    rules = node.state.rules
    assert rules is not None
    beacon = rules.epochs[claim.epoch].beacon
    assert beacon is not None
    chains = _chains(node, claim)
    payload = await node.claim_record(claim.id)
    return _Job(
        claim=claim,
        turn=claim.turn,
        base=await node.code_of(claim.base),
        candidate=payload.code,
        tier=node.data.challenge.tier(claim.tier),
        beacon=beacon,
        nonce=chains.seeds.reveals[claim.turn.round],
        fold_nonce=chains.folds.reveals[claim.turn.round],
    )


async def _reproduce(node: Node, claim: ClaimState) -> None:
    """Fill one position: train, seal, learn the fold, score, publish."""
    job = await _job(node, claim)
    shown = claim.id.hex()
    node.activity = f"reproducing {shown[:8]}"
    node.journal.write("verifying", claim=shown, round=job.turn.round)
    own = node.key.public
    seed = reproduce.training_seed(job.beacon, claim.id, own, job.nonce, 0)
    order = reproduce.run_order(job.beacon, claim.id, own, job.nonce, 0)
    unfinished = Unfinished(node.home.work, node.blobs)
    trained = await trio.to_thread.run_sync(unfinished.load, job.name)
    if trained is None:
        trained = await _train(node, job, seed, order)
        if isinstance(trained, str):
            await _publish_base_failure(node, job, order, trained)
            return
        await trio.to_thread.run_sync(unfinished.save, job.name, trained)
    seal = job.turn.seal
    if seal is None:
        seal = await _seal(node, job, trained.base.weights_digest, trained.candidate.weights_digest,
                           trained.init_identical)  # fmt: skip
    fold = _fold_of(node, job, seal)
    result = await _score(node, job, trained, seal, fold)
    await _publish(node, job, seal, _pair_of(result, fold, order), _probes(result))
    await trio.to_thread.run_sync(unfinished.forget, job.name)
    node.journal.write(
        "reproduced",
        claim=shown,
        round=job.turn.round,
        status=result.status,
        gain_bpb=result.d_nano / 1e9,
        base_cpu_ms=result.trained.base.cpu_ms,
        candidate_cpu_ms=result.trained.candidate.cpu_ms,
    )
    node.activity = "ready"


async def _train(node: Node, job: _Job, seed: int, order: str) -> TrainedPair | str:
    """Train both sides; a base that fails is named, since that says nothing of the candidate."""
    from training.pair import BaseFailed, train_pair

    data = node.data
    assert data is not None
    nice = node.settings.limits.nice_verify
    try:
        return await cancellable(
            lambda cancel: train_pair(
                job.base, job.candidate, job.tier, data.train(), seed,
                order=order, cancel=cancel, nice=nice,
            )
        )  # fmt: skip
    except BaseFailed as error:
        return f"base_{error.status}"


async def _score(node: Node, job: _Job, trained: TrainedPair, seal: bytes, fold: int) -> PairResult:
    from training.pair import score_pair

    data = node.data
    assert data is not None
    seed = reproduce.scoring_seed(job.beacon, job.claim.id, seal, job.fold_nonce, 0)
    nice = node.settings.limits.nice_verify
    return await cancellable(
        lambda cancel: score_pair(
            job.base, job.candidate, trained, job.tier, data.fold(fold), seed,
            cancel=cancel, nice=nice,
        )
    )  # fmt: skip


def _fold_of(node: Node, job: _Job, seal: bytes) -> int:
    rules = node.state.rules
    assert rules is not None
    active = rules.epochs[job.claim.epoch].active_folds
    return reproduce.fold_index(active, job.beacon, job.claim.id, seal, job.fold_nonce, 0)


async def _seal(
    node: Node, job: _Job, base: bytes, candidate: bytes, init_identical: bool
) -> bytes:
    record = await node.log.append(
        Seal(
            claim=job.claim.id,
            round=job.turn.round,
            base_weights=base,
            candidate_weights=candidate,
            init_identical=init_identical,
        ),
        refs=(job.claim.id,),
    )
    return record.id


def _pair_of(result: PairResult, fold: int, order: str) -> Pair:
    base, candidate = result.base, result.candidate
    return Pair(
        index=0,
        fold=fold,
        order=order,
        d_nano=result.d_nano,
        status=result.status,
        base_nano=base.nano_bpb if base else 0,
        candidate_nano=candidate.nano_bpb if candidate else 0,
        base_cpu_ms=result.trained.base.cpu_ms,
        candidate_cpu_ms=result.trained.candidate.cpu_ms,
        tokens=result.trained.candidate.tokens,
    )


def _probes(result: PairResult) -> dict[str, int]:
    return dict(result.candidate.probes) if result.candidate else {}


async def _publish_base_failure(node: Node, job: _Job, order: str, status: str) -> None:
    seal = job.turn.seal or await _seal(node, job, bytes(32), bytes(32), False)
    fold = _fold_of(node, job, seal)
    pair = Pair(0, fold, order, 0, status, 0, 0, 0, 0, 0)
    await _publish(node, job, seal, pair, {})


async def _publish(node: Node, job: _Job, seal: bytes, pair: Pair, probes: dict[str, int]) -> None:
    settlement, rank = job.claim.settlement, job.turn.seat.rank
    assert settlement is not None
    await node.log.append(
        Block(
            claim=job.claim.id,
            round=job.turn.round,
            rank=rank,
            purpose="verdict",
            prefix=settlement.prefix,
            seal=seal,
            nonce=job.nonce,
            fold_nonce=job.fold_nonce,
            fold_source="own",
            pairs=(pair,),
            probes=probes,
            hw_class=node.settings.hw_class,
            env_digest=env_digest(),
        ),
        refs=(job.claim.id, seal),
    )

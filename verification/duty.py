"""What the rules ask of one bench member now: take a seat, or measure the pair whose turn it is.

This is the other side of :mod:`verification.settle`: payloads built here are payloads that count
there. Pure, so that a node that was killed and restarted finds the same duties and the same seeds.

A pair goes in this order: train on ``PairDuty.training_seed``; publish ``PairDuty.seal`` of the
trained weights; only then ask ``PairDuty.fold`` with the seal's id; score on that fold; publish
``PairDuty.block``. Keep the sealed weights until the block is out: only the first seal of a round
counts, so weights that are lost between the two must be trained again to the same digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.records import Block, Commit, Pair, Position, Seal
from verification.reproduce import fold_index, nonce_chain, scoring_seed, training_seed
from verification.states import CLOSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from verification.states import ClaimState, State


@dataclass(frozen=True, slots=True)
class CommitDuty:
    """Publish ``payload`` to take the seat; nothing of the claim may run before."""

    claim: bytes
    payload: Commit


@dataclass(frozen=True, slots=True)
class PairDuty:
    """Measure one pair of ``claim`` against ``base`` (None: the challenge's own base code).

    ``sealed`` is the id of the seal that this member gave for the round before it was interrupted.
    """

    claim: bytes
    base: bytes | None
    tier: str
    round: int
    rank: int
    training_seed: int
    sealed: bytes | None
    prefix: tuple[Position, ...]
    nonce: bytes
    fold_nonce: bytes
    beacon: bytes
    active_folds: tuple[int, ...]

    def seal(self, base_weights: bytes, candidate_weights: bytes, init_identical: bool) -> Seal:
        """The seal over the sha256 digests of the trained weights."""
        return Seal(self.claim, self.round, base_weights, candidate_weights, init_identical)

    def fold(self, seal: bytes) -> int:
        """The number of the holdout fold to score on; ``seal`` is the published seal's id."""
        return fold_index(self.active_folds, self.beacon, self.claim, seal, self.fold_nonce, 0)

    def scoring_seed(self, seal: bytes) -> int:
        """The seed of the evaluator's probes."""
        return scoring_seed(self.beacon, self.claim, seal, self.fold_nonce, 0)

    def block(
        self,
        seal: bytes,
        pair: Pair,
        *,
        probes: Mapping[str, int],
        hw_class: str,
        env_digest: bytes,
    ) -> Block:
        """The block with the measured pair (index 0, on ``self.fold(seal)``)."""
        return Block(
            claim=self.claim,
            round=self.round,
            rank=self.rank,
            purpose="verdict",
            prefix=self.prefix,
            seal=seal,
            nonce=self.nonce,
            fold_nonce=self.fold_nonce,
            fold_source="own",
            pairs=(pair,),
            probes=dict(probes),
            hw_class=hw_class,
            env_digest=env_digest,
        )


@dataclass(frozen=True, slots=True)
class LostDuty:
    """A turn that this member cannot take: its commit was made with another secret.

    The claim waits. Cure: restore the node's secret from a backup of its home directory.
    """

    claim: bytes
    round: int


def duties(state: State, key: bytes, secret: bytes) -> list[CommitDuty | PairDuty]:
    """What the member ``key`` has to do, seats first, then pairs in the order of claim ids.

    ``secret`` is the member's own 32 bytes behind its nonce chains, the same for its whole life.
    """
    return [duty for duty in _all(state, key, secret) if not isinstance(duty, LostDuty)]


def lost_duties(state: State, key: bytes, secret: bytes) -> list[LostDuty]:
    """The turns of ``key`` that ``secret`` cannot open; empty on a healthy node."""
    return [duty for duty in _all(state, key, secret) if isinstance(duty, LostDuty)]


def _all(state: State, key: bytes, secret: bytes) -> list[CommitDuty | PairDuty | LostDuty]:
    commits: list[CommitDuty | PairDuty | LostDuty] = []
    pairs: list[CommitDuty | PairDuty | LostDuty] = []
    for claim in sorted(state.claims.values(), key=lambda item: item.id):
        if claim.stage in CLOSED or claim.bench is None or claim.settlement is None:
            continue
        rank = claim.bench.rank_of(key)
        if rank is None:
            continue
        if claim.settlement.commits[rank] is None:
            commits.append(_commit(state, claim, rank, secret))
        elif claim.turn is not None and claim.turn.seat.key == key:
            pairs.append(_pair(state, claim, secret))
    return commits + pairs


def _rounds(state: State, claim: ClaimState) -> int:
    assert state.rules is not None
    return next(tier.max_pairs for tier in state.rules.charter.tiers if tier.name == claim.tier)


def _commit(state: State, claim: ClaimState, rank: int, secret: bytes) -> CommitDuty:
    rounds = _rounds(state, claim)
    return CommitDuty(
        claim.id,
        Commit(
            claim=claim.id,
            claimant=claim.author,
            claim_epoch=claim.epoch,
            slot=claim.slot,
            rank=rank,
            nonce_hash=nonce_chain(secret, claim.id, "seed", rounds).anchor,
            fold_nonce_hash=nonce_chain(secret, claim.id, "fold", rounds).anchor,
            calibration=None,
        ),
    )


def _pair(state: State, claim: ClaimState, secret: bytes) -> PairDuty | LostDuty:
    turn, settlement = claim.turn, claim.settlement
    assert state.rules is not None
    assert turn is not None
    assert settlement is not None
    epoch = state.rules.epochs[claim.epoch]
    assert epoch.beacon is not None
    rounds, rank = _rounds(state, claim), turn.seat.rank
    seeds = nonce_chain(secret, claim.id, "seed", rounds)
    folds = nonce_chain(secret, claim.id, "fold", rounds)
    if settlement.anchors[rank] != (seeds.anchor, folds.anchor):
        return LostDuty(claim.id, turn.round)
    nonce = seeds.reveals[turn.round]
    return PairDuty(
        claim=claim.id,
        base=claim.base,
        tier=claim.tier,
        round=turn.round,
        rank=rank,
        training_seed=training_seed(epoch.beacon, claim.id, turn.seat.key, nonce, 0),
        sealed=turn.seal,
        prefix=settlement.prefix,
        nonce=nonce,
        fold_nonce=folds.reveals[turn.round],
        beacon=epoch.beacon,
        active_folds=epoch.active_folds,
    )

"""What the rules ask of one bench member now; the other side of :mod:`verification.settle`.

Payloads built here are payloads that count there. Pure, so that a node that was killed and
restarted finds the same duties, seeds and nonces.

The way of a claim over its bench: every member takes its seat (``CommitDuty``) and says whom it saw
do so (``SeatingDuty``). Then, position by position, its member trains on
``PairDuty.training_seed`` and publishes ``PairDuty.seal`` of the trained weights; another member
opens a link of its fold chain for that seal (``OpenDuty``); with it the first one learns the
fold, scores and publishes ``PairDuty.block``; the others state that they hold it (``AttestDuty``).
Keep the sealed weights until the block is out: only the first seal of a round is opened, so weights
that are lost between the two must be trained again to the same digests.

A duty that is not ``due`` is for when patience with somebody else is over: to go on without a
member that does not take its seat, to open a link in place of the member whose turn that is, to say
that a member is absent. How long patience lasts is the node's own affair. Nobody is called absent
while its sealed pair waits for a link that others owe, nor of two by the other one.

Of rivals (``verification.admit.place_of``) a member sits for the first that it sees, once. Nobody
takes a seat for an author who is known to have forked. Both are what honest members do; no fold
hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.records import Attest, Block, Commit, Open, Pair, Position, Seal, Seating
from verification.closing import last_epoch
from verification.reproduce import (
    fold_index,
    nonce_chain,
    positions_of,
    rounds_of,
    scoring_seed,
    training_seed,
)
from verification.seating import PAIR, enough, safety
from verification.states import FAILED, ClaimState, Stage, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from swarm.records import TierPolicy
    from verification.reproduce import NonceChain

OVER = FAILED | {Stage.UPHELD, Stage.RETRACTED, Stage.FROZEN}
"""Stages in which a bench has nothing to do; an adopted claim still has its effect."""


@dataclass(frozen=True, slots=True)
class CommitDuty:
    """Publish ``payload`` to take the seat; nothing of the claim may run before."""

    claim: bytes
    payload: Commit


@dataclass(frozen=True, slots=True)
class SeatingDuty:
    """Publish ``payload``: who was seen to take a seat; ``due`` once all are taken."""

    claim: bytes
    payload: Seating
    due: bool


@dataclass(frozen=True, slots=True)
class OpenDuty:
    """Publish ``payload``, the link for another's seal; ``due`` for the member after it."""

    claim: bytes
    round: int
    rank: int
    payload: Open
    due: bool


@dataclass(frozen=True, slots=True)
class AttestDuty:
    """Publish ``payload``: that the block of another is held (``due``), or that it is absent."""

    claim: bytes
    payload: Attest
    due: bool


@dataclass(frozen=True, slots=True)
class PairDuty:
    """Measure one pair for ``claim``: ``candidate`` against ``base`` (None: the challenge's own).

    The candidate is the claim itself, or the claim that a contradiction is of.
    ``sealed`` is the id of the seal that this member gave for the round, None before; and
    ``fold_nonce`` the link that was opened for it: while there is none, the fold is unknown.
    ``used``: the folds of the settled positions before it.
    """

    claim: bytes
    base: bytes | None
    candidate: bytes
    tier: str
    round: int
    rank: int
    purpose: str
    training_seed: int
    sealed: bytes | None
    prefix: tuple[Position, ...]
    nonce: bytes
    fold_nonce: bytes | None
    fold_source: str
    beacon: bytes
    active_folds: tuple[int, ...]
    used: tuple[int, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether the pair is sealed, and nobody has opened a link for it yet."""
        return self.sealed is not None and self.fold_nonce is None

    def seal(self, base_weights: bytes, candidate_weights: bytes, init_identical: bool) -> Seal:
        """The seal over the sha256 digests of the trained weights."""
        return Seal(self.claim, self.round, base_weights, candidate_weights, init_identical)

    def _drawn(self) -> tuple[bytes, bytes]:
        assert self.sealed is not None
        assert self.fold_nonce is not None
        return self.sealed, self.fold_nonce

    def fold(self) -> int:
        """The number of the holdout fold to score on; asked once it is sealed and opened."""
        return fold_index(self.active_folds, self.beacon, self.claim, *self._drawn(), 0, self.used)

    def scoring_seed(self) -> int:
        """The seed of the evaluator's probes, known when the fold is."""
        return scoring_seed(self.beacon, self.claim, *self._drawn(), 0)

    def block(
        self, pair: Pair, *, probes: Mapping[str, int], hw_class: str, env_digest: bytes
    ) -> Block:
        """The block with the measured pair (index 0, on ``self.fold()``)."""
        seal, fold_nonce = self._drawn()
        return Block(
            claim=self.claim,
            round=self.round,
            rank=self.rank,
            purpose=self.purpose,
            prefix=self.prefix,
            seal=seal,
            nonce=self.nonce,
            fold_nonce=fold_nonce,
            fold_source=self.fold_source,
            pairs=(pair,),
            probes=dict(probes),
            hw_class=hw_class,
            env_digest=env_digest,
        )


@dataclass(frozen=True, slots=True)
class LostDuty:
    """A turn that this member cannot take: its commit was made with another secret.

    The others will call it absent. Cure: restore the node's key from a backup of its home.
    """

    claim: bytes
    round: int


Word = CommitDuty | SeatingDuty | OpenDuty | AttestDuty
Duty = Word | PairDuty


def duties(
    state: State, key: bytes, secret: bytes, calibrations: Mapping[str, bytes] | None = None
) -> list[Duty]:
    """What the member ``key`` has to do: words first, then pairs, each in the order of claim ids.

    ``secret`` is the member's own 32 bytes behind its nonce chains, the same for its whole life.
    ``calibrations``: for each tier the id of the member's own calibration record to commit with.
    """
    found = _all(state, key, secret, calibrations or {})
    words = [duty for duty in found if not isinstance(duty, LostDuty | PairDuty)]
    return [*words, *(duty for duty in found if isinstance(duty, PairDuty))]


def lost_duties(state: State, key: bytes, secret: bytes) -> list[LostDuty]:
    """The turns of ``key`` that ``secret`` cannot open; empty on a healthy node."""
    return [duty for duty in _all(state, key, secret, {}) if isinstance(duty, LostDuty)]


def _all(
    state: State, key: bytes, secret: bytes, calibrations: Mapping[str, bytes]
) -> list[Duty | LostDuty]:
    found: list[Duty | LostDuty] = []
    if state.rules is None:
        return found
    first = _first_rivals(state)
    for claim in sorted(state.cases.values(), key=lambda item: item.id):
        if claim.stage in OVER or claim.bench is None or claim.settlement is None:
            continue
        if state.rules.number > last_epoch(state.rules, claim.epoch):
            continue  # what is said now would not count
        rank = claim.bench.rank_of(key)
        if rank is not None:
            member = _Member(state, claim, rank, key, secret)
            found += member.duties(calibrations.get(claim.tier), may_sit=claim.id in first)
    return found


def _first_rivals(state: State) -> set[bytes]:
    """The claims and contradictions that somebody without a seat may take one for."""
    first: dict[tuple[object, ...], tuple[int, bytes]] = {}
    able: dict[bytes, tuple[tuple[object, ...], ...]] = {}
    cases = state.cases
    for claim in cases.values():
        live = claim.settlement is not None and claim.stage not in OVER
        places: tuple[tuple[object, ...], ...] = ((claim.place,),) if live else ()
        if claim.target is not None and claim.stage is not Stage.VOID:
            # A slot of contradictions draws a bench for each target; it serves for the first one.
            places = (*places, (claim.author, claim.epoch, claim.slot))
        for place in places:
            first[place] = min(first.get(place, _order(claim)), _order(claim))
        if live and claim.author not in state.forked:
            able[claim.id] = places
    return {
        one
        for one, places in able.items()
        if all(first[place] == _order(cases[one]) for place in places)
    }


def _order(claim: ClaimState) -> tuple[int, bytes]:
    return claim.seq, claim.id


@dataclass(frozen=True, slots=True)
class _Member:
    """One member on the bench of one claim."""

    state: State
    claim: ClaimState
    rank: int
    key: bytes
    secret: bytes

    def duties(self, calibration: bytes | None, *, may_sit: bool) -> Iterator[Duty | LostDuty]:
        settlement = self.claim.settlement
        assert settlement is not None
        seats = settlement.seats
        if seats.taken is None:
            if seats.seen[self.rank] is None:
                if may_sit and self.rank not in seats.talkers | seats.barred:
                    yield self._commit(calibration)
            elif self.rank not in seats.said and self._may_speak_of(seats.seen):
                seating = Seating(self.claim.id, seats.seen)
                yield SeatingDuty(self.claim.id, seating, None not in seats.seen)
            return
        at = settlement.open
        if at is None or seats.taken[self.rank] is None:
            return  # who does not sit is not heard
        if at.seat.rank == self.rank:
            if at.block is None and not at.talker:
                yield self._pair()
            return
        if at.seal is not None and at.block is None and self.rank not in at.opened:
            yield from self._open()
        absent = sum(seat is not None for seat in seats.taken) > PAIR and (
            at.seal is None or at.fold_nonce is not None
        )
        if self.rank not in at.said and (at.block is not None or absent):
            said = Attest(
                self.claim.id, at.round, at.seat.rank, at.block, at.head, at.prefix_digest
            )
            yield AttestDuty(self.claim.id, said, at.block is not None)

    def _may_speak_of(self, seen: Sequence[bytes | None]) -> bool:
        """Whether enough seats are taken that the bench can go on: who is cut off says nothing."""
        others = sum(commit is not None for commit in seen) - 1
        return others >= enough(len(seen), safety(self._policy()), absent=False)

    def _policy(self) -> TierPolicy:
        assert self.state.rules is not None
        tiers = self.state.rules.charter.tiers
        return next(tier for tier in tiers if tier.name == self.claim.tier)

    def _chains(self) -> tuple[NonceChain, NonceChain]:
        """The member's seeds and fold nonces for this claim."""
        policy = self._policy()
        return (
            nonce_chain(self.secret, self.claim.id, "seed", rounds_of(policy)),
            nonce_chain(self.secret, self.claim.id, "fold", positions_of(policy)),
        )

    def _commit(self, calibration: bytes | None) -> CommitDuty:
        claim, (seeds, folds) = self.claim, self._chains()
        return CommitDuty(
            claim.id,
            Commit(
                claim=claim.id,
                place=claim.place,
                rank=self.rank,
                nonce_hash=seeds.anchor,
                fold_nonce_hash=folds.anchor,
                calibration=calibration,
            ),
        )

    def _own_chains(self) -> tuple[NonceChain, NonceChain] | None:
        """The chains, if they are those that this member's seat was taken with."""
        settlement, (seeds, folds) = self.claim.settlement, self._chains()
        assert settlement is not None
        assert settlement.seats.taken is not None
        taken = settlement.seats.taken[self.rank]
        fits = taken is not None and (taken.seeds, taken.folds) == (seeds.anchor, folds.anchor)
        return (seeds, folds) if fits else None

    def _open(self) -> Iterator[OpenDuty]:
        settlement, chains = self.claim.settlement, self._own_chains()
        assert settlement is not None
        assert settlement.open is not None
        assert settlement.seats.taken is not None
        at, taken = settlement.open, settlement.seats.taken
        if chains is None or at.seal is None:
            return
        size = len(taken)
        others = [rank for rank, seat in enumerate(taken) if seat and rank != at.seat.rank]
        following = min(others, key=lambda rank: (rank - at.seat.rank) % size)
        if at.fold_nonce is None:
            payload = Open(at.seal, chains[1].reveals[at.index])
            due = following == self.rank
            yield OpenDuty(self.claim.id, at.round, at.seat.rank, payload, due)

    def _pair(self) -> PairDuty | LostDuty:
        claim, settlement, chains = self.claim, self.claim.settlement, self._own_chains()
        assert self.state.rules is not None
        assert settlement is not None
        assert settlement.open is not None
        assert settlement.seats.taken is not None
        epoch, at = self.state.rules.epochs[claim.epoch], settlement.open
        assert epoch.beacon is not None
        if chains is None:
            return LostDuty(claim.id, at.round)
        alone = sum(seat is not None for seat in settlement.seats.taken) == 1
        nonce = chains[0].reveals[at.round]
        return PairDuty(
            claim=claim.id,
            base=claim.base,
            candidate=claim.candidate,
            tier=claim.tier,
            round=at.round,
            rank=self.rank,
            purpose=at.purpose,
            training_seed=training_seed(epoch.beacon, claim.id, self.key, nonce, 0),
            sealed=at.seal,
            prefix=at.prefix,
            nonce=nonce,
            fold_nonce=chains[1].reveals[at.index] if alone else at.fold_nonce,
            fold_source="own" if alone else "other",
            beacon=epoch.beacon,
            active_folds=epoch.active_folds,
            used=at.used,
        )

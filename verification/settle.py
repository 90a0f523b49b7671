"""Which records of a bench count: commits, seals and blocks against the rules, one claim at a time.

Records are read in the order of their authors' feeds, never in the order of arrival. For every seat
the first fitting commit counts, for every round its first seal, for every position (round, rank)
the first block that

- comes after its author's commit and seal, in the author's own feed;
- opens the next link of both nonce chains that the commit anchored;
- names, as its prefix, exactly the blocks that hold the positions before it (its turn);
- was measured on a class of machine that the charter names for the tier;
- carries one pair, on the fold that the rules draw.

Whatever else was said about the claim is ignored, and the reason is kept. A position without such a
block is open, and the walk ends there: silence keeps a claim in quarantine. Counting a silent
member as absent needs the agreement of other members and comes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swarm.envelope import Record
from swarm.records import Block, Claim, Commit, Position, Seal
from verification.reproduce import (
    PAIRS_PER_BLOCK,
    Bench,
    fold_index,
    next_position,
    step,
)
from verification.verdict import Reproduction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from swarm.charter import EpochView
    from swarm.records import TierPolicy


def in_feed_order(records: list[Record]) -> list[Record]:
    """Records of one author in the order in which the author wrote them."""
    return sorted(records, key=lambda record: (record.envelope.seq, record.id))


@dataclass(slots=True)
class Docket:
    """All commits, seals and blocks that name one claim, whoever wrote them, in no order."""

    commits: dict[bytes, list[Record]] = field(default_factory=dict)
    seals: dict[tuple[bytes, int], list[Record]] = field(default_factory=dict)
    blocks: dict[tuple[bytes, int], list[Record]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """File a commit, seal or block; other kinds are passed over."""
        payload = record.payload
        if isinstance(payload, Commit):
            self.commits.setdefault(record.author, []).append(record)
        elif isinstance(payload, Seal):
            self.seals.setdefault((record.author, payload.round), []).append(record)
        elif isinstance(payload, Block):
            self.blocks.setdefault((record.author, payload.round), []).append(record)

    def __iter__(self) -> Iterator[Record]:
        for kind in (self.commits, self.seals, self.blocks):
            for records in kind.values():
                yield from records


@dataclass(frozen=True, slots=True)
class Settlement:
    """What counts of a docket.

    ``commits``: the id of each seat's commit, by rank, or None; ``anchors``: the two chains that
    it anchored (seeds, folds). ``reproductions``: the settled positions in order. ``seals``:
    (round, rank) to the id of the seal that counts. ``ignored``: the ids of all other records with
    the reason.
    """

    commits: tuple[bytes | None, ...]
    anchors: tuple[tuple[bytes, bytes] | None, ...]
    reproductions: tuple[Reproduction, ...]
    seals: dict[tuple[int, int], bytes]
    ignored: dict[bytes, str]

    @property
    def prefix(self) -> tuple[Position, ...]:
        """What the block of the next position has to state."""
        return tuple(Position(one.round, one.rank, one.block) for one in self.reproductions)


@dataclass(slots=True)
class _Seat:
    """A seat while its records are read: its commit, and the last opened link of each chain."""

    commit: Record
    nonce: bytes
    fold_nonce: bytes


def settle(
    claim: Record, epoch: EpochView, bench: Bench, policy: TierPolicy, docket: Docket
) -> Settlement:
    """Read a docket by the rules of the claim's epoch; the same records give the same result."""
    ignored: dict[bytes, str] = {
        record.id: "not_on_the_bench" for record in docket if bench.rank_of(record.author) is None
    }
    seats = [_seat_of(claim, seat.rank, seat.key, docket, ignored) for seat in bench.seats]
    anchors = tuple((seat.nonce, seat.fold_nonce) if seat else None for seat in seats)
    seals = _seals(bench, seats, docket, ignored)
    for (author, _), blocks in docket.blocks.items():
        if bench.rank_of(author) is not None:
            ignored.update((record.id, "out_of_turn") for record in blocks)
    settled: list[Reproduction] = []
    prefix: tuple[Position, ...] = ()
    while (turn := next_position(len(settled), policy.n, policy.max_pairs)) is not None:
        round_, rank = turn
        seat, key = seats[rank], bench.seats[rank].key
        chosen: Record | None = None
        for record in in_feed_order(docket.blocks.get((key, round_), [])):
            seal = seals.get(turn)
            if chosen is not None:
                ignored[record.id] = "second_block"
            elif reason := _fault(record, claim.id, rank, seat, seal, prefix, epoch, policy):
                ignored[record.id] = reason
            else:
                chosen = record
        if chosen is None or seat is None:
            break
        block = _block(chosen)
        del ignored[chosen.id]
        seat.nonce, seat.fold_nonce = block.nonce, block.fold_nonce
        settled.append(Reproduction(round_, rank, chosen.id, key, block.pairs[0]))
        prefix = (*prefix, Position(round_, rank, chosen.id))
    return Settlement(
        commits=tuple(seat.commit.id if seat else None for seat in seats),
        anchors=anchors,
        reproductions=tuple(settled),
        seals={turn: seal.id for turn, seal in seals.items()},
        ignored=ignored,
    )


def _block(record: Record) -> Block:
    assert isinstance(record.payload, Block)
    return record.payload


def _seat_of(
    claim: Record, rank: int, key: bytes, docket: Docket, ignored: dict[bytes, str]
) -> _Seat | None:
    assert isinstance(claim.payload, Claim)
    expected = (claim.author, claim.envelope.epoch, claim.payload.slot, rank)
    seat: _Seat | None = None
    for record in in_feed_order(docket.commits.get(key, [])):
        said = record.payload
        assert isinstance(said, Commit)
        if (said.claimant, said.claim_epoch, said.slot, said.rank) != expected:
            ignored[record.id] = "commit_does_not_fit_the_claim"
        elif seat is not None:
            ignored[record.id] = "second_commit"
        else:
            seat = _Seat(record, said.nonce_hash, said.fold_nonce_hash)
    return seat


def _seals(
    bench: Bench, seats: list[_Seat | None], docket: Docket, ignored: dict[bytes, str]
) -> dict[tuple[int, int], Record]:
    chosen: dict[tuple[int, int], Record] = {}
    for (author, round_), records in docket.seals.items():
        rank = bench.rank_of(author)
        if rank is None:
            continue
        seat = seats[rank]
        for record in in_feed_order(records):
            if seat is None or record.envelope.seq <= seat.commit.envelope.seq:
                ignored[record.id] = "seal_without_commit"
            elif (round_, rank) in chosen:
                ignored[record.id] = "second_seal"
            else:
                chosen[(round_, rank)] = record
    return chosen


def _fault(
    record: Record,
    claim: bytes,
    rank: int,
    seat: _Seat | None,
    seal: Record | None,
    prefix: tuple[Position, ...],
    epoch: EpochView,
    policy: TierPolicy,
) -> str:
    """Why a block cannot hold the next position; empty when it can."""
    block, seq = _block(record), record.envelope.seq
    beacon = epoch.beacon
    if seat is None or beacon is None or seq <= seat.commit.envelope.seq:
        return "block_without_commit"
    if block.purpose != "verdict":
        return "not_for_the_verdict"
    if block.rank != rank:
        return "wrong_rank"
    if seal is None or block.seal != seal.id or seq <= seal.envelope.seq:
        return "block_without_its_seal"
    if step(block.nonce) != seat.nonce:
        return "wrong_nonce"
    if block.fold_source != "own":
        return "fold_source_not_in_use"
    if step(block.fold_nonce) != seat.fold_nonce:
        return "wrong_fold_nonce"
    if block.prefix != prefix:
        return "out_of_turn"
    if block.hw_class not in policy.classes:
        return "class_not_in_the_charter"
    if len(block.pairs) != PAIRS_PER_BLOCK or block.pairs[0].index != 0:
        return "wrong_number_of_pairs"
    pair = block.pairs[0]
    folds = epoch.active_folds
    if not folds or pair.fold != fold_index(folds, beacon, claim, seal.id, block.fold_nonce, 0):
        return "wrong_fold"
    gain = pair.base_nano - pair.candidate_nano
    if pair.d_nano != (gain if pair.status == "ok" else 0):
        return "numbers_that_contradict_each_other"
    return ""

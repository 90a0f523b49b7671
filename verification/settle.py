"""What counts of a bench's records: seats, then one position after the other.

A position (round, rank) is settled as one block, or as absent, when enough other members who sit
on the bench say so with an ``Attest`` (``verification.seating`` says how many are enough). Only
blocks that fit can be settled (``verification.blocks``), and one that fits does so whatever arrives
later. Of a member without a fork one block and one statement each is counted, the first that can
be; of a liar all that it made. So a settled position stays, on every node, in whatever order
records arrive.

A position with too few statements for a block and for absence is open, and the walk ends there: the
claim waits, unless it is torn, and then absent. A member that took its seat and is absent has lost
the pair (a verifier that likes to vanish when it sees a bad result must not help); a seat that is
settled as empty is passed over. Of two who sit none can call the other absent: with a position that
is torn, or with fewer than two who sit, the claim ends by name, neither adopted nor rejected. The
walk ends with a rejection, or after acceptance with the last position for the effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from swarm.charter import EpochView
from swarm.records import Attest, Block, Position
from verification.blocks import NOT_OPENED, Place
from verification.docket import NOTHING, Docket, Words
from verification.reproduce import Bench, Seat, effect_positions, position, positions_of
from verification.seating import (
    PAIR,
    TOO_FEW_LEFT,
    UNSEEN,
    Seats,
    Taken,
    enough,
    is_stuck,
    is_torn,
    pair_is_stuck,
    safety,
)
from verification.verdict import Deliberation, Reproduction, Terms, Verdict, positions_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from verification.shelf import Said

NO_PAIR: int = 1
"""Stands for the calibrated bound of an empty seat: it has no pair that could break it."""


@dataclass(frozen=True, slots=True)
class OpenPosition:
    """The position that is not settled yet, and what was said of it.

    ``used`` are the folds of the settled positions before it.
    ``seal`` and ``block`` are the first of its member that fit, ``fold_nonce`` the link that
    another opened for that seal. ``said`` and ``opened`` are the ranks that have stated a value,
    and that have opened a link for it. ``head`` is the last that was seen of its member,
    ``talker`` whether that published more blocks than anybody honest does.
    """

    index: int
    round: int
    seat: Seat
    purpose: str
    prefix: tuple[Position, ...]
    used: tuple[int, ...]
    prefix_digest: bytes
    head: bytes
    seal: bytes | None
    fold_nonce: bytes | None
    block: bytes | None
    said: frozenset[int]
    opened: frozenset[int]
    talker: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """What counts of a docket.

    ``reproductions``: the settled positions for the verdict, in order; ``effects``: those after
    acceptance. ``seals``: (round, rank) to the id of the seal that counts. ``open``: the position
    that the bench is at, None before all seats are settled and when all is done. ``ended``: why
    it never can be decided any more, empty while it can. ``ignored``: ids of records that do not
    count, with the reason.
    """

    seats: Seats
    reproductions: tuple[Reproduction, ...]
    effects: tuple[Reproduction, ...]
    verdict: Verdict
    seals: dict[tuple[int, int], bytes]
    ignored: dict[bytes, str]
    open: OpenPosition | None = None
    ended: str = ""

    @property
    def complete(self) -> bool:
        """Whether the verdict is there, and after acceptance all pairs for the effect."""
        return self.verdict.outcome != "pending" and self.open is None and not self.ended


def _listed(words: Words) -> Iterable[bytes]:
    """The ids of records that are looked at one by one."""
    return () if words.wild else words.by_id


def settle(
    epoch: EpochView,
    bench: Bench,
    terms: Terms,
    docket: Docket,
    seats: Seats,
    gone: frozenset[int] = frozenset(),
) -> Settlement:
    """Walk the positions of a claim; the same records give the same result.

    ``terms`` without calibrated bounds: those of the seats are filled in. ``gone``: the ranks of
    those who say nothing about it any more.
    """
    ignored = dict(seats.ignored)
    for words in docket.blocks.values():
        ignored.update((id_, "out_of_turn") for id_ in _listed(words))
    for words in docket.seals.values() if seats.taken is None else ():
        ignored.update((id_, "seal_without_commit") for id_ in _listed(words))
    if seats.taken is None or seats.ended:
        verdict = Deliberation(terms).verdict()
        return Settlement(seats, (), (), verdict, {}, ignored, ended=seats.ended)
    bounds = tuple(seat.sigma0_nano if seat else NO_PAIR for seat in seats.taken)
    terms = replace(terms, sigma0_nano=bounds)
    return _Walk(epoch, bench, terms, docket, seats, seats.taken, gone, ignored).settlement()


@dataclass(slots=True)
class _Walk:
    """The positions of one claim while they are read."""

    epoch: EpochView
    bench: Bench
    terms: Terms
    docket: Docket
    seats: Seats
    sitting: tuple[Taken | None, ...]
    gone: frozenset[int]
    ignored: dict[bytes, str]
    settled: list[Reproduction] = field(default_factory=list)
    prefix: tuple[Position, ...] = ()
    seals: dict[tuple[int, int], bytes] = field(default_factory=dict)
    effect_from: int | None = None
    ended: str = ""
    awaited: bool = False

    def settlement(self) -> Settlement:
        """Walk to the end, or to the first position that is open."""
        deliberation = Deliberation(self.terms)
        opened: OpenPosition | None = None
        while deliberation.outcome != "reject" and not self._complete():
            round_, rank = position(len(self.settled), self.terms.policy.n)
            if self.sitting[rank] is None:
                self._take(
                    Reproduction(round_, rank, None, self.bench.seats[rank].key, None, False)
                )
            else:
                place = self._place(round_, rank)
                blocks = self._blocks(place)
                values = self._agreed(place, blocks)
                if not values:
                    opened = self._open(place, blocks)
                    break
                self._settle(place, blocks, values[0])
            if self.effect_from is None and deliberation.add(self.settled[-1]) == "adopt":
                self.effect_from = len(self.settled)
        cut = len(self.settled) if self.effect_from is None else self.effect_from
        self._note_seals()
        return Settlement(
            seats=self.seats,
            reproductions=tuple(self.settled[:cut]),
            effects=tuple(self.settled[cut:]),
            verdict=deliberation.verdict(),
            seals=self.seals,
            ignored=self.ignored,
            open=opened,
            ended=self.ended,
        )

    def _complete(self) -> bool:
        """Whether there is no further position."""
        policy, done = self.terms.policy, len(self.settled)
        if self.effect_from is None:
            return done >= policy.n * policy.max_pairs
        return done >= min(self.effect_from + effect_positions(policy), positions_of(policy))

    def _take(self, item: Reproduction) -> None:
        self.settled.append(item)
        self.prefix = (*self.prefix, Position(item.round, item.rank, item.block))

    def _place(self, round_: int, rank: int) -> Place:
        return Place(
            claim=self.terms.claim,
            index=len(self.settled),
            round=round_,
            seat=self.bench.seats[rank],
            sitting=self.sitting,
            purpose="verdict" if self.effect_from is None else "effect",
            prefix=self.prefix,
            used=tuple(item.pair.fold for item in self.settled if item.pair is not None),
            bench=self.bench,
            epoch=self.epoch,
            policy=self.terms.policy,
        )

    def _blocks(self, place: Place) -> dict[bytes, Said]:
        """The member's blocks that fit, in the order of its feed.

        Of a member without a fork only the first that fits, or would if a link were opened. Of one
        with a fork and more of them than anybody honest has, those that others name.
        """
        fitting: dict[bytes, Said] = {}
        words, forked = self._published(place), place.seat.key in self.docket.forked
        published: Iterable[Said] = words.said
        if forked and words.wild:
            named = {said.block for _, said, _ in self._attests(place) if said.block}
            published = self.docket.named(words, named)
        self.awaited = False
        for block in published:
            reason = place.fault(self.docket, block)
            able = reason in ("", NOT_OPENED)
            if able and not forked and (fitting or self.awaited):
                reason, able = "second_block", False
            if reason:
                self.ignored[block.id] = reason
                self.awaited = self.awaited or able
            else:
                self.ignored.pop(block.id, None)
                fitting[block.id] = block
        return fitting

    def _published(self, place: Place) -> Words:
        return self.docket.blocks.get((place.seat.key, place.round), NOTHING)

    def _speakers(self, place: Place) -> Iterator[tuple[int, Words]]:
        """Others who sit on the bench, by rank, with what they say of a position."""
        by_author = self.docket.attests.get((place.round, place.seat.rank), {})
        for seat, sitting in zip(self.bench.seats, self.sitting, strict=True):
            if sitting is not None and seat.rank != place.seat.rank and seat.key in by_author:
                yield seat.rank, by_author[seat.key]

    def _attests(self, place: Place) -> list[tuple[int, Attest, bytes]]:
        """What counts of what others say of a position, with their ranks and its id."""
        return [
            (rank, said.payload, said.id)
            for rank, words in self._speakers(place)
            for said in self.docket.counted(self.bench.seats[rank].key, words)
            if isinstance(said.payload, Attest)
        ]

    def _agreed(self, place: Place, blocks: dict[bytes, Said]) -> list[bytes | None]:
        """The value that a position is settled at, nothing where it is open."""
        rank, sitting = place.seat.rank, sum(seat is not None for seat in self.sitting)
        s, digest = safety(self.terms.policy), positions_digest(self.terms.claim, self.settled)
        voices: dict[bytes | None, set[int]] = {}
        for voice, said, _ in self._attests(place):
            value = said.block if said.prefix_digest == digest else UNSEEN
            voices.setdefault(value, set()).add(voice)
        forked = self.docket.forked_ranks(self.bench)
        two_faced, liars = rank in forked, {one for one in forked - {rank} if self.sitting[one]}
        gone = {one for one in self.gone if self.sitting[one]} - {rank} - liars
        silent = rank in self.gone and not two_faced and not blocks and not self.awaited
        if sitting == PAIR and not two_faced:
            spoke = {voice for voice, _ in self._speakers(place)}
            if blocks and spoke:
                return list(blocks)
            if pair_is_stuck(
                s, other_mute=bool(gone) and not spoke, silent=silent, other_forked=bool(liars)
            ):
                self.ended = TOO_FEW_LEFT
            return []
        wild = {one for one, words in self._speakers(place) if words.wild and one in liars}
        for value in {*voices, *blocks, None, UNSEEN} if wild else ():
            voices.setdefault(value, set()).update(wild)
        agreed = [
            value
            for value in (*blocks, None)
            if len(voices.get(value, ())) >= enough(sitting, s, absent=value is None)
        ]
        if not agreed and is_torn(sitting, s, voices, two_faced=two_faced, forked=liars):
            agreed = [None]
        if len(agreed) > 1:  # more than s have forked
            agreed = [None]
        if agreed == [None] and sitting == PAIR:
            self.ended = "bench_too_small"
            return []
        if not agreed and is_stuck(
            sitting, s, voices, gone, two_faced=two_faced, silent=silent, forked=liars
        ):
            self.ended = TOO_FEW_LEFT
        return agreed

    def _settle(self, place: Place, blocks: dict[bytes, Said], value: bytes | None) -> None:
        for block in blocks:
            if block != value:
                self.ignored[block] = "settled_otherwise" if value is None else "second_block"
        for _, said, id_ in self._attests(place):
            if said.block != value:
                self.ignored[id_] = "outvoted"
        where, key = (place.round, place.seat.rank), place.seat.key
        if value is None:
            self._take(Reproduction(*where, None, key, None))
            return
        held = blocks[value].payload
        assert isinstance(held, Block)
        self.seals[where] = held.seal
        self._take(Reproduction(*where, value, key, held.pairs[0]))

    def _open(self, place: Place, blocks: dict[bytes, Said]) -> OpenPosition:
        first = place.seal(self.docket)
        seal = first.id if first else None
        if seal is not None:
            self.seals[(place.round, place.seat.rank)] = seal
        links = place.links(self.docket, seal) if seal else []
        block = next(iter(blocks), None)
        return OpenPosition(
            index=place.index,
            round=place.round,
            seat=place.seat,
            purpose=place.purpose,
            prefix=place.prefix,
            used=place.used,
            prefix_digest=positions_digest(self.terms.claim, self.settled),
            head=block or seal or place.taken.commit,
            seal=seal,
            fold_nonce=links[0] if links else None,
            block=block,
            said=frozenset(rank for rank, _ in self._speakers(place)),
            opened=place.openers(self.docket),
            talker=self._published(place).wild,
        )

    def _note_seals(self) -> None:
        """Name the seals that hold nothing."""
        for (author, round_), words in self.docket.seals.items():
            rank = self.bench.rank_of(author)
            if rank is None:
                continue
            taken = self.sitting[rank]
            counts = self.seals.get((round_, rank))
            for said in () if words.wild else words.said:
                if taken is None or said.seq <= taken.seq:
                    self.ignored[said.id] = "seal_without_commit"
                elif counts not in (None, said.id):
                    self.ignored[said.id] = "second_seal"

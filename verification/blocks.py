"""Whether a block can hold a position: rules that nothing which arrives later can change.

A block that can

- comes after its author's commit and seal, in the author's own feed; of several seals it names the
  first, unless the feed has a fork;
- opens the link of its round of the seed chain that the commit anchored;
- was scored on the fold that its seal and a link of another member's fold chain draw, among those
  that the claim's earlier positions used least, and that member opened the link for this very seal;
  on a bench of one a member opens its own;
- names, as its prefix, exactly what holds the positions before it (its turn), and its purpose: for
  the verdict, or after acceptance for the effect;
- was measured on a class of machine that the charter names for the tier;
- carries one pair, whose numbers do not contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from swarm.charter import EpochView
from swarm.records import Block, Open, Position, TierPolicy
from verification.docket import NOTHING, Docket, Words
from verification.reproduce import PAIRS_PER_BLOCK, Bench, Seat, anchored, fold_index
from verification.seating import Taken

if TYPE_CHECKING:
    from verification.docket import Name
    from verification.shelf import Said


NOT_OPENED: Final = "fold_not_opened"
"""The one fault that a record which is still to come can mend: the link may be on its way."""


@dataclass(frozen=True, slots=True)
class Place:
    """One position, whose seat is taken: ``index`` in order, its round and seat.

    ``sitting`` are the seats of the bench by rank, None for an empty one; ``purpose`` and
    ``prefix`` are what its block has to name, ``used`` the folds of the positions before it.
    """

    claim: bytes
    index: int
    round: int
    seat: Seat
    sitting: tuple[Taken | None, ...]
    purpose: str
    prefix: tuple[Position, ...]
    used: tuple[int, ...]
    bench: Bench
    epoch: EpochView
    policy: TierPolicy

    @property
    def taken(self) -> Taken:
        """The seat's commit."""
        taken = self.sitting[self.seat.rank]
        assert taken is not None
        return taken

    @property
    def alone(self) -> bool:
        """Whether nobody else sits on the bench who could open a link."""
        return sum(seat is not None for seat in self.sitting) == 1

    def seal(self, docket: Docket) -> Name | None:
        """The first seal of the member for this round, behind its commit."""
        return self._seals(docket).first_after(self.taken.seq)

    def _seals(self, docket: Docket) -> Words:
        return docket.seals.get((self.seat.key, self.round), NOTHING)

    def openers(self, docket: Docket) -> frozenset[int]:
        """The ranks that opened a link for a seal of this place."""
        authors = docket.opened.get((self.seat.key, self.round), ())
        ranks = {self.bench.rank_of(author) for author in authors}
        return frozenset(rank for rank in ranks if rank is not None)

    def links(self, docket: Docket, seal: bytes) -> list[bytes]:
        """The links that others opened for ``seal``, those of the next members first.

        Who opened more links than anybody honest does is passed over.
        """
        found: list[tuple[int, bytes]] = []
        for author, words in docket.opens.get(seal, {}).items():
            for said in () if words.wild else words.said:
                assert isinstance(said.payload, Open)
                distance = self._opens(author, said.payload.fold_nonce)
                if distance is not None:
                    found.append((distance, said.payload.fold_nonce))
        return [link for _, link in sorted(found)]

    def _opens(self, author: bytes, link: bytes) -> int | None:
        """How far behind the member ``author`` sits whose link for this place it is, else None."""
        opener = self.bench.rank_of(author)
        seat = self.sitting[opener] if opener is not None else None
        if opener is None or seat is None or opener == self.seat.rank:
            return None
        if not anchored(link, self.index, seat.folds):
            return None
        return (opener - self.seat.rank) % len(self.sitting)

    def fault(self, docket: Docket, said: Said) -> str:
        """Why the block that was ``said`` cannot hold the position; empty when it can."""
        block, seq = said.payload, said.seq
        assert isinstance(block, Block)
        seal = self._seals(docket).by_id.get(block.seal)
        if seal is not None and seal.seq <= self.taken.seq:
            seal = None
        first = self.seal(docket)
        rules = (
            ("block_without_commit", seq > self.taken.seq),
            (f"not_for_the_{self.purpose}", block.purpose == self.purpose),
            ("wrong_rank", block.rank == self.seat.rank),
            ("block_without_its_seal", seal is not None and seq > seal.seq),
            ("second_seal", seal == first or self.seat.key in docket.forked),
            ("wrong_nonce", anchored(block.nonce, self.round, self.taken.seeds)),
            ("class_not_in_the_charter", block.hw_class in self.policy.classes),
            ("out_of_turn", block.prefix == self.prefix),
        )
        broken = next((reason for reason, kept in rules if not kept), "")
        return broken or self._fold_fault(docket, block) or self._pair_fault(block)

    def _fold_fault(self, docket: Docket, block: Block) -> str:
        if block.fold_source != ("own" if self.alone else "other"):
            return "wrong_fold_source"
        if self.alone:
            own = anchored(block.fold_nonce, self.index, self.taken.folds)
            return "" if own else "wrong_fold_nonce"
        authors = docket.links.get((block.seal, block.fold_nonce), ())
        if any(self._opens(author, block.fold_nonce) is not None for author in authors):
            return ""
        keys = (seat.key for seat in self.bench.seats)
        theirs = any(self._opens(key, block.fold_nonce) is not None for key in keys)
        return NOT_OPENED if theirs else "wrong_fold_nonce"

    def _pair_fault(self, block: Block) -> str:
        if len(block.pairs) != PAIRS_PER_BLOCK or block.pairs[0].index != 0:
            return "wrong_number_of_pairs"
        pair, folds, beacon = block.pairs[0], self.epoch.active_folds, self.epoch.beacon
        if not folds or beacon is None:
            return "wrong_fold"
        drawn = (beacon, self.claim, block.seal, block.fold_nonce, 0, self.used)
        if pair.fold != fold_index(folds, *drawn):
            return "wrong_fold"
        gain = pair.base_nano - pair.candidate_nano
        if pair.d_nano != (gain if pair.status == "ok" else 0):
            return "numbers_that_contradict_each_other"
        return ""

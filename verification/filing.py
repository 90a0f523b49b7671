"""Filing what benches say: to which claim it belongs, and who has no seat on its bench.

Whatever the order in which records come, the dockets of the same records hold the same. What can
change nothing costs nothing but its place in memory: words of those who have no seat, and more
words of those who said too many (:mod:`verification.docket`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.records import Attest, Block, Commit, Open, Seal, Seating
from verification.docket import MOST_WORDS, Docket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from swarm.envelope import Record
    from verification.reproduce import Bench
    from verification.states import ClaimState

Word = Commit | Seating | Seal | Open | Block | Attest
"""What a bench says."""


class _Pile:
    """Records that are put aside, by author."""

    def __init__(self) -> None:
        self._by_author: dict[bytes, dict[bytes, Record]] = {}

    def add(self, record: Record) -> bool:
        """Put one aside; says whether it is listed."""
        own = self._by_author.setdefault(record.author, {})
        own[record.id] = record
        return len(own) <= MOST_WORDS + 1  # with the last one none of them is any more

    def remove(self, record: Record) -> None:
        """Take one out again."""
        del self._by_author[record.author][record.id]

    def __iter__(self) -> Iterator[Record]:
        for own in self._by_author.values():
            yield from own.values()

    def listed(self) -> Iterator[bytes]:
        """The ids of records, but for those of authors with more than ``MOST_WORDS``."""
        for own in self._by_author.values():
            if len(own) <= MOST_WORDS:
                yield from own


class Filing:
    """The dockets and the benches of all claims and contradictions."""

    def __init__(self) -> None:
        self._dockets: dict[bytes, Docket] = {}
        self._benches: dict[bytes, Bench] = {}
        self._strays: dict[bytes, _Pile] = {}
        self._seals: dict[bytes, bytes] = {}
        self._waiting: dict[bytes, list[Record]] = {}
        self._early = _Pile()

    def of(self, claim: bytes) -> Docket:
        """The docket of a claim, an empty one where nothing was said."""
        return self._dockets.get(claim) or Docket()

    def bench(self, claim: bytes) -> Bench | None:
        """The bench of a claim, None before it was drawn."""
        return self._benches.get(claim)

    def draw(self, claim: bytes, bench: Bench) -> None:
        """Remember a bench; what others have said about its claim is put aside."""
        self._benches[claim] = bench
        if bench.seats and claim in self._dockets:
            pile = self._strays.setdefault(claim, _Pile())
            for record in self._dockets[claim].evict({seat.key for seat in bench.seats}):
                pile.add(record)

    def forget_benches(self) -> None:
        """The rules are other ones now, and benches are to be drawn anew."""
        self._benches.clear()
        for claim, pile in self._strays.items():
            docket = self._dockets.setdefault(claim, Docket())
            for record in sorted(pile, key=lambda record: record.kind != Seal.KIND):
                docket.add(record)
        self._strays.clear()

    def add(self, record: Record, word: Word) -> tuple[bytes | None, bool]:
        """File a record: the claim of which something else may follow now, None for none; and
        whether anything is to be told anew, if only what is ignored.
        """
        if isinstance(word, Open):
            sealed = self._seals.get(word.seal)
            if sealed is None:
                self._waiting.setdefault(word.seal, []).append(record)
                return None, self._early.add(record)
            return self._file(sealed, record)
        if not isinstance(word, Seal):
            return self._file(word.claim, record)
        self._seals[record.id] = word.claim
        filed = [self._file(word.claim, record)]
        for early in self._waiting.pop(record.id, ()):
            self._early.remove(early)
            filed.append(self._file(word.claim, early))
        return next((claim for claim, _ in filed if claim), None), True

    def _file(self, claim: bytes, record: Record) -> tuple[bytes | None, bool]:
        bench = self._benches.get(claim)
        if bench is not None and bench.seats and bench.rank_of(record.author) is None:
            return None, self._strays.setdefault(claim, _Pile()).add(record)
        changed = self._dockets.setdefault(claim, Docket()).add(record)
        return claim if changed else None, changed

    def ignored(self, states: Mapping[bytes, ClaimState]) -> dict[bytes, str]:
        """The ids of records that do not count, with the reason.

        Those of an author who says far too much of one thing are not listed.
        """
        ignored = dict.fromkeys(self._early.listed(), "seal_unknown")
        for claim, docket in self._dockets.items():
            state = states.get(claim)
            if state is None:
                ignored.update((record.id, "claim_unknown") for record in docket)
            elif state.settlement is None:
                ignored.update((record.id, "claim_not_assigned") for record in docket)
            else:
                ignored.update(state.settlement.ignored)
        for pile in self._strays.values():
            ignored.update(dict.fromkeys(pile.listed(), "not_on_the_bench"))
        return ignored

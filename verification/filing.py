"""Filing what benches say: to which claim it belongs, and who has no seat on its bench.

Whatever the order in which records come, the dockets of the same records hold the same: a docket is
made of what the seated have said about its claim once its bench is drawn, and anew when others are
seated. What can change nothing costs nothing but its name in memory (:mod:`verification.shelf`):
words about claims without a bench, words of those who have no seat, and more words of those who
said too many (:mod:`verification.docket`).

A commit is filed with every rival of its place: who sits for one of them does not sit for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.records import Commit, Open, Seal
from verification.docket import MOST_WORDS, Docket
from verification.shelf import Said, Shelf, Word

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from swarm.envelope import Record
    from verification.reproduce import Bench
    from verification.shelf import Log
    from verification.states import ClaimState


class Filing:
    """The dockets and the benches of all claims and contradictions.

    Args:
        log: finds a record by its id (:class:`verification.shelf.Shelf`).
        forked: the authors whose feeds are known to have a fork, kept up to date by its owner.
    """

    def __init__(self, log: Log | None = None, forked: Set[bytes] = frozenset()) -> None:
        self._shelf = Shelf(log)
        self._forked = forked
        self._said: dict[tuple[bytes, bytes], list[bytes]] = {}  # by claim and author
        self._sat: dict[tuple[bytes, bytes], list[bytes]] = {}  # by place and author
        self._dockets: dict[bytes, Docket] = {}
        self._benches: dict[bytes, Bench] = {}
        self._rivals: dict[bytes, set[bytes]] = {}  # claims by place
        self._seals: dict[bytes, bytes] = {}
        self._waiting: dict[bytes, list[tuple[bytes, bytes]]] = {}  # author and word, by seal
        self._early: dict[bytes, set[bytes]] = {}

    def of(self, claim: bytes) -> Docket:
        """The docket of a claim, an empty one where no bench was drawn."""
        return self._dockets.get(claim) or Docket(forked=self._forked)

    def bench(self, claim: bytes) -> Bench | None:
        """The bench of a claim, None before it was drawn."""
        return self._benches.get(claim)

    def draw(self, claim: bytes, place: bytes, bench: Bench) -> None:
        """Remember a bench; what its members have said about its claim, and whom they sit for in
        its place, is looked at from now on.
        """
        seated = frozenset(seat.key for seat in bench.seats)
        if seated and self.of(claim).seated != seated:
            self._dockets[claim] = self._docket(claim, place, seated)
        self._rivals.setdefault(place, set()).add(claim)
        self._benches[claim] = bench

    def _docket(self, claim: bytes, place: bytes, seated: frozenset[bytes]) -> Docket:
        docket = Docket(seated, self._shelf.read, self._forked)
        opens: list[Said] = []  # behind the seals that they are for
        for author in seated:
            own = [*self._said.get((claim, author), ()), *self._sat.get((place, author), ())]
            for word in dict.fromkeys(own):
                said = self._shelf.read(word)
                if isinstance(said.payload, Open):
                    opens.append(said)
                else:
                    docket.add(said)
        for said in opens:
            docket.add(said)
        return docket

    def forget_benches(self) -> None:
        """The rules are other ones now, and benches are to be drawn anew."""
        self._benches.clear()

    def add(self, record: Record, word: Word, *, logged: bool) -> tuple[frozenset[bytes], bool]:
        """File a record: the claims of which something else may follow now; and whether anything is
        to be told anew, if only what is ignored. ``logged``: see ``Shelf``.
        """
        self._shelf.put(record, logged=logged)
        said = Said.of(record)
        if isinstance(word, Open):
            sealed = self._seals.get(word.seal)
            if sealed is None:
                self._waiting.setdefault(word.seal, []).append((said.author, said.id))
                own = self._early.setdefault(said.author, set())
                own.add(said.id)
                # With the last one none is listed any more.
                return frozenset(), len(own) <= MOST_WORDS + 1
            return self._file(sealed, said)
        if isinstance(word, Commit):
            return self._sit(word, said)
        if not isinstance(word, Seal):
            return self._file(word.claim, said)
        self._seals[said.id] = word.claim
        changed, _ = self._file(word.claim, said)
        for author, early in self._waiting.pop(said.id, ()):
            self._early[author].remove(early)
            changed |= self._file(word.claim, self._shelf.read(early))[0]
        return changed, True

    def _sit(self, word: Commit, said: Said) -> tuple[frozenset[bytes], bool]:
        self._sat.setdefault((word.place, said.author), []).append(said.id)
        changed, told = self._file(word.claim, said)
        for rival in self._rivals.get(word.place, set()) - {word.claim}:
            docket = self._dockets.get(rival)
            if docket is not None and said.author in docket.seated:
                docket.add(said)
                changed |= {rival}
        return changed, told or bool(changed)

    def _file(self, claim: bytes, said: Said) -> tuple[frozenset[bytes], bool]:
        own = self._said.setdefault((claim, said.author), [])
        own.append(said.id)
        listed = len(own) <= MOST_WORDS + 1
        docket = self._dockets.get(claim)
        if docket is None or said.author not in docket.seated:
            return frozenset(), listed
        changed = docket.add(said)
        return frozenset({claim} if changed else ()), changed or listed

    def ignored(
        self, states: Mapping[bytes, ClaimState], parted: Iterable[bytes] = ()
    ) -> dict[bytes, str]:
        """The ids of records that do not count, with the reason.

        ``parted``: those behind a gap in their feed. Those of an author who says far too much of
        one thing are not listed.
        """
        ignored = dict.fromkeys(parted, "behind_a_gap_in_its_feed")
        for own in self._early.values():
            if len(own) <= MOST_WORDS:
                ignored.update(dict.fromkeys(own, "seal_unknown"))
        for (claim, author), words in self._said.items():
            state = states.get(claim)
            if state is None:
                reason = "claim_unknown"
            elif state.settlement is None:
                reason = "claim_not_assigned"
            elif author not in self._dockets[claim].seated:
                reason = "not_on_the_bench"
            else:
                continue
            if len(words) <= MOST_WORDS:
                ignored.update(dict.fromkeys(words, reason))
        for state in states.values():
            if state.settlement is not None:
                ignored.update(state.settlement.ignored)
        return ignored

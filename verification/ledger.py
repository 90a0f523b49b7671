"""How often an author has spent: its claims, and its contradictions of each target, in its life.

A claim's weight (:mod:`verification.budget`) hangs on how many claims its author has made before.
That is counted along the author's own feed, from a record back to the first: each names the one
before it by hash, so the number is settled when the claim is signed. Nothing that arrives later
moves it, whatever the order, and nobody's word is needed for it. Claims that were held back and are
published later have been made all the same, in that order.

What is needed of a feed is held: of a claim, of a contradiction and of a handover for good, of the
last record of each branch until the next one comes, and of every 64th. Where a feed parts at
another record, the log is read back to one of these. Without a log every record is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from swarm.records import Claim, Contradiction, Rotation

if TYPE_CHECKING:
    from swarm.envelope import Record
    from verification.shelf import Log

_EVERY: Final = 64


@dataclass(frozen=True, slots=True)
class Spent:
    """What a feed has spent up to a record: ``claims``, and its last contradiction.

    ``target`` of that contradiction, which is the ``number``-th that the feed makes of it, and what
    was spent ``before`` it; None where it has made none.
    """

    claims: int = 0
    target: bytes | None = None
    number: int = 0
    before: Spent | None = None

    def against(self, target: bytes) -> int:
        """How many contradictions of ``target`` there are up to here."""
        at: Spent | None = self
        while at is not None and at.target != target:
            at = at.before
        return at.number if at else 0

    def after(self, spends: bytes | bool) -> Spent:
        """With one more record: a claim (True), a contradiction of a target, or neither (False)."""
        if isinstance(spends, bytes):
            return Spent(self.claims, spends, self.against(spends) + 1, self)
        if not spends:
            return self
        return Spent(self.claims + 1, self.target, self.number, self.before)


NOTHING: Final = Spent()


def spends(record: Record) -> bytes | bool:
    """What a record spends: a claim (True), a contradiction of this target, or nothing (False)."""
    payload = record.payload
    if isinstance(payload, Contradiction) and payload.slot > 0:
        return payload.target
    return isinstance(payload, Claim)


class Ledger:
    """What was spent up to each record that somebody may ask for.

    ``log`` finds records by their id, with None or LookupError for those that it does not hold;
    None: there is no log.
    """

    def __init__(self, log: Log | None = None) -> None:
        self._log = log
        self._spent: dict[bytes, Spent] = {}
        self._tips: set[bytes] = set()  # known until something follows
        self._waiting: dict[bytes, list[tuple[bytes, bytes | bool, bool]]] = {}

    def at(self, record: bytes) -> Spent | None:
        """What the feed of a record has spent with it; None while a record before it is missing."""
        return self._spent.get(record)

    def note(self, record: Record) -> bool:
        """Take in a record of any kind. True where it was missing before others that spent."""
        kept = isinstance(record.payload, Rotation) or record.envelope.seq % _EVERY == 0
        return self.enter(record.id, record.envelope.prev, spends(record), kept=kept)

    def enter(
        self, record: bytes, prev: bytes | None, spends: bytes | bool, *, kept: bool = False
    ) -> bool:
        """:meth:`note`, of a record of which these things are known."""
        if record in self._spent:
            return False
        before = NOTHING if prev is None else self._spent.get(prev) or self._read(prev)
        if before is None:
            assert prev is not None
            self._waiting.setdefault(prev, []).append((record, spends, kept))
            return False
        ready, late = [(record, prev, before, spends, kept)], False
        while ready:
            record, prev, before, spends, kept = ready.pop()
            spent = self._spent[record] = before.after(spends)
            if prev in self._tips:
                self._tips.discard(prev)
                del self._spent[prev]
            if self._log is not None and not kept and spends is False:
                self._tips.add(record)
            for following, also, keep in self._waiting.pop(record, ()):
                late = late or also is not False or keep
                ready.append((following, record, spent, also, keep))
        return late

    def _read(self, record: bytes) -> Spent | None:
        """What was spent up to a record that was forgotten, by the log; None where it has a gap."""
        path: list[tuple[bytes, bytes | bool]] = []
        at: bytes | None = record
        while at is not None and at not in self._spent:
            found = self._logged(at)
            if found is None:
                return None
            path.append((at, spends(found)))
            at = found.envelope.prev
        spent = NOTHING if at is None else self._spent[at]
        for _, also in reversed(path):
            spent = spent.after(also)
        self._spent[record] = spent  # a feed parts here
        return spent

    def _logged(self, record: bytes) -> Record | None:
        if self._log is None:
            return None
        try:
            return self._log(record)
        except LookupError:
            return None

"""Which of two epochs a swarm goes on from: by what its members wrote, and for good.

Every record names the epoch under which it was written, by its id. That is a statement of its
author for that epoch and for all before it. Statements are a set that only grows: nothing here
reads a clock, or in which order records arrived or stand in a feed.

Rivals are epochs that follow the same one. Who may sign them are its governors, so their word does
not tell rivals apart: they, or whoever has a key of theirs, signed both. The *electorate* are the
verifiers on the roster that all rivals follow, without the operators that govern; an operator has
one voice, whichever of its keys it used, those that it handed over to included. A rival is *final*
with statements of ``majority`` of them. Two can only be final if more operators spoke for both than
the margin allows, and an honest node goes from one epoch to a rival of it only when that is final.

Where nobody but those who govern verifies yet, there is no such electorate, and for each rival the
first verifiers on a roster of its own speak; who holds the only governor's key can make up such a
roster, and no set of records can tell. Against that a node has its *anchor*: the newest epoch that
it saw as final. It follows no chain without it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from swarm.envelope import NO_EPOCH, parse
from swarm.feed import proves
from swarm.records import Equivocation
from swarm.roster import read_roster

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Set

    from swarm.envelope import Record
    from swarm.epochs import Stem


class Statements:
    """Who wrote under which epochs: pairs of an author and an epoch's id, a set that grows."""

    def __init__(self) -> None:
        self._by_epoch: dict[bytes, set[bytes]] = {}

    def note(self, record: Record) -> None:
        """Take in what a checked record states; of a proof, what both of its records do."""
        for author, epoch in stated(record):
            self.add(author, epoch)

    def add(self, author: bytes, epoch: bytes) -> bool:
        """Take in one statement; says whether it is new."""
        if epoch == NO_EPOCH:
            return False
        authors = self._by_epoch.setdefault(epoch, set())
        if author in authors:
            return False
        authors.add(author)
        return True

    def of(self, epoch: bytes) -> Set[bytes]:
        """The authors of records that name ``epoch``."""
        return self._by_epoch.get(epoch, frozenset())

    def forget(self, author: bytes, epoch: bytes) -> None:
        """Take a statement back whose record was not stored after all."""
        self._by_epoch.get(epoch, set()).discard(author)


def stated(record: Record) -> list[tuple[bytes, bytes]]:
    """The author and the epoch of what a checked record states, and of what it proves."""
    said = [record]
    payload = record.payload
    if isinstance(payload, Equivocation) and proves(payload):
        said += (parse(data, check_signature=False) for data in (payload.first, payload.second))
    swarm = record.envelope.swarm
    pairs = [(one.author, one.envelope.epoch_id) for one in said if one.envelope.swarm == swarm]
    return [pair for pair in pairs if pair[1] != NO_EPOCH]


def majority(voices: int, margin: int) -> int:
    """How many of ``voices`` make an epoch final: two such sets share more than ``margin``."""
    return min(voices, (voices + margin) // 2 + 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """The chain that is followed: the ids of its epochs, from the first on.

    ``final``: so many of them are final, each with all before it. ``frozen``: behind the last one
    stand rivals of which none is preferred. ``contested``: there are rivals somewhere.
    """

    path: tuple[bytes, ...]
    final: int
    frozen: bool
    contested: bool


class Chooser:
    """Chooses among rivals.

    Args:
        stems: all epochs that keep the rules, by id, each after the one that it follows, and first
            the charter under None.
        statements: who wrote under which of them.
        heirs: key that was handed on -> all keys to which it was, over any number of steps.
        margin: operators that may speak for both of two rivals.
    """

    def __init__(
        self,
        stems: Mapping[bytes | None, Stem],
        statements: Statements,
        heirs: Mapping[bytes, Set[bytes]],
        margin: int,
    ) -> None:
        self._stems = stems
        self._heirs = heirs
        self._margin = margin
        self._after: dict[bytes | None, list[bytes]] = defaultdict(list)
        self._speakers: dict[bytes, set[bytes]] = {}
        for name, stem in stems.items():
            if name is not None:
                self._speakers[name] = set(statements.of(name))
                self._after[stem.view.prev if stem.view else None].append(name)
        for name in reversed(list(self._speakers)):
            view = stems[name].view
            if view is not None and view.prev is not None:
                self._speakers[view.prev] |= self._speakers[name]
        self._held = self._hold()

    def choose(self, anchor: bytes | None = None, lean: bytes | None = None) -> Choice:
        """The chain to follow.

        Args:
            anchor: an epoch that the chain has to contain, where it is among the stems.
            lean: an epoch to stay with as long as no rival is final: what this node saw first.
        """
        bound, leaning = self._line(anchor), self._line(lean)
        path: list[bytes] = []
        final, is_final, at = 0, True, None
        while rivals := self._after.get(at, []):
            ends = [name for name in rivals if name in bound or self._is_final(at, name)]
            chosen = self._preferred(at, rivals, ends, bound, leaning)
            if chosen is None:
                break
            is_final = is_final and chosen in ends
            path.append(chosen)
            final, at = len(path) if is_final else final, chosen
        contested = any(len(rivals) > 1 for rivals in self._after.values())
        return Choice(tuple(path), final, bool(rivals), contested)

    def _preferred(
        self,
        at: bytes | None,
        rivals: Sequence[bytes],
        ends: Sequence[bytes],
        bound: Set[bytes],
        leaning: Set[bytes],
    ) -> bytes | None:
        for wanted in (bound, set(ends) if len(ends) == 1 else set(), leaning):
            if found := [name for name in rivals if name in wanted]:
                return found[0]
        if len(rivals) == 1:
            return rivals[0]
        weights = {name: (self._weight(at, name), bool(self._after.get(name))) for name in rivals}
        best = max(weights.values())
        found = [name for name, weight in weights.items() if weight == best]
        return found[0] if len(found) == 1 else None

    def _is_final(self, at: bytes | None, name: bytes) -> bool:
        """Whether enough spoke for the epoch ``name``, which follows ``at``."""
        voices = self._electorate(at)
        if voices:
            return self._spoke(voices, name) >= majority(len(voices), self._margin)
        count = len(self._stems[at].governors)
        if count == 1:
            return name in self._held
        few = (count - 1) // 2
        return name in self._held or self._signed(at, name) >= majority(count, few)

    def _weight(self, at: bytes | None, name: bytes) -> tuple[int, int]:
        voices = self._electorate(at)
        if voices:
            return self._spoke(voices, name), 0
        several = len(self._stems[at].governors) > 1
        return int(name in self._held), self._signed(at, name) if several else 0

    def _signed(self, at: bytes | None, name: bytes) -> int:
        """Governors of ``at`` who signed ``name`` or spoke for it."""
        view = self._stems[name].view
        seats = {key.hex(): frozenset((key,)) for key in self._stems[at].governors}
        return self._spoke(seats, name, frozenset(view.signers if view else ()))

    def _hold(self) -> set[bytes]:
        """Epochs that the verifiers on a roster of their own, or of an epoch after, spoke for."""
        held: set[bytes] = set()
        for name in reversed(list(self._speakers)):
            view = self._stems[name].view
            assert view is not None
            own = self._own(view.prev, name)
            if own and self._spoke(own, name) >= majority(len(own), self._margin):
                held.add(name)
            if name in held and view.prev is not None:
                held.add(view.prev)
        return held

    def _electorate(self, at: bytes | None) -> Mapping[str, frozenset[bytes]]:
        """Operators that verify and do not govern, with their keys; none where they are so few that
        those within the margin could decide alone.
        """
        stem = self._stems[at]
        voices = _independent(stem.roster, frozenset(stem.governors))
        return voices if len(voices) > self._margin else {}

    def _own(self, at: bytes | None, name: bytes) -> Mapping[str, frozenset[bytes]]:
        stem = self._stems[name]
        return _independent(stem.roster, frozenset((*self._stems[at].governors, *stem.governors)))

    def _spoke(
        self,
        voices: Mapping[str, frozenset[bytes]],
        name: bytes,
        also: Set[bytes] = frozenset(),
    ) -> int:
        speakers = self._speakers[name] | also
        return sum(any(self._is_among(speakers, key) for key in keys) for keys in voices.values())

    def _is_among(self, speakers: Set[bytes], key: bytes) -> bool:
        return key in speakers or not speakers.isdisjoint(self._heirs.get(key, ()))

    def _line(self, name: bytes | None) -> set[bytes]:
        """The epoch ``name`` and all before it; nothing where it is not here."""
        found: set[bytes] = set()
        while name is not None and name in self._stems:
            found.add(name)
            view = self._stems[name].view
            name = view.prev if view else None
        return found


@lru_cache(maxsize=4096)
def _independent(roster: bytes, governors: frozenset[bytes]) -> Mapping[str, frozenset[bytes]]:
    """The keys of the operators that verify on ``roster`` (encoded), without those that govern."""
    lines = read_roster(roster)
    governing = {one.operator for key, one in lines.items() if key in governors}
    found: dict[str, set[bytes]] = defaultdict(set)
    for key, one in lines.items():
        if "verifier" in one.roles and key not in governors and one.operator not in governing:
            found[one.operator].add(key)
    return {operator: frozenset(keys) for operator, keys in found.items()}


def margin_of(liars: Iterable[tuple[int, int]]) -> int:
    """Operators that may lie in any tier: the largest f or g of a charter's tiers."""
    return max((max(pair) for pair in liars), default=0)

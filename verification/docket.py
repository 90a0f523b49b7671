"""What was said about one claim, filed by who said what about which position; nothing is judged.

An honest member says one thing of a kind about one place: it sits once, seals once, attests once.
Of an author without a fork the first counts, whatever follows. Words are filed as far as a feed is
held without a gap, so the first is the first on every node.

All that the author of a *forked* feed says counts. It must not be able to make its claim slow
for all, though: who has forked and says more than ``MOST_WORDS`` is no longer looked at one by one.
For attestations and seatings it then counts as saying everything that anybody could hear (*wild*),
which is no more than a liar can do anyway, and no less than it has done, so that nothing that is
settled comes undone. Of its commits and blocks those count that others name. Which these are
follows from the records alone, in whatever order they came.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from swarm.records import Attest, Block, Commit, Open, Seal, Seating
from verification.shelf import Said

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from verification.reproduce import Bench

MOST_WORDS: Final = 16
"""Records of one author, kind and place that are looked at one by one."""


class Name(NamedTuple):
    """What is kept of a word in any case. Names of one author sort in the order of its feed."""

    seq: int
    id: bytes
    epoch: int


def in_feed_order(said: Said) -> tuple[int, bytes]:
    """Sorts what one author said into the order in which the author wrote it."""
    return said.seq, said.id


@dataclass(slots=True)
class Words:
    """What one author said, of one kind and about one place: in the order of its feed, and by id.

    ``wild``: there is more than anybody honest says. Then ``said`` has the first ``MOST_WORDS``
    that were filed, which of an author without a fork are the first of its feed.
    """

    said: list[Said] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)
    by_id: dict[bytes, Name] = field(default_factory=dict)
    wild: bool = False

    def add(self, said: Said) -> None:
        """File one more."""
        self._name(Name(said.seq, said.id, said.epoch))
        if len(self.names) > MOST_WORDS:
            self.wild = True
        else:
            insort(self.said, said, key=in_feed_order)

    def _name(self, name: Name) -> None:
        insort(self.names, name)
        self.by_id[name.id] = name

    def first_after(self, seq: int) -> Name | None:
        """The first word behind number ``seq`` of its author's feed."""
        at = bisect_right(self.names, seq, key=lambda name: name.seq)
        return self.names[at] if at < len(self.names) else None

    def until(self, epoch: int) -> Words:
        """What was said up to ``epoch``; as wild as it is by now."""
        found = Words([one for one in self.said if one.epoch <= epoch], wild=self.wild)
        for name in self.names:
            if name.epoch <= epoch:
                found._name(name)
        return found


NOTHING: Final = Words()
"""Of an author who has said nothing; nothing is filed in it."""


@dataclass(slots=True)
class Docket:
    """All that the members of a bench (``seated``) have said about its claim, in no order.

    ``read`` finds again what was filed under a name (:mod:`verification.shelf`). ``forked``: the
    authors, of this docket or not, whose feeds are known to have a fork.
    ``commits`` (those for rivals too) and ``seatings`` by author; ``seals`` and ``blocks`` by
    (author, round); ``opens`` by seal and author; ``attests`` by position (round, rank) and author.
    ``links``: who opened a link, by seal and link; ``opened``: who opened any, by (author, round)
    of the seal. ``latest``: the latest epoch in which any of them was written.
    """

    seated: frozenset[bytes] = frozenset()
    read: Callable[[bytes], Said] | None = None
    forked: Set[bytes] = frozenset()
    commits: dict[bytes, Words] = field(default_factory=dict)
    seatings: dict[bytes, Words] = field(default_factory=dict)
    seals: dict[tuple[bytes, int], Words] = field(default_factory=dict)
    blocks: dict[tuple[bytes, int], Words] = field(default_factory=dict)
    opens: dict[bytes, dict[bytes, Words]] = field(default_factory=dict)
    attests: dict[tuple[int, int], dict[bytes, Words]] = field(default_factory=dict)
    links: dict[tuple[bytes, bytes], set[bytes]] = field(default_factory=dict)
    opened: dict[tuple[bytes, int], set[bytes]] = field(default_factory=dict)
    latest: int = 0
    _sealed: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)

    def add(self, said: Said) -> bool:
        """File a word, an open behind the seal that it is for; says whether it can change
        anything.
        """
        payload, author = said.payload, said.author
        self.latest = max(self.latest, said.epoch)
        if isinstance(payload, Seating):
            return _unless_wild(self.seatings.setdefault(author, Words()), said)
        if isinstance(payload, Attest):
            place = self.attests.setdefault((payload.round, payload.rank), {})
            return _unless_wild(place.setdefault(author, Words()), said)
        if isinstance(payload, Commit):
            self.commits.setdefault(author, Words()).add(said)
        elif isinstance(payload, Seal):
            self._sealed[said.id] = (author, payload.round)
            self.seals.setdefault((author, payload.round), Words()).add(said)
        elif isinstance(payload, Open):
            self.links.setdefault((payload.seal, payload.fold_nonce), set()).add(author)
            if payload.seal in self._sealed:
                self.opened.setdefault(self._sealed[payload.seal], set()).add(author)
            by_author = self.opens.setdefault(payload.seal, {})
            _unless_wild(by_author.setdefault(author, Words()), said)
        elif isinstance(payload, Block):
            self.blocks.setdefault((author, payload.round), Words()).add(said)
        return True

    def forked_ranks(self, bench: Bench) -> frozenset[int]:
        """The ranks of those who have forked."""
        return frozenset(seat.rank for seat in bench.seats if seat.key in self.forked)

    def counted(self, author: bytes, words: Words) -> Sequence[Said]:
        """What counts of attestations or seatings: the first, of a liar all, if it is not wild."""
        if author in self.forked:
            return () if words.wild else words.said
        return words.said[:1]

    def named(self, words: Words, ids: Iterable[bytes]) -> list[Said]:
        """Those of ``words``, which are wild, that have one of these ids: in feed order."""
        assert self.read is not None
        names = sorted(words.by_id[one] for one in ids if one in words.by_id)
        return [self.read(name.id) for name in names]

    def until(self, epoch: int) -> tuple[Docket, list[bytes]]:
        """What was said up to ``epoch``, and the ids of what was said later, but for that of
        authors who are wild there.
        """
        if self.latest <= epoch:
            return self, []
        late: list[bytes] = []

        def kept(words: Words) -> Words:
            late.extend(one.id for one in words.said if one.epoch > epoch)
            return words.until(epoch)

        links = {
            key: kept_by
            for key, authors in self.links.items()
            if (kept_by := {one for one in authors if self._linked(key, one, epoch)})
        }
        return Docket(
            seated=self.seated,
            read=self.read,
            forked=self.forked,
            commits={key: kept(words) for key, words in self.commits.items()},
            seatings={key: kept(words) for key, words in self.seatings.items()},
            seals={key: kept(words) for key, words in self.seals.items()},
            blocks={key: kept(words) for key, words in self.blocks.items()},
            opens={k: {a: kept(w) for a, w in by.items()} for k, by in self.opens.items()},
            attests={k: {a: kept(w) for a, w in by.items()} for k, by in self.attests.items()},
            links=links,
            opened=self.opened,
            latest=epoch,
        ), late

    def _linked(self, key: tuple[bytes, bytes], author: bytes, epoch: int) -> bool:
        """Whether a link was opened in time; of who opened too many, no matter when."""
        words = self.opens[key[0]][author]
        return words.wild or any(
            isinstance(one.payload, Open)
            and one.payload.fold_nonce == key[1]
            and one.epoch <= epoch
            for one in words.said
        )


def _unless_wild(words: Words, said: Said) -> bool:
    if words.wild:
        return False
    words.add(said)
    return True

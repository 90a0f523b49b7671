"""What was said about one claim, filed by who said what about which position; nothing is judged.

An honest member says one thing of a kind about one place: it sits once, seals once, attests once.
Who says more than ``MOST_WORDS`` is a liar that everybody knows, and it must not be able to make
its claim slow for all: what it says there is no longer looked at one by one. For attestations and
seatings it then counts as saying everything that anybody could hear (*wild*), which is no more than
a liar can do anyway, and no less than it has done, so that nothing that is settled comes undone. Of
its commits and blocks those count that others name. Which these are follows from the records alone,
in whatever order they came.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

from swarm.envelope import Record
from swarm.records import Attest, Block, Commit, Open, Seal, Seating

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

MOST_WORDS: Final = 16
"""Records of one author, kind and place that are looked at one by one."""


def in_feed_order(record: Record) -> tuple[int, bytes]:
    """Sorts records of one author into the order in which the author wrote them."""
    return record.envelope.seq, record.id


@dataclass(slots=True)
class Words:
    """Records of one author, kind and place: in the order of its feed, and by id.

    ``wild``: there are more than anybody honest says.
    """

    records: list[Record] = field(default_factory=list)
    by_id: dict[bytes, Record] = field(default_factory=dict)
    wild: bool = False

    def add(self, record: Record) -> None:
        """File one more."""
        insort(self.records, record, key=in_feed_order)
        self.by_id[record.id] = record
        self.wild = self.wild or len(self.records) > MOST_WORDS

    def first_after(self, seq: int) -> Record | None:
        """The first record behind number ``seq`` of its author's feed."""
        at = bisect_right(self.records, seq, key=lambda record: record.envelope.seq)
        return self.records[at] if at < len(self.records) else None


NOTHING: Final = Words()
"""Of an author who has said nothing; nothing is filed in it."""


@dataclass(slots=True)
class Docket:
    """All records that name one claim, whoever wrote them, in no order.

    ``commits`` and ``seatings`` by author; ``seals`` and ``blocks`` by (author, round); ``opens``
    by seal and author; ``attests`` by position (round, rank) and author. ``links``: who opened a
    link, by seal and link; ``opened``: who opened any, by (author, round) of the seal. ``latest``:
    the latest epoch in which any of them was written.
    """

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

    def add(self, record: Record) -> bool:
        """File a record of a bench, an open behind the seal that it is for; says whether it can
        change anything.
        """
        payload, author = record.payload, record.author
        self.latest = max(self.latest, record.envelope.epoch)
        if isinstance(payload, Seating):
            return _unless_wild(self.seatings.setdefault(author, Words()), record)
        if isinstance(payload, Attest):
            place = self.attests.setdefault((payload.round, payload.rank), {})
            return _unless_wild(place.setdefault(author, Words()), record)
        if isinstance(payload, Commit):
            self.commits.setdefault(author, Words()).add(record)
        elif isinstance(payload, Seal):
            self._sealed[record.id] = (author, payload.round)
            self.seals.setdefault((author, payload.round), Words()).add(record)
        elif isinstance(payload, Open):
            self.links.setdefault((payload.seal, payload.fold_nonce), set()).add(author)
            if payload.seal in self._sealed:
                self.opened.setdefault(self._sealed[payload.seal], set()).add(author)
            by_author = self.opens.setdefault(payload.seal, {})
            _unless_wild(by_author.setdefault(author, Words()), record)
        elif isinstance(payload, Block):
            self.blocks.setdefault((author, payload.round), Words()).add(record)
        return True

    def evict(self, seated: Set[bytes]) -> list[Record]:
        """Take out what others than the ``seated`` authors said, and return it."""
        found: list[Record] = []
        keyed = (self.commits, self.seatings, *self.opens.values(), *self.attests.values())
        for by_author in keyed:
            for author in by_author.keys() - seated:
                found += by_author.pop(author).records
        for by_round in (self.seals, self.blocks):
            for key in [key for key in by_round if key[0] not in seated]:
                found += by_round.pop(key).records
        return found

    def until(self, epoch: int) -> tuple[Docket, list[bytes]]:
        """What was said up to ``epoch``, and the ids of records of later ones, but for those of
        authors who are wild there.
        """
        if self.latest <= epoch:
            return self, []
        late: list[bytes] = []

        def kept(words: Words) -> Words:
            found = Words(wild=words.wild)
            for record in words.records:
                if record.envelope.epoch <= epoch:
                    found.add(record)
                elif not words.wild:
                    late.append(record.id)
            return found

        links = {
            key: kept_by
            for key, authors in self.links.items()
            if (kept_by := {one for one in authors if self._linked(key, one, epoch)})
        }
        return Docket(
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
            isinstance(record.payload, Open)
            and record.payload.fold_nonce == key[1]
            and record.envelope.epoch <= epoch
            for record in words.records
        )

    def __iter__(self) -> Iterator[Record]:
        """All records, but for those of authors who are wild at their place."""
        nested = (*self.opens.values(), *self.attests.values())
        for words in chain(
            *(by_author.values() for by_author in (self.commits, self.seatings, *nested)),
            *(by_round.values() for by_round in (self.seals, self.blocks)),
        ):
            if not words.wild:
                yield from words.records


def _unless_wild(words: Words, record: Record) -> bool:
    if words.wild:
        return False
    words.add(record)
    return True

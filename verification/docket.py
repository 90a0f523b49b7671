"""What was said about one claim, filed by who said what about which position; nothing is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swarm.envelope import Record
from swarm.records import Attest, Block, Commit, Open, Seal, Seating

if TYPE_CHECKING:
    from collections.abc import Iterator


def in_feed_order(records: list[Record]) -> list[Record]:
    """Records of one author in the order in which the author wrote them."""
    return sorted(records, key=lambda record: (record.envelope.seq, record.id))


@dataclass(slots=True)
class Docket:
    """All records that name one claim, whoever wrote them, in no order.

    ``commits`` and ``seatings`` by author; ``seals`` and ``blocks`` by (author, round); ``opens``
    by the seal that they are for; ``attests`` by position (round, rank). ``latest``: the latest
    epoch in which any of them was written.
    """

    commits: dict[bytes, list[Record]] = field(default_factory=dict)
    seatings: dict[bytes, list[Record]] = field(default_factory=dict)
    seals: dict[tuple[bytes, int], list[Record]] = field(default_factory=dict)
    blocks: dict[tuple[bytes, int], list[Record]] = field(default_factory=dict)
    opens: dict[bytes, list[Record]] = field(default_factory=dict)
    attests: dict[tuple[int, int], list[Record]] = field(default_factory=dict)
    latest: int = 0

    def add(self, record: Record) -> None:
        """File a record of a bench; other kinds are passed over."""
        payload, author = record.payload, record.author
        self.latest = max(self.latest, record.envelope.epoch)
        if isinstance(payload, Commit):
            self.commits.setdefault(author, []).append(record)
        elif isinstance(payload, Seating):
            self.seatings.setdefault(author, []).append(record)
        elif isinstance(payload, Seal):
            self.seals.setdefault((author, payload.round), []).append(record)
        elif isinstance(payload, Open):
            self.opens.setdefault(payload.seal, []).append(record)
        elif isinstance(payload, Block):
            self.blocks.setdefault((author, payload.round), []).append(record)
        elif isinstance(payload, Attest):
            self.attests.setdefault((payload.round, payload.rank), []).append(record)

    def until(self, epoch: int) -> tuple[Docket, list[bytes]]:
        """What was said up to ``epoch``, and the ids of records of later ones."""
        if self.latest <= epoch:
            return self, []
        kept, late = Docket(), []
        for record in self:
            if record.envelope.epoch <= epoch:
                kept.add(record)
            else:
                late.append(record.id)
        return kept, late

    def __iter__(self) -> Iterator[Record]:
        everything = (
            self.commits, self.seatings, self.seals, self.opens, self.blocks, self.attests,
        )  # fmt: skip
        for kind in everything:
            for records in kind.values():
                yield from records

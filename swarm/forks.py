"""Feeds of authors who contradict themselves: both branches are kept, bounded, and passed on.

What is held of a feed is closed under "the record before", so the records at the ends of its
branches say all of it. A *mark* is the number and the id of one record held; who has a record has
all before it. An honest author's feed has one mark, its head. Of a forked feed a node also names
records further back, at distances that double, so that two nodes find where they part.

A node keeps ``MAX_BRANCH_RECORDS`` records of an author beside the branch that it held first. What
is beyond that convicts nobody anew, and nodes may differ about which of it they hold. The next
epoch of the governors leaves the author out: nothing of that epoch or a later one is added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.envelope import parse
from swarm.feed import prove_equivocation

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from swarm.feed import Head
    from swarm.records import Equivocation

MAX_BRANCH_RECORDS = 256
MAX_MARKS = 512

Mark = tuple[int, bytes]
"""(number, record id) of a record held, and with it of all before it in its feed."""


@dataclass(frozen=True, slots=True)
class _Row:
    seq: int
    prev: bytes | None


class Branches:
    """The branches of one author beside the first, as they lie in the log now."""

    def __init__(self, db: sqlite3.Connection, author: bytes, head: Head | None) -> None:
        self._db = db
        self._author = author
        self._head = head
        rows = db.execute(
            "SELECT id, seq, prev FROM records WHERE author = ? AND branch = 1 ORDER BY arrival",
            (author,),
        )
        self._rows = {record: _Row(seq, prev) for record, seq, prev in rows}

    def __len__(self) -> int:
        return len(self._rows)

    def main_id(self, seq: int) -> bytes | None:
        """The id of record ``seq`` of the branch that came first."""
        row = self._db.execute(
            "SELECT id FROM records WHERE author = ? AND seq = ? AND branch = 0",
            (self._author, seq),
        ).fetchone()
        return row[0] if row else None

    def holds(self, record_id: bytes) -> bool:
        """Say whether a record lies on one of these branches."""
        return record_id in self._rows

    def can_take(self, seq: int, prev: bytes | None) -> bool:
        """Say whether the record before is held, and there is room."""
        if len(self._rows) >= MAX_BRANCH_RECORDS:
            return False
        return seq == 0 or prev in self._rows or prev == self.main_id(seq - 1)

    def marks(self) -> tuple[Mark, ...]:
        """What to tell a peer, in ascending order: ends of branches, and records further back."""
        found: set[Mark] = set()
        if self._head is not None:
            for seq in _backwards(self._head.seq):
                record = self.main_id(seq)
                if record is not None:
                    found.add((seq, record))
        tips = self._rows.keys() - {row.prev for row in self._rows.values()}
        found |= {(self._rows[tip].seq, tip) for tip in tips}
        for tip in tips:
            steps, at = 0, self._rows[tip].prev
            while at is not None and at in self._rows and len(found) < MAX_MARKS:
                steps += 1
                if steps & (steps - 1) == 0:  # 1, 2, 4, 8, ... back from the end
                    found.add((self._rows[at].seq, at))
                at = self._rows[at].prev
        return tuple(sorted(found))

    def main_after(self, seq: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Signed bytes of the branch that came first, behind number ``seq`` (-1: all), within caps.

        At least one record if there is one.
        """
        rows = self._db.execute(
            "SELECT data FROM records WHERE author = ? AND seq > ? AND branch = 0"
            " ORDER BY seq LIMIT ?",
            (self._author, seq, max_records),
        )
        return _capped((data for (data,) in rows), max_bytes)

    def lacking(
        self, marks: tuple[Mark, ...], skip: int, max_records: int, max_bytes: int
    ) -> list[bytes]:
        """Signed bytes that somebody with ``marks`` lacks, without the first ``skip`` of them.

        In an order in which they can be stored, within caps. To somebody whose only mark is not
        held here although the feed is as long: the one record that contradicts it.
        """
        if self._head is None:
            return []
        after, others = self._beyond(marks)
        if len(marks) == 1 and after < 0 and not self.holds(marks[0][1]):
            if skip or marks[0][0] > self._head.seq:
                return []
            return self.main_after(marks[0][0] - 1, 1, max_bytes)
        left = max(0, self._head.seq - after - skip)
        records = self.main_after(after + skip, max_records, max_bytes) if left else []
        if len(records) < left:
            return records
        rest = others[max(0, skip - (self._head.seq - after)) :][: max_records - len(records)]
        return _capped([*records, *map(self._data, rest)], max_bytes)

    def _data(self, record_id: bytes) -> bytes:
        row = self._db.execute("SELECT data FROM records WHERE id = ?", (record_id,)).fetchone()
        data: bytes = row[0]
        return data

    def _beyond(self, marks: tuple[Mark, ...]) -> tuple[int, list[bytes]]:
        """What somebody lacks who has ``marks``: the number behind which the first branch is to

        be sent, and the ids of records of the others, each after the one before it.
        """
        known_main = -1
        known: set[bytes] = set()
        for seq, record in marks:
            if record in self._rows:
                at: bytes | None = record
                while at is not None and at in self._rows and at not in known:
                    known.add(at)
                    seq, at = self._rows[at].seq, self._rows[at].prev
                if at not in self._rows:
                    known_main = max(known_main, seq - 1)  # where it left the first branch
            elif seq > known_main and record == self.main_id(seq):
                known_main = seq
        return known_main, [record for record in self._rows if record not in known]


def contradictions(db: sqlite3.Connection) -> dict[bytes, Equivocation]:
    """What the log itself proves: authors with two records of one number, and a proof of each."""
    rows = db.execute(
        "SELECT other.author, first.data, other.data FROM records AS other JOIN records AS first"
        " ON first.author = other.author AND first.seq = other.seq AND first.branch = 0"
        " WHERE other.branch = 1 ORDER BY other.seq"
    )
    found: dict[bytes, Equivocation] = {}
    for author, *pair in rows:
        if author not in found:
            proof = prove_equivocation(*(parse(data, check_signature=False) for data in pair))
            if proof is not None:
                found[author] = proof
    return found


def _capped(records: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """The first records of at most ``max_bytes`` together, but at least one."""
    result: list[bytes] = []
    total = 0
    for data in records:
        total += len(data)
        if result and total > max_bytes:
            break
        result.append(data)
    return result


def _backwards(seq: int) -> Iterator[int]:
    """``seq``, then 1, 2, 4, ... less, then 0."""
    yield seq
    step = 1
    while step < seq:
        yield seq - step
        step *= 2
    if seq > 0:
        yield 0

"""How much one member may say in one epoch. Pure; every node counts alike.

A feed is a chain, and each record names its epoch, so "the record by which the author is over its
quota" is the same record on every node, whatever order things arrive in: refusing it splits nobody.
A member that reaches its quota waits for the next epoch, which is a governor's signature away.
What governs (epochs, beacons, admissions) is exempt where its author governs the epoch that it
names, so that a governor can always sign the next one. So is what a feed can have one of only. A
key that goes on for others and is on no roster yet shares their quota: handing on gives no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.records import Admission, Beacon, Charter, Epoch, Rotation

if TYPE_CHECKING:
    from swarm.charter import Rules
    from swarm.envelope import Record

RECORDS, BYTES = 50_000, 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Quota:
    """Records, and their bytes, that one author may sign in one epoch.

    The charter's ``sizes`` may name others as ``epoch_records`` and ``epoch_bytes``. The defaults
    are a record a minute for five weeks.
    """

    records: int = RECORDS
    bytes: int = BYTES

    @classmethod
    def of(cls, rules: Rules | None) -> Quota:
        """The quota of a swarm."""
        sizes = rules.charter.sizes if rules else {}
        return cls(sizes.get("epoch_records", RECORDS), sizes.get("epoch_bytes", BYTES))

    @staticmethod
    def binds(record: Record, rules: Rules | None) -> bool:
        """Say whether ``record`` may not exceed the quota."""
        if isinstance(record.payload, Rotation):
            author, epoch = record.author, record.envelope.epoch
            return rules is not None and bool(rules.line_before(author, epoch))
        if isinstance(record.payload, Charter):
            return False
        if not isinstance(record.payload, Epoch | Beacon | Admission):
            return True
        return rules is None or not rules.governs(record.author, record.envelope.epoch)

    @staticmethod
    def is_open(record: Record, rules: Rules | None) -> bool:
        """Say whether an epoch that is not here may yet show that its author governs it."""
        number = rules.number if rules else 0
        return isinstance(record.payload, Epoch | Beacon) and record.envelope.epoch > number

    def exceeded(self, records: int, size: int) -> bool:
        """Say whether ``records`` of ``size`` bytes in all are more than allowed."""
        return records > self.records or size > self.bytes

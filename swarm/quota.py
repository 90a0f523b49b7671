"""How much one member may say in one epoch. Pure; every node counts alike.

A feed is a chain, and each record names its epoch, so "the record by which the author is over its
quota" is the same record on every node, whatever order things arrive in: refusing it splits nobody.
A member that reaches its quota waits for the next epoch, which is a governor's signature away.
What governs (epochs, beacons, admissions) is exempt, so that a governor can always sign that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.charter import Rules

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

    def exceeded(self, records: int, size: int) -> bool:
        """Say whether ``records`` of ``size`` bytes in all are more than allowed."""
        return records > self.records or size > self.bytes

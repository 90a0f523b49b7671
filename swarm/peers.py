"""What networking needs to know of the node above it: a log of records, and who may take part.

Both are Protocols, so that transport, gossip and sync can be read, tested and replaced without
the store. Records are opaque here: signed bytes that the log checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from swarm.forks import Mark

MAX_RECORD_BYTES = 64 * 1024 + 1024
"""Largest signed record on the wire: a 64 KiB body, its signature and the framing around both."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch of records.

    Attributes:
        new: records that were stored just now, and authors just convicted of contradicting
            themselves: whatever makes it worth while to ask the sender again.
        known: records that the log held already.
        gaps: authors (32-byte keys) of whom an earlier record is missing, or whose records cannot
            be placed yet (for example because their admission has not arrived). Not the sender's
            fault: the batch is fetched again.
        refused: one short reason per record that no honest peer would have handed on (bad
            signature, not canonical, breaks a rule for good). Costs the sender.
    """

    new: int = 0
    known: int = 0
    gaps: tuple[bytes, ...] = ()
    refused: tuple[str, ...] = ()


class Log(Protocol):
    """The append-only log of one swarm on this node."""

    async def marks(self) -> dict[bytes, tuple[Mark, ...]]:
        """Return, by author key (32 bytes), the marks that say what is held of each feed."""
        ...

    async def beyond(
        self, author: bytes, marks: tuple[Mark, ...], skip: int, max_records: int, max_bytes: int
    ) -> list[bytes]:
        """Return signed records of ``author`` that somebody with ``marks`` lacks.

        In an order in which they can be stored, without the first ``skip`` of them. At most
        ``max_records`` and at most ``max_bytes`` in sum, but at least one if there is one.
        """
        ...

    async def ingest(self, records: list[bytes], sender: bytes) -> Ingested:
        """Check and store records that ``sender`` (a key) handed on. Never raises for bad input."""
        ...


class Admission(Protocol):
    """Who may use the protocols of this swarm."""

    def may_connect(self, key: bytes) -> bool:
        """Say whether the Ed25519 key (32 bytes) belongs to a member."""
        ...


class Everybody:
    """Admits every key. For tests and for open relays; a node uses its roster."""

    def may_connect(self, key: bytes) -> bool:
        """Admit any 32-byte key."""
        return len(key) == 32

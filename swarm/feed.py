"""Per-author hash chains: what may follow what, and proof of having said two things.

Every author has one append-only feed per swarm: ``seq`` counts from 0 and ``prev`` is the id of the
record before. A feed is accepted only in order, so what a node holds is always a prefix of it.
The founder's feed begins with the charter itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from swarm.envelope import Record, parse
from swarm.errors import FeedError, SwarmError
from swarm.records import Equivocation


@dataclass(frozen=True, slots=True)
class Head:
    """The last record held of a feed."""

    seq: int
    id: bytes


class Fit(Enum):
    """How a record relates to the prefix of its feed that is held."""

    NEXT = "next"
    OLD = "old"  # at or before the head: known already, or a fork
    GAP = "gap"  # predecessors are missing
    FORK = "fork"  # the next number, but after another record


def fit(head: Head | None, record: Record) -> Fit:
    """Place ``record`` against the ``head`` of its author's feed (None: nothing held yet)."""
    seq = record.envelope.seq
    if head is None:
        return Fit.NEXT if seq == 0 else Fit.GAP
    if seq <= head.seq:
        return Fit.OLD
    if seq > head.seq + 1:
        return Fit.GAP
    return Fit.NEXT if record.envelope.prev == head.id else Fit.FORK


def prove_equivocation(first: Record, second: Record) -> Equivocation | None:
    """The proof that an author signed two records with one number, or None where there is none.

    The two are ordered by id, so that everybody's proof of one event is the same. Records too
    large to be carried inside another one give no proof.
    """
    same_place = (
        first.author == second.author
        and first.envelope.swarm == second.envelope.swarm
        and first.envelope.seq == second.envelope.seq
    )
    if not same_place or first.id == second.id:
        return None
    low, high = sorted((first, second), key=lambda record: record.id)
    if max(len(low.signed.to_bytes()), len(high.signed.to_bytes())) > 30 * 1024:
        return None
    return Equivocation(low.signed.to_bytes(), high.signed.to_bytes())


def equivocator(proof: Equivocation) -> bytes:
    """Check a proof from anybody and return the 32-byte key of the author that it convicts.

    Raises:
        FeedError: it proves nothing.
    """
    try:
        first, second = parse(proof.first), parse(proof.second)
    except SwarmError as error:
        raise FeedError(f"a proof of equivocation with a bad record: {error}") from None
    if prove_equivocation(first, second) != proof:
        raise FeedError("two records that do not contradict each other")
    return first.author


def proves(proof: Equivocation) -> bool:
    """Whether a proof from anybody convicts somebody."""
    try:
        equivocator(proof)
    except FeedError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Conviction:
    """A record (by id) that proves two stories of somebody, told under the number ``seq``.

    ``arrival``: that of the record in this log; for what its owner decides, never for a verdict.
    """

    id: bytes
    seq: int
    arrival: int


def convicted_by(record: Record) -> bytes | None:
    """The author whom ``record``, which was checked, convicts; None where it convicts nobody here.

    Feeds are per swarm: what a key signed in another one, or to found another one, is no
    contradiction, however well it is proven.
    """
    if not isinstance(record.payload, Equivocation):
        return None
    envelope = parse(record.payload.first, check_signature=False).envelope
    return envelope.author if envelope.swarm == record.envelope.swarm else None

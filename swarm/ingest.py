"""What became of records that were offered to a log."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.envelope import Record
from swarm.records import Equivocation


@dataclass(slots=True)
class Ingest:
    """What became of a batch.

    ``gaps``: authors who are not members yet, or of whom an earlier record is missing.
    ``forked``: records of further branches of a forked feed than are kept; their author is to
    blame, not who hands them on. ``refused``: short reasons in our own words; no honest peer sends
    such bytes. ``proofs``: against authors who were not known to contradict themselves.
    """

    new: list[Record] = field(default_factory=list)
    known: int = 0
    forked: int = 0
    gaps: set[bytes] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    proofs: list[Equivocation] = field(default_factory=list)

"""The states of a claim, and of everything that follows from a set of records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

from swarm.charter import Rules
from verification.effect import Effect
from verification.reproduce import Bench, Seat
from verification.settle import Settlement
from verification.verdict import Verdict


class Stage(StrEnum):
    """How far a claim has come."""

    RECEIVED = "received"
    SCREENED = "screened"
    ASSIGNED = "assigned"
    COMMITTED = "committed"
    REPRODUCING = "reproducing"
    APPROVAL = "approval"
    ADOPTED = "adopted"
    REJECTED = "rejected"
    REFUSED = "refused"
    VOID = "void"


CLOSED = frozenset({Stage.ADOPTED, Stage.REJECTED, Stage.REFUSED, Stage.VOID})


@dataclass(frozen=True, slots=True)
class Turn:
    """The position that is open: who has to fill it, and the seal if it was given already."""

    round: int
    seat: Seat
    seal: bytes | None
    purpose: str = "verdict"


@dataclass(frozen=True, slots=True)
class ClaimState:
    """One claim as every node with the same records sees it.

    ``r_ids`` are the adopted ancestors of its base in its epoch and family (tier, epoch, kind);
    ``depth`` counts all claims below it on its tree, its base included. ``effect`` is what pairs
    after its adoption found it to be worth, None until all of them are settled.
    """

    id: bytes
    author: bytes
    epoch: int
    tier: str
    kind: str
    slot: int
    base: bytes | None
    stage: Stage = Stage.RECEIVED
    reason: str = ""
    bench: Bench | None = None
    settlement: Settlement | None = None
    turn: Turn | None = None
    level: Fraction | None = None
    r_ids: tuple[bytes, ...] = ()
    depth: int = 0
    verdict: Verdict | None = None
    effect: Effect | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Everything that follows from a set of records.

    ``frontier``: for each tier the adopted claim to build on, None for the challenge's own base.
    ``ignored``: ids of commits, seals and blocks that do not count, with the reason.
    """

    rules: Rules | None
    claims: Mapping[bytes, ClaimState] = field(default_factory=dict)
    frontier: Mapping[str, bytes | None] = field(default_factory=dict)
    ignored: Mapping[bytes, str] = field(default_factory=dict)

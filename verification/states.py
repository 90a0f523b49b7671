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
    FROZEN = "frozen"
    RETRACTED = "retracted"
    UPHELD = "upheld"
    REJECTED = "rejected"
    EXPIRED = "expired"
    REFUSED = "refused"
    VOID = "void"


FAILED = frozenset({Stage.REJECTED, Stage.EXPIRED, Stage.REFUSED, Stage.VOID})
"""Ends from which no claim comes back."""
CLOSED = FAILED | {Stage.ADOPTED, Stage.RETRACTED, Stage.UPHELD}
"""Stages in which a claim waits for nobody. One that is frozen waits for a bridge."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The position that is open: who has to fill it, and the seal if it was given already."""

    round: int
    seat: Seat
    seal: bytes | None
    purpose: str = "verdict"


@dataclass(frozen=True, slots=True)
class ClaimState:
    """One claim, or one contradiction, as every node with the same records sees it.

    ``number``: how many claims its author had made with it, over all epochs and keys (see
    ``verification.budget``), 0 until that is known; of a contradiction, how many of its target.
    ``r_ids`` are its base and the base's adopted ancestors in its family (tier and kind);
    ``depth`` counts all claims below it on its tree, its base included. ``effect`` is what pairs
    after its adoption found it to be worth, None until all of them are settled. ``code`` is the
    sha256 of its code.

    ``place``: shared by rivals (``verification.admit.place_of``); ``seq``: of its record in the
    author's feed.

    ``retracted_by``: the contradiction that was upheld against it. ``bridge``: where its base does
    not stand any more, the standing claim with the same code that it stands on instead.

    A contradiction (``kind`` contradiction) has the base and tier of its ``target``, the claim that
    it is against.
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
    number: int = 0
    level: Fraction | None = None
    r_ids: tuple[bytes, ...] = ()
    depth: int = 0
    verdict: Verdict | None = None
    effect: Effect | None = None
    code: bytes = b""
    place: bytes = b""
    seq: int = 0
    target: bytes | None = None
    retracted_by: bytes | None = None
    bridge: bytes | None = None

    @property
    def candidate(self) -> bytes:
        """The claim whose code is measured: its own, or that of a contradiction's target."""
        return self.target or self.id

    @property
    def footing(self) -> bytes | None:
        """The standing claim that this one stands on; None for the challenge's own base."""
        return self.bridge or self.base


@dataclass(frozen=True, slots=True)
class State:
    """Everything that follows from a set of records.

    ``frontier``: for each tier the adopted claim to build on, None for the challenge's own base.
    ``ignored``: ids of commits, seals and blocks that do not count, with the reason.
    ``contradictions`` of adopted claims, by id. ``forked``: the authors who have signed two records
    with one number.
    """

    rules: Rules | None
    claims: Mapping[bytes, ClaimState] = field(default_factory=dict)
    frontier: Mapping[str, bytes | None] = field(default_factory=dict)
    ignored: Mapping[bytes, str] = field(default_factory=dict)
    contradictions: Mapping[bytes, ClaimState] = field(default_factory=dict)
    forked: frozenset[bytes] = frozenset()

    @property
    def cases(self) -> Mapping[bytes, ClaimState]:
        """All that goes before a bench: claims and contradictions."""
        return {**self.claims, **self.contradictions}

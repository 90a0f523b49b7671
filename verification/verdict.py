"""The verdict on a claim: a pure function of policy, claim, bench, level and reproductions.

Invariants:

- Positions (round, rank) are walked in order and the walk stops at the first decision. What comes
  after it never matters, so a verdict, once reached, is the same on every node for good.
- Evidence is made of reproductions only. Nothing that the claimant measured or wrote is read.
- A candidate that fails (crash, time, memory, budget, not finite ...) or costs more than the
  charter allows is a pair that it lost, never a pair left out. A base that fails says nothing about
  the candidate: its pair is passed over.
- A member that took its seat and is agreed to be absent is a lost pair of its own; one that never
  took its seat is passed over.
- A reported probe failure (the model reads ahead, leaks between rows, does not repeat itself) is a
  lost pair, and ends the claim once more than f members have reported one.

Guarantee (``verification.pooling`` has the argument): with at most f liars among the N members of a
bench, a claim that is not better by more than the charter's minimum is adopted with a chance of at
most its level, whatever the liars report and whenever anybody looks; over many claims the share of
false adoptions is at most alpha (e-LOND). Assumed of the pairs of honest members under the null:
their mean is <= 0, and they are normal, with any variance, or have any shape whatever within 1.5
times the bound of their noise, where up to a quarter of it may be in favour of the change on all
pairs of a machine or fold. Not covered: benches with more than f liars, whose chance the charter
states; noise that is neither, and offsets that are larger on more than one machine
(``tests.benchmarks.decisions`` has numbers); and for claims of other kinds than improvements, noise
whose few large losses do not show.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal

from swarm.charter import trust_note
from verification.errors import EvidenceError, ProfileError
from verification.evidence import MAX_NANO, RULE_VERSION
from verification.futility import effect, is_hopeless
from verification.pooling import MemberTally, evidence, reaches, together
from verification.reproduce import digest, position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.records import Pair, TierPolicy  # noqa: TC004

Outcome = Literal["adopt", "reject", "pending"]

PROBE_FAILURES: Final = frozenset({"non_causal", "leaks_across_batch", "not_repeatable"})
"""Statuses that end a claim at once: the candidate's score means nothing."""

BASE_FAILED: Final = "base_"
"""Prefix of a status in which the base failed; the pair is passed over."""

TOO_COSTLY: Final = "too_costly"
NOT_REPRODUCED: Final = "not_reproduced"
NOT_UPHELD: Final = "not_upheld"
ABSENT: Final = "absent"
IMPROVEMENT: Final = "improvement"
"""The kind of claim that is judged by bounds of noise too. What the others are about, not being
worse by a tolerance, or worth less than half, is smaller than such bounds."""
CONTRADICTION: Final = "contradiction"
"""The kind of a reversed test, of an adopted claim (``verification.retraction``)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a claim is judged by, fixed before anything of it runs.

    ``claim`` is its 32-byte id and ``kind`` one of improvement, simplification, economy, or
    contradiction, which has the ``margin_nano`` that its target is said to stay below; ``level``
    is its e-LOND level and ``max_cost_ratio_milli`` the cap on candidate cost over base cost.
    ``sigma0_nano`` has, by rank, what each member's calibration bounds a pair's standard deviation
    by; None for a member without one, for whom the charter's ``noise_nano`` stands.
    """

    claim: bytes
    kind: str
    policy: TierPolicy
    max_cost_ratio_milli: int
    level: Fraction
    sigma0_nano: tuple[int | None, ...] = ()
    margin_nano: int = 0


@dataclass(frozen=True, slots=True)
class Reproduction:
    """One settled position: its block's id (32 bytes), its author and the pair it carries.

    Without block and pair the member was agreed to be absent: after it had taken its seat, or
    (``committed`` False) without ever having done so.
    """

    round: int
    rank: int
    block: bytes | None
    member: bytes
    pair: Pair | None
    committed: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What every node with the same records holds about a claim.

    ``reason``: ``evidence`` for adopt; for reject ``not_reproduced``, ``too_costly``,
    ``no_level``, ``base_failed``, ``absent`` or the status of the candidate's failures, such as
    ``non_causal``;
    ``reproducing`` for pending. ``e_value``: E after the last position that was walked, as
    an exact decimal string. ``crossing``: (round, rank, block id) of the position that decided.
    ``pairs``: pairs counted, ``lost`` of them to failures. ``mean_nano``: mean of
    bpb(base) - bpb(candidate) over the pairs that counted; pairs that decided a verdict flatter the
    winner a little.
    ``positions_digest`` covers the claim's id and every position walked.
    """

    outcome: Outcome
    reason: str
    e_value: str
    level: Fraction
    pairs: int
    lost: int
    mean_nano: int
    crossing: tuple[int, int, bytes | None] | None
    positions_digest: bytes
    n: int
    f: int
    g: int
    rule_version: int = RULE_VERSION

    @property
    def trust(self) -> str:
        """What a reader must be told about the bench behind this verdict."""
        return trust_note(self.n, self.f, self.g)


def noise_note(kind: str) -> str:
    """What a verdict on a claim of this kind takes for granted about noise, in one line."""
    if kind == IMPROVEMENT:
        return (
            "noise that is neither normal nor within 1.5 times its bound, and machines of which "
            "most favour the change by more than a quarter of that bound"
        )
    return "noise with rare losses that are large: a verdict of this kind has no bound of it"


def check_profile(n: int, f: int, g: int) -> None:
    """Refuse a bench that cannot keep its promise.

    Raises:
        ProfileError: an empty bench, N <= 2f, or too few members to agree in spite of g liars.
    """
    if n < 1 or n <= 2 * f:
        raise ProfileError(
            f"A bench of {n} cannot outvote {f} liars: N must be at least 1 and more than 2f.",
            cure="Raise n or lower f in the charter's tier.",
        )
    if g and n - 1 < 3 * g + 1:
        raise ProfileError(
            f"{n - 1} others cannot agree on what one said while {g} of them lie: 3g + 1 are "
            "needed.",
            cure="Raise n or lower g in the charter's tier.",
        )


def shift_nano(policy: TierPolicy, kind: str) -> int:
    """What is subtracted from a pair's difference, in nano-bits per byte, for a kind of claim.

    An ``improvement`` has to be better by more than ``min_effect``; a ``simplification`` or an
    ``economy`` has to be no worse than ``tolerance``.
    """
    return policy.min_effect_nano if kind == IMPROVEMENT else -policy.tolerance_nano


def _is_too_costly(pair: Pair, terms: Terms) -> bool:
    most = terms.max_cost_ratio_milli
    if terms.kind == "economy":
        most = min(most, 1000 - terms.policy.min_saving_milli)
    return pair.candidate_cost_ms * 1000 > pair.base_cost_ms * most


def _outcome_of(pair: Pair, terms: Terms) -> tuple[int | None, str]:
    """A pair as evidence: its shifted difference, or None and what it was lost to.

    For a contradiction: by how much the target stays below the margin. A target that fails or
    costs too much stays below it by the charter's minimum at least: it is not reproduced.
    """
    if terms.kind == CONTRADICTION:
        if pair.status != "ok" or _is_too_costly(pair, terms):
            return max(terms.margin_nano, terms.policy.min_effect_nano), ""
        return terms.margin_nano - pair.d_nano, ""
    if pair.status != "ok":
        return None, pair.status
    if _is_too_costly(pair, terms):
        return None, TOO_COSTLY
    return pair.d_nano - shift_nano(terms.policy, terms.kind), ""


def positions_digest(claim: bytes, walked: Sequence[Reproduction]) -> bytes:
    """sha256 over a claim's id and the positions that its verdict rests on.

    An absent member stands as a block id of one byte: 1 where it had taken its seat, else 0.
    """
    parts: list[bytes | int] = [claim]
    for item in walked:
        parts += [item.round, item.rank, item.block or bytes([item.committed])]
    return digest("positions", *parts)


class Deliberation:
    """The walk over settled positions, one at a time; what :func:`verdict` does, kept open.

    ``outcome`` stays once it is not ``pending``; positions that come later are not looked at.
    Raises ProfileError for a bench that no verdict can be given for.
    """

    def __init__(self, terms: Terms) -> None:
        policy = terms.policy
        check_profile(policy.n, policy.f, policy.g)
        bounds = terms.sigma0_nano or (None,) * policy.n
        bounded = terms.kind == IMPROVEMENT
        self._terms, self._policy = terms, policy
        self._total = policy.n * policy.max_pairs
        self._members = [
            MemberTally((bound or policy.noise_bound_nano) if bounded else None) for bound in bounds
        ]
        self._lost: Counter[str] = Counter()
        self._accusers: set[int] = set()
        self._finished = 0
        self._walked: list[Reproduction] = []
        self.outcome: Outcome = "pending"
        self._reason = "reproducing"
        if not self._can_cross():
            self._decide("reject", "no_level")

    def _can_cross(self) -> bool:
        """Whether the best pairs that there could be would reach the level."""
        members = []
        for member in self._members:
            for _ in range(self._policy.max_pairs):
                member = member.add(MAX_NANO, self._policy.clip_milli)
            members.append(member)
        return reaches(members, self._policy.f, 1, self._terms.level)

    def _decide(self, outcome: Outcome, reason: str) -> Outcome:
        self.outcome, self._reason = outcome, reason
        return outcome

    def add(self, item: Reproduction) -> Outcome:
        """Take in the next settled position; returns the outcome after it.

        Raises EvidenceError for a position out of order, or numbers that no record can carry.
        """
        if self.outcome != "pending":
            return self.outcome
        if (item.round, item.rank) != position(len(self._walked), self._policy.n):
            raise EvidenceError(
                "Reproductions must be the positions from (0, 0) on, in order and without a gap.",
                cure="Settle positions with verification.quarantine; no verdict was given.",
            )
        self._walked.append(item)
        passed_over = item.pair is None and not item.committed
        if passed_over or (item.pair and item.pair.status.startswith(BASE_FAILED)):
            return self._at_the_end() if len(self._walked) == self._total else self.outcome
        return self._weigh(item)

    def _weigh(self, item: Reproduction) -> Outcome:
        """A position that is evidence."""
        policy, level = self._policy, self._terms.level
        value, why = _outcome_of(item.pair, self._terms) if item.pair else (None, ABSENT)
        self._members[item.rank] = self._members[item.rank].add(value, policy.clip_milli)
        if value is None:
            self._lost[why] += 1
        else:
            assert item.pair is not None
            self._finished += item.pair.d_nano
        if why in PROBE_FAILURES:
            self._accusers.add(item.rank)
            if len(self._accusers) > policy.f:
                return self._decide("reject", why)
        if reaches(self._members, policy.f, policy.min_effect_nano, level):
            return self._decide("adopt", "evidence")
        sought = effect(policy.f, reversed_=self._terms.kind == CONTRADICTION)
        if is_hopeless(self._members, policy.f, policy.min_effect_nano, sought):
            return self._decide("reject", self._why_rejected())
        return self._at_the_end() if len(self._walked) == self._total else self.outcome

    def _at_the_end(self) -> Outcome:
        """Every member has had its rounds, and nothing crossed."""
        pairs = sum(member.pairs.pairs for member in self._members)
        return self._decide("reject", self._why_rejected() if pairs else "base_failed")

    def _why_rejected(self) -> str:
        """The commonest loss where most pairs were lost; else the effect is not there."""
        lost, pairs = self._lost, sum(member.pairs.pairs for member in self._members)
        if 2 * lost.total() > pairs:
            return min(lost, key=lambda why: (-lost[why], why))
        return NOT_UPHELD if self._terms.kind == CONTRADICTION else NOT_REPRODUCED

    def verdict(self) -> Verdict:
        """What follows from the positions so far."""
        policy = self._policy
        everything, _ = together(self._members)
        last = self._walked[-1] if self._walked and self.outcome != "pending" else None
        return Verdict(
            outcome=self.outcome,
            reason=self._reason,
            e_value=str(evidence(self._members, policy.f, policy.min_effect_nano)),
            level=self._terms.level,
            pairs=everything.pairs,
            lost=everything.failed,
            mean_nano=self._finished // everything.ran if everything.ran else 0,
            crossing=(last.round, last.rank, last.block) if last else None,
            positions_digest=positions_digest(self._terms.claim, self._walked),
            n=policy.n,
            f=policy.f,
            g=policy.g,
        )


def verdict(terms: Terms, reproductions: Sequence[Reproduction]) -> Verdict:
    """Decide a claim from its settled positions, given from (0, 0) on without a gap.

    Raises:
        ProfileError: a bench that no verdict can be given for.
        EvidenceError: positions out of order, or numbers that no record can carry.
    """
    walk = Deliberation(terms)
    for item in reproductions:
        if walk.add(item) != "pending":
            break
    return walk.verdict()

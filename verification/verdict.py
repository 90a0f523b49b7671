"""The verdict on a claim: a pure function of policy, claim, bench, level and reproductions.

Invariants:

- Positions (round, rank) are walked in order and the walk stops at the first decision. What comes
  after it never matters, so a verdict, once reached, is the same on every node for good.
- Evidence is made of reproductions only. Nothing that the claimant measured or wrote is read.
- A candidate that fails (crash, time, memory, budget, not finite ...) or costs more than the
  charter allows is a pair that it lost, never a pair left out. A base that fails says nothing about
  the candidate: its pair is passed over.
- A reported probe failure (the model reads ahead, leaks between rows, does not repeat itself) ends
  the claim at once: with f = 0 one verifier's word counts, for as well as against.

This version decides benches of any size with f = 0 and g = 0: every verifier is trusted, and every
verdict says so. Pooling that survives f liars, and agreement on absent members, will fit between
``settled positions`` and ``Tally``; until then :func:`check_profile` refuses such a charter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal

from swarm.charter import trust_note
from verification.errors import EvidenceError, ProfileError
from verification.evidence import RULE_VERSION, Tally, crosses, evidence_of_sums, is_futile
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


@dataclass(frozen=True, slots=True)
class Terms:
    """What a claim is judged by, fixed before anything of it runs.

    ``claim`` is its 32-byte id and ``kind`` one of improvement, simplification, economy; ``level``
    is its e-LOND level and ``max_cost_ratio_milli`` the cap on candidate cost over base cost.
    """

    claim: bytes
    kind: str
    policy: TierPolicy
    max_cost_ratio_milli: int
    level: Fraction


@dataclass(frozen=True, slots=True)
class Reproduction:
    """One settled position: its block's id (32 bytes), its author and the pair it carries."""

    round: int
    rank: int
    block: bytes
    member: bytes
    pair: Pair


@dataclass(frozen=True, slots=True)
class Verdict:
    """What every node with the same records holds about a claim.

    ``reason``: ``evidence`` for adopt; for reject ``not_reproduced``, ``too_costly``,
    ``no_level``, ``base_failed`` or the status of the candidate's failures, such as ``non_causal``;
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
    crossing: tuple[int, int, bytes] | None
    positions_digest: bytes
    n: int
    f: int
    g: int
    rule_version: int = RULE_VERSION

    @property
    def trust(self) -> str:
        """What a reader must be told about the bench behind this verdict."""
        return trust_note(self.n, self.f)


def check_profile(n: int, f: int, g: int) -> None:
    """Refuse a bench that this version cannot keep its promise for.

    Raises:
        ProfileError: an empty bench, N <= 2f, or any f or g above 0.
    """
    if n < 1 or n <= 2 * f:
        raise ProfileError(
            f"A bench of {n} cannot outvote {f} liars: N must be at least 1 and more than 2f.",
            cure="Raise n or lower f in the charter's tier.",
        )
    if f != 0 or g != 0:
        raise ProfileError(
            f"Rule version {RULE_VERSION} decides with f = 0 and g = 0 only (asked: f = {f}, "
            f"g = {g}); pretending otherwise would promise what is not checked.",
            cure="Set f = 0 and g = 0 in the charter's tier; every output then says "
            "'trusts every verifier'.",
        )


def shift_nano(policy: TierPolicy, kind: str) -> int:
    """What is subtracted from a pair's difference, in nano-bits per byte, for a kind of claim.

    An ``improvement`` has to be better by more than ``min_effect``; a ``simplification`` or an
    ``economy`` has to be no worse than ``tolerance``.
    """
    return policy.min_effect_nano if kind == "improvement" else -policy.tolerance_nano


def _is_too_costly(pair: Pair, terms: Terms) -> bool:
    most = terms.max_cost_ratio_milli
    if terms.kind == "economy":
        most = min(most, 1000 - terms.policy.min_saving_milli)
    return pair.candidate_cost_ms * 1000 > pair.base_cost_ms * most


def _outcome_of(pair: Pair, terms: Terms) -> tuple[int | None, str]:
    """A pair as evidence: its shifted difference, or None and what it was lost to."""
    if pair.status != "ok":
        return None, pair.status
    if _is_too_costly(pair, terms):
        return None, TOO_COSTLY
    return pair.d_nano - shift_nano(terms.policy, terms.kind), ""


def positions_digest(claim: bytes, walked: Sequence[Reproduction]) -> bytes:
    """sha256 over a claim's id and the positions that its verdict rests on."""
    parts: list[bytes | int] = [claim]
    for item in walked:
        parts += [item.round, item.rank, item.block]
    return digest("positions", *parts)


def verdict(terms: Terms, reproductions: Sequence[Reproduction]) -> Verdict:
    """Decide a claim from its settled positions, given from (0, 0) on without a gap.

    Raises:
        ProfileError: the policy's bench is beyond this version.
        EvidenceError: positions out of order, or numbers that no record can carry.
    """
    policy, at_level = terms.policy, terms.level
    check_profile(policy.n, policy.f, policy.g)
    total = policy.n * policy.max_pairs
    tally = Tally()
    lost: Counter[str] = Counter()
    finished = 0

    def decided(outcome: Outcome, reason: str, walked: Sequence[Reproduction]) -> Verdict:
        last = walked[-1] if walked and outcome != "pending" else None
        return Verdict(
            outcome=outcome,
            reason=reason,
            e_value=str(tally.evidence(policy.min_effect_nano)),
            level=at_level,
            pairs=tally.pairs,
            lost=tally.failed,
            mean_nano=finished // tally.ran if tally.ran else 0,
            crossing=(last.round, last.rank, last.block) if last else None,
            positions_digest=positions_digest(terms.claim, walked),
            n=policy.n,
            f=policy.f,
            g=policy.g,
        )

    if not crosses(evidence_of_sums(total, total, total), at_level):
        return decided("reject", "no_level", ())
    for index, item in enumerate(reproductions[:total]):
        if (item.round, item.rank) != position(index, policy.n):
            raise EvidenceError(
                "Reproductions must be the positions from (0, 0) on, in order and without a gap.",
                cure="Settle positions with verification.quarantine; no verdict was given.",
            )
        walked = reproductions[: index + 1]
        left = total - index - 1
        if item.pair.status in PROBE_FAILURES:
            tally = tally.add(None)
            return decided("reject", item.pair.status, walked)
        if not item.pair.status.startswith(BASE_FAILED):
            value, why = _outcome_of(item.pair, terms)
            tally = tally.add(value)
            if value is None:
                lost[why] += 1
            else:
                finished += item.pair.d_nano
            sums = tally.sums(policy.min_effect_nano)
            if crosses(evidence_of_sums(*sums), at_level):
                return decided("adopt", "evidence", walked)
            if is_futile(*sums, tally.pairs + left, at_level):
                return decided("reject", _why_rejected(tally, lost), walked)
        elif left == 0:
            reason = _why_rejected(tally, lost) if tally.pairs else "base_failed"
            return decided("reject", reason, walked)
    return decided("pending", "reproducing", reproductions)


def _why_rejected(tally: Tally, lost: Counter[str]) -> str:
    """The commonest loss where most pairs were lost to failures; else the effect is not there."""
    if 2 * tally.failed > tally.pairs:
        return min(lost, key=lambda why: (-lost[why], why))
    return NOT_REPRODUCED

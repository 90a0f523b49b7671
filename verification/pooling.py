"""One number from a bench of which f members may lie, in either direction.

For a set A of members let E(A) be the evidence of their pairs together: E_t, or (E_t + E_v) / 2
where every member of A named a calibration when it took its seat (a mean of e-values is an
e-value; who is calibrated was fixed before anything ran). Where f > 0, E_t counts at most
``GROWTH`` for each pair, see there. Then

    E = 1/2 * min over (N-f)-sets of E(A) + 1/2 * mean of the C(N-f, k) smallest E(A) over k-sets

with k the largest number for which C(N-f, k) > C(N, k) / 2.

Guarantee: with at most f liars, whatever they report, E is at most the average of e-processes of
honest members. The honest members contain an (N-f)-set, so the minimum is at most theirs; and at
least C(N-f, k) of the k-sets are honest, so the mean of as many smallest ones is at most the mean
of the honest. Hence P(E ever reaches 1/alpha) <= alpha for a claim that is not better. The second
half keeps the promise the other way: liars who report losses spoil only the k-sets that they are
in, which are fewer than half, so f of them cannot veto a claim that is strongly true.
Not covered: more than f liars on the bench. With f = 0, k = N and E is that of all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Final

from verification import approximate, bounded
from verification.bounded import Standardised
from verification.evidence import PUBLISHED, WORK, Tally, crosses, evidence_of_sums

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction


GROWTH: Final = 4
"""With f > 0, E_t of n pairs is at most this to the n-th.

Noise that takes two values gives n equal pairs with a chance of 2^-n, and E_t takes them for an
effect without noise. Less than E_t is always as safe as E_t, so nothing is lost of the promise.
Simulated at ln(1/level) = 9.7, N = 3, f = 1: false adoptions under two-point noise fall from .004
to .0002, which keeps the false discovery rate; d = 27 then takes 12 pairs instead of 8, d = 9 12
instead of 11, smaller effects as many as before. With f = 0 it does not count: d = 27 would take 7
pairs instead of 5, and the chance of a false adoption would still be .007."""


@dataclass(frozen=True, slots=True)
class MemberTally:
    """The pairs of one member. ``sigma0_nano`` is its calibrated bound, None without one."""

    sigma0_nano: int | None = None
    pairs: Tally = field(default_factory=Tally)
    z: Standardised = field(default_factory=Standardised)

    def add(self, d_nano: int | None, clip_milli: int) -> MemberTally:
        """With one more pair: its shifted difference in nano, None for a failed candidate."""
        z = self.z
        if self.sigma0_nano is not None:
            z = z.add(d_nano, self.sigma0_nano, clip_milli)
        return MemberTally(self.sigma0_nano, self.pairs.add(d_nano), z)


def together(members: Sequence[MemberTally]) -> tuple[Tally, Standardised | None]:
    """The pairs of a set of members; no standardised ones where somebody has no calibration."""
    pairs, z = Tally(), Standardised()
    for member in members:
        pairs, z = pairs + member.pairs, z + member.z
    return pairs, z if all(member.sigma0_nano is not None for member in members) else None


@lru_cache(maxsize=64)
def subset_size(n: int, f: int) -> int:
    """k, the largest with C(N-f, k) > C(N, k) / 2; N > 2f makes it at least 1."""
    return max(k for k in range(1, n - f + 1) if 2 * math.comb(n - f, k) > math.comb(n, k))


def evidence(members: Sequence[MemberTally], f: int, failure_nano: int) -> Decimal:
    """E of a bench in decimals; ``failure_nano`` is the least that a failed pair counts."""
    n, c = len(members), WORK
    if f == 0:
        return _of_set(*together(members), failure_nano, limited=False)
    least = _smallest(members, n - f, 1, failure_nano)
    size = subset_size(n, f)
    smallest = _smallest(members, size, math.comb(n - f, size), failure_nano)
    mean = Decimal(0)
    for item in smallest:
        mean = c.add(mean, item)
    mean = c.divide(mean, Decimal(len(smallest)))
    return PUBLISHED.plus(c.divide(c.add(least[0], mean), Decimal(2)))


def reaches(members: Sequence[MemberTally], f: int, failure_nano: int, at_level: Fraction) -> bool:
    """Whether E >= 1/level, as the decimals say; floats tell where they surely agree."""
    if at_level <= 0:
        return False
    needed = -math.log(at_level)
    if _at_most(members, f, failure_nano) < needed - approximate.MARGIN:
        return False
    distance = log_evidence(members, f, failure_nano) - needed
    if abs(distance) > approximate.MARGIN:
        return distance > 0
    return crosses(evidence(members, f, failure_nano), at_level)


def log_evidence(members: Sequence[MemberTally], f: int, failure_nano: int) -> float:
    """ln E of a bench in floats."""
    if f == 0:
        return _log_of_set(*together(members), failure_nano, limited=False)
    least = min(_logs(members, len(members) - f, failure_nano))[0]
    return approximate.log_mean([least, _log_of_smallest(members, f, failure_nano)])


def _log_of_smallest(members: Sequence[MemberTally], f: int, failure_nano: int) -> float:
    """ln of the second half: the mean over the smallest k-sets."""
    n = len(members)
    size = subset_size(n, f)
    smallest = sorted(log for log, _ in _logs(members, size, failure_nano))
    return approximate.log_mean(smallest[: math.comb(n - f, size)])


def _at_most(members: Sequence[MemberTally], f: int, failure_nano: int) -> float:
    """No less than ln E, for little work: one (N-f)-set instead of all; the likely least."""
    if f == 0:
        return math.inf
    lowest = sorted(members, key=lambda member: member.pairs.total)[: len(members) - f]
    one = _log_of_set(*together(lowest), failure_nano, limited=True)
    return approximate.log_mean([one, _log_of_smallest(members, f, failure_nano)])


def _logs(members: Sequence[MemberTally], size: int, failure_nano: int) -> list[tuple[float, int]]:
    """ln E of every set of this size, with its number in the order of ``combinations``."""
    return [
        (_log_of_set(*together(chosen), failure_nano, limited=True), index)
        for index, chosen in enumerate(combinations(members, size))
    ]


def _smallest(
    members: Sequence[MemberTally], size: int, count: int, failure_nano: int
) -> list[Decimal]:
    """The ``count`` smallest E over sets of this size, in order: decimals for those that floats
    cannot rule out."""
    logs = sorted(_logs(members, size, failure_nano))
    most = logs[count - 1][0] + approximate.MARGIN
    wanted = {index for log, index in logs if log <= most}
    return sorted(
        _of_set(*together(chosen), failure_nano, limited=True)
        for index, chosen in enumerate(combinations(members, size))
        if index in wanted
    )[:count]


def _of_set(pairs: Tally, z: Standardised | None, failure_nano: int, *, limited: bool) -> Decimal:
    e_t = evidence_of_sums(*pairs.sums(failure_nano))
    if limited:
        e_t = min(e_t, Decimal(GROWTH**pairs.pairs))
    if z is None:
        return e_t
    return PUBLISHED.plus(WORK.divide(WORK.add(e_t, bounded.evidence(z)), Decimal(2)))


@lru_cache(maxsize=1 << 16)
def _log_of_set(pairs: Tally, z: Standardised | None, failure_nano: int, *, limited: bool) -> float:
    log_t = approximate.log_evidence_of_sums(*pairs.sums(failure_nano))
    if limited:
        log_t = min(log_t, pairs.pairs * math.log(GROWTH))
    if z is None:
        return log_t
    return approximate.log_mean([log_t, bounded.log_evidence(z)])

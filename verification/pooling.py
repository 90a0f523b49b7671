"""One number from a bench of which f members may lie, in either direction.

For a set A of members let E(A) be the evidence of their pairs together:

    E(A) = 1/2 min(E_t(A), E_b(A)) + 1/2 min(E_t(A), STREAK^n(A))

and min(E_t(A), GROWTH^n(A)) where a member of A has no bound of its noise. In both cases E(A) is
at most E_t(A) (:mod:`verification.evidence`): it keeps its level if noise is normal, of any size.
The first half has a level for noise of whatever shape within its bound as well (E_b,
:mod:`verification.bounded`), the second for streaks of equal pairs that noise gives with a chance
of up to 2/3 each. It is there for changes whose own noise is far below the bound, which E_b alone
could never tell. Who has which bound was fixed before anything ran. Then

    E = 1/2 * min over (N-f)-sets of E(A) + 1/2 * mean of the C(N-f, k) smallest E(A) over k-sets

with k the largest number for which C(N-f, k) > C(N, k) / 2; and where f = 0 and N > 1

    E = min of E(all) and of E(A)^2 over (N-1)-sets

Guarantee: with at most f liars, whatever they report, E is at most the average of e-processes of
honest members. The honest members contain an (N-f)-set, so the minimum is at most theirs; and at
least C(N-f, k) of the k-sets are honest, so the mean of as many smallest ones is at most the mean
of the honest. Hence P(E ever reaches 1/alpha) <= alpha for a claim that is not better. The second
half keeps the promise the other way: liars who report losses spoil only the k-sets that they are
in, which are fewer than half, so f of them cannot veto a claim that is strongly true.
With f = 0 every member is trusted, and can veto. But a machine on which the change happens to do
well does not have it adopted by itself: without any one member the others must have half of the
evidence, in logarithms, which costs nothing where all find the same. Not covered: more than f liars
on the bench.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Final

from verification import approximate, bounded
from verification.bounded import Standardised
from verification.evidence import PUBLISHED, WORK, Tally, crosses, evidence_of_sums

if TYPE_CHECKING:
    from collections.abc import Sequence


STREAK: Final = Fraction(3, 2)
"""In the half that leans on no bound of the noise, E_t of n pairs is at most this to the n-th.

Noise that takes two values gives n equal pairs with a chance of p^n, and E_t takes them for an
effect without noise. That is covered for p up to 2/3, and nearly so up to .8."""
GROWTH: Final = Fraction(2)
"""The same where there is no bound at all: covered for values that are as likely."""


@dataclass(frozen=True, slots=True)
class MemberTally:
    """The pairs of one member. ``sigma0_nano`` bounds their noise, None without a bound."""

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
    """The pairs of a set of members; no standardised ones where somebody has no bound."""
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
    least = _smallest(members, n - f, 1, failure_nano)
    if f == 0:
        if n == 1:
            return least[0]
        rest = _smallest(members, n - 1, 1, failure_nano)[0]
        return min(least[0], PUBLISHED.multiply(rest, rest))
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
    n = len(members)
    least = min(_logs(members, n - f, failure_nano))[0]
    if f == 0:
        return least if n == 1 else min(least, 2 * min(_logs(members, n - 1, failure_nano))[0])
    return approximate.log_mean([least, _log_of_smallest(members, f, failure_nano)])


def _log_of_smallest(members: Sequence[MemberTally], f: int, failure_nano: int) -> float:
    """ln of the second half: the mean over the smallest k-sets."""
    n = len(members)
    size = subset_size(n, f)
    smallest = sorted(log for log, _ in _logs(members, size, failure_nano))
    return approximate.log_mean(smallest[: math.comb(n - f, size)])


def _at_most(members: Sequence[MemberTally], f: int, failure_nano: int) -> float:
    """No less than ln E, for little work: one (N-f)-set instead of all; the likely least."""
    lowest = sorted(members, key=lambda member: member.pairs.total)[: len(members) - f]
    one = _log_of_set(*together(lowest), failure_nano)
    if f == 0:
        return one
    return approximate.log_mean([one, _log_of_smallest(members, f, failure_nano)])


def _logs(members: Sequence[MemberTally], size: int, failure_nano: int) -> list[tuple[float, int]]:
    """ln E of every set of this size, with its number in the order of ``combinations``."""
    return [
        (_log_of_set(*together(chosen), failure_nano), index)
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
        _of_set(*together(chosen), failure_nano)
        for index, chosen in enumerate(combinations(members, size))
        if index in wanted
    )[:count]


def _of_set(pairs: Tally, z: Standardised | None, failure_nano: int) -> Decimal:
    c, e_t = WORK, evidence_of_sums(*pairs.sums(failure_nano))
    if z is None:
        return PUBLISHED.plus(min(e_t, _power(GROWTH, pairs.pairs)))
    both = c.add(min(e_t, bounded.evidence(z)), min(e_t, _power(STREAK, pairs.pairs)))
    return PUBLISHED.plus(c.divide(both, Decimal(2)))


def _power(base: Fraction, n: int) -> Decimal:
    return WORK.divide(Decimal(base.numerator**n), Decimal(base.denominator**n))


@lru_cache(maxsize=1 << 14)
def _log_of_set(pairs: Tally, z: Standardised | None, failure_nano: int) -> float:
    log_t = approximate.log_evidence_of_sums(*pairs.sums(failure_nano))
    if z is None:
        return min(log_t, pairs.pairs * math.log(GROWTH))
    streak = min(log_t, pairs.pairs * math.log(STREAK))
    return approximate.log_mean([min(log_t, bounded.log_evidence(z)), streak])

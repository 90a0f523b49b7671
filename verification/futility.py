"""When to stop measuring a claim on a bench of which some may lie.

Stopping early for futility never makes a false adoption likelier, so this rule binds nobody's error
rate: it is tuned for cost alone, and it must not hand a veto to f members who report losses.

The end of the bench is projected in favour of the claim: every member is given all of its rounds,
at its own mean so far plus ``HOPE_MILLI`` thousandths of a standard error, with the variance that
members show within themselves; then the projected bench is weighed by the very rule that decides
(:mod:`verification.pooling`). A member that reports losses alone is outvoted there, and so is one
that reports gains alone. It is no proof against a veto: simulated with f members who always report
losses, d = 2 and calibrated machines, .95 of true claims are adopted at (N, f, rounds) of (3, 1,
24), .88 at (5, 1, 12) and .73 at (5, 2, 24), while a false claim costs 6, 7 and 8 pairs. Whole
numbers throughout, so that every machine stops at the same pair.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from verification.bounded import MICRO, Standardised
from verification.evidence import Tally
from verification.pooling import MemberTally, reaches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

HOPE_MILLI: Final = 1000
"""Standard errors that every member's mean is raised by, in thousandths."""


def is_hopeless(
    members: Sequence[MemberTally],
    f: int,
    rounds: int,
    failure_nano: int,
    clip_milli: int,
    at_level: Fraction,
) -> bool:
    """Whether the bench, each member at ``rounds`` pairs, would not reach 1/level even with hope.

    Never before two pairs were weighed.
    """
    sums = [member.pairs.sums(failure_nano) for member in members]
    count = sum(n for n, _, _ in sums)
    if count < 2:
        return False
    deviation = _deviation(sums)
    middle = sum(total for _, total, _ in sums) // count
    projected = [
        _projected(member, *item, middle, deviation, rounds, clip_milli)
        for member, item in zip(members, sums, strict=True)
    ]
    return not reaches(projected, f, failure_nano, at_level)


def _deviation(sums: Sequence[tuple[int, int, int]]) -> int:
    """Standard deviation of a pair (nano): within members, or over all while none has two."""
    free = sum(n - 1 for n, _, _ in sums if n > 1)
    if free:
        left = sum((n * q - s * s) // n for n, s, q in sums if n > 1)
        return math.isqrt(left // free)
    count = sum(n for n, _, _ in sums)
    total, squares = sum(s for _, s, _ in sums), sum(q for _, _, q in sums)
    return math.isqrt((count * squares - total * total) // (count * (count - 1)))


def _projected(
    member: MemberTally,
    n: int,
    total: int,
    squares: int,
    middle: int,
    deviation: int,
    rounds: int,
    clip_milli: int,
) -> MemberTally:
    """A member with all of its rounds, in favour of the claim."""
    left = max(0, rounds - n)
    mean = total // n if n else middle
    known = max(n, 1)
    error = deviation * (known + 1) * 1000 // (known * math.isqrt(known * 1_000_000))
    hoped = mean + HOPE_MILLI * error // 1000
    tally = Tally(
        n + left,
        total + left * hoped,
        squares + left * (hoped * hoped + deviation * deviation),
    )
    z = member.z
    if member.sigma0_nano is not None:
        most = clip_milli * (MICRO // 1000)
        at = max(-most, min(most, hoped * MICRO // member.sigma0_nano))
        spread = min(most, deviation * MICRO // member.sigma0_nano)
        z = z + Standardised(left, left * at, left * (at * at + spread * spread))
    return MemberTally(member.sigma0_nano, tally, z)

"""When to stop measuring a claim: for good reason, and not because a few say so.

A claim whose gain is ``effect(f)`` standard deviations of a pair or more has likelihood ratios
LR_effect (:mod:`verification.evidence`) that grow. Turned over, 1 / LR_effect(A) of the pairs of a
set A of honest members is evidence against such a gain: a martingale if the gain is exactly that,
smaller if it is more, whatever the variance. For every set H of N - f members let

    M(H) = 9/10 * 1 / LR_effect(H) + 1/10 * mean over members i of H of 1 / LR_effect({i})

and stop once M(H) >= 1 / LOSS for every H. One H is honest, so by Ville's inequality at most LOSS
of the claims with such a gain are stopped by this rule, whatever f liars report. The second term is
for liars who report gains: no H with one of them and honest members who see nothing goes on for
long. Stopping early never makes a false adoption likelier.

Simulated, normal noise, ln(1/level) = 9.7, calibrated machines: pairs in all for a claim that is
worth nothing, and share adopted at d = 2 with f members who always report losses:

    N, f, pairs of each   worth nothing   d = 2, f report losses
    1, 0, 24              4.9             .998 (nobody lies)
    3, 1, 24              6.3             .989
    5, 1, 12              5.7             .985
    5, 2, 24              9.2             .975
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Final

from verification import approximate
from verification.evidence import WORK, Tally, likelihood_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.pooling import MemberTally

LOSS_MILLI: Final = 45
"""Share of claims with the effect below that may be stopped by mistake, at most, in thousandths.
One pair that goes the wrong way is not enough: 1 / LR_2 of it is 22.0, short of 1000 / 45."""

_TOGETHER, _ALONE = Decimal("0.9"), Decimal("0.1")


def effect(f: int, *, reversed_: bool = False) -> Decimal:
    """The gain (mean over SD of a pair) that is not to be lost: 1.5, or 2 where some may lie.

    Half of 1.5 for a contradiction: a discovery that was adopted by luck misses half of its effect
    by less than it missed all of it, and one that is true is as far on the other side.
    """
    if reversed_:
        return Decimal("0.75")
    return Decimal(2) if f else Decimal("1.5")


def is_hopeless(
    members: Sequence[MemberTally], f: int, failure_nano: int, sought: Decimal | None = None
) -> bool:
    """Whether the pairs so far speak against a gain of ``sought`` (else ``effect(f)``) in every
    (N-f)-set.

    ``failure_nano`` is the least that a failed pair counts. Floats tell where they surely agree
    with the decimals.
    """
    delta, needed = sought or effect(f), math.log(1000 / LOSS_MILLI)
    # The best members first: where a claim goes on, the first set most often says so.
    tallies = sorted(
        (member.pairs for member in members),
        key=lambda pairs: -pairs.total / max(1, pairs.ran),
    )
    alone = [_log_against(tally, failure_nano, delta) for tally in tallies]
    close = []
    for chosen in combinations(range(len(tallies)), len(tallies) - f):
        whole = sum((tallies[i] for i in chosen), Tally())
        log = approximate.log_sum(
            [
                math.log(0.9) + _log_against(whole, failure_nano, delta),
                math.log(0.1) + approximate.log_mean([alone[i] for i in chosen]),
            ]
        )
        if log < needed - approximate.MARGIN:
            return False
        if log <= needed + approximate.MARGIN:
            close.append((whole, [tallies[i] for i in chosen]))
    return all(_against(whole, each, failure_nano, delta) for whole, each in close)


@lru_cache(maxsize=1 << 14)
def _log_against(pairs: Tally, failure_nano: int, delta: Decimal) -> float:
    n, total, squares = pairs.sums(failure_nano)
    if n == 0:
        return 0.0
    return -approximate.log_ratio(n, total / math.sqrt(squares) if squares else 0.0, float(delta))


def _against(whole: Tally, each: Sequence[Tally], failure_nano: int, delta: Decimal) -> bool:
    """Whether M(H) >= 1 / LOSS, in decimals."""
    c = WORK

    def against(pairs: Tally) -> Decimal:
        return c.divide(Decimal(1), likelihood_ratio(*pairs.sums(failure_nano), delta))

    mean = Decimal(0)
    for pairs in each:
        mean = c.add(mean, against(pairs))
    mean = c.divide(mean, Decimal(len(each)))
    weighed = c.add(c.multiply(_TOGETHER, against(whole)), c.multiply(_ALONE, mean))
    return c.multiply(weighed, Decimal(LOSS_MILLI)) >= 1000

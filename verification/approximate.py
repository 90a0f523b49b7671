"""The evidence in floats, to tell from afar what the decimals would say.

A verdict must be the same on every machine, and floats are not: their exp differs in the last
digits. But most sums are nowhere near a threshold. These functions are good to about 1e-6 of a
logarithm; whoever uses them decides by them only where the distance is more than ``MARGIN``, and
asks :mod:`verification.evidence` otherwise. The outcome is then that of the decimals on every
machine, at a thousandth of the time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MARGIN: Final = 1e-4
"""Logarithms that are further apart than this are told apart by floats as surely as by decimals."""

DELTAS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Standardised effects (mean over SD of a pair) that the mixture bets on; all of them are exact in
binary, so that decimals can be made of them."""

WEIGHTS: Final = (1, 3, 3, 2, 2, 1, 1)
"""How much is bet on each. Against equal bets this saves a pair at d = 1 to 3 and costs a quarter
of one at d = 27, where four or five pairs are enough anyway."""

MANY: Final = 16
"""From so many pairs on, :func:`log_integral` is a series in 1/n that is good to 4e-7."""

_LOG_WEIGHTS: Final = tuple(math.log(weight / sum(WEIGHTS)) for weight in WEIGHTS)
_HALF_LOG_TWO_PI: Final = 0.5 * math.log(2 * math.pi)
_FORGOTTEN: Final = 20.0  # exp(-2 * 20) is less than a float can tell
_LARGE: Final = 30.0
_FEW_DIGITS: Final = 5.0  # forwards loses exp(2 * 5), a few of the sixteen digits of a float


def log_integral(n: int, b: float) -> float:
    """ln I_n(b), with I_n(b) = integral over r > 0 of r^(n-1) exp(-r^2/2 + b r).

    By ratios of neighbours, rho_k = I_k / I_(k-1): forwards where all terms have one sign,
    backwards as a continued fraction where they would cancel. For many pairs by Laplace's method.
    """
    if n >= MANY:
        return _laplace(n, b)
    if b < -1 or b * math.sqrt(n) < -_FEW_DIGITS:
        x = -b
        far = int((math.sqrt(n) + _FORGOTTEN / x) ** 2) + 2
        rho, total = 0.0, 0.0
        for k in range(far, 1, -1):
            rho = (k - 1) / (x + rho)
            if k <= n:
                total += math.log(rho)
        return total - math.log(x + rho)
    upper = 1.0 if b > _LARGE else 0.5 * math.erfc(-b / math.sqrt(2))
    total = log_first = _HALF_LOG_TWO_PI + b * b / 2 + math.log(upper)
    if n == 1:
        return log_first
    rho = b + math.exp(-log_first)
    total += math.log(rho)
    for k in range(3, n + 1):
        rho = b + (k - 2) / rho
        total += math.log(rho)
    return total


def _laplace(n: int, b: float) -> float:
    """The same around its largest term, with three corrections.

    With x = ln r the exponent is n x - exp(2x)/2 + b exp(x). It is largest where r^2 = n + b r;
    with w = r^2, D = w + n and a = w/D its k-th derivative there is -D (1 + (2^(k-1) - 2) a).
    """
    root = math.sqrt(b * b + 4 * n)
    r = (b + root) / 2 if b > 0 else 2 * n / (root - b)
    w = r * r
    d = w + n
    a = w / d
    first = ((10 * a + 1) * a + 1) / 12
    second = (5 * a - 2.5) * a**3
    third = (1105 / 18 * a - 745 / 12) * a**5 + 157 / 12 * a**4
    third -= (((10 * a + 6) * a + 3) * a + 1) / 360
    return (
        n * math.log(r) - w / 2 + b * r + _HALF_LOG_TWO_PI - math.log(d) / 2
        + ((third / d + second) / d + first) / d
    )  # fmt: skip


@lru_cache(maxsize=8192)
def _at_zero(n: int) -> float:
    return log_integral(n, 0.0)


def log_evidence(n: int, slope: float) -> float:
    """ln E_t of ``n`` pairs with S / sqrt(Q) = ``slope``; see ``verification.evidence``."""
    return log_sum(
        [
            log_weight + log_ratio(n, slope, delta)
            for delta, log_weight in zip(DELTAS, _LOG_WEIGHTS, strict=True)
        ]
    )


def log_ratio(n: int, slope: float, delta: float) -> float:
    """ln LR_delta; see ``verification.evidence``."""
    return log_integral(n, delta * slope) - _at_zero(n) - n * delta * delta / 2


def log_evidence_of_sums(n: int, total: int, squares: int) -> float:
    """ln E_t of pairs with these sums (nano, nano^2)."""
    return log_evidence(n, total / math.sqrt(squares)) if squares else 0.0


def log_sum(logs: Sequence[float]) -> float:
    """ln of the sum of exp(logs)."""
    top = max(logs)
    return top + math.log(math.fsum([math.exp(item - top) for item in logs]))


def log_mean(logs: Sequence[float]) -> float:
    """ln of the mean of exp(logs)."""
    return log_sum(logs) - math.log(len(logs))

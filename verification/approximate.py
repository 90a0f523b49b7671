"""The evidence in floats, to tell from afar what the decimals would say.

A verdict must be the same on every machine, and floats are not: their exp differs in the last
digits. But most sums are nowhere near a threshold. These functions are good to about 1e-9 of a
logarithm; whoever uses them decides by them only where the distance is more than ``MARGIN``, and
asks :mod:`verification.evidence` otherwise. The outcome is then that of the decimals on every
machine, at a hundredth of the time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

MARGIN: Final = 1e-4
"""Logarithms that are further apart than this are told apart by floats as surely as by decimals."""

DELTAS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Standardised effects (mean over SD of a pair) that the mixture bets on, equally; all of them are
exact in binary, so that decimals can be made of them."""

_HALF_LOG_TWO_PI: Final = 0.5 * math.log(2 * math.pi)
_FORGOTTEN: Final = 20.0  # exp(-2 * 20) is less than a float can tell
_LARGE: Final = 30.0
_FEW_DIGITS: Final = 5.0  # forwards loses exp(2 * 5), a few of the sixteen digits of a float


def log_integral(n: int, b: float) -> float:
    """ln I_n(b), with I_n(b) = integral over r > 0 of r^(n-1) exp(-r^2/2 + b r).

    By ratios of neighbours, rho_k = I_k / I_(k-1): forwards where all terms have one sign,
    backwards as a continued fraction where they would cancel.
    """
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


@lru_cache(maxsize=8192)
def _at_zero(n: int) -> float:
    return log_integral(n, 0.0)


def log_evidence(n: int, slope: float) -> float:
    """ln E_t of ``n`` pairs with S / sqrt(Q) = ``slope``; see ``verification.evidence``."""
    at_zero = _at_zero(n)
    return log_mean(
        [log_integral(n, delta * slope) - at_zero - n * delta * delta / 2 for delta in DELTAS]
    )


def log_evidence_of_sums(n: int, total: int, squares: int) -> float:
    """ln E_t of pairs with these sums (nano, nano^2)."""
    return log_evidence(n, total / math.sqrt(squares)) if squares else 0.0


def log_mean(logs: list[float]) -> float:
    """ln of the mean of exp(logs)."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(item - top) for item in logs) / len(logs))

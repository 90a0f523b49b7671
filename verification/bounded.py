"""E_v, the e-process for members who know how noisy their machines are at most.

With sigma0 an upper bound of a pair's standard deviation, from the member's own signed calibration,
z = d / sigma0 clipped to +-clip, and a null of mean <= 0 and SD <= 1.5 (that is 1.5 sigma0):

    Num = sum over m in {.75, 1.25, 2, 3}, s in {.7, 1, 1.35} of w * prod N(z_i; m, s^2)
    Den = prod N(z_i; mu, sd^2)   with mu = min(0, mean z), sd = rms(z - mu) held to [.3, 1.5]
    E_v = Num / Den               with w = 1/4 * (1/4, 1/2, 1/4)

Den is the largest likelihood that any normal null of that kind gives the pairs, so under each of
them E_v is at most a likelihood ratio, which is an e-process. Assumed: normal noise, and an honest
calibration. Simulated, its null mean stays below 1 for SD <= 1.5 sigma0 and fails at 2 sigma0.
Clipping bounds what one pair can do: it weakens gains, and a diverged run costs as much as the
worst pair. Only sums of z and z^2 are needed, kept as whole millionths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Final

from verification.approximate import log_mean
from verification.evidence import E_CAP, PUBLISHED, WORK

MICRO: Final = 1_000_000
MEANS: Final = ("0.75", "1.25", "2", "3")
SPREADS: Final = (("0.7", 1), ("1", 2), ("1.35", 1))
"""Alternatives' standard deviations with their weights, in quarters."""
LEAST_SD: Final = "0.3"
MOST_SD: Final = "1.5"


@dataclass(frozen=True, slots=True)
class Standardised:
    """Sums of pairs in units of their members' sigma0, in millionths: n, sum z, sum z^2."""

    n: int = 0
    total: int = 0
    squares: int = 0

    def add(self, d_nano: int | None, sigma0_nano: int, clip_milli: int) -> Standardised:
        """With one more pair, rounded down; a failed candidate (None) counts as the clip."""
        most = clip_milli * (MICRO // 1000)
        z = -most if d_nano is None else max(-most, min(most, d_nano * MICRO // sigma0_nano))
        return Standardised(self.n + 1, self.total + z, self.squares + z * z)

    def __add__(self, other: Standardised) -> Standardised:
        return Standardised(
            self.n + other.n, self.total + other.total, self.squares + other.squares
        )


def evidence(z: Standardised) -> Decimal:
    """E_v in decimals; exactly 1 for no pairs."""
    if z.n == 0:
        return Decimal(1)
    c, n = WORK, Decimal(z.n)
    total = c.divide(Decimal(z.total), Decimal(MICRO))
    squares = c.divide(Decimal(z.squares), Decimal(MICRO * MICRO))
    mu = min(Decimal(0), c.divide(total, n))

    def deviations(mean: Decimal) -> Decimal:
        """Sum of (z - mean)^2."""
        return c.add(
            c.subtract(squares, c.multiply(c.multiply(Decimal(2), mean), total)),
            c.multiply(n, c.multiply(mean, mean)),
        )

    variance = c.divide(deviations(mu), n)
    sd = c.sqrt(variance) if variance > 0 else Decimal(0)
    sd = min(Decimal(MOST_SD), max(Decimal(LEAST_SD), sd))
    below = c.divide(deviations(mu), c.multiply(Decimal(2), c.multiply(sd, sd)))
    result = Decimal(0)
    for mean in MEANS:
        for text, weight in SPREADS:
            s = Decimal(text)
            above = c.divide(deviations(Decimal(mean)), c.multiply(Decimal(2), c.multiply(s, s)))
            ratio = c.exp(c.subtract(below, above))
            ratio = c.multiply(ratio, _power(c.divide(sd, s), z.n))
            result = c.add(result, c.multiply(Decimal(weight), ratio))
    result = c.divide(result, Decimal(4 * len(MEANS)))
    return E_CAP if result > E_CAP else PUBLISHED.plus(result)


def log_evidence(z: Standardised) -> float:
    """ln E_v in floats, to be used as :mod:`verification.approximate` says."""
    if z.n == 0:
        return 0.0
    total, squares = z.total / MICRO, z.squares / (MICRO * MICRO)
    mu = min(0.0, total / z.n)

    def deviations(mean: float) -> float:
        return squares - 2 * mean * total + z.n * mean * mean

    sd = math.sqrt(max(0.0, deviations(mu)) / z.n)
    sd = min(float(MOST_SD), max(float(LEAST_SD), sd))
    below = deviations(mu) / (2 * sd * sd) + z.n * math.log(sd)
    logs = [
        below - deviations(float(mean)) / (2 * s * s) - z.n * log_s
        for mean in MEANS
        for s, log_s, weight in _spreads()
        for _ in range(weight)
    ]
    return log_mean(logs)


@cache
def _spreads() -> tuple[tuple[float, float, int], ...]:
    return tuple((float(text), math.log(float(text)), weight) for text, weight in SPREADS)


def _power(base: Decimal, exponent: int) -> Decimal:
    """By multiplications in a fixed order; ``Context.power`` is not rounded correctly always."""
    result = Decimal(1)
    while exponent:
        if exponent & 1:
            result = WORK.multiply(result, base)
        base = WORK.multiply(base, base)
        exponent >>= 1
    return result

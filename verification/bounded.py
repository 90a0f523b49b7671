"""E_b, the e-process for noise of any shape whose size is bounded.

Five equal pairs look like an effect without noise, and noise that takes two values gives them by
chance: no test that learns the scale from the pairs alone can tell the two apart. With sigma0, a
bound of a pair's size of noise that was fixed beforehand (the member's own calibration, or else the
charter's ``noise_nano``), s = ``MOST_SD`` and c > 0, let

    e_c(z) = max(0, z + c)^2 / (c^2 + s^2)
    E_b    = mean over c in ``SHIFTS`` of prod over pairs of (1/10 + 9/10 e_c(z_i))

z = d / sigma0 - ``OFFSET``: all pairs of a machine or of a fold may share a quarter of sigma0 in
favour of the change. *E_b is an e-process under every null with a mean of z <= 0 and SD <= s,
whatever the shape.* For mean 0,
E[max(0, z + c)^2] <= E[(z + c)^2] = SD^2 + c^2 <= s^2 + c^2. e_c rises in z, so a lower mean only
makes it smaller. Each factor thus has a mean of at most 1, given all pairs before it; products of
such factors, and means of those, are e-processes. Two values, three, coarse rounding, mixtures and
skew to either side are all covered: nothing but mean and SD entered. Nor need pairs be independent:
it is enough that, given those before, a pair has mean <= 0 and SD <= s. The one linear function of
z and z^2 that is never negative and has that mean is this square, so it is also sharp: where a
null of two values is the worst, it reaches 1.

z is clipped to +-clip, which takes nothing from the argument upwards (it makes e smaller); below
-c, e_c is 0 anyway, so a diverged run costs as much as any bad pair. The tenth that is not staked
keeps one bad pair from ending it all.

Whole numbers throughout: each product is an exact integer over a power of an exact integer, and one
division at the end is all that is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from verification.approximate import log_mean
from verification.evidence import E_CAP, PUBLISHED, WORK

MICRO: Final = 1_000_000
MOST_SD: Final = 1_500_000
"""s in millionths of sigma0: a claim's own noise may be half as large again as what is known."""
OFFSET: Final = 250_000
"""What pairs may have in common that is not the change, in millionths of sigma0."""
SHIFTS: Final = (750_000, 1_500_000, 3_000_000)
"""c in millionths; c = s^2 / z is best for pairs at z: made for 3, 1.5 and .75 sigma0."""
_STAKED, _WHOLE = 9, 10
_SCALES: Final = tuple(c * c + MOST_SD * MOST_SD for c in SHIFTS)


@dataclass(frozen=True, slots=True)
class Standardised:
    """The product of a set of pairs for each of ``SHIFTS``, each over (10 (c^2 + s^2))^n."""

    n: int = 0
    products: tuple[int, ...] = (1,) * len(SHIFTS)

    def add(self, d_nano: int | None, sigma0_nano: int, clip_milli: int) -> Standardised:
        """With one more pair, z rounded down; a failed candidate (None) counts as the clip."""
        most = clip_milli * (MICRO // 1000)
        z = -most if d_nano is None else d_nano * MICRO // sigma0_nano - OFFSET
        z = max(-most, min(most, z))
        return Standardised(
            self.n + 1,
            tuple(
                product * ((_WHOLE - _STAKED) * scale + _STAKED * max(0, z + c) ** 2)
                for product, c, scale in zip(self.products, SHIFTS, _SCALES, strict=True)
            ),
        )

    def __add__(self, other: Standardised) -> Standardised:
        """The pairs of both."""
        both = zip(self.products, other.products, strict=True)
        return Standardised(self.n + other.n, tuple(one * two for one, two in both))


def evidence(z: Standardised) -> Decimal:
    """E_b in decimals; exactly 1 for no pairs."""
    c, result = WORK, Decimal(0)
    for product, scale in zip(z.products, _SCALES, strict=True):
        result = c.add(result, c.divide(Decimal(product), Decimal((_WHOLE * scale) ** z.n)))
    result = c.divide(result, Decimal(len(SHIFTS)))
    return E_CAP if result > E_CAP else PUBLISHED.plus(result)


def log_evidence(z: Standardised) -> float:
    """ln E_b in floats, to be used as :mod:`verification.approximate` says."""
    return log_mean(
        [
            math.log(product) - z.n * math.log(_WHOLE * scale)
            for product, scale in zip(z.products, _SCALES, strict=True)
        ]
    )

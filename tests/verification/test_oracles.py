"""Evidence, levels and the bench rule against independent, slow implementations."""

from __future__ import annotations

import itertools
import math
import random
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from online_fdr.core.abstract.abstract_gamma_seq import AbstractGammaSequence
from online_fdr.e_values import ELond

from verification import bounded, evidence, pooling
from verification.evidence import Tally
from verification.pooling import MemberTally

UNIT = 10_000_000
FLOOR = 3_000_000
CLIP = 3000

# --- E_t: the integral of its definition, to forty digits -----------------------------------------


def slow_evidence(pairs: list[int]) -> mpmath.mpf:
    """E_t as the weighted mean of integrals over the unknown scale, by quadrature."""
    with mpmath.workdps(40):
        n = len(pairs)
        root = mpmath.sqrt(sum(mpmath.mpf(x) ** 2 for x in pairs))
        slope = sum(pairs) / root

        def integral(b: mpmath.mpf) -> mpmath.mpf:
            peak = (b + mpmath.sqrt(b * b + 4 * n)) / 2
            grid = [
                max(mpmath.mpf(0), peak - 15),
                *(peak + k for k in (-4, 0, 4, 15) if peak + k > 0),
            ]
            return mpmath.quad(lambda r: r ** (n - 1) * mpmath.exp(-r * r / 2 + b * r), grid)

        bets = zip((1, 3, 3, 2, 2, 1, 1), (0.5, 1, 2, 4, 8, 16, 32), strict=True)
        at_zero = integral(mpmath.mpf(0))
        whole = sum(
            weight * mpmath.exp(-n * mpmath.mpf(d) ** 2 / 2) * integral(d * slope) / at_zero
            for weight, d in bets
        )
        return whole / 13


@pytest.mark.parametrize(
    "pairs", [[1], [5, -2], [10, 12, 9, 11], [-3, -4, -2], [3, -1, 2, 2, 5, 1, -2, 4]]
)
def test_e_t_is_the_integral_of_its_definition(pairs: list[int]) -> None:
    with mpmath.workdps(40):
        found = mpmath.mpf(str(evidence.wealth(pairs)[-1]))
        assert abs(found / slow_evidence(pairs) - 1) < mpmath.mpf("1e-25")


def test_the_mean_of_e_t_under_the_null_is_one() -> None:
    """For three pairs the direction is uniform on a sphere, so S / sqrt(3 Q) is uniform
    (Archimedes' hat box). The mean of E over it is an integral that floats can do."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    values = [float(evidence._evidence(3, Decimal(float(math.sqrt(3) * u)))) for u in nodes]
    assert np.dot(weights, values) / 2 == pytest.approx(1, abs=1e-9)


# --- E_b: its definition, pair by pair ------------------------------------------------------------


def standardised(pairs: list[float]) -> list[float]:
    return [max(-3.0, min(3.0, x - 0.25)) for x in pairs]


def slow_bounded(z: list[float]) -> float:
    products = [
        math.prod(0.1 + 0.9 * max(0, x + c) ** 2 / (c * c + 1.5**2) for x in z)
        for c in (0.75, 1.5, 3)
    ]
    return sum(products) / 3


@pytest.mark.parametrize("seed", range(20))
def test_e_b_is_its_definition(seed: int) -> None:
    rng = random.Random(seed)
    drawn = [rng.gauss(rng.choice([-1, 0, 2, 6]), 1) for _ in range(rng.randint(1, 12))]
    z = bounded.Standardised()
    for x in drawn:
        z = z.add(int(x * UNIT), UNIT, CLIP)
    expected = slow_bounded(standardised([int(x * UNIT) / UNIT for x in drawn]))
    assert float(bounded.evidence(z)) == pytest.approx(expected, rel=1e-5)
    assert bounded.log_evidence(z) == pytest.approx(float(bounded.evidence(z).ln()), abs=1e-9)


@pytest.mark.parametrize("offset", [0.25, 0, -1])
@pytest.mark.parametrize("favourable", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_the_mean_of_e_b_is_at_most_one_under_the_worst_noise_of_two_values(
    favourable: float, offset: float
) -> None:
    """Exact: three pairs of two values with SD 1.5, every outcome with its chance."""
    high = 1.5 * math.sqrt((1 - favourable) / favourable) + offset
    low = -1.5 * math.sqrt(favourable / (1 - favourable)) + offset
    mean = 0.0
    for signs in itertools.product((True, False), repeat=3):
        z = bounded.Standardised()
        for up in signs:
            z = z.add(int((high if up else low) * UNIT), UNIT, 100_000)
        chance = math.prod(favourable if up else 1 - favourable for up in signs)
        mean += chance * float(bounded.evidence(z))
    assert mean <= 1 + 1e-6


# --- the bench rule by brute force ----------------------------------------------------------------


def slow_pooled(said: list[list[int]], f: int, *, bounded: bool) -> float:
    """The formula of ``verification.pooling`` word by word, over lists of pairs."""
    n = len(said)

    def one(chosen: tuple[list[int], ...]) -> float:
        pairs = [x for member in chosen for x in member]
        e = 1.0
        if pairs:
            e = float(evidence.wealth(pairs)[-1])
        if not bounded:
            return min(e, 2.0 ** len(pairs))
        z = standardised([x / UNIT for x in pairs])
        return (min(e, slow_bounded(z)) + min(e, 1.5 ** len(pairs))) / 2

    if not f:
        whole = one(tuple(said))
        rest = [one(chosen) ** 2 for chosen in itertools.combinations(said, n - 1)]
        return min([whole, *rest]) if n > 1 else whole
    least = min(one(chosen) for chosen in itertools.combinations(said, n - f))
    k = next(
        k
        for k in range(n - f, 0, -1)
        if Fraction(math.comb(n - f, k), math.comb(n, k)) > Fraction(1, 2)
    )
    each = sorted(one(chosen) for chosen in itertools.combinations(said, k))
    smallest = each[: math.comb(n - f, k)]
    return (least + sum(smallest) / len(smallest)) / 2


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize(("n", "f"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (5, 2), (7, 3)])
def test_the_bench_rule_is_its_formula(n: int, f: int, bound: bool) -> None:
    rng = random.Random(n * 10 + f)
    for mean in (-1, 1, 4, 30):
        said = [
            [int(rng.gauss(mean, 1) * UNIT) for _ in range(rng.randint(0, 4))] for _ in range(n)
        ]
        members = [MemberTally(UNIT if bound else None) for _ in range(n)]
        for rank, pairs in enumerate(said):
            for pair in pairs:
                members[rank] = members[rank].add(pair, CLIP)
        expected = slow_pooled(said, f, bounded=bound)
        assert float(pooling.evidence(members, f, FLOOR)) == pytest.approx(expected, rel=1e-4)
        level = Fraction(1, max(2, int(expected * 1.01)))
        assert pooling.reaches(members, f, FLOOR, level) == (expected * level >= 1)


def test_a_bench_of_three_by_hand() -> None:
    """One pair each, 1, 1 and -1: E of one pair is 1.86879... or 2 less that; E(1, 1) and E(1, -1)
    are those of two pairs. None is large enough for the limit of 2 and of 4. Least: the pair with
    the loss. Singles: the loss and one gain."""
    members = [MemberTally(None, Tally().add(x)) for x in (1, 1, -1)]
    up = float(evidence.wealth([1])[0])
    split = float(evidence.wealth([1, -1])[-1])
    assert float(pooling.evidence(members, 1, 1)) == pytest.approx((split + (2 - up + up) / 2) / 2)


# --- levels ---------------------------------------------------------------------------------------


class EqualShares(AbstractGammaSequence):
    """Every claim has the same share of alpha."""

    def __init__(self, claims: int) -> None:
        super().__init__(gamma_exp=None, c=None)
        self.claims = claims

    def calc_gamma(self, j: int, **_: object) -> float:
        return 1 / self.claims


@pytest.mark.parametrize("seed", range(8))
def test_levels_are_those_of_e_lond(seed: int) -> None:
    """Against ``online-fdr``: a chain of claims with equal shares, each on the newest adopted one.

    In one chain every earlier adoption is an ancestor, so R is the number of adoptions so far.
    """
    rng = random.Random(seed)
    claims, alpha = 40, Fraction(1, 10)
    oracle = ELond(float(alpha), EqualShares(claims))
    adopted = 0
    for _ in range(claims):
        e = math.exp(rng.gauss(rng.choice([0, 5]), 2))
        level = evidence.level(alpha, Fraction(1), claims, adopted)
        found = evidence.crosses(Decimal(repr(e)), level)
        assert found == oracle.test_one(e)
        assert float(level) == pytest.approx(oracle.current_level, rel=1e-12)
        adopted += found
    assert 0 < adopted < claims


def test_levels_of_three_claims_by_hand() -> None:
    """alpha 1/10, two authors with shares 1/2 of two slots each: 1/40, and 2/40 after one."""
    shares = [evidence.level(Fraction(1, 10), Fraction(1, 2), 2, r) for r in range(3)]
    assert shares == [Fraction(1, 40), Fraction(2, 40), Fraction(3, 40)]
    assert [evidence.crosses(Decimal(39), level) for level in shares] == [False, True, True]

"""E against independent oracles, its guarantee by simulation, and the same digits everywhere."""

from __future__ import annotations

import decimal
import itertools
import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verification import evidence as ev
from verification.errors import EvidenceError
from verification.futility import is_hopeless
from verification.pooling import MemberTally

# --- a slow oracle: trapezoid sums in floats, on a logarithmic grid ------------------------------


def log_integral(n: int, b: float) -> float:
    """ln I_n(b) by quadrature over x = ln r; smooth and decaying, so trapezoids converge fast."""
    x = np.linspace(-40.0 if n < 50 else -6.0, math.log(max(b, 0) + 60.0), 50_001)
    r = np.exp(x)
    exponent = n * x - r * r / 2 + b * r
    top = exponent.max()
    return float(top + math.log(np.sum(np.exp(exponent - top)) * (x[1] - x[0])))


def log_evidence(n: int, slope: float) -> float:
    """ln E_t for S / sqrt(Q) = slope, from the quadrature alone."""
    zero = log_integral(n, 0.0)
    parts = [-n * float(d) ** 2 / 2 + log_integral(n, float(d) * slope) - zero for d in ev.DELTAS]
    top = max(parts)
    weighed = zip((1, 3, 3, 2, 2, 1, 1), parts, strict=True)
    return top + math.log(sum(weight * math.exp(p - top) for weight, p in weighed) / 13)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 24, 72, 200])
@pytest.mark.parametrize(
    "b", ["-300", "-40", "-3.01", "-2.99", "-0.3", "0", "0.3", "2.99", "3.01", "11", "300"]
)
def test_the_integral_agrees_with_quadrature(n: int, b: str) -> None:
    exact = float(ev.integral(n, Decimal(b)).ln())
    assert exact == pytest.approx(log_integral(n, float(b)), abs=2e-9, rel=1e-11)


def exact_even_integral(n: int, b: Fraction, terms: int) -> Fraction:
    """I_n(b) + I_n(-b) for even n, over I_n(0), as a sum of fractions (a moment series)."""
    total, term = Fraction(0), Fraction(2)
    for k in range(0, 2 * terms, 2):
        total += term
        term = term * b * b * (n + k) / ((k + 1) * (k + 2))
    return total


@pytest.mark.parametrize("n", [2, 8, 40])
@pytest.mark.parametrize("b", [Fraction(1, 3), Fraction(5, 2), Fraction(29, 10), Fraction(7, 2)])
def test_the_integral_agrees_with_exact_fractions_to_fifty_digits(n: int, b: Fraction) -> None:
    wide = decimal.Context(prec=90)
    point = wide.divide(Decimal(b.numerator), Decimal(b.denominator))
    minus = ev.integral(n, point.copy_negate())
    both = wide.divide(wide.add(ev.integral(n, point), minus), ev.integral(n, Decimal(0)))
    expected = exact_even_integral(n, b, 400)
    assert abs(Fraction(both) / expected - 1) < Fraction(1, 10**55)


@pytest.mark.parametrize("n", [2, 9, 64, 400])
@pytest.mark.parametrize("b", ["-7", "-3", "-2.9999", "-1", "-0.001"])
def test_negative_arguments_keep_their_digits(n: int, b: str) -> None:
    """The recursion, which cancels to nothing in working precision, still holds to 50 digits."""
    wide = decimal.Context(prec=120)
    parts = [ev.integral(k, Decimal(b)) for k in (n, n + 1, n + 2)]
    right = wide.add(wide.multiply(Decimal(b), parts[1]), wide.multiply(Decimal(n), parts[0]))
    assert 0 < parts[2]
    # The two terms on the right cancel by at most (n + b^2), so 50 digits can be asked of the sum.
    assert abs(wide.subtract(right, parts[2])) <= parts[2] * Decimal("1e-50")


def test_the_two_ways_of_computing_meet() -> None:
    for n in (1, 2, 10, 100, 500):
        for centre in (Decimal(3), Decimal(-3)):
            step = Decimal("1e-60")
            low, high = ev.integral(n, centre - step), ev.integral(n, centre + step)
            assert abs(low / high - 1) < Decimal("1e-25")


# --- E ------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.lists(st.integers(-(10**10), 10**10), min_size=1, max_size=40))
def test_e_agrees_with_the_float_twin(values: list[int]) -> None:
    e = ev.wealth(values)[-1]
    squares = sum(v * v for v in values)
    if squares == 0:
        assert e == 1
    else:
        slope = sum(values) / math.sqrt(squares)
        assert float(e.ln()) == pytest.approx(log_evidence(len(values), slope), abs=1e-6)


def test_known_values() -> None:
    """Pinned digits: a change of any of them is a change of the rules."""
    assert ev.wealth([]) == []
    assert ev.wealth([0, 0, 0]) == [1, 1, 1]
    path = [str(e) for e in ev.wealth([10, 12, 9, 11])]
    assert path == PINNED
    assert all(len(Decimal(e).as_tuple().digits) <= ev.DIGITS for e in path)


PINNED = [
    "1.8687973786386825913473741446360895675547831108063",
    "7.5805395753834582442640439895820637556881073732136",
    "33.214658069699844570700920471444310498963817067346",
    "292.23465727557402243997536723522214144533382987542",
]


def test_one_pair_says_almost_nothing() -> None:
    plus, minus = ev.wealth([5])[0], ev.wealth([-5])[0]
    assert Decimal(1) < plus < Decimal(2)
    assert abs(plus + minus - 2) < Decimal("1e-40")  # the two signs are equally likely: mean 1


def test_equal_pairs_grow_without_failing_and_are_capped() -> None:
    path = ev.wealth([7] * 64)
    assert all(a < b or b == ev.E_CAP for a, b in itertools.pairwise(path))
    assert path[-1] == ev.E_CAP
    assert ev.wealth([-7] * 64)[-1] < Decimal("1e-10")


@settings(max_examples=25)
@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=8), st.integers(1, 10**6))
def test_e_knows_no_scale_and_no_order(values: list[int], factor: int) -> None:
    e = ev.wealth(values)[-1]
    assert ev.wealth(list(reversed(values)))[-1] == e
    scaled = ev.wealth([v * factor for v in values])[-1]
    assert abs(scaled - e) <= e * Decimal("1e-45")


def test_a_failure_is_a_loss_as_large_as_the_best_pair_and_at_least_the_floor() -> None:
    assert ev.wealth([50, None, 80])[-1] == ev.wealth([50, -80, 80])[-1]
    assert ev.wealth([50, None, 80], failure_nano=500)[-1] == ev.wealth([50, -500, 80])[-1]
    assert ev.wealth([None, None], failure_nano=9)[-1] == ev.wealth([-9, -9])[-1]


@settings(max_examples=40)
@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=10),
    st.integers(1, 3),
    st.integers(1, 2000),
    st.integers(0, 2000),
)
def test_a_larger_loss_never_helps_where_it_could_matter(
    values: list[int], failures: int, floor: int, more: int
) -> None:
    """Why a loss that depends on the other pairs is as safe as one fixed beforehand."""
    tally = ev.Tally()
    for value in [*values, *[None] * failures]:
        tally = tally.add(value)
    small, large = tally.evidence(floor), tally.evidence(floor + more)
    assert large <= max(small, Decimal(1)) * (1 + Decimal("1e-25"))


def test_the_thread_s_own_decimal_context_changes_nothing() -> None:
    values = [3, 5, -2, 7, 1]
    expected = ev.wealth(values)
    ev.evidence_of_sums.cache_clear()
    ev._integral_at_zero.cache_clear()
    ev._pi.cache_clear()
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP, Emax=5)):
        assert ev.wealth(values) == expected


def test_the_pure_python_decimal_gives_the_same_digits() -> None:
    """Another implementation of the same standard, in a process of its own."""
    code = (
        "import sys; sys.modules['_decimal'] = None\n"
        "import decimal; assert decimal.__file__ and 'Decimal' in dir(decimal)\n"
        "from verification.evidence import wealth\n"
        "assert type(decimal.Decimal(1)).__module__ == 'decimal'\n"
        "assert '_decimal' not in {k for k, v in sys.modules.items() if v is not None}\n"
        "print(*wealth([3, 5, -2, 7]), sep='\\n')"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()
    assert out == [str(e) for e in ev.wealth([3, 5, -2, 7])]


@pytest.mark.parametrize("bad", [2**53 + 1, -(2**53) - 1, True, 1.0, "1"])
def test_numbers_that_no_record_can_carry_are_refused(bad: object) -> None:
    with pytest.raises(EvidenceError) as caught:
        ev.wealth([bad])  # type: ignore[list-item]
    assert caught.value.cure


def test_sums_that_no_pairs_can_have_are_refused() -> None:
    for n, total, squares in [(2, 10, 10), (-1, 0, 0), (0, 0, 1 - 1 + 0), (5000, 0, 1)]:
        if (n, total, squares) == (0, 0, 0):
            assert ev.evidence_of_sums(0, 0, 0) == 1
        else:
            with pytest.raises(EvidenceError):
                ev.evidence_of_sums(n, total, squares)


# --- levels -------------------------------------------------------------------------------------


def test_levels_are_exact_and_grow_with_adopted_ancestors() -> None:
    alpha = Fraction(100, 1000)
    assert ev.level(alpha, Fraction(1, 3), 4, 0) == Fraction(1, 120)
    assert ev.level(alpha, Fraction(1, 3), 4, 2) == Fraction(3, 120)
    assert ev.level(alpha, Fraction(1), 1, 10**6) == 1
    assert ev.level(alpha, Fraction(0), 1, 5) == 0
    with pytest.raises(EvidenceError):
        ev.level(Fraction(0), Fraction(1), 1, 0)


def test_the_threshold_is_met_exactly_and_never_at_level_zero() -> None:
    assert ev.crosses(Decimal(120), Fraction(1, 120))
    assert not ev.crosses(
        Decimal("119.99999999999999999999999999999999999999999"), Fraction(1, 120)
    )
    assert not ev.crosses(ev.E_CAP, Fraction(0))


# --- what the test promises, by simulation --------------------------------------------------------


@cache
def critical_slope(n: int, log_threshold: float) -> float:
    """The S / sqrt(Q) at which ln E reaches the threshold, or infinity (bisection on decimals)."""
    low, high = 0.0, math.sqrt(n)
    if float(ev._evidence(n, Decimal(repr(high))).ln()) < log_threshold:
        return math.inf
    for _ in range(16):
        middle = (low + high) / 2
        if float(ev._evidence(n, Decimal(repr(middle))).ln()) >= log_threshold:
            high = middle
        else:
            low = middle
    return high


def first_crossing(x: np.ndarray, log_threshold: float) -> np.ndarray:
    """The pair at which each row crosses (columns + 1 where it never does)."""
    slopes = np.cumsum(x, 1) / np.sqrt(np.cumsum(x * x, 1))
    bounds = np.array([critical_slope(n + 1, log_threshold) for n in range(x.shape[1])])
    hit = slopes >= bounds
    return np.where(hit.any(1), hit.argmax(1) + 1, x.shape[1] + 1)


@pytest.mark.parametrize(
    ("log_threshold", "marks"),
    [(9.7, {27: 5, 9: 6, 5: 8, 3: 11, 2: 15}), (math.log(120), {27: 3, 9: 4, 5: 5, 3: 6, 2: 8})],
)
def test_pairs_to_cross(log_threshold: float, marks: dict[int, int]) -> None:
    rng = np.random.default_rng(5)
    for effect, most in marks.items():
        crossing = first_crossing(rng.normal(effect, 1, (4000, 16)), log_threshold)
        assert np.median(crossing) <= most


def draw(name: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    if name == "normal":
        return rng.normal(0, 1, shape)
    if name == "t3":
        return rng.standard_t(3, shape)
    return rng.normal(0, 1, shape) * np.where(rng.random(shape) < 0.5, 1, 25)


@pytest.mark.parametrize("name", ["normal", "t3", "scale mixture"])
def test_under_the_null_e_rarely_ever_reaches_a_hundred(name: str) -> None:
    rng = np.random.default_rng(6)
    crossing = first_crossing(draw(name, rng, (40_000, 36)), math.log(100))
    share = float(np.mean(crossing <= 36))
    assert share <= 0.01  # measured: normal .0043, t3 .0024, mixture .0006
    assert name != "normal" or share > 0  # the simulation can see a crossing at all


def decide(values: np.ndarray, cap: int, at_level: Fraction) -> tuple[bool, int]:
    """The rule as the verdict applies it, on nano integers."""
    tally = ev.Tally()
    for n, value in enumerate(values, 1):
        tally = tally.add(int(value))
        if ev.crosses(tally.evidence(1), at_level):
            return True, n
        if n == cap or is_hopeless([MemberTally(None, tally)], 0, 1):
            return False, n
    return False, len(values)


@pytest.mark.parametrize(
    ("effect", "level_inverse", "power", "most_pairs"),
    [
        (0.0, 120, None, 5.4),
        (0.0, 16_318, None, 5.4),
        (2.0, 120, 0.98, 9),
        (2.0, 16_318, 0.98, 15),
    ],
)
def test_false_claims_stop_early_and_true_ones_are_found(
    effect: float, level_inverse: int, power: float | None, most_pairs: float
) -> None:
    rng = np.random.default_rng(7)
    rows = (rng.normal(effect, 1, (200, 24)) * 1e7).astype(np.int64)
    results = [decide(row, 24, Fraction(1, level_inverse)) for row in rows]
    assert np.mean([pairs for _, pairs in results]) <= most_pairs
    if power is None:
        assert sum(found for found, _ in results) <= 5
    else:
        assert np.mean([found for found, _ in results]) >= power

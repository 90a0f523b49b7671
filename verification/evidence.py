"""Evidence from paired measurements: the scale-free mixture e-process, in decimals.

What goes in are integers: ``d_nano = bpb(base) - bpb(candidate) - min_effect`` in nano-bits per
byte, one per pair, positive when the candidate is better by more than the charter's minimum. With
n pairs, S their sum and Q the sum of their squares, and delta over ``DELTAS`` with ``WEIGHTS``,

    LR_delta = exp(-n delta^2 / 2) * I_n(delta S / sqrt Q) / I_n(0)
    I_n(b)   = integral over r > 0 of r^(n-1) exp(-r^2/2 + b r)
    E_t      = weighted mean over delta of LR_delta

LR_delta is the likelihood ratio of the direction of the vector of pairs (of everything but its
scale), so E_t is a martingale under mean 0 whatever the variance, and smaller under a negative
mean: by Ville's inequality the chance that it ever reaches 1/alpha is at most alpha, however
often anybody looks. Stopping early needs no correction.

Every machine must compute the same digits, so nothing here is a float: ``decimal`` arithmetic
is correctly rounded (its exp, ln and sqrt included), the order of operations is fixed, and the
only transcendental inputs are exp and a literal pi. Sums of one sign are used throughout;
where b is negative and the recursion would cancel, it runs backwards (see ``_negative``).

Failures: a candidate run that crashed, diverged or broke its budget is a pair too. It counts as
``-max(failure_nano, |d| of every other pair so far)``. In words: as bad as the best pair was
good, and never less than the floor of the charter. Because E falls when that loss grows, an E that
crosses with the larger loss also crosses with the floor, which is fixed beforehand: the larger loss
costs power, never validity.

Limits. The promise is one for normal noise; t3 and mixtures of scales over 25 times were simulated
and keep it. Noise of two values breaks it: five equal pairs in a row look like an effect without
noise. No test that learns the scale from the pairs alone can know better; so for improvements
:mod:`verification.bounded` must agree, which knows a bound of the noise and asks nothing of its
shape. :mod:`verification.pooling` makes one number of both, and of what a bench with f liars says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from verification import approximate
from verification.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterable

RULE_VERSION: Final = 3
"""Names the arithmetic in this module; a change of any digit needs another number."""

DELTAS: Final = tuple(Decimal(delta) for delta in approximate.DELTAS)
"""The same effects as decimals."""

WEIGHTS: Final = approximate.WEIGHTS
"""How much is bet on each of them."""

DIGITS: Final = 50
"""Significant digits of a published E."""

E_CAP: Final = Decimal("1E+100")
"""Larger values are reported as this one, so that no record carries a thousand digits."""

MAX_PAIRS: Final = 4096
MAX_NANO: Final = 2**53

_WORK_DIGITS: Final = 70
_CROSSOVER: Final = Decimal(3)
_LN10_HALVED_DIGITS: Final = Decimal(92)  # (_WORK_DIGITS + 10) * ln(10) / 2, rounded up


def _context(digits: int) -> Context:
    """A context of our own: operators on Decimal would use the thread's, so none are used."""
    return Context(
        prec=digits,
        rounding=ROUND_HALF_EVEN,
        Emin=MIN_EMIN,
        Emax=MAX_EMAX,
        clamp=0,
        traps=[InvalidOperation, DivisionByZero, Overflow],
    )


WORK: Final = _context(_WORK_DIGITS)
PUBLISHED: Final = _context(DIGITS)


# --- I_n(b) ------------------------------------------------------------------------------------


def _negative(n: int, x: Decimal) -> Decimal:
    """I_n(-x) for x >= 3: a continued fraction of positive terms, summed from its far end.

    I_(k+1) = -x I_k + (k-1) I_(k-1) makes the ratio rho_k = I_k / I_(k-1) equal to
    (k-1) / (x + rho_(k+1)), and I_1 = 1 / (x + rho_2). Run forwards the recursion cancels; run
    backwards any start is forgotten by a factor of exp(2x) per step of sqrt(k).
    """
    c = WORK
    root = c.add(c.sqrt(Decimal(n)), c.divide(_LN10_HALVED_DIGITS, x))
    far = int(c.multiply(root, root)) + 2
    rho = Decimal(0)
    product = Decimal(1)
    for k in range(far, 1, -1):
        rho = c.divide(Decimal(k - 1), c.add(x, rho))
        if k <= n:
            product = c.multiply(product, rho)
    return c.divide(product, c.add(x, rho))


def _forward(n: int, b: Decimal, first: Decimal, c: Context) -> Decimal:
    """I_n(b) from I_1(b): I_2 = 1 + b I_1, I_k = b I_(k-1) + (k-2) I_(k-2)."""
    if n == 1:
        return first
    older, newer = first, c.add(Decimal(1), c.multiply(b, first))
    for k in range(3, n + 1):
        older, newer = newer, c.add(c.multiply(b, newer), c.multiply(Decimal(k - 2), older))
    return newer


def _first(b: Decimal, c: Context) -> Decimal:
    """I_1(b) = sqrt(2 pi) exp(b^2/2) Phi(b) for |b| < 3, by b + b^3/3 + b^5/15 + ..."""
    square = c.multiply(b, b)
    half_pi = c.divide(_pi(c.prec), Decimal(2))
    middle = c.multiply(c.sqrt(half_pi), c.exp(c.divide(square, Decimal(2))))
    term = total = b
    odd = 1
    floor = Decimal((0, (1,), -(c.prec + 2)))
    while term.copy_abs() > floor:
        odd += 2
        term = c.divide(c.multiply(term, square), Decimal(odd))
        total = c.add(total, term)
    return c.add(middle, total)


@cache
def _pi(digits: int) -> Decimal:
    """Pi to ``digits`` places by Machin's formula, in integers."""
    unit: int = 10 ** (digits + 10)

    def arctan_inverse(q: int) -> int:
        term = unit // q
        total, odd, sign = term, 1, 1
        while term:
            term //= q * q
            odd, sign = odd + 2, -sign
            total += sign * (term // odd)
        return total

    scaled = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    return Decimal((0, tuple(int(digit) for digit in str(scaled)), -(digits + 10)))


def integral(n: int, b: Decimal) -> Decimal:
    """I_n(b) = integral over r > 0 of r^(n-1) exp(-r^2/2 + b r), to about 60 digits."""
    c = WORK
    if b <= _CROSSOVER.copy_negate():
        return _negative(n, b.copy_negate())
    if b >= _CROSSOVER:
        half_square = c.divide(c.multiply(b, b), Decimal(2))
        whole = c.multiply(c.sqrt(c.multiply(Decimal(2), _pi(_WORK_DIGITS))), c.exp(half_square))
        return _forward(n, b, c.subtract(whole, _negative(1, b)), c)
    if b >= 0:
        return _forward(n, b, _first(b, c), c)
    # Cancellation costs a factor of about I_n(|b|) / I_n(b) < exp(2 |b| sqrt(n) + b^2).
    size = b.copy_negate()
    lost = c.add(c.multiply(c.multiply(Decimal(2), size), c.sqrt(Decimal(n))), c.multiply(b, b))
    wide = _context(_WORK_DIGITS + int(lost) // 2 + 10)
    return c.plus(_forward(n, b, _first(b, wide), wide))


@cache
def _integral_at_zero(n: int) -> Decimal:
    return integral(n, Decimal(0))


# --- E -----------------------------------------------------------------------------------------


def _check(d_nano: int) -> None:
    if isinstance(d_nano, bool) or not isinstance(d_nano, int) or abs(d_nano) > MAX_NANO:
        raise EvidenceError(
            f"A paired difference must be a whole number of nano-bits within +-{MAX_NANO}.",
            cure="Refuse the record that carries it; nothing was computed from it.",
        )


@lru_cache(maxsize=4096)
def evidence_of_sums(n: int, total: int, squares: int) -> Decimal:
    """E_t of n pairs with sum ``total`` and sum of squares ``squares`` (nano and nano^2).

    No pairs, or only zeros, are no evidence: exactly 1. Raises EvidenceError for sums that no n
    numbers can have.
    """
    if not 0 <= n <= MAX_PAIRS or total * total > n * squares:
        raise EvidenceError(
            f"{n} pairs cannot have these sums, or are more than {MAX_PAIRS}.",
            cure="Check the caller; no verdict was given.",
        )
    if squares == 0:
        return Decimal(1)
    return _evidence(n, WORK.divide(Decimal(total), WORK.sqrt(Decimal(squares))))


def _evidence(n: int, slope: Decimal) -> Decimal:
    """E_t of n pairs with S / sqrt(Q) = ``slope``."""
    c = WORK
    result = Decimal(0)
    for delta, weight in zip(DELTAS, WEIGHTS, strict=True):
        result = c.add(result, c.multiply(Decimal(weight), _ratio(n, slope, delta)))
    result = c.divide(result, Decimal(sum(WEIGHTS)))
    return E_CAP if result > E_CAP else PUBLISHED.plus(result)


def _ratio(n: int, slope: Decimal, delta: Decimal) -> Decimal:
    """LR_delta of n pairs with S / sqrt(Q) = ``slope``."""
    c = WORK
    shrink = c.exp(c.divide(c.multiply(Decimal(-n), c.multiply(delta, delta)), Decimal(2)))
    return c.multiply(shrink, c.divide(integral(n, c.multiply(delta, slope)), _integral_at_zero(n)))


def likelihood_ratio(n: int, total: int, squares: int, delta: Decimal) -> Decimal:
    """LR_delta of n pairs with these sums: 1 for none, and equal zeros count as slope 0."""
    if n == 0:
        return Decimal(1)
    root = WORK.sqrt(Decimal(squares))
    return _ratio(n, WORK.divide(Decimal(total), root) if squares else Decimal(0), delta)


@dataclass(frozen=True, slots=True)
class Tally:
    """Running sums of a claim's pairs, one number at a time; all that E needs to know.

    ``total`` and ``squares`` cover the pairs that ran (nano, nano^2), ``largest`` is the largest
    |d| among them, ``failed`` the number of pairs whose candidate failed.
    """

    ran: int = 0
    total: int = 0
    squares: int = 0
    largest: int = 0
    failed: int = 0

    @property
    def pairs(self) -> int:
        """Pairs so far, failed ones included."""
        return self.ran + self.failed

    def add(self, d_nano: int | None) -> Tally:
        """The tally with one more pair: its difference in nano, or None for a failed candidate."""
        if d_nano is None:
            return replace(self, failed=self.failed + 1)
        _check(d_nano)
        return Tally(
            self.ran + 1,
            self.total + d_nano,
            self.squares + d_nano * d_nano,
            max(self.largest, abs(d_nano)),
            self.failed,
        )

    def __add__(self, other: Tally) -> Tally:
        """The pairs of both."""
        return Tally(
            self.ran + other.ran,
            self.total + other.total,
            self.squares + other.squares,
            max(self.largest, other.largest),
            self.failed + other.failed,
        )

    def sums(self, failure_nano: int) -> tuple[int, int, int]:
        """(n, S, Q) with every failed pair counted as -max(failure_nano, largest)."""
        loss = max(failure_nano, self.largest)
        return (
            self.pairs,
            self.total - self.failed * loss,
            self.squares + self.failed * loss * loss,
        )

    def evidence(self, failure_nano: int) -> Decimal:
        """E_t of the pairs so far (``failure_nano`` > 0: the least that a failed pair counts)."""
        return evidence_of_sums(*self.sums(failure_nano))


def wealth(d_nano: Iterable[int | None], failure_nano: int = 1) -> list[Decimal]:
    """E after each pair, in order: an anytime-valid path, to be compared at every step.

    ``None`` is a failed candidate. Without calibration records E is E_t.
    """
    tally, path = Tally(), []
    for d in d_nano:
        tally = tally.add(d)
        path.append(tally.evidence(failure_nano))
    return path


# --- levels (e-LOND) -----------------------------------------------------------------------------


def level(alpha: Fraction, gamma: Fraction, slots: int, adopted_ancestors: int) -> Fraction:
    """The level of one claim: alpha * (gamma / slots) * (R + 1), at most 1.

    ``gamma`` is a part of alpha that is fixed beforehand, spread evenly over so many ``slots``;
    ``adopted_ancestors`` is R, the adopted claims of its family that the claim stands on. With all
    gammas that are ever given summing to at most 1 the false discovery rate is at most alpha under
    any dependence (e-LOND); ``verification.budget`` sees to that for the life of a swarm. A gamma
    of 0 gives level 0: never adopted. A level whose fraction would not fit a record is rounded down
    to one that does. Raises EvidenceError.
    """
    if not (0 < alpha < 1 and 0 <= gamma <= 1 and slots >= 1 and adopted_ancestors >= 0):
        raise EvidenceError(
            "A level needs 0 < alpha < 1, 0 <= gamma <= 1, a slot and no negative count.",
            cure="Check the charter's alpha and who has a share of it.",
        )
    exact = min(Fraction(1), alpha * gamma / slots * (adopted_ancestors + 1))
    if exact.denominator <= MAX_NANO:
        return exact
    return Fraction(exact.numerator * MAX_NANO // exact.denominator, MAX_NANO)


def crosses(evidence: Decimal, at_level: Fraction) -> bool:
    """Whether E >= 1/level, compared as exact fractions; never at level 0."""
    return at_level > 0 and Fraction(evidence) * at_level >= 1

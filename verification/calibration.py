"""How noisy pairs are where nothing was changed: from measured null pairs to a bound that counts.

A null pair compares the base with itself in another data order, everything else alike. With the n
differences d that a member measured so,

    s      = sqrt((sum d^2 - (sum d)^2 / n) / (n - 1))     the standard deviation about their mean
    sigma0 = s * 1.37 from 20 pairs on, s * 1.55 from 12   both rounded up, in nano-bits per byte

The factors make sigma0 an upper bound of the true standard deviation with 95 % confidence for
normal noise (19 and 11 degrees of freedom). Fewer than 12 pairs bound nothing.

What ``verification.bounded`` (E_b, which the evidence never exceeds) builds on it, and a reader
has to know: under the null, the pairs of the *claim* have a standard deviation of at most 1.5
sigma0. That is an assumption about claims and not about machines: that a change disturbs training
hardly more than another data order does. Of 36 edits of the ``quick`` baseline, measured in 9 pairs
each, the noisiest (other random numbers for the initial weights) had 1.3 times the sigma0 of 20
null pairs. Beyond that E_b keeps no level; the other evidence, E_t, then
still does if noise is normal.

The base is that of the challenge, whatever the frontier is by now: assumed is also that what was
adopted since has not made training noisier.

A calibration is void, and its member's commits must not name it, on another class of hardware, in
another environment (``env_digest``) or in another tier. It says nothing about how honest its author
is: a bench covers that (f liars), not a calibration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from swarm.records import Calibration, Commit
from verification.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.envelope import Record
    from swarm.records import TierPolicy
    from verification.shelf import Said

FACTORS: Final = ((20, 1370), (12, 1550))
"""From so many pairs on, s times so many thousandths; most pairs first."""
MIN_PAIRS: Final = FACTORS[-1][0]
SAME_START: Final = "same-start"
"""The noise class of pairs whose runs begin with the same weights; the only one that there is."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What null pairs say: their number, s, the factor in thousandths, and sigma0 (nano)."""

    n: int
    s_nano: int
    factor_milli: int
    sigma0_nano: int


def bound_of(pairs: Sequence[int]) -> Bound:
    """The bound that ``pairs`` (bpb(base) - bpb(null change), nano) give.

    Raises:
        EvidenceError: fewer than 12 pairs, or pairs without any noise: no bound is that small.
    """
    n = len(pairs)
    factor = next((factor for least, factor in FACTORS if n >= least), None)
    if factor is None:
        raise EvidenceError(
            f"{n} null pairs bound no noise: it takes {MIN_PAIRS}, and {FACTORS[0][0]} are better.",
            cure="lazaretto calibrate --pairs 20",
        )
    spread = n * sum(d * d for d in pairs) - sum(pairs) ** 2
    s = _root_up(spread, n * (n - 1))
    if s == 0:
        raise EvidenceError(
            "The null pairs do not differ at all, so they measured no noise.",
            cure="Check that the tier trains: lazaretto doctor, then lazaretto calibrate again.",
        )
    return Bound(n, s, factor, -(-s * factor // 1000))


def fault(record: Record, commit: Said, policy: TierPolicy) -> str:
    """Why ``commit`` may not name the calibration in ``record``; empty when it may.

    Nothing that arrives later changes the answer. ``policy`` is that of the claim's tier.
    """
    said = record.payload
    assert isinstance(said, Calibration)
    rules = (
        ("calibration_of_another_author", record.author == commit.author),
        ("calibration_after_its_commit", record.envelope.seq < commit.seq),
        ("calibration_of_another_tier", said.tier == policy.name),
        ("calibration_class_not_in_the_charter", said.hw_class in policy.classes),
        ("calibration_of_an_unknown_noise_class", said.noise_class == SAME_START),
        ("calibration_numbers_do_not_follow", follows(said)),
    )
    return next((reason for reason, kept in rules if not kept), "")


class Calibrations:
    """The calibrations of a swarm, and which claims hang on them; for the fold of a quarantine."""

    def __init__(self) -> None:
        self._records: dict[bytes, Record] = {}
        self._claims: dict[bytes, set[bytes]] = {}

    def add(self, record: Record) -> frozenset[bytes]:
        """Take in a calibration; returns the claims with a commit that names it."""
        self._records[record.id] = record
        return frozenset(self._claims.get(record.id, ()))

    def note(self, commit: Commit) -> None:
        """Remember which claim hangs on the calibration that a commit names."""
        if commit.calibration is not None:
            self._claims.setdefault(commit.calibration, set()).add(commit.claim)

    def bound(self, policy: TierPolicy, commit: Said) -> int | str | None:
        """sigma0 of the calibration that a commit names, None without one, or why the commit does
        not count (yet).
        """
        payload = commit.payload
        assert isinstance(payload, Commit)
        if payload.calibration is None:
            return None
        record = self._records.get(payload.calibration)
        if record is None:
            return "calibration_unknown"
        said = record.payload
        assert isinstance(said, Calibration)
        return fault(record, commit, policy) or said.sigma0_nano


def follows(said: Calibration) -> bool:
    """Whether a record's numbers follow from the pairs in it."""
    try:
        bound = bound_of(said.pairs)
    except EvidenceError:
        return False
    return bound == Bound(said.n, said.s_nano, said.factor_milli, said.sigma0_nano)


def _root_up(numerator: int, denominator: int) -> int:
    """The smallest whole number whose square is at least the quotient."""
    quotient = -(-numerator // denominator)
    root = math.isqrt(quotient)
    return root if root * root == quotient else root + 1

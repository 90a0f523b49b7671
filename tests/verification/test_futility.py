"""When claims are stopped: never by one bad pair or f liars, soon where nothing is gained."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from tests.verification.test_evidence import log_integral
from verification import futility
from verification.evidence import Tally
from verification.futility import is_hopeless
from verification.pooling import MemberTally

UNIT = 10_000_000
BENCHES = [(1, 0), (2, 0), (3, 1), (5, 1), (5, 2)]


def bench(*members: list[int | None]) -> list[MemberTally]:
    found = []
    for pairs in members:
        tally = Tally()
        for pair in pairs:
            tally = tally.add(pair)
        found.append(MemberTally(None, tally))
    return found


def test_one_bad_pair_stops_nothing_and_bad_pairs_of_f_members_never_do() -> None:
    assert not is_hopeless(bench([]), 0, UNIT)
    assert not is_hopeless(bench([-UNIT]), 0, UNIT)
    assert is_hopeless(bench([-UNIT, -UNIT]), 0, UNIT)
    assert not is_hopeless(bench([-UNIT] * 24, [2 * UNIT, 3 * UNIT], [2 * UNIT, 3 * UNIT]), 1, UNIT)
    assert not is_hopeless(bench([-UNIT] * 24, [], []), 1, UNIT)
    assert is_hopeless(bench([-UNIT] * 2, [-UNIT] * 2, [-UNIT]), 1, UNIT)


def test_failed_pairs_and_equal_zeros_speak_against_a_claim() -> None:
    assert is_hopeless(bench([None, None]), 0, UNIT)
    assert is_hopeless(bench([0, 0, 0, 0]), 0, UNIT)


def slow_against(tally: Tally, delta: float) -> float:
    """1 / LR_delta by quadrature."""
    n, total, squares = tally.sums(UNIT)
    if not n:
        return 1.0
    slope = total / math.sqrt(squares) if squares else 0.0
    log = log_integral(n, delta * slope) - log_integral(n, 0.0) - n * delta * delta / 2
    return math.exp(-log)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_formula_of_its_docstring(seed: int) -> None:
    """An independent slow twin, by quadrature and brute force over all (N-f)-sets."""
    rng = random.Random(seed)
    n, f = BENCHES[seed % len(BENCHES)]
    mean = rng.choice([-1, 0, 0.5, 1])
    members = bench(
        *([int(rng.gauss(mean, 1) * UNIT) for _ in range(rng.randint(0, 4))] for _ in range(n))
    )
    delta = 2.0 if f else 1.5
    stop = True
    for chosen in combinations(members, n - f):
        whole = Tally()
        for member in chosen:
            whole += member.pairs
        alone = [slow_against(member.pairs, delta) for member in chosen]
        against = 0.9 * slow_against(whole, delta) + 0.1 * sum(alone) / len(alone)
        stop = stop and against >= 1000 / 45
    assert is_hopeless(members, f, UNIT) == stop


def test_floats_and_decimals_stop_at_the_same_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    cases = [
        bench(*([int(rng.gauss(0, 1) * UNIT) for _ in range(rng.randint(1, 3))] for _ in range(3)))
        for _ in range(40)
    ]
    quick = [is_hopeless(case, 1, UNIT) for case in cases]
    assert 5 < sum(quick) < 35
    monkeypatch.setattr(futility.approximate, "MARGIN", 1e9)  # decimals for everything
    assert [
        all(
            futility._against(
                sum((member.pairs for member in chosen), Tally()),
                [member.pairs for member in chosen],
                UNIT,
                futility.effect(1),
            )
            for chosen in combinations(case, 2)
        )
        for case in cases
    ] == quick


@pytest.mark.parametrize(("f", "gain"), [(0, 1.5), (1, 2.0), (1, 4.0)])
def test_no_more_than_the_stated_share_of_true_claims_is_stopped(f: int, gain: float) -> None:
    """N - f honest members, and f who report losses; turns of up to 12 rounds."""
    stopped, claims = 0, 300
    rng = np.random.default_rng(4)
    for _ in range(claims):
        members = [MemberTally() for _ in range(1 + 2 * f)]
        for turn in range(12 * len(members)):
            rank = turn % len(members)
            said = -9.0 if rank < f else rng.normal(gain, 1)
            members[rank] = members[rank].add(int(said * UNIT), 3000)
            if is_hopeless(members, f, UNIT):
                stopped += 1
                break
    share = futility.LOSS_MILLI / 1000
    assert stopped / claims <= share + 3 * math.sqrt(share / claims)


def test_the_share_is_a_fraction_that_one_bad_pair_does_not_reach() -> None:
    against = slow_against(bench([-UNIT])[0].pairs, 2.0)
    assert 21 < against < Fraction(1000, futility.LOSS_MILLI)

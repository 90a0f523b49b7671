"""What a researcher takes for real enough to ask verifiers for their time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.research import MAX_PAIRS, MIN_PAIRS, judge

EFFECT = 5_000_000


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([], "more"),
        ([EFFECT], "no"),
        ([-1], "no"),
        ([30_000_000], "more"),
        ([30_000_000, 31_000_000], "more"),
        ([30_000_000, 31_000_000, 29_000_000], "more"),
        ([30_000_000, 31_000_000, 29_000_000, 30_000_000, 30_000_000], "no"),
        ([60_000_000, 61_000_000, 59_000_000], "yes"),
        ([46_000_000, 47_000_000, 46_000_000, 45_000_000, 46_000_000], "yes"),
        ([30_000_000, 4_000_000], "no"),
        ([30_000_000, 6_000_000, 29_000_000], "more"),
        ([30_000_000, 6_000_000, 29_000_000, 5_000_000], "no"),
        ([60_000_000, 6_000_000, 6_000_000, 6_000_000, 6_000_000], "no"),
    ],
)
def test_judgement(gains, verdict):
    assert judge(gains, EFFECT) == verdict


@given(st.lists(st.integers(-(10**9), 10**9), max_size=MAX_PAIRS))
def test_a_judgement_is_reached_and_never_on_one_seed(gains):
    verdict = judge(gains, EFFECT)
    if verdict == "yes":
        assert len(gains) >= MIN_PAIRS
        assert min(gains) > EFFECT
    if len(gains) == MAX_PAIRS:
        assert verdict != "more"


def test_noise_is_not_often_worth_a_claim():
    """Without an effect, pairs as noisy as 'lr x 2' of the tier are claimed now and then only."""
    import random

    random.seed(7)
    claims = 0
    for _ in range(2000):
        gains: list[int] = []
        while judge(gains, EFFECT) == "more":
            gains.append(int(random.gauss(0, 9_000_000)))
        claims += judge(gains, EFFECT) == "yes"
    assert claims < 2000 * 0.02

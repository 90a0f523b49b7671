"""What a researcher builds on at home, and what is real enough to ask verifiers for their time."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.compare import policy_of
from node.judging import (
    FURTHER,
    KEEP_PAIRS,
    MAX_PAIRS,
    MIN_PAIRS,
    Stack,
    early_pays,
    is_due,
    is_hopeless,
    is_look,
    judge_edit,
    judge_stack,
    runs_left,
)
from node.proposers import Change, Proposal

EFFECT = 5_000_000
FEW = 10_000_000


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
    assert judge_stack(gains, EFFECT) == verdict


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([], "more"),
        ([0], "no"),
        ([1], "more"),
        ([FEW, -1], "no"),
        ([FEW, 1], "yes"),
        ([EFFECT, EFFECT], "no"),
        ([EFFECT, EFFECT + 1], "yes"),
    ],
)
def test_what_stays_at_home(gains, verdict):
    assert judge_edit(gains, EFFECT) == verdict


@given(st.lists(st.integers(-(10**9), 10**9), max_size=MAX_PAIRS))
def test_a_judgement_is_reached_and_never_on_one_seed(gains):
    verdict = judge_stack(gains, EFFECT)
    if verdict == "yes":
        assert len(gains) >= MIN_PAIRS
        assert min(gains) > EFFECT
    if len(gains) == MAX_PAIRS:
        assert verdict != "more"


def test_noise_is_not_often_worth_a_claim():
    """Without an effect, pairs as noisy as 'lr x 2' of the tier are claimed now and then only."""
    random.seed(7)
    claims = kept = 0
    for _ in range(2000):
        gains: list[int] = []
        while judge_stack(gains, EFFECT) == "more":
            gains.append(int(random.gauss(0, 9_000_000)))
        claims += judge_stack(gains, EFFECT) == "yes"
        while judge_edit(gains[:KEEP_PAIRS], EFFECT) == "more":
            gains.append(int(random.gauss(0, 9_000_000)))
        kept += judge_edit(gains[:KEEP_PAIRS], EFFECT) == "yes"
    assert claims < 2000 * 0.02
    assert 2000 * 0.1 < kept < 2000 * 0.25


def test_a_claim_is_earned_by_research():
    policy = replace(policy_of("quick")[0], effect_pairs=4)
    assert is_due(0, policy, 1000)
    assert [is_due(runs, policy, 500) for runs in (17, 18)] == [False, True]
    assert [is_due(runs, policy, 333) for runs in (36, 37)] == [False, True]
    assert not is_due(10_000, policy, 1)
    assert [runs_left(runs, policy, 333) for runs in (0, 30, 36, 37, 90)] == [37, 7, 1, 0, 0]


def edit(code, *changes, by="tpe", merges=()):
    said = ", ".join(map(str, changes)) or "rewritten"
    return Proposal(code.decode(), code, said, by, "", changes, merges)


def test_a_stack_is_told_as_one_edit():
    stack = Stack.on(b"0")
    assert (stack.changes, stack.merges, stack.ratio_with(1200)) == ((), (), 1200)
    stack = stack.plus(edit(b"1", Change("A", 1, 2)), [FEW, 2 * FEW], 1200, 5)
    assert stack.hypothesis == "A 1 -> 2"
    stack = stack.plus(edit(b"2", Change("B", 1, 2), by="random"), [3 * FEW, FEW], 1100, 5)
    stack = stack.plus(edit(b"3", Change("A", 2, 3), Change("B", 2, 1), by="tpe"), [1, 1], 1000, 5)
    assert (stack.base, stack.code, stack.gains) == (b"0", b"3", (4 * FEW + 1, 3 * FEW + 1))
    assert (stack.cost_ratio_milli, stack.cost_ms) == (1320, 15)
    assert (stack.hypothesis, stack.author) == ("A 1 -> 3", "random + tpe")
    stack = stack.plus(edit(b"4", merges=(bytes(32),)), [1, 1], 1000, 5)
    assert stack.hypothesis == "A 1 -> 2; B 1 -> 2; A 2 -> 3, B 2 -> 1; rewritten"
    assert (stack.merges, stack.proposal.code) == ((bytes(32),), b"4")
    for at in range(200):
        stack = stack.plus(edit(b"%d" % at), [1, 1], 1000, 5)
        stack = stack.plus(edit(b"x", by=f"model {at}"), [1, 1], 1000, 5)
    assert len(stack.hypothesis) == 500
    assert len(stack.author) == 120


@pytest.mark.parametrize(
    ("hypothesis", "outcome", "pairs", "look"),
    [
        (FURTHER + "both", "not_better", 3, True),
        (FURTHER + "both", "failed", 2, True),
        (FURTHER + "says a model of an edit", "better", 2, False),
        (FURTHER + "says a model of an edit", "failed", 1, False),
        ("an edit of older days", "better", 5, False),
    ],
)
def test_what_a_model_writes_makes_no_look_of_an_edit(hypothesis, outcome, pairs, look):
    said = SimpleNamespace(hypothesis=hypothesis, outcome=outcome, dev_pairs=(0,) * pairs)
    assert is_look(said) == look


@pytest.mark.parametrize(
    ("train_ms", "score_ms", "pays"),
    [
        (2_200, 900, False),
        (240_000, 14_000, True),
        (300_000, 19_000, True),
        (60_000, 60_000, False),
    ],
)
def test_a_first_look_pays_where_scoring_is_a_small_part(train_ms, score_ms, pays):
    assert early_pays(train_ms, score_ms) == pays


def test_only_what_is_clearly_worse_is_hopeless():
    assert [is_hopeless(gain, EFFECT) for gain in (-EFFECT - 1, -EFFECT, 0, EFFECT)] == [
        True, False, False, False,
    ]  # fmt: skip

"""What is measured of an edit at home: a first look where that pays, then pairs; real training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.judging import Stack
from node.research import _outcome
from node.trials import Trials
from tests.node.test_rechecking import up
from tests.node.tiny import BASE, BETTER, tiny_swarm

WORSE = BASE.replace(b"lr=0.001", b"lr=0.00001")
STEP = b"batches(16, 32)\n"
LONG = BETTER.replace(b"    while True:\n", b"    first = True\n    while True:\n").replace(
    STEP, STEP + b"        assert budget.progress < 0.1 or not first\n        first = False\n"
)
"""Fails on a part of the budget, of which its first step is more than a tenth."""


@pytest.fixture
async def trials(tmp_path):
    home = tiny_swarm(tmp_path, {"ada": ("researcher", "governor")})["ada"]
    async with up(home) as (node, _):
        made = Trials(node, None, BASE)
        made.min_effect = 1_000_000
        yield made


@pytest.mark.sandbox
async def test_a_first_look_is_enough_to_give_up_what_is_clearly_worse(trials, monkeypatch):
    monkeypatch.setattr("node.judging.EARLY_MOST_MILLI", 1000)  # it is not so long a tier
    stack = Stack.on(BASE)
    known = await trials.measure(stack, WORSE)  # nothing is known of the base yet
    runs = trials.runs
    assert not known.early
    found = await trials.measure(stack, WORSE)
    assert (found.early, found.status, len(found.gains)) == (True, "ok", 1)
    assert found.gains[0] < -trials.min_effect
    assert found.base_bpb[0] > known.base_bpb[0]  # a shorter run
    assert trials.runs == runs  # no whole run, so it earns no claim
    outcome, reason = _outcome(found, trials.min_effect, 0)
    assert (outcome, reason) == ("not_better", "worse on a first look, a run of 1/8 of the budget")
    better = await trials.measure(stack, BETTER)
    assert (better.early, better.status, len(better.gains)) == (False, "ok", 2)


@pytest.mark.sandbox
async def test_who_fails_on_a_part_of_the_budget_needs_no_more(trials, monkeypatch):
    monkeypatch.setattr("node.judging.EARLY_MOST_MILLI", 1000)
    stack = Stack.on(BASE)
    await trials.measure(stack, WORSE)
    runs = trials.runs
    found = await trials.measure(stack, LONG)
    assert (found.early, found.status, found.gains) == (True, "crashed", ())
    assert trials.runs == runs
    trials.tier = replace(trials.tier, max_cost_ratio_milli=1)
    found = await trials.measure(stack, BETTER)
    assert (found.early, found.status, found.gains) == (True, "too_costly", ())


@pytest.mark.sandbox
async def test_a_base_that_fails_on_a_part_of_the_budget_ends_first_looks(trials, monkeypatch):
    monkeypatch.setattr("node.judging.EARLY_MOST_MILLI", 1000)
    trials.stack = Stack.on(LONG)
    for _ in range(2):
        found = await trials.measure(trials.stack, WORSE)
        assert (found.early, found.status) == (False, "ok")
        assert found.gains[0] < 0


@pytest.mark.sandbox
async def test_short_tiers_have_no_first_look(trials):
    stack = Stack.on(BASE)
    await trials.measure(stack, WORSE)
    assert not (await trials.measure(stack, WORSE)).early

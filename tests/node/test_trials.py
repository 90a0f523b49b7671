"""What is measured of an edit at home: a first look where that pays, then pairs; real training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from node.judging import Stack
from node.research import _outcome
from node.trials import Trials, _ratio
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
    assert trials.runs == runs  # two looks are a quarter of a run
    assert found.base_bpb == found.bpb == ()  # which would be taken for scores of whole runs
    outcome, reason = _outcome(found, trials.min_effect, 0)
    assert (outcome, reason) == ("not_better", "worse on a first look, a run of 1/8 of the budget")
    for _ in range(3):
        await trials.measure(stack, WORSE)
    assert trials.runs == runs
    for _ in range(3):
        await trials.measure(stack, WORSE)
    assert trials.runs == runs + 1
    brought = await trials.measure(stack, WORSE, first_look=False)
    assert not brought.early
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
    parts = []
    pair = trials._pair

    async def watched(base, candidate, index, lane, part=1):
        parts.append(part)
        return await pair(base, candidate, index, lane, part)

    monkeypatch.setattr(trials, "_pair", watched)
    for _ in range(3):
        found = await trials.measure(trials.stack, WORSE)
        assert (found.early, found.status) == (False, "ok")
        assert found.gains[0] < 0
    assert parts == [1, 8, 1, 1]


def costs(train, score):
    return SimpleNamespace(cost_ms=train), SimpleNamespace(cost_ms=score)


def test_what_an_edit_costs_is_extrapolated_from_a_first_look():
    """Scoring is dearer by half, and a small part of a whole run."""
    (base_run, base), (run, candidate) = costs(100, 100), costs(100, 150)
    pair = SimpleNamespace(
        trained=SimpleNamespace(base=base_run, candidate=run), base=base, candidate=candidate,
        cost_ratio_milli=1250, base_training_ms=base_run.cost_ms, base_scoring_ms=base.cost_ms,
    )  # fmt: skip
    assert _ratio(pair, 1) == 1250
    assert _ratio(pair, 8) == 950_000 // 900


@pytest.mark.sandbox
async def test_short_tiers_have_no_first_look(trials):
    stack = Stack.on(BASE)
    await trials.measure(stack, WORSE)
    assert not (await trials.measure(stack, WORSE)).early


@pytest.mark.sandbox
async def test_where_time_is_the_budget_there_is_no_first_look(trials, monkeypatch):
    monkeypatch.setattr("node.judging.EARLY_MOST_MILLI", 1000)
    trials.tier = replace(trials.tier, budget_ms=60_000)
    for _ in range(2):
        assert not (await trials.measure(Stack.on(BASE), WORSE)).early

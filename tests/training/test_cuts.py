"""Where the future is cut off: odds, draws, and what no process may be told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.candidates import FOLD
from training import cuts, evaluator, windows
from training.cuts import Cut
from training.sheet import Sheet, Tolerance

ROWS = windows.cut(FOLD, 32)


def rng(seed=1):
    return windows.generator(seed, "test")


def test_chances_follow_the_odds_and_no_place_is_drawn_twice():
    weights = np.ones((20, 50))
    weights[3] = 4.0
    weights[7] = 0.0
    weights[9, 9] = 1e6  # sure
    times = np.zeros(weights.shape)
    for seed in range(400):
        drawn = cuts.draw(weights, 100, rng(seed))
        assert len(set(drawn)) == len(drawn)
        assert abs(len(drawn) - 100) <= 1
        for cut in drawn:
            times[cut] += 1
    assert times[9, 9] == 400
    assert times[7].sum() == 0
    assert times[3].mean() / times[[0, 1, 2, 4, 5, 6]].mean() == pytest.approx(4, rel=0.15)


def test_where_there_is_room_every_position_is_asked():
    weights = cuts.odds(ROWS, np.zeros(ROWS.inputs.shape), np.zeros(ROWS.inputs.shape))
    drawn = cuts.draw(weights, 10**6, rng())
    assert len(drawn) == int((weights > 0).sum()) == len(set(drawn))
    assert {cut.position for cut in drawn} == set(range(31))  # after the last there is no future
    assert all(cut.position < ROWS.sizes[cut.row] for cut in drawn)
    assert cuts.draw(np.zeros((3, 4)), 10, rng()) == []


def test_odds_are_the_ratio_of_probabilities_within_bounds():
    known = np.full(ROWS.inputs.shape, -2.0)
    known[0, :5] = [-1.0, -3.0, -0.0, -50.0, -2.0]
    reference = np.full(ROWS.inputs.shape, -2.0)
    reference[0, 2:5] = [-40.0, -1.0, -np.inf]
    found = cuts.odds(ROWS, known, reference)[0]
    assert found[:6] == pytest.approx([np.e, 1 / np.e, cuts.MOST, cuts.LEAST, cuts.MOST, 1.0])


DRAWS = st.lists(
    st.builds(Cut, st.integers(0, 40), st.integers(0, 30)), min_size=1, max_size=200, unique=True
)


@given(drawn=DRAWS, seed=st.integers(0, 99), probers=st.integers(1, 3))
@settings(max_examples=60)
def test_nobody_is_told_the_future_of_what_they_will_be_asked(drawn, seed, probers):
    """No process, and none beside it, holds a token beyond a cut that is yet to come."""
    rows = windows.cut(FOLD, 32)
    groups = windows.batches_of(rows, 16, rng(seed))
    drawn = [cut for cut in drawn if cut.row < len(rows)]
    asked = evaluator._probes(rows, groups, drawn, probers, rng(seed))
    assert len(asked) == probers
    beside: list[set[int]] = []
    placed = []
    for requests in asked:
        told: dict[int, int] = {}
        for request in requests:
            assert len(set(request.rows)) == len(request.rows) or request.probe == "neighbours"
            for at, (row, known) in enumerate(zip(request.rows, request.known, strict=True)):
                if request.probe == "future":
                    assert told.get(row, 0) < known
                    placed.append(Cut(row, known - 1))
                    assert (request.tokens[at, :known] == rows.inputs[row, :known]).all()
                    length = request.tokens.shape[1]
                    assert (request.tokens[at, known:] != rows.inputs[row, known:length]).all()
                    assert request.first <= known - 1
                told[row] = max(told.get(row, 0), known)
        kinds = [request.probe for request in requests]
        assert kinds == sorted(kinds, key=["future", "neighbours"].index)
        beside.append(set(told))
    assert sorted(placed) == sorted(drawn)
    for at, one in enumerate(beside):
        assert all(not one & other for other in beside[at + 1 :])


@given(drawn=DRAWS, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_what_is_asked_again_has_the_shape_and_the_place_of_the_score(drawn, seed):
    place = {row: row % 7 for row in range(len(ROWS))}
    drawn = [cut for cut in drawn if cut.row < len(ROWS)]
    told: dict[int, int] = {}
    found = []
    for request in cuts.again(ROWS, drawn, place, 8, rng(seed), "future"):
        assert request.tokens.shape == (8, 32)
        assert request.first == 0
        for at, (row, known) in enumerate(zip(request.rows, request.known, strict=True)):
            if row < 0:
                continue
            assert place[row] == at
            assert told.get(row, 0) < known
            told[row] = known
            assert (request.tokens[at, :known] == ROWS.inputs[row, :known]).all()
            assert (request.tokens[at, known:] != ROWS.inputs[row, known:]).all()
            found.append(Cut(row, known - 1))
    assert sorted(found) == sorted(drawn)


@pytest.mark.parametrize(("off", "status"), [(0.0, "ok"), (0.001, "ok"), (0.01, "non_causal")])
def test_a_doubt_is_settled_by_the_shape_of_the_score_alone(off, status):
    sheet = Sheet(ROWS, Tolerance(2_000_000, 30_000_000, 1_000_000_000))
    whole = windows.whole(ROWS, range(4))
    known = np.full((4, 32), -2.0)
    sheet.take(whole, known)
    requests = cuts.requests(ROWS, [Cut(0, 9), Cut(1, 9), Cut(2, 9)], 4, rng())
    for sign in (0.02, -0.02, 0.0):  # rounding in both directions
        for request in requests:
            sheet.take(request, np.full((len(request.rows), 10 - request.first), -2.0 + sign))
    assert len(sheet.doubts("future")) == 6
    wanted = {Cut(doubt.row, doubt.known - 1) for doubt in sheet.doubts("future")}
    for request in cuts.again(ROWS, sorted(wanted), sheet.place, 4, rng(), "future"):
        sheet.settle(request, np.full((4, 32), -2.0 - off))
    assert sheet.verdict()[0] == status

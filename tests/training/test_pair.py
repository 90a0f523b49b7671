"""Pairs: same seed, same tokens, and who is to blame for a failure."""

from __future__ import annotations

import threading
from dataclasses import replace

import msgspec
import pytest

from tests.training.candidates import FOLD, TIER, TRAIN, load
from training import pair, runner
from training.errors import BaseFailed, Cancelled, TrainingError
from training.pair import TrainedPair, score_pair, train_pair

HONEST = load("honest")
WORSE = HONEST.replace(b"lr=0.1", b"lr=0.001")

pytestmark = pytest.mark.sandbox


def test_a_pair_from_training_to_the_difference():
    trained = train_pair(WORSE, HONEST, TIER, TRAIN, 11)
    assert trained.init_identical
    assert trained.base.init_digest == trained.candidate.init_digest
    assert trained.order in ("base_first", "candidate_first")
    assert trained.seed == 11
    result = score_pair(WORSE, HONEST, trained, TIER, FOLD, 12)
    assert result.status == "ok"
    assert result.d_nano == result.base.nano_bpb - result.candidate.nano_bpb
    assert result.d_nano > 100_000_000
    assert result.cost_ratio_milli > 0


def test_the_same_code_is_exactly_as_good():
    trained = train_pair(HONEST, HONEST, TIER, TRAIN, 11)
    assert trained.base.weights_digest == trained.candidate.weights_digest
    assert score_pair(HONEST, HONEST, trained, TIER, FOLD, 12).d_nano == 0


def test_a_run_of_the_base_can_be_used_again():
    known = runner.train(HONEST, TIER, TRAIN, 11)
    trained = train_pair(HONEST, WORSE, TIER, TRAIN, 11, base_run=known)
    assert trained.base is known
    assert trained.candidate.status == "ok"


def test_a_failed_candidate_is_a_result():
    trained = train_pair(HONEST, load("returns_nan"), TIER, TRAIN, 11)
    assert trained.candidate.status == "non_finite"
    result = score_pair(HONEST, load("returns_nan"), trained, TIER, FOLD, 12)
    assert (result.status, result.d_nano) == ("non_finite", 0)
    assert result.base is result.candidate is None


def test_a_cheating_candidate_is_a_result():
    cheat = load("reads_ahead")
    trained = train_pair(HONEST, cheat, TIER, TRAIN, 11)
    result = score_pair(HONEST, cheat, trained, TIER, FOLD, 12)
    assert (result.status, result.d_nano) == ("non_causal", 0)
    assert result.base.status == "ok"
    assert result.candidate.nano_bpb == 0
    assert not trained.init_identical


def test_a_failed_base_is_an_error():
    with pytest.raises(BaseFailed) as caught:
        train_pair(load("vanishes"), HONEST, TIER, TRAIN, 11)
    assert caught.value.status == "crashed"
    assert isinstance(caught.value, TrainingError)
    trained = train_pair(load("reads_ahead"), HONEST, TIER, TRAIN, 11)
    with pytest.raises(BaseFailed) as caught:
        score_pair(load("reads_ahead"), HONEST, trained, TIER, FOLD, 12)
    assert caught.value.status == "non_causal"


def test_cancelling_is_an_error():
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        train_pair(HONEST, HONEST, TIER, TRAIN, 11, cancel=cancel)


def test_both_orders_occur():
    orders = {pair._order(seed) for seed in range(32)}
    assert orders == {"base_first", "candidate_first"}


def test_a_pair_can_be_kept_and_read_again():
    trained = train_pair(HONEST, WORSE, TIER, TRAIN, 11)
    bare = replace(trained, base=replace(trained.base, weights=None))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(bare), type=TrainedPair) == bare

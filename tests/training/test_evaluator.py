"""Sealed scoring: the number itself, and the models that the probes are there for."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from node import cheats
from tests.training.candidates import ADVERSARIES, FOLD, TIER, TRAIN, load, text
from training import cuts, evaluator, frames, runner, windows
from training.scoring import log_probability
from training.sheet import TOLERANCES
from training.tokenizer import train_bpe
from training.weights import TensorBytes, pack, unpack

ROOT = ADVERSARIES.parent
HONEST = load("honest")


@pytest.fixture(scope="module")
def trained():
    result = runner.train(HONEST, TIER, TRAIN, 3)
    assert result.status == "ok"
    return result


def score(name, **options):
    code = load(name)
    run = runner.train(code, TIER, TRAIN, 3)
    assert run.status == "ok"
    found = evaluator.score(code, run.weights, TIER, FOLD, 4, **options)
    assert found.status in evaluator.STATUSES
    if found.status != "ok":
        assert found.nano_bpb == 0
    return found


@pytest.mark.sandbox
def test_the_score_is_what_arithmetic_says(trained):
    found = evaluator.score(HONEST, trained.weights, TIER, FOLD, 4)
    (table,) = unpack(trained.weights)
    logits = np.frombuffer(table.data, "<f4").reshape(256, 256).astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    nats = 0.0
    for document in FOLD:
        tokens = b"\0" + document
        nats -= sum(logp[a, b] for a, b in pairwise(tokens))
    expected = nats / math.log(2) / FOLD.text_bytes
    assert found.status == "ok"
    assert found.bytes == FOLD.text_bytes
    assert found.nano_bpb == pytest.approx(expected * 1e9, abs=1000)
    assert found.probes["positions"] >= 100
    assert max(found.probes[name] for name in found.probes if name.endswith("_nano")) < 50_000
    assert found.cpu_ms > 0


@pytest.mark.sandbox
def test_training_helps_and_the_seed_of_scoring_does_not_matter(trained):
    first = evaluator.score(HONEST, trained.weights, TIER, FOLD, 1, probes=False)
    second = evaluator.score(HONEST, trained.weights, TIER, FOLD, 2)
    assert abs(first.nano_bpb - second.nano_bpb) < 1000
    assert first.probes == {}
    assert first.nano_bpb < 5_000_000_000


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("reads_ahead", "non_causal"),
        ("whispers_ahead", "non_causal"),
        ("reads_ahead_when_full", "non_causal"),
        ("counts_from_the_right", "non_causal"),
        ("leaks_across_the_batch", "leaks_across_batch"),
        ("memorises_windows", "not_repeatable"),
        ("learns_while_scored", "not_repeatable"),
        ("is_noisy", "not_repeatable"),
        ("answers_nan", "non_finite"),
        ("shouts", "non_finite"),
        ("answers_in_another_shape", "wrong_shape"),
        ("forges_a_metric", "ok"),
    ],
)
def test_every_cheat_has_its_name(name, status):
    assert score(name).status == status


@pytest.mark.sandbox
def test_a_whisper_is_below_the_tolerance_and_found_in_the_mean():
    found = score("whispers_ahead")
    assert found.probes["future_nano"] < TOLERANCES["cpu"].largest_nano
    assert found.probes["mean_gain_nano"] > 4 * found.probes["mean_gain_error_nano"]


@pytest.mark.sandbox
def test_without_probes_reading_ahead_looks_wonderful():
    found = score("reads_ahead", probes=False)
    assert found.status == "ok"
    assert found.nano_bpb < 2_000_000_000


MODEL = """
import os, time, torch
from torch import nn
class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
    def forward(self, tokens):
        {forward}
def build_model(vocab_size, context):
    return Model(vocab_size)
def train(model, batches, budget):
    pass
"""


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("forward", "status"),
    [
        ("raise ValueError('a word to the outside')", "crashed"),
        ("os._exit(3)", "crashed"),
        ("return None", "wrong_shape"),
        ("return self.table(tokens).long() << 70", "ok"),
        ("return self.table(tokens)[:, :-1]", "wrong_shape"),
        ("return self.table(tokens).half().float() * 1e38 * 10", "non_finite"),
        ("os.write(3, bytes(64)) if False else [os.write(n, bytes(64)) for n in G()]", "protocol"),
    ],
)
def test_answers_that_are_none(forward, status, trained):
    helper = """
def G():
    for n in range(3, 64):
        try:
            os.write(n, b'')
        except OSError:
            continue
        yield n
"""
    code = MODEL.format(forward=forward).encode() + helper.encode()
    found = evaluator.score(code, trained.weights, TIER, FOLD, 4)
    assert found.status == status
    assert "outside" not in found.detail


@pytest.mark.sandbox
@pytest.mark.parametrize("change", ["name", "shape", "dtype", "missing", "extra"])
def test_weights_of_another_model_are_refused(trained, change):
    (table,) = unpack(trained.weights)
    tensors = {
        "name": [table._replace(name="other")],
        "shape": [table._replace(shape=(512, 128))],
        "dtype": [table._replace(dtype="I32")],
        "missing": [],
        "extra": [table, TensorBytes("zzz", "F32", (), bytes(4))],
    }[change]
    found = evaluator.score(HONEST, pack(tensors), TIER, FOLD, 4)
    assert found.status == "bad_weights"


def test_every_byte_is_scored_once():
    cut = windows.cut(FOLD, 32)
    assert cut.text_bytes == FOLD.text_bytes == int(cut.sizes.sum())
    joined = b"".join(bytes(cut.targets[row, : cut.sizes[row]]) for row in range(len(cut)))
    assert joined == b"".join(FOLD)
    assert (cut.inputs[:, 1:] == cut.targets[:, :-1]).all()
    rng = windows.generator(1, "test")
    groups = windows.batches_of(cut, 16, rng)
    assert {len(group) for group in groups} == {16}
    assert {row for group in groups for row in group} == set(range(len(cut)))
    assert sum(map(len, groups)) < len(cut) + 16


def test_neighbours_come_from_many_documents():
    many = text(5, documents=64, words=100)
    cut = windows.cut(many, 32)
    for group in windows.batches_of(cut, 16, windows.generator(1, "test")):
        assert len({int(cut.document[row]) for row in group}) >= 8


@pytest.mark.parametrize("body", [b"a", b"ab" * 16, b"x" * 33])
def test_tiny_folds_are_scored_too(body):
    from training.documents import Documents

    cut = windows.cut(Documents([body]), 32)
    assert b"".join(bytes(t[:n]) for t, n in zip(cut.targets, cut.sizes, strict=True)) == body
    assert cut.inputs[0, 0] == 0
    assert windows.batches_of(cut, 8, windows.generator(1, "test"))


@pytest.mark.sandbox
def test_probes_are_drawn_when_the_score_is_final_and_its_process_gone(trained, monkeypatch):
    """No two sandboxes of which one knows what the other is asked are ever alive together."""
    alive, seen, drawn = set(), [], []

    class Watched(evaluator.Sandbox):
        def __enter__(self):
            alive.add(self)
            return super().__enter__()

        def __exit__(self, *error):
            super().__exit__(*error)
            alive.discard(self)

        def send(self, op, *numbers, **options):
            if op == frames.TOKENS:
                seen.append((self, len(alive), len(drawn)))
            super().send(op, *numbers, **options)

    draw = cuts.draw
    monkeypatch.setattr(evaluator, "Sandbox", Watched)
    monkeypatch.setattr(cuts, "draw", lambda *given: drawn.append(len(alive)) or draw(*given))
    assert evaluator.score(HONEST, trained.weights, TIER, FOLD, 4).status == "ok"
    assert drawn == [0]
    scorers = {box for box, _, before in seen if not before}
    probers = {box for box, _, before in seen if before}
    assert (len(scorers), len(probers)) == (2, 2)
    assert not scorers & probers
    assert max(together for _, together, _ in seen) == 2


@pytest.mark.sandbox
def test_a_candidate_that_waits_many_times_as_long_as_its_base_is_stalled(trained, monkeypatch):
    code = HONEST.replace(b"import torch\n", b"import time\n\nimport torch\n", 1)
    code = code.replace(b"return self.table(tokens)", b"time.sleep(30); return self.table(tokens)")
    monkeypatch.setattr(evaluator, "WALL_FLOOR_MS", 1000)
    quick = replace(evaluator.score(HONEST, trained.weights, TIER, FOLD, 4), wall_ms=50)
    found = evaluator.score(code, trained.weights, TIER, FOLD, 4, reference=quick)
    assert (found.status, found.nano_bpb) == ("stalled", 0)


@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["keeps_weights_in_bfloat16", "answers_in_float16"])
@pytest.mark.parametrize("vocabulary", [900, pytest.param(3000, marks=pytest.mark.soak)])
def test_low_precision_over_a_large_vocabulary_is_no_leak(name, vocabulary):
    train_split, fold, tier = TRAIN, FOLD, replace(TIER, context=64)
    if vocabulary > 900:
        (train_split, fold), tier = cheats.corpus(), cheats.SMALL
    tokenizer = train_bpe(iter(train_split), vocabulary)
    code = (ROOT / "controls" / f"{name}.py").read_bytes()
    run = runner.train(code, tier, train_split, 3, tokenizer=tokenizer)
    found = evaluator.score(code, run.weights, tier, fold, 4, tokenizer=tokenizer)
    assert (found.status, found.detail) == ("ok", "")


@pytest.mark.sandbox
def test_the_seed_inside_is_not_the_seed_of_the_probes(trained):
    inside = {runner.seed_inside(4, "scoring"), runner.seed_inside(4, "training"), 4}
    assert len(inside) == 3
    tells = "return self.table(tokens) / float(torch.initial_seed() != SEED)"
    for seed, status in ((4, "ok"), (runner.seed_inside(4, "scoring"), "non_finite")):
        code = MODEL.format(forward=tells.replace("SEED", str(seed))).encode()
        assert evaluator.score(code, trained.weights, TIER, FOLD, 4).status == status


def test_log_probabilities_are_normalised_here():
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(2, 3, 256)) * 30).astype(np.float32).tobytes()

    def of(raw, targets):
        return log_probability(bytearray(raw), frames.FLOAT32, targets, 256)

    total = sum(np.exp(of(logits, np.full((2, 3), token, np.uint8))) for token in range(256))
    assert np.allclose(total, 1.0)
    huge = np.full((1, 1, 256), 3e38, np.float32)
    huge[0, 0, 7] = -3e38
    assert np.isfinite(of(huge.tobytes(), np.array([[7]], np.uint8))).all()
    for bad in (np.nan, np.inf, -np.inf):
        huge[0, 0, 3] = bad
        assert np.isnan(of(huge.tobytes(), np.array([[7]], np.uint8))).all()


def test_large_vocabularies_give_the_same_log_probabilities():
    import torch

    logits = torch.randn(2, 300, 3000, generator=torch.Generator().manual_seed(1)) * 20
    targets = np.arange(600, dtype="<u2").reshape(2, 300)
    exact = torch.log_softmax(logits.double(), dim=2).numpy()
    exact = np.take_along_axis(exact, targets[:, :, None].astype(np.intp), axis=2)[:, :, 0]
    raw = bytearray(logits.numpy().tobytes())
    assert np.abs(log_probability(raw, frames.FLOAT32, targets, 3000) - exact).max() < 2e-5
    for kind, code in ((torch.bfloat16, frames.BFLOAT16), (torch.float16, frames.FLOAT16)):
        half = logits.to(kind)
        raw = bytearray(half.view(torch.int16).numpy().tobytes())
        wide = log_probability(bytearray(half.float().numpy().tobytes()), 0, targets, 3000)
        assert np.array_equal(log_probability(raw, code, targets, 3000), wide)
    logits[1, 7, 11] = -torch.inf
    raw = bytearray(logits.numpy().tobytes())
    found = log_probability(raw, frames.FLOAT32, targets, 3000)
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 7]]


@pytest.mark.sandbox
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_logits_of_any_precision_are_scored(kind, trained):
    code = HONEST.replace(
        b"return self.table(tokens)",
        b"return self.table(tokens)."
        + {"bfloat16": b"bfloat16()", "float16": b"half()", "float64": b"double()"}[kind],
    )
    assert code != HONEST
    exact = evaluator.score(HONEST, trained.weights, TIER, FOLD, 4)
    found = evaluator.score(code, trained.weights, TIER, FOLD, 4)
    assert found.status == "ok"
    assert abs(found.nano_bpb - exact.nano_bpb) < 20_000_000

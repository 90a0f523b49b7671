"""What crosses the border beside numbers that are counted: names, shapes, words, excuses."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.training.candidates import FOLD, TIER, TRAIN
from training import evaluator, frames, runner, sandbox, weights
from training.weights import TensorBytes, WeightsError, pack, unpack

# --- weights ------------------------------------------------------------------------------------

LEARNS = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        self.register_buffer("none", torch.empty(0, 3))

    def forward(self, tokens):
        return self.table(tokens)

    def state_dict(self, *given, **named):
        state = super().state_dict(*given, **named)
        if hasattr(self, "seen"):
            {change}
        return state

def build_model(vocab_size, context):
    return Model(vocab_size)

def train(model, batches, budget):
    model.seen = batches(1, 32)[0][0].tolist()
"""
CHANGES = {
    "a name": 'state["x%s" % bytes(self.seen).hex()] = torch.empty(0)',
    "a name of a tensor that was there": "state['%d' % self.seen[0]] = state.pop('none')",
    "a shape": 'state["none"] = torch.empty(0, self.seen[0] + 4)',
    "a type": 'state["none"] = state["none"].to(torch.float16)',
    "what is missing": 'del state["none"]',
    "an order of dimensions": 'state["none"] = torch.empty(3, 0)',
}


@pytest.mark.sandbox
@pytest.mark.parametrize("change", [*CHANGES.values(), "pass"], ids=[*CHANGES, "nothing"])
def test_names_types_and_shapes_are_told_before_the_first_token(change):
    result = runner.train(LEARNS.replace("{change}", change).encode(), TIER, TRAIN, 3)
    if change == "pass":
        assert result.status == "ok"
        return
    assert (result.status, result.detail) == (
        "bad_weights", "names, types or shapes are not those of the built model",
    )  # fmt: skip


FORGES = b"""
import os, struct
from torch import nn

def build_model(vocab_size, context):
    os.write(3, struct.pack("<B3xIII", 34, 0, 0, 0) + bytes(32))  # BUILT, without a header
    return nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    pass
"""


@pytest.mark.sandbox
def test_who_tells_nothing_has_told_something_else():
    assert frames.BUILT == 34
    assert runner.train(FORGES, TIER, TRAIN, 3).status in ("protocol", "bad_weights")


def many(count, name="t{:05}", shape=(0,)):
    return [TensorBytes(name.format(at), "U8", shape, b"") for at in range(count)]


def test_whatever_a_file_holds_counts():
    plain = TensorBytes("w", "F32", (100,), bytes(400))
    assert weights.weight([plain]) == pytest.approx(100, abs=20)
    named = TensorBytes("w" * 250, "F32", (100,), bytes(400))
    assert weights.weight([named]) >= weights.weight([plain]) + 62
    told = many(weights.MAX_EMPTY, "n" * 240 + "{:05}", (0, 123_456_789, 987_654_321))
    assert weights.weight(told) * 4 >= weights.MAX_EMPTY * 260
    assert len(pack([named, *told])) <= 4 * weights.weight([named, *told]) + 8


@pytest.mark.parametrize(
    "tensors",
    [
        many(11_000, "a" * 240 + "{:05}"),
        many(weights.MAX_EMPTY + 1),
        [TensorBytes(f"t{at}", "U8", (1,), b"x") for at in range(weights.MAX_TENSORS + 1)],
        [TensorBytes("a" * 300, "U8", (1,), b"x")],
    ],
    ids=["11,000 empty ones", "a few too many", "too many", "a long name"],
)
def test_tensors_that_only_have_a_name_are_few(tensors):
    with pytest.raises(WeightsError):
        pack(tensors)


@pytest.mark.parametrize("value", [2, 0x80, 0xFF])
def test_a_truth_value_holds_a_bit(value):
    assert unpack(pack([TensorBytes("t", "BOOL", (3,), b"\0\1\0")]))
    with pytest.raises(WeightsError):
        unpack(pack([TensorBytes("t", "BOOL", (3,), bytes((0, value, 1)))]))


# --- words --------------------------------------------------------------------------------------

SPEAKS = """
import os, struct
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens):
        if not self.training:
            self.speak(bytes(tokens[0].tolist()).hex())
        return self.table(tokens)

    def speak(self, text):
        {speech}

def build_model(vocab_size, context):
    return Model(vocab_size)

def train(model, batches, budget):
    pass
"""
SPEECHES = {
    "a message": 'raise ValueError("HEARD" + text)',
    "a type": 'raise type("HEARD" + text, (Exception,), {})',
    "a function": 'exec("def HEARD%s():\\n raise KeyError\\nHEARD%s()" % (text, text))',
    "a file": 'exec(compile("raise KeyError", "HEARD" + text, "exec"))',
    "a cause": 'raise KeyError from ValueError("HEARD" + text)',
    "a note": 'e = KeyError(); e.add_note("HEARD" + text); raise e',
    "a frame of its own": (
        'data = ("HEARD" + text).encode(); '
        'os.write(3, struct.pack("<B3xIII", 39, len(data), 0, 0) + data + '
        'struct.pack("<B3xIII", 38, 9, 0, 0))'
    ),
}


@pytest.mark.sandbox
@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES)
def test_who_has_seen_the_holdout_brings_no_word_home(speech):
    code = SPEAKS.replace("{speech}", speech).encode()
    result = runner.train(code, TIER, TRAIN, 3)
    traces = []
    score = evaluator.score(code, result.weights, TIER, FOLD, 3, trace=traces.append)
    assert score.status in ("crashed", "protocol")
    text = b"".join(traces)
    assert not re.search(rb"HEARD[0-9a-f]{8}", text)
    if "os.write" not in speech:
        assert b"train.py, line " in text
        assert b"self.speak(bytes(tokens[0].tolist()).hex())" in text


def test_places_are_lines_of_the_program():
    code = b"first\n  second\nthird"
    told = frames.PLACES_FORM.pack(frames.ERRORS.index("KeyError"), 2, 1, 99, 0)
    assert sandbox._places(told, code).splitlines() == [
        b"(no message: it could hold text that is scored)",
        b"  train.py, line 1", b"    first", b"  train.py, line 2", b"    second", b"KeyError",
    ]  # fmt: skip
    odd = frames.PLACES_FORM.pack(*[0xFFFFFFFF] * 5)
    assert sandbox._places(odd, code).splitlines()[1:] == [frames.ERRORS[0].encode()]


@pytest.mark.sandbox
def test_before_it_has_seen_the_holdout_a_program_may_say_what_is_wrong():
    code = SPEAKS.replace("{speech}", "pass").replace(
        "        self.table =", "        raise ValueError('too narrow')\n        self.table ="
    )
    traces = []
    assert evaluator.score(code.encode(), b"", TIER, FOLD, 3, trace=traces.append).status
    assert b"too narrow" in b"".join(traces)


# --- excuses ------------------------------------------------------------------------------------

RUNS_OUT = """
import torch
from torch import nn

def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    {excuse}
"""
EXCUSES = {
    "a word": ("raise MemoryError", "crashed"),
    "a message": ('raise RuntimeError("can\'t allocate memory: tried to allocate")', "crashed"),
    "a message of a GPU": ('raise RuntimeError("CUDA out of memory")', "crashed"),
    "an absurd tensor": ("torch.empty(1 << 46)", "crashed"),
    "absurd bytes": ("bytearray(1 << 50)", "crashed"),
    "a little memory, and a word": ("kept = torch.ones(30 << 18); raise MemoryError", "crashed"),
    "memory that is not filled": ("kept = torch.empty(100 << 18); raise MemoryError", "crashed"),
    "most of the memory": ("kept = torch.ones(120 << 18); raise MemoryError", "memory"),
    "more than there is": ("kept = torch.ones(200 << 18)", "memory"),
    "more, bit by bit": ("kept = [torch.ones(1 << 20) for _ in range(99999)]", "memory"),
    "more, for a moment": ("torch.ones(200 << 18)", "memory"),
}


@pytest.mark.sandbox
@pytest.mark.parametrize(("excuse", "status"), EXCUSES.values(), ids=EXCUSES)
def test_a_shortage_is_seen_from_outside(excuse, status):
    code = RUNS_OUT.replace("{excuse}", excuse).encode()
    assert runner.train(code, replace(TIER, max_memory_bytes=128 << 20), TRAIN, 3).status == status

"""Metered runs: tokens, clocks, weights, and candidates that lie about them."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.candidates import SHORT, TIER, TRAIN, load
from training import frames, runner, seccomp
from training.weights import TensorBytes, WeightsError, elements, pack, unpack


def run(code, tier=TIER, seed=3, **options):
    code = load(code) if isinstance(code, str) else code
    result = runner.train(code, tier, TRAIN, seed, **options)
    assert result.status in runner.STATUSES
    assert result.detail == "" or result.detail in DETAILS
    if result.status != "ok":
        assert result.weights is None
        assert result.weights_digest == bytes(32)
    return result


DETAILS = {detail for _, detail in frames.FAILURES.values()} | {
    "the process ended",
    "the CPU clock ran out",
    "the wall clock ran out",
    "an unexpected frame",
    "more than was asked for",
    "kept asking after the budget was spent",
    "the weights are larger than the tier allows",
    "the weights are not in canonical form",
    "the weights hold infinities or NaN",
    "the model has more parameters than the tier allows",
    "the code is larger than the tier allows",
}


@pytest.mark.sandbox
def test_an_honest_run():
    result = run("honest")
    assert result.status == "ok"
    assert result.tokens == TIER.budget_tokens
    assert result.params == 256 * 256
    assert result.weights_digest == hashlib.sha256(result.weights).digest()
    assert any(result.init_digest)
    assert 0 < result.cpu_ms
    assert 0 < result.peak_memory_bytes < 4 << 30
    (tensor,) = unpack(result.weights)
    assert (tensor.name, tensor.dtype, tensor.shape) == ("table.weight", "F32", (256, 256))


@pytest.mark.sandbox
def test_the_seed_decides_everything():
    first, again, other = run("honest", seed=5), run("honest", seed=5), run("honest", seed=6)
    assert first.weights_digest == again.weights_digest
    assert first.init_digest == again.init_digest
    assert first.weights_digest != other.weights_digest
    assert first.init_digest != other.init_digest


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("returns_too_much", "too_many_params"),
        ("returns_nan", "non_finite"),
        ("writes_garbage", "protocol"),
        ("asks_in_advance", "protocol"),
        ("never_stops_asking", "protocol"),
        ("claims_a_huge_length", "too_many_params"),
        ("vanishes", "crashed"),
        ("speaks_in_errors", "crashed"),
    ],
)
def test_adversaries_are_stopped_with_the_true_reason(name, status):
    assert run(name).status == status


@pytest.mark.sandbox
def test_an_answer_that_stops_halfway_ends_with_the_clock():
    assert run("stops_halfway", SHORT).status == "timeout"


@pytest.mark.sandbox
def test_no_text_of_a_candidate_comes_back():
    result = run("speaks_in_errors")
    assert result.detail == "train raised"
    traces = []
    run("speaks_in_errors", trace=traces.append)
    assert b"ignore the rules" in traces[0]
    assert len(traces[0]) <= frames.TRACE_MAX


PROGRAM = """
import torch
from torch import nn
{top}
def build_model(vocab_size, context):
    {build}
    return nn.Embedding(vocab_size, vocab_size)
def train(model, batches, budget):
    {train}
"""


def program(top="", build="pass", train="pass"):
    return PROGRAM.format(top=top, build=build, train=train).encode()


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        (b"def build_model(", "crashed", "the code does not compile"),
        (b"\xff\xfe", "crashed", "the code does not compile"),
        (b"raise SystemExit", "crashed", "the module raised while it was loaded"),
        (b"build_model = 3", "bad_contract", "build_model or train is missing"),
        (program(build="raise KeyboardInterrupt"), "crashed", "build_model raised"),
        (
            program(build="return 3"),
            "bad_contract",
            "build_model did not return a torch.nn.Module",
        ),
        (program(train="batches(1000, 1000)"), "crashed", "train raised"),
        (program(train="batches(0, 5)"), "crashed", "train raised"),
        (program(train="import ctypes; ctypes.string_at(0)"), "crashed", "the process ended"),
        (
            program(train="model.register_buffer('z', torch.zeros(2, dtype=torch.complex64))"),
            "bad_weights",
            "the state of the model could not be written",
        ),
        (
            program(train="model.register_buffer('z', torch.zeros(950_000))"),
            "too_many_params",
            "the model has more parameters than the tier allows",
        ),
        (b"#" * 20_000, "code_too_large", "the code is larger than the tier allows"),
    ],
)
def test_broken_candidates(code, status, detail):
    result = run(code)
    assert (result.status, result.detail) == (status, detail)


@pytest.mark.sandbox
def test_the_budget_is_checked_before_it_is_paid():
    # 16384 tokens: 31 batches of 512 leave 512; 511 fit, then 1, then nothing
    code = program(
        train="""
    for _ in range(31):
        batches(16, 32)
    batches(1, 511)
    for shape in ((1, 2), (2, 1)):
        try:
            batches(*shape)
        except BudgetSpent:
            continue
        raise ValueError
    assert budget.progress < 1
    batches(1, 1)
    assert budget.progress == 1
    batches(1, 1)
"""
    )
    result = run(code)
    assert result.status == "ok"
    assert result.tokens == TIER.budget_tokens


@pytest.mark.sandbox
def test_the_clock_counts_every_place_where_candidate_code_runs():
    spin = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    inline = f"exec({spin!r}, {{}})"
    for code in (program(top=spin), program(build=inline), program(train=inline)):
        assert run(code).cpu_ms >= 290
    threads = """
    import threading
    def spin():
        end = time.thread_time() + 0.2
        while time.thread_time() < end: pass
    made = [threading.Thread(target=spin) for _ in range(2)]
    [t.start() for t in made]
    [t.join() for t in made]
"""
    wide = replace(TIER, threads=seccomp.TEAM)  # where there are fewer, a run makes none
    assert run(program(top="import time", train=threads), wide).cpu_ms >= 390


@pytest.mark.sandbox
def test_what_candidates_commonly_use_is_there():
    code = program(
        top="""
from dataclasses import dataclass
import collections, copy, functools, itertools, random
import numpy as np
from torch.nn import functional as F
@dataclass
class Config:
    lr: float = 1e-3
""",
        train="""
    model = torch.compile(model)
    x, y = batches(4, 32)
    for make in (torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor):
        optimiser = make(model.parameters(), lr=Config().lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    layer = nn.TransformerEncoderLayer(8, 2, 8)
    torch.utils.checkpoint.checkpoint(layer, torch.randn(2, 3, 8), use_reentrant=False).sum()
    torch.optim.swa_utils.AveragedModel(copy.deepcopy(model)).update_parameters(model)
    torch.use_deterministic_algorithms(True)
""",
    )
    traces = []
    assert run(code, trace=traces.append).status == "ok", traces


@pytest.mark.sandbox
def test_several_threads_give_the_same_weights():
    tier = replace(TIER, threads=2)
    runs = [run("honest", tier) for _ in range(6)]
    assert {found.status for found in runs} == {"ok"}
    assert len({found.weights_digest for found in runs}) == 1


# --- weights --------------------------------------------------------------------------------------


def tensor(name="a", values=(1.0, 2.0)):
    return TensorBytes(name, "F32", (len(values),), np.array(values, "<f4").tobytes())


def file_of(header, data=b""):
    raw = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    return struct.pack("<Q", len(raw)) + raw + data


def test_weights_round_trip_and_agree_with_safetensors():
    import safetensors.numpy

    data = pack([tensor("b"), tensor("a.weight", (3.0,))])
    assert [found.name for found in unpack(data)] == ["a.weight", "b"]
    assert elements(unpack(data)) == 3
    loaded = safetensors.numpy.load(data)
    assert loaded["b"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 1 << 60),
        file_of(b"[]"),
        file_of(b"{"),
        file_of(b"[" * 100_000),
        file_of(b"\xff"),
        file_of({"__metadata__": {"format": "pt"}}),
        file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"a": {"dtype": "F8", "shape": [], "data_offsets": [0, 1]}}, bytes(1)),
        file_of({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"a": {"dtype": "F32", "shape": [1 << 39], "data_offsets": [0, 4]}}, bytes(4)),
        file_of({"a": {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 4]}}, bytes(4)),
        pack([tensor()]) + b"\0",
        pack([tensor()])[:-1],
        pack([tensor()]).replace(b'"a"', b'"\\u0061"'),
        pack([tensor("a"), tensor("b")]).replace(b'"b"', b'"a"'),
        pack([tensor("a"), tensor("b")]).replace(b'"a"', b'"c"'),
    ],
)
def test_weights_in_any_other_form_are_refused(data):
    with pytest.raises(WeightsError):
        unpack(data)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_damaged_weights_are_refused_or_still_canonical(noise, at):
    data = bytearray(pack([tensor("a"), tensor("b", (5.0,))]))
    data[at : at + len(noise)] = noise
    try:
        found = unpack(bytes(data))
    except WeightsError:
        return
    assert pack(found) == bytes(data)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_every_kind_of_infinity_is_seen(dtype):
    bits = {"F64": 0x7FF0 << 48, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
    width = {"F64": 8, "F32": 4}.get(dtype, 2)
    one = TensorBytes("a", dtype, (1,), bits.to_bytes(width, "little"))
    assert not runner._finite(one)
    assert not runner._finite(one._replace(data=(bits + 1).to_bytes(width, "little")))
    assert runner._finite(one._replace(data=(bits - 1).to_bytes(width, "little")))


TIMED = replace(TIER, budget_tokens=0, budget_ms=400)


def test_a_budget_of_time_is_a_normal_end():
    shares = []
    result = runner.train(load("honest"), TIMED, TRAIN, 3, progress=shares.append)
    assert (result.status, result.detail) == ("ok", "")
    assert result.tokens > 0
    assert 400 <= result.cost_ms < 400 + runner.GRACE_MS
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_with_two_budgets_the_first_that_is_spent_counts():
    both = replace(TIER, budget_tokens=4096, budget_ms=50_000)
    assert runner.train(load("honest"), both, TRAIN, 3).tokens == 4096


def test_who_goes_on_after_the_time_is_ended(monkeypatch):
    monkeypatch.setattr(runner, "GRACE_MS", 300)
    spins = runner.train(load("spins"), TIMED, TRAIN, 3)
    assert (spins.status, spins.detail) == ("timeout", "it went on after the budget was spent")
    assert spins.cost_ms < 5_000


WARM = b"""
import time
import torch
def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
def build_model(vocab_size, context):
    busy(0.5)
    return torch.nn.Embedding(vocab_size, vocab_size)
def train(model, batches, budget):
    assert budget.progress == 0
    while True:
        batches(1, 32)
        busy(0.01)
        assert 0 < budget.progress <= 1
"""


@pytest.mark.parametrize(("allowance", "counted"), [(0, 1), (300, 0), (10_000, 0)])
def test_the_start_up_allowance_is_not_counted(allowance, counted):
    tier = replace(TIMED, budget_ms=300, startup_ms=allowance)
    result = runner.train(WARM, tier, TRAIN, 3)
    assert result.status == "ok"
    assert (result.tokens == 0) == bool(counted)
    assert result.cpu_ms >= 500
    if allowance > 1000:
        assert result.cpu_ms - result.cost_ms >= 500

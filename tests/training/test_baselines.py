"""The starting programs: they keep the contract, learn, and can be improved by their knobs."""

from __future__ import annotations

import types

import pytest
import torch

from training import baselines
from training.baselines import CPU, QUICK, load, tier
from training.challenge import TierSpec
from training.errors import TrainingError
from training.source import ast_hash, literals, replace_literals


class BudgetSpent(Exception):
    pass


class Budget:
    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    @property
    def progress(self) -> float:
        return self.used / self.total


def run(code: bytes, seed: int, tokens: int = 24_576) -> tuple[torch.nn.Module, list[float]]:
    """A few steps on text with structure, in this process: the program is our own.

    Returns the model, ready for scoring, and its losses before each step.
    """
    torch.manual_seed(seed)
    module = types.ModuleType("candidate")
    exec(compile(code, "train.py", "exec"), module.__dict__)
    model = module.build_model(256, QUICK.context)
    budget = Budget(tokens)
    words = [b"alpha ", b"beta ", b"gamma = ", b"delta(x)\n", b"return ", b"self.", b"value\n"]
    draw = torch.Generator().manual_seed(seed)
    order = torch.randint(len(words), (4_000,), generator=draw).tolist()
    stream = torch.tensor(list(b"".join(words[index] for index in order)))
    losses = []

    def batches(rows, length):
        if budget.used + rows * length > budget.total:
            raise BudgetSpent
        budget.used += rows * length
        starts = torch.randint(len(stream) - length - 1, (rows,), generator=draw).tolist()
        picked = torch.stack([stream[start : start + length + 1] for start in starts])
        with torch.no_grad():
            logits = model(picked[:, :-1])
        losses.append(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), picked[:, 1:].flatten()).item()
        )
        return picked[:, :-1].contiguous(), picked[:, 1:].contiguous()

    with pytest.raises(BudgetSpent):
        module.train(model, batches, budget)
    return model.eval(), losses


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["quick", "cpu"])
def trained(request):
    return request.param, *run(load(request.param), 1)


def test_names_and_tiers():
    assert "quick" in baselines.NAMES
    for name, spec in (("quick", QUICK), ("cpu", CPU)):
        assert tier(name) is spec
        assert TierSpec.from_map(spec.to_map()) == spec
    for bad in ("", "../quick", "huge"):
        with pytest.raises(TrainingError, match="no "):
            load(bad)
        with pytest.raises(TrainingError, match="no "):
            tier(bad)


def test_it_learns(trained):
    _, _, losses = trained
    assert losses[0] == pytest.approx(5.545, abs=0.05)  # ln 256: nothing known at the start
    assert losses[-1] < 2.5


def test_it_keeps_to_the_tiers_limits(trained):
    name, model, _ = trained
    spec = tier(name)
    assert sum(item.numel() for item in model.parameters()) <= spec.max_params
    assert len(load(name)) <= spec.max_code_bytes
    values = {item.name: item.value for item in literals(load(name))}
    assert values["BATCH_SIZE"] * values["SEQ_LEN"] <= spec.max_batch_tokens // 2


@pytest.mark.parametrize("length", [1, 2, 3, 17, 127, 200])
def test_a_prefix_gives_the_same_logits(trained, length):
    _, model, _ = trained
    tokens = torch.randint(0, 256, (3, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, part = model(tokens), model(tokens[:, :length])
    assert whole.shape == (3, 200, 256)
    assert torch.allclose(whole[:, :length], part, atol=1e-4)


def test_rows_do_not_see_each_other(trained):
    _, model, _ = trained
    tokens = torch.randint(0, 256, (4, 50), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together, alone = model(tokens), model(tokens[2:3])
    assert torch.allclose(together[2:3], alone, atol=1e-4)


@pytest.mark.parametrize("name", ["quick", "cpu"])
def test_the_same_seed_gives_the_same_weights(name):
    first, _ = run(load(name), 3, 6_144)
    second, _ = run(load(name), 3, 6_144)
    other, _ = run(load(name), 4, 6_144)
    weights = [dict(model.named_parameters()) for model in (first, second, other)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("name", ["quick", "cpu"])
def test_every_knob_can_be_moved_without_a_crash(name):
    base = load(name)
    for item in literals(base):
        assert not isinstance(item.value, str | bool)
        moved = item.value * 2 if isinstance(item.value, int) else item.value * 0.9
        code = replace_literals(base, {item.name: moved})
        assert ast_hash(code) != ast_hash(base)
        _, losses = run(code, 1, 4_096)
        assert losses


def test_no_row_of_the_hashed_table_of_cpu_is_out_of_reach():
    """Rows that no text could hit would be parameters for nothing."""
    module = types.ModuleType("candidate")
    exec(compile(load("cpu"), "train.py", "exec"), module.__dict__)
    draw = torch.Generator().manual_seed(1)
    rows = module.hashes(torch.randint(256, (800, 256), generator=draw))
    hit = torch.bincount(rows.flatten(), minlength=module.GRAMS * module.GRAM_ROWS)
    assert len(hit) == module.GRAMS * module.GRAM_ROWS
    assert (hit > 0).float().mean() > 0.99


def test_cpu_is_scored_in_full_precision(monkeypatch):
    """Training may multiply in bfloat16; what a verifier scores must not depend on it."""
    module = types.ModuleType("candidate")
    exec(compile(load("cpu"), "train.py", "exec"), module.__dict__)
    tokens = torch.randint(256, (2, 40), generator=torch.Generator().manual_seed(1))
    answers = []
    for kind in (torch.bfloat16, torch.float32):
        monkeypatch.setitem(module.__dict__, "low_precision", lambda kind=kind: kind)
        torch.manual_seed(1)
        model = module.build_model(256, 256).eval()
        torch.nn.init.normal_(model.head.weight, std=0.1)
        with torch.no_grad():
            answers.append(model(tokens))
    assert torch.equal(*answers)


def test_its_knobs_leave_room():
    base = load("quick")
    better = replace_literals(base, {"HEAD_LR": 0.008})
    gains = [run(base, seed, 12_288)[1][-1] - run(better, seed, 12_288)[1][-1] for seed in (1, 2)]
    assert min(gains) > 0

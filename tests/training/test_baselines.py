"""The starting programs: they keep the contract, learn, and can be improved by their knobs."""

from __future__ import annotations

import types

import pytest
import torch

from training import baselines
from training.baselines import QUICK, load, tier
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
    """A few steps on text with structure, in this process: the program is our own."""
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
    return model, losses


@pytest.fixture(scope="module")
def trained():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run(load("quick"), 1)
    torch.set_num_threads(threads)


def test_names_and_tiers():
    assert "quick" in baselines.NAMES
    assert tier("quick") is QUICK
    assert TierSpec.from_map(QUICK.to_map()) == QUICK
    for bad in ("", "../quick", "huge"):
        with pytest.raises(TrainingError, match="no "):
            load(bad)
        with pytest.raises(TrainingError, match="no "):
            tier(bad)


def test_it_learns(trained):
    _, losses = trained
    assert losses[0] == pytest.approx(5.545, abs=0.05)  # ln 256: nothing known at the start
    assert losses[-1] < 2.5


def test_it_keeps_to_the_tiers_limits(trained):
    model, _ = trained
    assert sum(item.numel() for item in model.parameters()) <= QUICK.max_params
    assert len(load("quick")) <= QUICK.max_code_bytes
    values = {item.name: item.value for item in literals(load("quick"))}
    assert values["BATCH_SIZE"] * values["SEQ_LEN"] <= QUICK.max_batch_tokens // 2


@pytest.mark.parametrize("length", [1, 2, 3, 17, 127, 200])
def test_a_prefix_gives_the_same_logits(trained, length):
    model, _ = trained
    tokens = torch.randint(0, 256, (3, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, part = model(tokens), model(tokens[:, :length])
    assert whole.shape == (3, 200, 256)
    assert torch.allclose(whole[:, :length], part, atol=1e-4)


def test_rows_do_not_see_each_other(trained):
    model, _ = trained
    tokens = torch.randint(0, 256, (4, 50), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together, alone = model(tokens), model(tokens[2:3])
    assert torch.allclose(together[2:3], alone, atol=1e-4)


def test_the_same_seed_gives_the_same_weights():
    first, _ = run(load("quick"), 3, 6_144)
    second, _ = run(load("quick"), 3, 6_144)
    other, _ = run(load("quick"), 4, 6_144)
    weights = [dict(model.named_parameters()) for model in (first, second, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())


def test_every_knob_can_be_moved_without_a_crash():
    for item in literals(load("quick")):
        assert not isinstance(item.value, str | bool)
        moved = item.value * 2 if isinstance(item.value, int) else item.value * 0.9
        code = replace_literals(load("quick"), {item.name: moved})
        assert ast_hash(code) != ast_hash(load("quick"))
        run(code, 1, 2_304)


def test_its_knobs_leave_room():
    base = load("quick")
    better = replace_literals(base, {"HEAD_LR": 0.008})
    gains = [run(base, seed, 12_288)[1][-1] - run(better, seed, 12_288)[1][-1] for seed in (1, 2)]
    assert min(gains) > 0

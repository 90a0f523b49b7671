"""The program of tier gpu, small and on a processor: contract, causality, learning."""

from __future__ import annotations

import re
import types

import pytest
import torch

from training import baselines

SMALL = {
    "WIDTH": 32, "DEPTH": 2, "HEAD_SIZE": 16, "ROWS": 4, "SEQ_LEN": 32, "STEP_TOKENS": 256,
}  # fmt: skip
STEPS = 60


class Spent(Exception):
    """The end of the tokens."""


class Feed:
    """One batch of tokens again and again: it can be learned by heart."""

    def __init__(self) -> None:
        tokens = torch.randint(0, 64, (4, 33), generator=torch.Generator().manual_seed(1))
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:]
        self.asked = 0

    @property
    def progress(self) -> float:
        return self.asked / STEPS

    def batches(self, rows: int, length: int):
        assert (rows, length) == self.inputs.shape
        if self.asked == STEPS:
            raise Spent
        self.asked += 1
        return self.inputs, self.targets


@pytest.fixture(scope="module")
def program():
    source = baselines.load("gpu").decode()
    for name, value in SMALL.items():
        source, count = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value}", source)
        assert count == 1, name
    module = types.ModuleType("candidate")
    exec(compile(source, "train.py", "exec"), module.__dict__)
    return module


def test_it_learns_and_looks_at_nothing_but_the_past(program):
    torch.manual_seed(0)
    model, feed = program.build_model(64, 32), Feed()

    def loss() -> float:
        with torch.no_grad():
            logits = model(feed.inputs).flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(logits, feed.targets.flatten()))

    before = loss()
    with pytest.raises(Spent):
        program.train(model, feed.batches, feed)
    assert loss() < before - 1
    with torch.no_grad():
        whole = model(feed.inputs)
        assert torch.allclose(model(feed.inputs[:, :7]), whole[:, :7], atol=1e-4)
        assert torch.allclose(model(feed.inputs[:1]), whole[:1], atol=1e-4)
    assert model.state_dict().keys() == program.build_model(64, 32).state_dict().keys()


def test_it_has_the_size_of_its_tier():
    module = types.ModuleType("candidate")
    exec(compile(baselines.load("gpu"), "train.py", "exec"), module.__dict__)
    with torch.device("meta"):
        count = sum(p.numel() for p in module.build_model(8192, 2048).parameters())
    assert 48_000_000 < count < 53_000_000
    assert count < baselines.GPU.max_params

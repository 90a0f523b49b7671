"""Tokens per second and model-FLOP utilisation of the ``gpu`` baseline, in a plain loop.

    python -m tests.benchmarks.gpu [--seconds 20] [--set ROWS=128 ...] [--profile]

Needs an NVIDIA GPU. The program runs in this process, fed from memory with made-up tokens through
pinned memory as the sandbox does it. FLOPs per token = 6 x (parameters in matrix products: the
matrices of the blocks and the output layer) + 12 x layers x width x context, as is customary: the
attention counts as if it were not causal. Peak: 989.5 TFLOP/s (H100 and H200, dense bfloat16).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import types
from typing import Any

from tests.benchmarks.rows import Row, show
from training import baselines

PEAK = 989.5e12
VOCABULARY = 8192


class Spent(Exception):
    """Ends the run."""


class Feed:
    """``batches`` and ``budget`` of a plain loop: made-up tokens, a clock, a count."""

    def __init__(self, seconds: float) -> None:
        import numpy as np

        self.seconds = seconds
        self.tokens = 0
        self.start = 0.0
        self._rng = np.random.default_rng(0)
        self._zipf = 1 / np.arange(1, VOCABULARY + 1)
        self._zipf /= self._zipf.sum()
        self._pool: dict[tuple[int, int], list[Any]] = {}
        self._asked = 0
        self._events: list[Any] = []

    @property
    def progress(self) -> float:
        if not self.start:
            return 0.0
        return min(1.0, (time.perf_counter() - self.start) / self.seconds)

    def batches(self, rows: int, length: int) -> tuple[Any, Any]:
        import torch

        shape = (rows, length)
        if shape not in self._pool:
            self._pool[shape] = [
                self._rng.choice(VOCABULARY, size=(rows, length + 1), p=self._zipf).astype("<u2")
                for _ in range(4)
            ]
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > 2:
            self._events.pop(0).synchronize()
        if not self.start:
            torch.cuda.synchronize()
            self.start = time.perf_counter()
        if self.progress >= 1:
            raise Spent
        self.tokens += rows * length
        self._asked += 1
        raw = torch.from_numpy(self._pool[shape][self._asked % 4].view("<i2")).pin_memory()
        block = raw.to("cuda", non_blocking=True).long() & 0xFFFF
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()


def flops_per_token(model: Any, width: int, depth: int, context: int) -> int:
    """The customary count: see the text of the module."""
    matrices = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.dim() == 2 and min(p.shape) >= width and "table" not in name and "embed" not in name
    )
    return 6 * matrices + 12 * depth * width * context


def program(changes: dict[str, str]) -> tuple[dict[str, Any], Any, int]:
    """The baseline with some knobs changed: its names, its model, and its FLOPs per token."""
    import torch

    source = baselines.load("gpu").decode()
    for name, value in changes.items():
        source, count = re.subn(rf"(?m)^{name} = [^#\n]+", f"{name} = {value}  ", source)
        if count != 1:
            raise SystemExit(f"there is no knob {name}")
    module = sys.modules["candidate"] = types.ModuleType("candidate")
    space: dict[str, Any] = module.__dict__
    exec(compile(source, "train.py", "exec"), space)  # our own baseline, in a benchmark
    torch.manual_seed(0)
    model = space["build_model"](VOCABULARY, baselines.GPU.context)
    flops = flops_per_token(model, space["WIDTH"], space["DEPTH"], baselines.GPU.context)
    return space, model, flops


def measure(changes: dict[str, str], seconds: float, profile: bool) -> list[Row]:
    """One run; rows of what was measured."""
    import torch

    space, model, flops = program(changes)
    model = model.cuda()
    count = sum(p.numel() for p in model.parameters())
    feed = Feed(seconds)
    began = time.perf_counter()
    try:
        space["train"](model, feed.batches, feed)
    except Spent:
        pass
    torch.cuda.synchronize()
    took = time.perf_counter() - feed.start
    speed = feed.tokens / took
    name = ", ".join(f"{key} = {value}" for key, value in changes.items()) or "as it is"
    rows = [
        Row(
            f"gpu baseline, {name}",
            f"{speed / 1e6:.3f} M tokens/s, {100 * speed * flops / PEAK:.1f} % of peak",
            f"{count / 1e6:.1f} M parameters, {flops / 1e6:.0f} MFLOP a token, {took:.1f} s, "
            f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB, "
            f"first batch after {feed.start - began:.1f} s",
            "1.64 M tokens/s and 39.6 %",
        )
    ]
    if profile:
        _profile(space, model)
    return rows


def _profile(space: dict[str, Any], model: Any) -> None:
    """Prints where the time of a few steps goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorder

    feed = Feed(3.0)
    with recorder(activities=[ProfilerActivity.CUDA]) as found:
        try:
            space["train"](model, feed.batches, feed)
        except Spent:
            pass
    averages = found.key_averages()
    print(averages.table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=90))


def main() -> int:
    """Prints the rows; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("There is no NVIDIA GPU here, or torch was built without CUDA.", file=sys.stderr)
        return 2
    import os

    with tempfile.TemporaryDirectory() as folder:  # compiled from nothing, as in the sandbox
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
        os.environ["TRITON_CACHE_DIR"] = f"{folder}/triton"
        changes = dict(item.split("=", 1) for item in chosen.set)
        for row in measure(changes, chosen.seconds, chosen.profile):
            show([row])
    return 0


if __name__ == "__main__":
    sys.exit(main())

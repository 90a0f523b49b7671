"""The starting train.py of each tier, and the numbers that the tier is measured with.

The programs in this folder are read as bytes and never imported. They run in the sandbox; the one
of tier ``gpu`` also once outside it, in a clean process that compiles it for later runs (see
``training.toolchain``).
"""

from __future__ import annotations

from pathlib import Path

from training.challenge import TierSpec
from training.errors import TrainingError

NAMES = ("quick", "cpu", "gpu")

QUICK = TierSpec(
    name="quick",
    device="cpu",
    threads=1,
    budget_tokens=147_456,
    budget_ms=0,
    context=128,
    max_batch_tokens=4_096,
    max_cpu_ms=60_000,
    max_wall_ms=600_000,
    startup_ms=0,
    max_cost_ratio_milli=1_500,
    max_params=1_000_000,
    max_memory_bytes=3 << 30,
    max_device_bytes=0,
    max_code_bytes=24 << 10,
)
"""One CPU core, about three seconds: 144 steps of a model of about 130,000 parameters."""

CPU = TierSpec(
    name="cpu",
    device="cpu",
    threads=2,
    budget_tokens=3_145_728,
    budget_ms=0,
    context=256,
    max_batch_tokens=16_384,
    max_cpu_ms=1_200_000,
    max_wall_ms=3_600_000,
    startup_ms=0,
    max_cost_ratio_milli=1_500,
    max_params=16_000_000,
    max_memory_bytes=4 << 30,
    max_device_bytes=0,
    max_code_bytes=32 << 10,
)
"""Two CPU cores, about two minutes."""

GPU = TierSpec(
    name="gpu",
    device="cuda",
    threads=4,
    budget_tokens=0,
    budget_ms=300_000,
    context=2048,
    max_batch_tokens=1 << 19,
    max_cpu_ms=3_600_000,
    max_wall_ms=450_000,
    startup_ms=60_000,
    max_cost_ratio_milli=1_050,
    max_params=64_000_000,
    max_memory_bytes=48 << 30,
    max_device_bytes=78 << 30,
    max_code_bytes=48 << 10,
)
"""One GPU to itself for 300 s: about 50 M parameters, vocabulary 8192, context 2048."""

_TIERS = {tier.name: tier for tier in (QUICK, CPU, GPU)}


def load(name: str) -> bytes:
    """The starting program called ``name``; raises ``TrainingError`` for an unknown name."""
    if name not in NAMES:
        raise TrainingError(
            f"there is no baseline {name[:40]!r}", cure=f"use one of: {', '.join(NAMES)}"
        )
    return (Path(__file__).parent / f"{name}.py").read_bytes()


def tier(name: str) -> TierSpec:
    """The tier called ``name``; raises ``TrainingError`` for an unknown name."""
    if name not in _TIERS:
        raise TrainingError(
            f"there is no tier {name[:40]!r}", cure=f"use one of: {', '.join(sorted(_TIERS))}"
        )
    return _TIERS[name]

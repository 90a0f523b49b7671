"""The starting train.py of each tier, and the numbers that the tier is measured with.

The programs in this folder are read as bytes and run in the sandbox only; they are never imported.
"""

from __future__ import annotations

from pathlib import Path

from training.challenge import TierSpec
from training.errors import TrainingError

NAMES = ("quick",)

QUICK = TierSpec(
    name="quick",
    device="cpu",
    threads=1,
    budget_tokens=98_304,
    context=128,
    max_batch_tokens=4_096,
    max_cpu_ms=60_000,
    max_wall_ms=600_000,
    startup_ms=60_000,
    max_cost_ratio_milli=1_500,
    max_params=1_000_000,
    max_memory_bytes=3 << 30,
    max_code_bytes=24 << 10,
)
"""One CPU core, about three seconds: 96 steps of a model of about 130,000 parameters."""

_TIERS = {tier.name: tier for tier in (QUICK,)}


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

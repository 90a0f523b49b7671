"""Programs, text and a tier that are small enough to be run many times."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from training.challenge import TierSpec
from training.documents import Documents

ADVERSARIES = Path(__file__).parents[1] / "adversaries"

TIER = TierSpec(
    name="test",
    device="cpu",
    threads=1,
    budget_tokens=16_384,
    budget_ms=0,
    context=32,
    max_batch_tokens=512,
    max_cpu_ms=60_000,
    max_wall_ms=300_000,
    startup_ms=0,
    max_cost_ratio_milli=1500,
    max_params=1_000_000,
    max_memory_bytes=512 << 20,
    max_device_bytes=0,
    max_code_bytes=16 << 10,
)
IMPATIENT = replace(TIER, max_cpu_ms=400, max_wall_ms=300_000)
SHORT = replace(TIER, max_wall_ms=700)


def load(name: str) -> bytes:
    """The program ``name`` of tests/adversaries."""
    return (ADVERSARIES / f"{name}.py").read_bytes()


def text(seed: int, documents: int = 24, words: int = 150) -> Documents:
    """Documents of invented words, some more common than others."""
    rng = random.Random(seed)
    known = random.Random(0)
    lexicon = ["".join(known.choices("etaoinshrdlu", k=known.randint(2, 8))) for _ in range(300)]
    weights = [1 / (rank + 1) for rank in range(300)]
    return Documents(
        " ".join(rng.choices(lexicon, weights, k=words)).encode() for _ in range(documents)
    )


TRAIN = text(1)
FOLD = text(2, documents=12, words=90)

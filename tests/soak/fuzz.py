"""Mutated inputs to every target, and whether the process grows: ``python -m tests.soak fuzz``."""

from __future__ import annotations

import logging
import random
import resource
import time
from pathlib import Path

from tests.swarm.fuzzing import SEEDS, mutate, run, targets

SHARE = {"protocols": 0.02, "arrivals": 0.05, "door": 0.01}
"""Targets that do more per input get a smaller share of all inputs."""
MAX_GROWTH_MIB = 48


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(inputs: int = 1_000_000, seed: int | None = None) -> str:
    """Run ``inputs`` inputs in all and return a line about it, with how many each target got.

    Raises what a target let escape. The input that failed is written to ``fuzz-TARGET.bin`` in the
    working directory.
    """
    logging.disable(logging.CRITICAL)
    seed = seed if seed is not None else random.SystemRandom().randrange(2**32)
    pick = random.Random(seed)
    found = targets()
    left = {name: int(inputs * share) for name, share in SHARE.items()}
    others = [name for name in found if name not in left]
    for name in others:
        left[name] = (inputs - sum(int(inputs * share) for share in SHARE.values())) // len(others)
    done = dict.fromkeys(found, 0)
    start = time.monotonic()
    first = 0.0
    while any(left.values()):
        for name, target in found.items():
            for _ in range(min(left[name], max(1, left[name] // 50))):
                data = mutate(pick.choice(SEEDS[name]), pick, SEEDS[name])
                try:
                    run(target, data)
                except BaseException:
                    Path(f"fuzz-{name}.bin").write_bytes(data)
                    raise
                done[name] += 1
                left[name] -= 1
        if not first and sum(done.values()) > inputs // 10:
            first = _rss_mib()
    last = _rss_mib()
    assert last - first < MAX_GROWTH_MIB, f"grew from {first:.0f} to {last:.0f} MiB"
    each = ", ".join(f"{name} {count}" for name, count in done.items())
    return (
        f"{sum(done.values())} inputs to {len(found)} targets ({each}) in "
        f"{time.monotonic() - start:.0f} s, no crash; "
        f"{first:.0f} MiB after a tenth, {last:.0f} MiB at the end; seed {seed}"
    )

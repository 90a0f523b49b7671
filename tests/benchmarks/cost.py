"""How well is it known what a candidate costs, on a machine whose load changes?

    python -m tests.benchmarks.cost [PAIRS] [--tier quick] [--divide 1] [--seed 1] [--seconds S]

Pairs of the tier's baseline with itself: a base that was kept, then a fresh pair, each while 0 to 4
busy loops run beside it, another number every two seconds, and none while the base was kept in
every second pair. Prints the distribution of the ratio by the old rule (CPU time as it comes) and
by the present ones, and how often a candidate of true cost 1.3 would be refused, and one of 1.8
pass, under the tier's cap: what a program costs is multiplied, since more steps are more of the
same work. All budgets are ``--divide`` times smaller than the tier's. No pair is begun after S
seconds. Fresh pairs are those that are not measured a second time (``training.pair``).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks.experiments import texts
from tests.benchmarks.rows import Row, show
from training import baselines, sandbox
from training.pace import Pacer, at_pace
from training.pair import train_pair
from training.runner import train

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_LOOPS = 4
CHANGES_S = 2.0
HONEST, CHEAT = 1.3, 1.8


@contextlib.contextmanager
def changing_load(rng: random.Random) -> Iterator[None]:
    """Busy loops come and go while this is open."""
    end = threading.Event()

    def change() -> None:
        loops: list[subprocess.Popen[bytes]] = []
        while not end.wait(CHANGES_S * bool(loops)):
            _stop(loops)
            loops = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
                for _ in range(rng.randint(0, MOST_LOOPS))
            ]
            if not loops and end.wait(CHANGES_S):
                break
        _stop(loops)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _stop(loops: list[subprocess.Popen[bytes]]) -> None:
    for loop in loops:
        loop.kill()
        loop.wait()


def measure(
    pairs: int, name: str, divide: int, seed: int, seconds: float
) -> dict[str, list[float]]:
    """Ratios of identical trainings, by rule."""
    text, _ = texts()
    tier = baselines.tier(name)
    tier = replace(tier, budget_tokens=tier.budget_tokens // divide)
    code, rng = baselines.load(name), random.Random(seed)
    other = code + b"\n"
    train_pair(code, other, tier, text, 0)  # not counted: first use of everything
    found: dict[str, list[float]] = {"kept, old rule": [], "kept, paced": [], "fresh pair": []}
    end = time.monotonic() + seconds
    for index in range(pairs):
        if time.monotonic() > end:
            break
        with changing_load(rng) if index % 2 else contextlib.nullcontext():
            pacer = Pacer(code, tier, partial(train, code, text=text, seed=index))
            known = pacer.after(train(code, tier, text, index))
        with changing_load(rng):
            pair = train_pair(code, other, tier, text, index, base_run=known, keeps=True)
            fresh = train_pair(code, other, tier, text, index)
        cost = pair.candidate.cost_ms
        found["kept, old rule"].append(cost / known.cost_ms)
        found["kept, paced"].append(cost / at_pace(known.cost_ms, known, pair.candidate))
        found["fresh pair"].append(fresh.candidate.cost_ms / fresh.base.cost_ms)
        print(index, *(f"{rule}: {ratios[-1]:.3f};" for rule, ratios in found.items()), flush=True)
    return found


def main() -> None:
    """Print every row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="?", type=int, default=20)
    parser.add_argument("--tier", choices=("quick", "cpu"), default="quick")
    parser.add_argument("--divide", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    options = parser.parse_args()
    cap = baselines.tier(options.tier).max_cost_ratio_milli / 1000
    found = measure(options.pairs, options.tier, options.divide, options.seed, options.seconds)
    sandbox.shutdown()
    for rule, ratios in found.items():
        refused = sum(ratio * HONEST > cap for ratio in ratios) / len(ratios)
        passed = sum(ratio * CHEAT <= cap for ratio in ratios) / len(ratios)
        show(
            [
                Row(
                    f"{options.tier}: cost ratio, {rule}",
                    f"{statistics.mean(ratios):.3f} +- {statistics.pstdev(ratios):.3f}",
                    f"{min(ratios):.3f} to {max(ratios):.3f}; refused at {HONEST}: "
                    f"{100 * refused:.1f} %, passes at {CHEAT}: {100 * passed:.1f} %",
                    "under 1 %",
                )
            ]
        )


if __name__ == "__main__":
    main()

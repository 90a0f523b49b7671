"""Does a GPU at work disturb the measurement on another GPU of the same machine?

    python -m tests.benchmarks.gpu_lanes --corpus DIR [--seconds 20]

Needs two NVIDIA GPUs of one kind and 16 cores. The baseline of tier ``gpu`` runs alone on the first
lane, then on both lanes at once, then alone again, each with a GPU and half of the cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.benchmarks.gpu_experiment import texts
from tests.benchmarks.rows import Row, show
from training import accelerator, baselines
from training.executor import LocalExecutor
from training.sandbox import require, serve_lanes

if TYPE_CHECKING:
    from training.runner import TrainedRun


def main() -> int:
    """Prints the rows; 2 where there are no two GPUs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu_lanes")
    parser.add_argument("--corpus", required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    names = [accelerator.name(f"cuda:{number}") for number in range(2)]
    if None in names:
        print(
            "There are no two NVIDIA GPUs here, or their driver does not answer.", file=sys.stderr
        )
        return 2
    text, _, tokenizer = texts(chosen.corpus)
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    lanes = [LocalExecutor(cores[:half], 0), LocalExecutor(cores[half:], 1)]
    serve_lanes(2)
    require("cuda")
    code = baselines.load("gpu")
    tier = replace(baselines.GPU, budget_ms=round(chosen.seconds * 1000))
    done: dict[str, TrainedRun] = {}

    def run(what: str, lane: LocalExecutor) -> None:
        done[what] = lane.train(code, tier, text, 1, tokenizer=tokenizer)

    run("before", lanes[0])
    both = [
        threading.Thread(target=run, args=(f"beside {number}", lane))
        for number, lane in enumerate(lanes)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    run("after", lanes[0])
    failed = [
        f"{what}: {one.status} ({one.detail})" for what, one in done.items() if not one.weights
    ]
    if failed or len(done) < 4:
        raise SystemExit("; ".join(failed) or "a run was lost")
    speed = {what: one.tokens * 1000 / max(1, one.cost_ms) for what, one in done.items()}
    alone = (speed["before"] + speed["after"]) / 2
    show(
        [
            Row(
                f"{what} on {names[number]}, lane {number}",
                f"x {speed[what] / alone:.3f} tokens/s",
                f"{speed[what] / 1e6:.3f} M, of {alone / 1e6:.3f} M alone "
                f"({speed['before'] / 1e6:.3f} before, {speed['after'] / 1e6:.3f} after)",
                "1.0 within noise",
            )
            for number, what in enumerate(("beside 0", "beside 1"))
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

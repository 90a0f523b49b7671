"""Does a lane at work disturb the measurement on another? One core each, in one run."""

from __future__ import annotations

import os
import statistics
import threading
from typing import TYPE_CHECKING

from tests.benchmarks.experiments import texts
from tests.benchmarks.rows import Row, show
from training import baselines
from training.executor import LocalExecutor
from training.pair import score_pair, train_pair
from training.sandbox import prestart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from training.documents import Documents
    from training.pair import PairResult

PAIRS = 4


def pair(lane: LocalExecutor, text: Documents, fold: Documents, seed: int) -> PairResult:
    """The baseline of ``quick`` against a copy of itself, whole, on a lane."""
    code, tier = baselines.load("quick"), baselines.QUICK
    trained = train_pair(code, code, tier, text, seed, executor=lane)
    return score_pair(code, code, trained, tier, fold, seed, executor=lane)


class Beside:
    """Another lane that runs pairs, one after the other, for as long as the block lasts."""

    def __init__(self, lane: LocalExecutor, text: Documents, fold: Documents) -> None:
        self.pairs = 0
        self._ended = False
        self._thread = threading.Thread(target=self._work, args=(lane, text, fold))

    def _work(self, lane: LocalExecutor, text: Documents, fold: Documents) -> None:
        while not self._ended:
            pair(lane, text, fold, 1000 + self.pairs)
            self.pairs += 1

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()


def numbers(found: PairResult) -> tuple[int, int, bytes, bytes]:
    """What must not depend on who works beside."""
    assert found.status == "ok", found
    assert found.base is not None
    assert found.candidate is not None
    runs = found.trained
    return (
        found.base.nano_bpb,
        found.candidate.nano_bpb,
        runs.base.weights_digest,
        runs.candidate.weights_digest,
    )


def lane_rows() -> Iterator[Row]:
    """A pair of ``quick`` alone, and the same one beside a lane at work."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield Row("lanes side by side", "not measured", "this takes two cores")
        return
    text, fold = texts()
    mine, other = LocalExecutor([cores[0]]), LocalExecutor([cores[1]])
    prestart(2)
    pair(mine, text, fold, 0)  # not counted: first use of everything
    cpu, same, ratios, others = [], 0, [], 0
    for seed in range(1, PAIRS + 1):
        results = {}
        for beside in (False, True) if seed % 2 else (True, False):
            if beside:
                with Beside(other, text, fold) as work:
                    results[beside] = pair(mine, text, fold, seed)
                others += work.pairs
            else:
                results[beside] = pair(mine, text, fold, seed)
        same += numbers(results[False]) == numbers(results[True])
        cost = {key: one.base_cost_ms + one.candidate_cost_ms for key, one in results.items()}
        cpu.append(cost[True] / cost[False])
        ratios.append(results[True].cost_ratio_milli / results[False].cost_ratio_milli)
    yield Row(
        "a lane beside another at work: equal results",
        f"{same} of {PAIRS} pairs",
        "weights and bits per byte of quick, bit for bit, one core each; "
        f"{others} pairs ran beside",
        "all",
    )
    yield Row(
        "a lane beside another at work: CPU time",
        f"x {statistics.median(cpu):.3f}",
        f"of a pair, over the same alone ({min(cpu):.3f} to {max(cpu):.3f}); candidate over base "
        f"changes x {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
        "1.0 within noise",
    )


if __name__ == "__main__":
    for row in lane_rows():
        show([row])

"""How much of a gain belongs to the machine or to the fold, and not to the change.

    python -m tests.benchmarks.offsets [--seeds 6] [--folds 12]

Verdicts take the pairs of a claim for one sample. What all pairs of one machine, or of one fold,
have in common would break that. Measured on real runs of the ``quick`` baseline: a few edits are
trained with the same seeds on two classes of processor (this one, and this one without its wide
registers, so that every sum is rounded otherwise), and the same weights are scored on many folds.
An offset is a standard deviation in those of a pair's difference, with the noise of its own
measurement taken off. About 5 seconds of one core for a run, 1 for a score.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
from statistics import fmean, stdev, variance
from typing import TYPE_CHECKING, Final

from node.corpora import prepare
from node.experiment import SHAPES
from node.measuring import draw
from tests.benchmarks.bank import EDITS
from tests.benchmarks.rows import Row, show
from training import baselines, evaluator, runner
from training.measured import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

TIER: Final = "quick"
NAMES: Final = (
    "SEQ_LEN 96",
    "WIDTH 72",
    "MATRIX_LR 0.02",
    "MOMENTUM 0.9",
    "batches in another order",
)
CLASSES: Final = {
    "as it is": {},
    "without wide registers": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}
FEW: Final = 3

Grid = dict[tuple[str, str, int, int], float]
"""Bits per byte gained, by class, edit, seed and fold."""


def measure(seeds: int, folds: int) -> Grid:
    """Train and score everything once, each class in a process of its own: the environment of a
    sandbox is read once. On the other class three folds have to do."""
    found: Grid = {}
    for kind in CLASSES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found |= pool.apply(_class, (kind, seeds, folds if not CLASSES[kind] else FEW))
    return found


def _class(kind: str, seeds: int, folds: int) -> Grid:
    ENVIRONMENT.update(CLASSES[kind])
    code, tier = baselines.load(TIER), baselines.tier(TIER)
    corpus = prepare(None, SHAPES["cpu"], lambda text: print(text, file=sys.stderr))
    text, tokenizer = corpus.train(), corpus.tokenizer
    programs = {"": code}
    programs.update((edit.name, edit.applied(code.decode()).encode())
                    for edit in EDITS if edit.name in NAMES)  # fmt: skip
    found: Grid = {}
    for index in range(seeds):
        seed, base = draw(7, "training", index), {}
        for name, program in programs.items():
            run = runner.train(program, tier, text, seed, tokenizer=tokenizer)
            if run.weights is None:
                raise SystemExit(f"{name}: {run.status} ({run.detail})")
            for fold in range(folds):
                score = evaluator.score(
                    program, run.weights, tier, corpus.fold(fold), 1,
                    tokenizer=tokenizer, probes=False,
                )  # fmt: skip
                bits = score.nano_bpb / 1e9
                if name:
                    found[kind, name, index, fold] = base[fold] - bits
                else:
                    base[fold] = bits
        print(f"{kind}: seed {index + 1} of {seeds}", file=sys.stderr, flush=True)
    return found


def rows(found: Grid, seeds: int, folds: int) -> Iterator[Row]:
    """Offsets of machines and of folds, edit by edit."""
    here, there = CLASSES
    for name in NAMES:
        grid = [[found[here, name, seed, fold] for fold in range(folds)] for seed in range(seeds)]
        sd = math.sqrt(fmean(variance(column) for column in zip(*grid, strict=True)))
        # A pair has one fold: what seeds and folds do together is noise of that pair.
        means = [fmean(column) for column in zip(*grid, strict=True)]
        rest = [
            value - fmean(row) - mean + fmean(means)
            for row in grid
            for value, mean in zip(row, means, strict=True)
        ]
        left = math.fsum(item * item for item in rest) / ((seeds - 1) * (folds - 1))
        of_fold = math.sqrt(max(0.0, variance(means) - left / seeds))
        moved = [
            fmean(found[there, name, seed, fold] - found[here, name, seed, fold]
                  for fold in range(FEW))
            for seed in range(seeds)
        ]  # fmt: skip
        error = stdev(moved) / math.sqrt(seeds)
        yield Row(
            f"{name}: offset of a fold, of a machine",
            f"{of_fold / sd:.2f} SD, {fmean(moved) / sd:+.2f} SD (+-{error / sd:.2f})",
            f"SD of a pair {sd:.4f}; gain {fmean(means):+.4f} bits per byte; {seeds} seeds, "
            f"{folds} folds",
        )


def main() -> None:
    """Measure with the lowest priority."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--folds", type=int, default=12)
    options = parser.parse_args()
    os.nice(15)
    show(list(rows(measure(options.seeds, options.folds), options.seeds, options.folds)))


if __name__ == "__main__":
    main()

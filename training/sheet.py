"""The answers of a scored model, and how far those to the probes are from them.

Differences are in nats of the target's log-probability. On ``cpu`` an honest model's answers differ
by rounding only. On ``cuda`` other shapes take other kernels, and a model in bfloat16 differs by
hundredths of a nat, at random; there a leak is looked for in the root mean square and in the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from training.scoring import Reals
    from training.windows import Request, Windows

NANO: Final = 1_000_000_000
GAIN_FLOOR_NANO: Final = 10_000
"""A mean gain from the future below this is rounding, nano-nats."""
GAIN_ERRORS: Final = 4.0
MAX_NANO: Final = 10**12
"""A thousand bits per byte: what is beyond it is no score, and would not fit a record."""
NOISE_RATIO: Final = 3
NOISE_FLOOR_NANO: Final = 10_000_000
KINDS: Final = ("repeat", "neighbours", "future")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest difference between two answers to the same question, and the largest root mean square
    of all differences of one kind, nano-nats. Absolute: no model can widen it by being noisy."""

    largest_nano: int
    rms_nano: int


TOLERANCES: Final = {
    "cpu": Tolerance(2_000_000, 2_000_000),
    "cuda": Tolerance(500_000_000, 30_000_000),
}


class Sheet:
    """What was answered so far: ``take`` each answer, then ask for ``nats`` and ``verdict``."""

    def __init__(self, rows: Windows) -> None:
        self.windows = rows
        self.known: Reals = np.full(rows.inputs.shape, np.nan)
        self.batches: dict[tuple[int, ...], Reals] = {}
        self.largest = dict.fromkeys(KINDS, 0.0)
        self.squares = dict.fromkeys(KINDS, 0.0)
        self.counts = dict.fromkeys(KINDS, 0)
        self.gains: list[float] = []

    def take(self, request: Request, found: Reals) -> None:
        """An answer: the first whole one of a window is its score, all others are compared."""
        if not request.probe:
            self.batches[request.rows] = found
        for at, (row, known) in enumerate(zip(request.rows, request.known, strict=True)):
            if request.probe == "repeat":
                before = self.batches[request.rows][at]
            else:
                before = self.known[row]
            if np.isnan(before[0]):
                self.known[row] = found[at]
                continue
            probe = request.probe or "neighbours"  # a window that fills up the last batch
            difference = before[request.first : known] - found[at, : known - request.first]
            self.largest[probe] = max(self.largest[probe], float(np.abs(difference).max()))
            self.squares[probe] += float(np.square(difference).sum())
            self.counts[probe] += len(difference)
            if probe == "future":
                self.gains.append(float(difference[-1]))

    def nats(self) -> float:
        """Nats of all scored positions."""
        scored = np.arange(self.known.shape[1]) < self.windows.sizes[:, None]
        return -math.fsum(self.known[scored].tolist())

    def rms(self, probe: str) -> float:
        """Root mean square of the differences of one kind, nats."""
        return math.sqrt(self.squares[probe] / max(1, self.counts[probe]))

    def mean_gain(self) -> tuple[float, float]:
        """Mean gain at the last position before a cut from having the future, and its error."""
        if len(self.gains) < 2:
            return 0.0, 0.0
        gains = np.array(self.gains)
        return float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))

    def verdict(self, tolerance: Tolerance) -> tuple[str, str]:
        """Status and detail. What a model does to an exact repeat explains all else, and so on."""
        mean, error = self.mean_gain()

        def beyond(probe: str) -> bool:
            return (
                self.largest[probe] > tolerance.largest_nano / NANO
                or self.rms(probe) > tolerance.rms_nano / NANO
            )

        if beyond("repeat"):
            return "not_repeatable", "the same question got another answer"
        if beyond("neighbours"):
            return "leaks_across_batch", "an answer depends on other rows"
        if beyond("future"):
            return "non_causal", "an answer depends on later tokens, or on how many there are"
        if mean > GAIN_FLOOR_NANO / NANO and mean > GAIN_ERRORS * error:
            return "non_causal", "on average, later tokens help"
        return "ok", ""

    def findings(self) -> dict[str, int]:
        """What the probes saw, in nano-nats and counts."""
        mean, error = self.mean_gain()
        found = {f"{kind}_nano": _nano(self.largest[kind]) for kind in KINDS}
        found |= {f"{kind}_rms_nano": _nano(self.rms(kind)) for kind in KINDS}
        return found | {
            "mean_gain_nano": _nano(mean),
            "mean_gain_error_nano": _nano(error),
            "positions": len(self.gains),
        }


def noisier(base: dict[str, int], candidate: dict[str, int]) -> bool:
    """Whether a candidate's answers vary by far more than those of its base on the same machine.

    The control of an absolute tolerance that must be wide (``cuda``): noise hides small leaks, and
    an honest change of the model does not make it several times as noisy. Takes two ``findings``.
    """
    return any(
        candidate[f"{kind}_rms_nano"] > NOISE_RATIO * base[f"{kind}_rms_nano"] + NOISE_FLOOR_NANO
        for kind in KINDS
    )


def _nano(nats: float) -> int:
    """Nano-nats, clamped: finite float32 logits can differ by far more than a record can say."""
    return round(max(-MAX_NANO, min(MAX_NANO, nats * NANO)))

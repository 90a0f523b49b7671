"""The answers of a scored model, and how far those to the probes are from them.

Differences are in nats of the target's log-probability. On ``cpu`` an honest model in float32
differs by rounding of 1e-6. In bfloat16 other shapes of a question round otherwise, by hundredths
of a nat here and there; so a difference that rounding could explain is a *doubt*, and is asked
again in the very shape, and at the very place, of the batch that was scored. There rounding is the
same to the bit, and what still differs depends on what it may not depend on. No model can widen
that tolerance. On ``cuda`` there are no doubts: differences are held against wide limits, the
largest, the root mean square and the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from training.windows import scored

if TYPE_CHECKING:
    from training.scoring import Reals
    from training.windows import Request, Windows

NANO: Final = 1_000_000_000
GAIN_FLOOR_NANO: Final = 10_000
"""A mean gain below this is rounding, nano-nats."""
GAIN_ERRORS: Final = 4.0
MAX_NANO: Final = 10**12
"""A thousand bits per byte: what is beyond it is no score, and would not fit a record."""
NOISE_RATIO: Final = 3
NOISE_FLOOR_NANO: Final = 10_000_000
KINDS: Final = ("repeat", "neighbours", "future")
DOUBTS: Final = {"up": 64, "down": 32}
"""How many doubts of a kind are asked again: the largest in favour of the score, and against it."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest difference between two answers to the same question, and the largest root mean square
    of all differences of one kind, nano-nats. Up to ``doubt_nano`` a larger one is a doubt, where
    the question had another shape. Absolute: no model can widen it by being noisy."""

    largest_nano: int
    rms_nano: int
    doubt_nano: int


TOLERANCES: Final = {
    "cpu": Tolerance(2_000_000, 30_000_000, 1_000_000_000),
    "cuda": Tolerance(500_000_000, 30_000_000, 0),
}


class Doubt(NamedTuple):
    """An answer that was off by ``gain`` nats (above 0: the score was better), at ``position`` of
    ``row``, whose first ``known`` tokens were there."""

    gain: float
    row: int
    position: int
    known: int


class Sheet:
    """What was answered so far: ``take`` each answer, ``settle`` those that were asked for because
    of ``doubts``, then ask for ``nats`` and ``verdict``."""

    def __init__(self, rows: Windows, tolerance: Tolerance = TOLERANCES["cpu"]) -> None:
        self.windows = rows
        self.tolerance = tolerance
        self.known: Reals = np.full(rows.inputs.shape, np.nan)
        self.place: dict[int, int] = {}
        self.batches: dict[tuple[int, ...], Reals] = {}
        self.largest = dict.fromkeys(KINDS, 0.0)
        self.squares = dict.fromkeys(KINDS, 0.0)
        self.counts = dict.fromkeys(KINDS, 0)
        self.gains: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.doubtful: dict[str, list[Doubt]] = {kind: [] for kind in KINDS}

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
                self.place[row] = at
                continue
            probe = request.probe or "neighbours"  # a window that fills up the last batch
            difference = before[request.first : known] - found[at, : known - request.first]
            self._compare(probe, difference, row, known, request.first)
            gain = difference[-1] if probe == "future" else difference.mean()
            self.gains[probe].append(float(gain))

    def _compare(self, probe: str, difference: Reals, row: int, known: int, first: int) -> None:
        size = np.abs(difference)
        self.squares[probe] += float(np.square(difference).sum())
        self.counts[probe] += len(difference)
        worst = int(size.argmax())
        doubt, limit = self.tolerance.doubt_nano / NANO, self.tolerance.largest_nano / NANO
        if probe != "repeat" and limit < size[worst] <= doubt:
            found = Doubt(float(difference[worst]), row, first + worst, known)
            self.doubtful[probe].append(found)
        else:
            self.largest[probe] = max(self.largest[probe], float(size[worst]))

    def doubts(self, probe: str) -> list[Doubt]:
        """The doubts of one kind that are to be asked again, those that would pay most first."""
        found = sorted(self.doubtful[probe], reverse=True)
        up = [doubt for doubt in found if doubt.gain > 0][: DOUBTS["up"]]
        return up + [doubt for doubt in found[::-1] if doubt.gain < 0][: DOUBTS["down"]]

    def settle(self, request: Request, found: Reals) -> None:
        """An answer in the shape of the score: what still differs does so for a reason."""
        pairs = zip(request.rows, request.known, strict=True)
        asked = {pair: at for at, pair in enumerate(pairs)}
        for doubt in self.doubtful[request.probe]:
            at = asked.get((doubt.row, doubt.known))
            if at is not None:
                off = float(abs(self.known[doubt.row, doubt.position] - found[at, doubt.position]))
                self.largest[request.probe] = max(self.largest[request.probe], off)

    def nats(self) -> float:
        """Nats of all scored positions."""
        return -math.fsum(self.known[scored(self.windows)].tolist())

    def rms(self, probe: str) -> float:
        """Root mean square of the differences of one kind, nats."""
        return math.sqrt(self.squares[probe] / max(1, self.counts[probe]))

    def mean_gain(self, probe: str = "future") -> tuple[float, float]:
        """Mean gain of the score over the answers to one kind of probe, and its error, nats: at
        the last position before a cut, or of a whole row."""
        gains = self.gains[probe]
        if len(gains) < 2:
            return 0.0, 0.0
        return float(np.mean(gains)), float(np.std(gains, ddof=1) / math.sqrt(len(gains)))

    def gain_limit(self, probe: str = "future") -> float:
        """The largest mean gain that is none, nats: rounding, four standard errors, and what
        choosing positions by a score that is rounded itself makes of rounding, its variance."""
        noise = GAIN_ERRORS * self.mean_gain(probe)[1] + self.rms(probe) ** 2
        return GAIN_FLOOR_NANO / NANO + noise

    def verdict(self) -> tuple[str, str]:
        """Status and detail. What a model does to an exact repeat explains all else, and so on."""

        def beyond(probe: str) -> bool:
            return (
                self.largest[probe] > self.tolerance.largest_nano / NANO
                or self.rms(probe) > self.tolerance.rms_nano / NANO
            )

        if beyond("repeat"):
            return "not_repeatable", "the same question got another answer"
        if beyond("neighbours"):
            return "leaks_across_batch", "an answer depends on other rows"
        if beyond("future"):
            return "non_causal", "an answer depends on later tokens, or on how many there are"
        if self.mean_gain("neighbours")[0] > self.gain_limit("neighbours"):
            return "leaks_across_batch", "on average, the rows beside it help"
        if self.mean_gain()[0] > self.gain_limit():
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
            "positions": len(self.gains["future"]),
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

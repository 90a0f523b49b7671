"""Sealed scoring: tokens go in, logits come out, and all the rest happens on this side.

Two fresh sandboxes build the model and load the weights. The first is asked for every window of the
fold, once, with a few batches asked again. The second is asked for probes, and never sees what the
first has seen, nor the other way round: so neither can remember what the other was told.

    probe                 must equal, at every position before the cut       otherwise
    same batch again      the first answer; also across the two processes    not_repeatable
    other neighbours      the answer among the first neighbours              leaks_across_batch
    lone row              the same                                           leaks_across_batch
    truncated prefix      the answer where the rest was there                non_causal
    perturbed suffix      the answer where the true rest was there           non_causal

Differences are absolute, in nats of the target's log-probability, against ``TOLERANCE_NANO``. A
leak too small for that is looked for in the mean: over the last positions before a cut, the gain
from having the future may not be positive by four standard errors (``non_causal``).

The model is told nothing: it gets int64 tokens [B, T] and must return logits [B, T, 256]. Targets
stay here; log-softmax is computed here in float64; the denominator is the number of raw bytes of
the fold. What leaves is integers and words of a closed list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from training import frames, windows
from training.errors import SandboxUnavailable
from training.runner import VOCAB_SIZE
from training.sandbox import Limits, Sandbox, Stopped

if TYPE_CHECKING:
    import random
    import threading
    from collections.abc import Callable

    import numpy.typing as npt

    from training.challenge import TierSpec
    from training.documents import Documents
    from training.windows import Request, Windows

    Logits = npt.NDArray[np.float32]
    Reals = npt.NDArray[np.float64]

STATUSES: Final = frozenset(
    "ok non_causal leaks_across_batch not_repeatable non_finite wrong_shape crashed bad_contract "
    "bad_weights memory timeout protocol code_too_large".split()
)
"""Every status of a score."""
NANO: Final = 1_000_000_000
TOLERANCE_NANO: Final = 2_000_000
"""Largest difference between two answers to the same question, nano-nats."""
GAIN_FLOOR_NANO: Final = 10_000
"""A mean gain from the future below this is rounding, nano-nats."""
GAIN_ERRORS: Final = 4.0
MAX_NANO: Final = 10**12
"""A thousand bits per byte: what is beyond it is no score, and would not fit a record."""
MAX_ROWS: Final = 32
PREFIX_BATCHES: Final = 8
PERTURBED_BATCHES: Final = 2
REGROUPED_BATCHES: Final = 2
LONE_ROWS: Final = 4


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one set of weights on one fold.

    ``nano_bpb`` is nano-bits per byte over ``bytes`` raw bytes; 0 unless ``status`` is ``ok``.
    ``probes`` holds what the probes saw: largest differences and the mean gain in nano-nats, and
    the number of positions with and without a future. ``cpu_ms`` counts both sandboxes.
    """

    status: str
    detail: str
    nano_bpb: int
    bytes: int
    probes: dict[str, int]
    cpu_ms: int
    wall_ms: int


def score(
    code: bytes,
    weights: bytes,
    tier: TierSpec,
    text: Documents,
    seed: int,
    *,
    cancel: threading.Event | None = None,
    nice: int = 0,
    probes: bool = True,
    trace: Callable[[bytes], None] | None = None,
) -> Score:
    """Scores ``weights`` (canonical bytes, as a run returned them) of ``code`` on ``text``.

    ``seed`` fixes batches, probes and the generators in the sandbox. ``probes=False`` measures the
    bits per byte only: such a score is no evidence. ``trace`` is given the end of the candidate's
    traceback, for a researcher at their own machine. Raises SandboxUnavailable and Cancelled.
    """
    if tier.device != "cpu":
        raise SandboxUnavailable(
            f"Tiers on {tier.device} cannot be run by this version.", cure="Use a CPU tier."
        )
    if len(code) > tier.max_code_bytes:
        return Score("code_too_large", "the code is larger than the tier allows", 0, 0, {}, 0, 0)
    sheet = _Sheet(windows.cut(text, tier.context))
    batch = max(1, min(MAX_ROWS, tier.max_batch_tokens // tier.context))
    groups = windows.batches_of(sheet.windows, batch, windows.generator(seed, "batches"))
    scored = [windows.whole(sheet.windows, rows) for rows in groups]
    asked = _with_repeats(scored, windows.generator(seed, "repeats")) if probes else scored
    session = _Session(code, weights, tier, seed, cancel, nice, trace)
    try:
        session.ask(asked, sheet.take)
        if probes:
            rng = windows.generator(seed, "probes")
            session.ask(_probes(sheet.windows, scored, rng), sheet.take)
    except Stopped as stopped:
        return session.result(stopped.status, stopped.detail, 0, 0, sheet.findings())
    verdict = sheet.verdict() if probes else ("ok", "")
    bits = sheet.nats() / math.log(2)
    size = sheet.windows.text_bytes
    nano = 0
    if verdict[0] == "ok":
        if not bits / size * NANO < MAX_NANO:
            verdict = ("non_finite", "the loss is beyond any meaning")
        else:
            nano = round(bits / size * NANO)
    return session.result(*verdict, nano, size, sheet.findings() if probes else {})


def _with_repeats(scored: list[Request], rng: random.Random) -> list[Request]:
    """An eighth of the batches, at least two, once more at a random later place."""
    asked = list(scored)
    for request in rng.sample(scored, min(len(scored), max(2, len(scored) // 8))):
        first = next(at for at, other in enumerate(asked) if other is request)
        asked.insert(rng.randint(first + 1, len(asked)), replace(request, probe="repeat"))
    return asked


def _probes(rows: Windows, scored: list[Request], rng: random.Random) -> list[Request]:
    """What the second sandbox is asked, in random order."""
    batch = len(scored[0].rows)
    length = rows.inputs.shape[1]
    draw = windows.Draw(len(rows), rng)
    asked = [replace(rng.choice(scored), probe="repeat")]
    asked += [windows.whole(rows, draw(batch), "neighbours") for _ in range(REGROUPED_BATCHES)]
    asked += [windows.whole(rows, draw(1), "neighbours") for _ in range(LONE_ROWS)]
    asked += [windows.perturbed(rows, draw(batch), rng) for _ in range(PERTURBED_BATCHES)]
    for part in range(PREFIX_BATCHES):
        at = (part + rng.random()) * (length - 1) / PREFIX_BATCHES
        asked.append(windows.truncated(rows, draw(batch), 1 + int(at)))
    rng.shuffle(asked)
    return asked


class _Session:
    """The two sandboxes of one score, one after the other."""

    def __init__(
        self,
        code: bytes,
        weights: bytes,
        tier: TierSpec,
        seed: int,
        cancel: threading.Event | None,
        nice: int,
        trace: Callable[[bytes], None] | None,
    ) -> None:
        self.code, self.weights, self.tier, self.seed = code, weights, tier, seed
        self.cancel, self.nice, self.trace = cancel, nice, trace
        self.cpu_ms = self.wall_ms = 0

    def ask(self, requests: list[Request], answer: Callable[[Request, Logits], None]) -> None:
        """Puts the requests to a fresh sandbox, in order; ``answer`` gets each with its logits.

        Raises Stopped.
        """
        tier = self.tier
        limits = Limits(tier.max_cpu_ms, tier.max_wall_ms, tier.max_memory_bytes, tier.threads)
        with Sandbox(limits, cancel=self.cancel, nice=self.nice, trace=self.trace) as sandbox:
            try:
                sandbox.start_candidate(
                    frames.MODE_SCORE,
                    self.code,
                    seed=self.seed,
                    vocab_size=VOCAB_SIZE,
                    context=tier.context,
                    budget=0,
                )
                sandbox.expect(frames.BUILT)
                sandbox.exactly(frames.DIGEST_BYTES)
                sandbox.nothing_pending()
                sandbox.send(frames.WEIGHTS, len(self.weights), payload=self.weights)
                sandbox.expect(frames.LOADED)
                for request in requests:
                    sandbox.nothing_pending()
                    answer(request, _logits(sandbox, request))
            finally:
                self.cpu_ms += sandbox.cpu_ms()
                self.wall_ms += sandbox.wall_ms()

    def result(
        self, status: str, detail: str, nano: int, size: int, probes: dict[str, int]
    ) -> Score:
        return Score(status, detail, nano, size, probes, self.cpu_ms, self.wall_ms)


def _logits(sandbox: Sandbox, request: Request) -> Logits:
    """One question: logits, finite, float32 [rows, length, vocabulary]; raises Stopped."""
    rows, length = request.tokens.shape
    sandbox.send(frames.TOKENS, rows, length, payload=request.tokens.tobytes())
    _, a, b, _ = sandbox.expect(frames.LOGITS)
    if (a, b) != (rows, length):
        raise Stopped("protocol", "an answer to another question")
    raw = sandbox.exactly(rows * length * VOCAB_SIZE * 4)
    logits: Logits = np.frombuffer(raw, "<f4").reshape(rows, length, VOCAB_SIZE)
    if not np.isfinite(logits).all():
        raise Stopped("non_finite", "the logits hold infinities or NaN")
    return logits


def log_probability(logits: Logits, targets: windows.Tokens) -> Reals:
    """Log-probability of each target in nats, float64 [rows, length]: our own log-softmax."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=2, keepdims=True)
    picked = np.take_along_axis(wide, targets[:, :, None].astype(np.intp), axis=2)[:, :, 0]
    np.exp(wide, out=wide)
    return np.asarray(picked - np.log(wide.sum(axis=2)))


class _Sheet:
    """The answers, and how far those of the probes are from them."""

    def __init__(self, rows: Windows) -> None:
        self.windows = rows
        self.known: Reals = np.full(rows.inputs.shape, np.nan)
        self.batches: dict[tuple[int, ...], Reals] = {}
        self.largest = {"repeat": 0.0, "neighbours": 0.0, "future": 0.0}
        self.gains: list[float] = []

    def take(self, request: Request, logits: Logits) -> None:
        """An answer: the first whole one of a window is its score, all others are compared."""
        found = log_probability(logits, self.windows.targets[list(request.rows), : logits.shape[1]])
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
            difference = before[:known] - found[at, :known]
            self.largest[probe] = max(self.largest[probe], float(np.abs(difference).max()))
            if probe == "future":
                self.gains.append(float(difference[-1]))

    def nats(self) -> float:
        """Nats of all scored positions."""
        scored = np.arange(self.known.shape[1]) < self.windows.sizes[:, None]
        return -math.fsum(self.known[scored].tolist())

    def mean_gain(self) -> tuple[float, float]:
        """Mean gain at the last position before a cut from having the future, and its error."""
        if len(self.gains) < 2:
            return 0.0, 0.0
        gains = np.array(self.gains)
        return float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))

    def verdict(self) -> tuple[str, str]:
        """Status and detail. What a model does to an exact repeat explains all else, and so on."""
        mean, error = self.mean_gain()
        tolerance = TOLERANCE_NANO / NANO
        if self.largest["repeat"] > tolerance:
            return "not_repeatable", "the same question got another answer"
        if self.largest["neighbours"] > tolerance:
            return "leaks_across_batch", "an answer depends on other rows"
        if self.largest["future"] > tolerance:
            return "non_causal", "an answer depends on later tokens, or on how many there are"
        if mean > GAIN_FLOOR_NANO / NANO and mean > GAIN_ERRORS * error:
            return "non_causal", "on average, later tokens help"
        return "ok", ""

    def findings(self) -> dict[str, int]:
        """What the probes saw, in integers."""
        mean, error = self.mean_gain()
        return {
            "repeat_nano": _nano(self.largest["repeat"]),
            "neighbours_nano": _nano(self.largest["neighbours"]),
            "future_nano": _nano(self.largest["future"]),
            "mean_gain_nano": _nano(mean),
            "mean_gain_error_nano": _nano(error),
            "positions": len(self.gains),
        }


def _nano(nats: float) -> int:
    """Nano-nats, clamped: finite float32 logits can differ by far more than a record can say."""
    return round(max(-MAX_NANO, min(MAX_NANO, nats * NANO)))

"""Sealed scoring: tokens go in, logits come out, and all the rest happens on this side.

Fresh sandboxes build the model and load the weights. The first is asked for every window of the
fold, once, with a few batches asked again. The others are asked for probes, and never see what the
first has seen, nor the other way round: so none can remember what another was told.

    probe                 must equal, at every position before the cut       otherwise
    same batch again      the first answer; also across processes            not_repeatable
    other neighbours      the answer among the first neighbours              leaks_across_batch
    lone row              the same                                           leaks_across_batch
    truncated prefix      the answer where the rest was there                non_causal
    perturbed suffix      the answer where the true rest was there           non_causal

Differences are absolute, in nats of the target's log-probability, against the tolerance of the
tier's device (``training.sheet``). A leak too small for that is looked for in the mean: over the
last positions before a cut, the gain from having the future may not be positive by four standard
errors (``non_causal``).

The model is told nothing: it gets int64 tokens [B, T] and must return logits [B, T, vocabulary].
Targets stay here; log-softmax is computed here; the denominator is the number of raw bytes of the
fold. What leaves is integers and words of a closed list. On ``cuda`` the seal is the same: the
model computes in a sandbox of its own, and its logits come out of it through the same pipe, so no
memory of the device or of the host is shared with the side that holds the targets.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from training import frames, windows
from training.runner import limits_of, seed_inside
from training.sandbox import Sandbox, Stopped
from training.scoring import Reader, Reals
from training.sheet import MAX_NANO, NANO, TOLERANCES, Sheet
from training.tokenizer import BYTES, Tokenizer
from training.windows import Request

if TYPE_CHECKING:
    import random
    import threading
    from collections.abc import Callable

    from training.challenge import TierSpec
    from training.documents import Documents
    from training.windows import Tokens, Windows

STATUSES: Final = frozenset(
    "ok non_causal leaks_across_batch not_repeatable non_finite not_normalised wrong_shape crashed "
    "bad_contract bad_weights memory timeout protocol code_too_large".split()
)
"""Every status of a score."""
MAX_ROWS: Final = {"cpu": 32, "cuda": 16}
PREFIXES: Final = 1024
"""Rows that are asked without their future, each cut at one position; about so many."""
CUTS: Final = {"cpu": 256, "cuda": 64}
"""Different positions of those cuts, at most, by device. A leak at one position in the rows that
hold a share f of the text is missed with probability (1 - f) ** PREFIXES where cuts are spread over
all positions, as they are where the context is not longer than this."""
PROBERS: Final = {"cpu": 2, "cuda": 1}
"""Sandboxes that share the probes. All probes are about three times the work of the fold, and on
``cpu`` sandboxes work side by side: with two no thread is idle before the end."""
PERTURBED_BATCHES: Final = 2
REGROUPED_BATCHES: Final = 2
LONE_ROWS: Final = 4


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one set of weights on one fold.

    ``nano_bpb`` is nano-bits per byte over ``bytes`` raw bytes; 0 unless ``status`` is ``ok``.
    ``probes`` holds what the probes saw: largest differences and the mean gain in nano-nats, and
    the number of positions with and without a future. Times count all sandboxes; ``cost_ms`` is on
    the tier's clock (see ``TrainedRun``), and a pair adds it to the cost of training: a model could
    train while it is being loaded, or asked.
    """

    status: str
    detail: str
    nano_bpb: int
    bytes: int
    probes: dict[str, int]
    cpu_ms: int
    wall_ms: int
    cost_ms: int


def score(
    code: bytes,
    weights: bytes,
    tier: TierSpec,
    text: Documents,
    seed: int,
    *,
    tokenizer: Tokenizer = BYTES,
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
    if len(code) > tier.max_code_bytes:
        return Score("code_too_large", "the code is larger than the tier allows", 0, 0, {}, 0, 0, 0)
    sheet = Sheet(windows.cut(text, tier.context, tokenizer))
    batch = max(1, min(MAX_ROWS[tier.device], tier.max_batch_tokens // tier.context))
    groups = windows.batches_of(sheet.windows, batch, windows.generator(seed, "batches"))
    scored = [windows.whole(sheet.windows, rows) for rows in groups]
    asked = _with_repeats(scored, windows.generator(seed, "repeats")) if probes else scored
    sessions = [_Session(asked)]
    if probes:
        rng = windows.generator(seed, "probes")
        asked = _probes(sheet.windows, scored, rng, tier.device)
        shares = PROBERS[tier.device]
        sessions += [_Session(asked[share::shares]) for share in range(shares)]
    asker = _Asker(code, weights, tier, seed, tokenizer.vocab_size, cancel, nice, trace)
    asker.ask(sessions, sheet.windows.targets)
    times = _times(sessions, asker.together)
    for session in sessions:
        for request, found in zip(session.requests, session.answers, strict=False):
            sheet.take(request, found)
        if session.stopped is not None:
            stopped = session.stopped
            return Score(stopped.status, stopped.detail, 0, 0, sheet.findings(), *times)
    verdict = sheet.verdict(TOLERANCES[tier.device]) if probes else ("ok", "")
    bits = sheet.nats() / math.log(2)
    size = sheet.windows.text_bytes
    nano = 0
    if verdict[0] == "ok":
        if not bits / size * NANO < MAX_NANO:
            verdict = ("non_finite", "the loss is beyond any meaning")
        else:
            nano = round(bits / size * NANO)
    return Score(*verdict, nano, size, sheet.findings() if probes else {}, *times)


def _with_repeats(scored: list[Request], rng: random.Random) -> list[Request]:
    """An eighth of the batches, at least two, once more at a random later place."""
    asked = list(scored)
    for request in rng.sample(scored, min(len(scored), max(2, len(scored) // 8))):
        first = next(at for at, other in enumerate(asked) if other is request)
        asked.insert(rng.randint(first + 1, len(asked)), replace(request, probe="repeat"))
    return asked


def _probes(rows: Windows, scored: list[Request], rng: random.Random, device: str) -> list[Request]:
    """What sandboxes other than the first are asked, in random order."""
    batch = len(scored[0].rows)
    length = rows.inputs.shape[1]
    draw = windows.Draw(len(rows), rng)
    asked = [replace(rng.choice(scored), probe="repeat")]
    asked += [windows.whole(rows, draw(batch), "neighbours") for _ in range(REGROUPED_BATCHES)]
    asked += [windows.whole(rows, draw(1), "neighbours") for _ in range(LONE_ROWS)]
    asked += windows.perturbed(rows, draw(PERTURBED_BATCHES * batch), batch, rng)
    cuts = windows.cuts(length, CUTS[device], rng)
    size = min(batch, max(1, round(PREFIXES / len(cuts))))
    asked += [windows.truncated(rows, draw(size), cut) for cut in cuts]
    rng.shuffle(asked)
    return asked


def _times(sessions: list[_Session], together: bool) -> tuple[int, int, int]:
    """Milliseconds of CPU, of wall time and of cost, of all sessions."""
    walls = [session.wall_ms for session in sessions]
    return (
        sum(session.cpu_ms for session in sessions),
        max(walls) if together else sum(walls),
        sum(session.cost_ms for session in sessions),
    )


@dataclass(slots=True)
class _Session:
    """One sandbox of a score: the questions put to it, in order, and what was answered so far."""

    requests: list[Request]
    answers: list[Reals] = field(default_factory=list)
    stopped: Stopped | None = None
    cpu_ms: int = 0
    wall_ms: int = 0
    cost_ms: int = 0


class _Asker:
    """Puts questions to fresh sandboxes with the weights in them."""

    def __init__(
        self,
        code: bytes,
        weights: bytes,
        tier: TierSpec,
        seed: int,
        vocabulary: int,
        cancel: threading.Event | None,
        nice: int,
        trace: Callable[[bytes], None] | None,
    ) -> None:
        self.code, self.weights, self.tier, self.seed = code, weights, tier, seed
        self.vocabulary = vocabulary
        self.cancel, self.nice, self.trace = cancel, nice, trace
        self.limits = limits_of(tier)
        self.together = tier.device == "cpu"
        if self.together:
            self.limits = replace(self.limits, threads=max(1, tier.threads // 2))

    def ask(self, sessions: list[_Session], targets: Tokens) -> None:
        """Asks all questions of each session in a sandbox of its own, and notes the answers.

        On ``cpu`` the sandboxes work at the same time, with half the threads each. A device belongs
        to one after the other, and the next is left out where one was stopped. Raises
        SandboxUnavailable and Cancelled.
        """
        if not self.together:
            for session in sessions:
                self._session(session, targets)
                if session.stopped is not None:
                    return
            return
        with ThreadPoolExecutor(len(sessions)) as pool:
            done = [pool.submit(self._session, session, targets) for session in sessions]
        for future in done:
            future.result()

    def _answer_bytes(self, session: _Session) -> int:
        """Memory for the largest answer, on ``cuda``; on ``cpu`` answers come through the pipe."""
        if self.tier.device == "cpu":
            return 0
        positions: int = max(
            len(request.rows) * (request.tokens.shape[1] - request.first)
            for request in session.requests
        )
        return positions * self.vocabulary * frames.LOGIT_WIDTHS[frames.FLOAT32]

    def _session(self, session: _Session, targets: Tokens) -> None:
        with (
            Sandbox(
                self.limits,
                cancel=self.cancel,
                nice=self.nice,
                trace=self.trace,
                answer_bytes=self._answer_bytes(session),
            ) as sandbox,
            Reader(self.vocabulary, self.limits.device) as reader,
        ):
            try:
                self._load(sandbox)
                waiting: Callable[[], Reals] | None = None
                for request in session.requests:
                    sandbox.nothing_pending()
                    asked = slice(request.first, request.tokens.shape[1])
                    wanted = targets[list(request.rows), asked]
                    answer = reader.answer(sandbox, request, wanted)
                    if waiting is not None:
                        session.answers.append(waiting())
                    waiting = answer
                if waiting is not None:
                    session.answers.append(waiting())
            except Stopped as stopped:
                session.stopped = stopped
            finally:
                session.cpu_ms = sandbox.cpu_ms()
                session.wall_ms = sandbox.wall_ms()
                session.cost_ms = sandbox.cost_ms()

    def _load(self, sandbox: Sandbox) -> None:
        sandbox.start_candidate(
            frames.MODE_SCORE,
            self.code,
            seed=seed_inside(self.seed, "scoring"),
            vocab_size=self.vocabulary,
            context=self.tier.context,
        )
        sandbox.expect(frames.BUILT)
        sandbox.exactly(frames.DIGEST_BYTES)
        sandbox.nothing_pending()
        sandbox.send(frames.WEIGHTS, len(self.weights), payload=self.weights)
        sandbox.expect(frames.LOADED)

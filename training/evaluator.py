"""Sealed scoring: tokens go in, logits come out, and all the rest happens on this side.

Fresh sandboxes build the model and load the weights. The first (two, on ``cpu``) are asked for
every window of the fold, once, with a few batches asked again. When their answers are final and
their processes gone, and not before, it is drawn what others are asked; so nothing that those learn
can reach the score, and nothing that the first have seen can be told to them.

    probe                 must equal, at every position before the cut       otherwise
    same batch again      the first answer                                   not_repeatable
    other neighbours      the answer among the first neighbours              leaks_across_batch
    lone row              the same                                           leaks_across_batch
    prefix                the answer where the rest was there                non_causal

Prefixes are cut where a leak would pay (``training.cuts``). Those who answer them side by side hold
rows that are disjoint, and are shown a row in growing prefixes only, whole rows at the very end.

Differences are absolute, in nats of the target's log-probability, against the tolerance of the
tier's device (``training.sheet``). On ``cpu`` a difference that rounding in another shape could
explain is asked for again, by one more process, in the shape of the batch that was scored. A leak
too small for that is looked for in the mean: neither the future nor the rows beside it may help, on
average, by more than four standard errors.

The model is told nothing: it gets int64 tokens [B, T] and must return logits [B, T, vocabulary].
Targets stay here; log-softmax is computed here; the denominator is the number of raw bytes of the
fold. What leaves is integers, words of a closed list, and the log-probabilities of the targets,
which choose where a model that is compared with this one is asked again. On ``cuda`` the seal is
the same: the model computes in a sandbox of its own, and its logits come out of it through the same
pipe, so no memory of the device or of the host is shared with the side that holds the targets.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from training import cuts, frames, windows
from training.runner import limits_of, seed_inside
from training.sandbox import WALL_RAN_OUT, Limits, Sandbox, Stopped
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
    "bad_contract bad_weights memory timeout stalled protocol code_too_large".split()
)
"""Every status of a score."""
Packed = bytes
MAX_ROWS: Final = {"cpu": 32, "cuda": 16}
CUTS: Final = {"cpu": 1536, "cuda": 1024}
"""Positions at which the future is cut off, about so many, by device."""
SIDE_BY_SIDE: Final = {"cpu": 2, "cuda": 1}
"""Sandboxes that share what is asked. On ``cpu`` two of half the threads each lose less by waiting
than one with all of them; and as none ever has more, sums come out the same in all."""
REGROUPED_BATCHES: Final = 2
LONE_ROWS: Final = 4
WALL_RATIO: Final = 20
WALL_FLOOR_MS: Final = 300_000
"""A session is ``stalled`` after so many times the wall time of the base's whole score on this
machine, or after the floor: waiting costs nothing on ``cpu``, and nobody has to be waited for."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one set of weights on one fold.

    ``nano_bpb`` is nano-bits per byte over ``bytes`` raw bytes; 0 unless ``status`` is ``ok``.
    ``probes`` holds what the probes saw: largest differences and the mean gain in nano-nats, and
    the number of positions with and without a future. Times count all sandboxes; ``cost_ms`` is on
    the tier's clock (see ``TrainedRun``), and a pair adds it to the cost of training: a model could
    train while it is being loaded, or asked. ``answers`` are the log-probabilities of all scored
    positions, float16, in the order of the fold's windows: they never leave a node.
    """

    status: str
    detail: str
    nano_bpb: int
    bytes: int
    probes: dict[str, int]
    cpu_ms: int
    wall_ms: int
    cost_ms: int
    answers: Packed = b""


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
    reference: Score | None = None,
) -> Score:
    """Scores ``weights`` (canonical bytes, as a run returned them) of ``code`` on ``text``.

    ``seed`` fixes batches, probes and the generators in the sandbox. ``probes=False`` measures the
    bits per byte only: such a score is no evidence. ``trace`` is given the end of the candidate's
    traceback, for a researcher at their own machine. ``reference`` is the score of the base on the
    same text: it says where a gain is, and how long this may take. Raises SandboxUnavailable and
    Cancelled.
    """
    if len(code) > tier.max_code_bytes:
        return Score("code_too_large", "the code is larger than the tier allows", 0, 0, {}, 0, 0, 0)
    rows = windows.cut(text, tier.context, tokenizer)
    sheet = Sheet(rows, TOLERANCES[tier.device])
    asker = _Asker(
        code, weights, tier, seed, tokenizer.vocab_size, cancel, nice, trace, _wall(tier, reference)
    )
    batch = max(1, min(MAX_ROWS[tier.device], tier.max_batch_tokens // tier.context))
    groups = windows.batches_of(rows, batch, windows.generator(seed, "batches"))
    scored = [windows.whole(rows, group) for group in groups]
    beside = min(SIDE_BY_SIDE[tier.device], len(scored))
    asked_of = [scored[at::beside] for at in range(beside)]
    if probes:
        rng = windows.generator(seed, "repeats")
        asked_of = [_with_repeats(asked, rng) for asked in asked_of]
    stopped = asker.ask(sheet, asked_of, sheet.take)
    if probes and stopped is None:
        rng = windows.generator(seed, "probes")
        weighed = cuts.odds(rows, sheet.known, _reference(rows, tokenizer.vocab_size, reference))
        drawn = cuts.draw(weighed, CUTS[tier.device], rng)
        asked_of = _probes(rows, groups, drawn, beside, rng)
        stopped = asker.ask(sheet, asked_of, sheet.take)
        if stopped is None and (asked := _again(sheet, batch, rng)):
            stopped = asker.ask(sheet, [asked], sheet.settle)
    times = asker.cpu_ms, asker.wall_ms, asker.cost_ms
    if stopped is not None:
        return Score(stopped.status, stopped.detail, 0, 0, sheet.findings(), *times)
    verdict = sheet.verdict() if probes else ("ok", "")
    bits = sheet.nats() / math.log(2)
    size = rows.text_bytes
    nano = 0
    if verdict[0] == "ok":
        if not bits / size * NANO < MAX_NANO:
            verdict = ("non_finite", "the loss is beyond any meaning")
        else:
            nano = round(bits / size * NANO)
    found = sheet.findings() if probes else {}
    return Score(*verdict, nano, size, found, *times, _packed(sheet) if verdict[0] == "ok" else b"")


def _wall(tier: TierSpec, reference: Score | None) -> int:
    """Milliseconds of wall time after which a session is stalled; 0 where nothing is known."""
    if reference is None or not reference.wall_ms:
        return 0
    return min(tier.max_wall_ms, max(WALL_FLOOR_MS, WALL_RATIO * reference.wall_ms))


def _packed(sheet: Sheet) -> bytes:
    with np.errstate(over="ignore"):
        return sheet.known[windows.scored(sheet.windows)].astype("<f2").tobytes()


def _reference(rows: Windows, vocabulary: int, base: Score | None) -> Reals:
    """What the base makes of every target, where it is known, nats [rows, length]."""
    found = cuts.by_frequency(rows, vocabulary)
    if base is not None and len(base.answers) == 2 * int(rows.sizes.sum()):
        found[windows.scored(rows)] = np.frombuffer(base.answers, "<f2")
    return found


def _with_repeats(scored: list[Request], rng: random.Random) -> list[Request]:
    """An eighth of the batches, at least one, once more at a random later place."""
    asked = list(scored)
    for request in rng.sample(scored, max(1, len(scored) // 8)):
        first = next(at for at, other in enumerate(asked) if other is request)
        asked.insert(rng.randint(first + 1, len(asked)), replace(request, probe="repeat"))
    return asked


def _probes(
    rows: Windows,
    groups: list[tuple[int, ...]],
    drawn: list[cuts.Cut],
    probers: int,
    rng: random.Random,
) -> list[list[Request]]:
    """What each prober is asked: its share of the cuts, then whole rows among its own.

    Whole rows that end in text of another document are left out, where there are others: it might
    be the beginning of a row that somebody else is asked.
    """
    batch, length = len(groups[0]), rows.inputs.shape[1]
    home = {row: number for number, group in reversed(list(enumerate(groups))) for row in group}
    parts, mine = cuts.shared_out(drawn, home, min(probers, len(set(home.values()))))
    asked = []
    for part, numbers in zip(parts, mine, strict=True):
        own = [row for row, number in home.items() if number in numbers]
        whole = windows.Draw([row for row in own if rows.sizes[row] == length] or own, rng)
        requests = cuts.requests(rows, part, batch, rng)
        for size in [batch] * (REGROUPED_BATCHES // len(mine)) + [1] * (LONE_ROWS // len(mine)):
            requests.append(windows.whole(rows, whole(size), "neighbours"))
        asked.append(requests)
    return asked


def _again(sheet: Sheet, batch: int, rng: random.Random) -> list[Request]:
    """Questions about what is in doubt, in the shape of the batches that were scored."""
    asked = []
    for probe in ("future", "neighbours"):  # whole rows come last
        doubts = {cuts.Cut(doubt.row, doubt.known - 1) for doubt in sheet.doubts(probe)}
        asked += cuts.again(sheet.windows, sorted(doubts), sheet.place, batch, rng, probe)
    return asked


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
    """Puts questions to fresh sandboxes with the weights in them, and adds up what they take."""

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
        wall_ms: int,
    ) -> None:
        self.code, self.weights, self.tier, self.seed = code, weights, tier, seed
        self.vocabulary = vocabulary
        self.cancel, self.nice, self.trace = cancel, nice, trace
        threads = max(1, tier.threads // SIDE_BY_SIDE[tier.device])
        self.limits = replace(limits_of(tier), threads=threads)
        self.stalled_ms = wall_ms
        self.cpu_ms = self.wall_ms = self.cost_ms = 0

    def ask(
        self,
        sheet: Sheet,
        questions: list[list[Request]],
        take: Callable[[Request, Reals], None],
    ) -> Stopped | None:
        """Asks each list of questions in a sandbox of its own; why one was stopped, if any was.

        All sandboxes are gone when this returns; ``take`` is given every answer. On ``cpu`` they
        work side by side and share the threads. A device belongs to one after the other. Raises
        SandboxUnavailable and Cancelled.
        """
        sessions = [_Session(asked) for asked in questions]
        targets = sheet.windows.targets
        limits = self.limits
        if self.stalled_ms:
            limits = replace(limits, wall_ms=min(limits.wall_ms, self.stalled_ms))
        together = len(sessions) if self.tier.device == "cpu" else 1
        with ThreadPoolExecutor(together) as pool:
            for future in [pool.submit(self._session, one, targets, limits) for one in sessions]:
                future.result()
        walls = [session.wall_ms for session in sessions]
        self.wall_ms += max(walls) if together > 1 else sum(walls)
        self.cpu_ms += sum(session.cpu_ms for session in sessions)
        self.cost_ms += sum(session.cost_ms for session in sessions)
        for session in sessions:
            for request, found in zip(session.requests, session.answers, strict=False):
                take(request, found)
        stopped = next((one.stopped for one in sessions if one.stopped is not None), None)
        if stopped is not None and stopped.detail == WALL_RAN_OUT:
            if limits.wall_ms < self.tier.max_wall_ms:
                return Stopped("stalled", "it took many times as long as its base to be scored")
        return stopped

    def _answer_bytes(self, session: _Session) -> int:
        """Memory for the largest answer, on ``cuda``; on ``cpu`` answers come through the pipe."""
        if self.tier.device == "cpu":
            return 0
        positions: int = max(
            len(request.rows) * (request.tokens.shape[1] - request.first)
            for request in session.requests
        )
        return positions * self.vocabulary * frames.LOGIT_WIDTHS[frames.FLOAT32]

    def _session(self, session: _Session, targets: Tokens, limits: Limits) -> None:
        with (
            Sandbox(
                limits,
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

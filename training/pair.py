"""A pair: base and candidate, the same seed, the same tokens, the same machine, in random order.

Training and scoring are apart, because a verifier publishes the digests of the trained weights
before it learns which fold they will be scored on. A candidate that fails is a result; a base that
fails is an error, since a pair without a base says nothing about the candidate.

Cost is a ratio of runs that ran together. Where both sides are trained now, that is what they did;
a candidate that would be too costly by that may have met a load that its base did not, so both are
trained once more, and those costs count. There, and where a run is kept for other pairs, or was,
``training.pace`` says what the base would have cost beside the candidate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from training.errors import BaseFailed
from training.evaluator import Score
from training.executor import LOCAL, Executor
from training.pace import Pacer, at_pace, is_paced
from training.runner import TrainedRun
from training.sheet import noisier
from training.tokenizer import BYTES, Tokenizer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from training.challenge import TierSpec
    from training.documents import Documents, Text

__all__ = ["BaseFailed", "PairResult", "TrainedPair", "score_pair", "train_pair"]

MAX_RATIO_MILLI: Final = 10**9
HOPELESS: Final = 2
"""A candidate that costs so many times what it may is not trained a second time."""


@dataclass(frozen=True, slots=True)
class TrainedPair:
    """Both runs of one seed. ``order`` is ``base_first`` or ``candidate_first``;
    ``init_identical`` says whether both report the same weights before training."""

    base: TrainedRun
    candidate: TrainedRun
    order: str
    init_identical: bool
    seed: int


@dataclass(frozen=True, slots=True)
class PairResult:
    """A scored pair. ``status`` is ``ok`` or why the candidate failed, in its run or its score.

    ``d_nano`` is bits per byte of the base minus those of the candidate, in nano: positive where
    the candidate is better, 0 where it failed. A score is None where there was nothing to score.
    Costs are those of training and scoring together, milliseconds on the tier's clock
    (``TrainedRun.cost_ms``): what is computed while a model is scored is paid for like the rest.
    What was kept of the base (``kept_score``: its score too) counts as what it would have cost
    beside the candidate.
    """

    status: str
    d_nano: int
    base: Score | None
    candidate: Score | None
    trained: TrainedPair
    kept_score: bool = False

    @property
    def base_training_ms(self) -> int:
        """What training the base cost, or would have cost beside the candidate, milliseconds."""
        runs = self.trained
        return at_pace(runs.base.cost_ms, runs.base, runs.candidate)

    @property
    def base_scoring_ms(self) -> int:
        """The same of scoring it."""
        cost = self.base.cost_ms if self.base else 0
        if not self.kept_score:
            return cost
        return at_pace(cost, self.trained.base, self.trained.candidate)

    @property
    def base_cost_ms(self) -> int:
        """What the base cost, training and scoring, milliseconds."""
        return self.base_training_ms + self.base_scoring_ms

    @property
    def candidate_cost_ms(self) -> int:
        """What the candidate cost, training and scoring, milliseconds."""
        return self.trained.candidate.cost_ms + (self.candidate.cost_ms if self.candidate else 0)

    @property
    def cost_ratio_milli(self) -> int:
        """The candidate's cost over the base's, in thousandths."""
        return min(MAX_RATIO_MILLI, self.candidate_cost_ms * 1000 // max(1, self.base_cost_ms))


def train_pair(
    base: bytes,
    candidate: bytes,
    tier: TierSpec,
    train_split: Text,
    seed: int,
    *,
    cancel: threading.Event | None = None,
    nice: int = 0,
    tokenizer: Tokenizer = BYTES,
    progress: Callable[[str, float], None] | None = None,
    base_run: TrainedRun | None = None,
    candidate_run: TrainedRun | None = None,
    finished: Callable[[str, TrainedRun], None] | None = None,
    trace: Callable[[bytes], None] | None = None,
    executor: Executor = LOCAL,
    keeps: bool = False,
) -> TrainedPair:
    """Trains both, one after the other, in an order drawn from the seed.

    ``base_run`` and ``candidate_run`` are runs of this very code, tier and seed on this machine, to
    be used again; ``finished`` is given the side and the run of each that was trained now, as soon
    as it has ended. With ``keeps`` runs are kept for other pairs: each is paced by this base, and
    is used again only where it was; without, what is given counts as run together with the rest.
    ``trace`` is for the candidate (see ``runner.train``); ``progress`` is given the side and the
    spent share of its budget. Both run on ``executor``, one device. Raises BaseFailed, Cancelled,
    and SandboxUnavailable or what else the executor raises.
    """
    order = _order(seed)
    known = {"base": base_run, "candidate": candidate_run}
    runs = {
        side: run
        for side, run in known.items()
        if run is not None and (is_paced(run, base) or not keeps)
    }
    train = partial(
        executor.train, text=train_split, seed=seed, cancel=cancel, nice=nice, tokenizer=tokenizer
    )
    codes = {"base": base, "candidate": candidate}
    sides = ("base", "candidate") if order == "base_first" else ("candidate", "base")
    missing = [side for side in sides if side not in runs]
    pacer = Pacer(base, tier, partial(train, base)) if keeps and missing else None
    for side in missing:
        run = train(
            codes[side],
            tier,
            trace=trace if side == "candidate" else None,
            progress=None if progress is None else partial(progress, side),
        )
        runs[side] = pacer.after(run) if pacer is not None and run.status == "ok" else run
        if finished is not None:
            finished(side, runs[side])
        if side == "base" and runs[side].status != "ok":
            break
    first = runs["base"]
    if first.status != "ok":
        raise BaseFailed(
            f"The base did not train: {first.status} ({first.detail}).",
            status=first.status,
            cure="Run the pair again; if it stays so, this machine cannot measure this tier.",
        )
    if len(missing) == len(sides) and pacer is None and _is_doubtful(runs, tier):
        pacer = Pacer(base, tier, partial(train, base))
        again = {side: pacer.after(train(codes[side], tier)) for side in sides}
        runs = _with_costs_of(again, runs)
    first, second = runs["base"], runs["candidate"]
    identical = second.init_digest == first.init_digest and any(first.init_digest)
    return TrainedPair(first, second, order, identical, seed)


def score_pair(
    base: bytes,
    candidate: bytes,
    trained: TrainedPair,
    tier: TierSpec,
    text: Documents,
    seed: int,
    *,
    cancel: threading.Event | None = None,
    nice: int = 0,
    tokenizer: Tokenizer = BYTES,
    base_score: Score | None = None,
    candidate_score: Score | None = None,
    finished: Callable[[str, Score], None] | None = None,
    trace: Callable[[bytes], None] | None = None,
    executor: Executor = LOCAL,
) -> PairResult:
    """Scores both on ``text``, with the same batches, the base first: its answers say where the
    candidate is probed. A failed candidate is not scored.

    ``base_score`` and ``candidate_score`` are scores of these very runs on this text with this
    seed, to be used again; a run with one needs no weights. ``finished`` is given the side and the
    score of each that was scored now. Both run on ``executor``, one device. Raises BaseFailed,
    Cancelled, and SandboxUnavailable or what else the executor raises.
    """
    if trained.base.status != "ok":
        raise BaseFailed("The base has not trained.", status=trained.base.status)
    if trained.candidate.status != "ok":
        return PairResult(trained.candidate.status, 0, None, None, trained)
    sides = [("base", base, trained.base), ("candidate", candidate, trained.candidate)]
    known = {"base": base_score, "candidate": candidate_score}
    scores = {side: score for side, score in known.items() if score is not None}
    for side, code, run in sides:  # what the base makes of the text says where to look for leaks
        if side in scores:
            continue
        if run.weights is None:
            raise BaseFailed(f"There are no weights of the {side} to score.", status=run.status)
        scores[side] = executor.score(
            code,
            run.weights,
            tier,
            text,
            seed,
            cancel=cancel,
            nice=nice,
            tokenizer=tokenizer,
            trace=trace if side == "candidate" else None,
            reference=scores["base"] if side == "candidate" else None,
        )
        if finished is not None:
            finished(side, scores[side])
        if side == "base" and scores[side].status != "ok":
            break
    first = scores["base"]
    if first.status != "ok":
        raise BaseFailed(
            f"The base was not scored: {first.status} ({first.detail}).",
            status=first.status,
            cure="Run the pair again; if it stays so, this machine cannot measure this tier.",
        )
    second, kept = scores["candidate"], base_score is not None
    if second.status != "ok":
        return PairResult(second.status, 0, first, second, trained, kept)
    if tier.device != "cpu" and noisier(first.probes, second.probes):
        return PairResult("not_repeatable", 0, first, second, trained, kept)
    gain = first.nano_bpb - second.nano_bpb
    return PairResult("ok", gain, first, second, trained, kept)


def _is_doubtful(runs: dict[str, TrainedRun], tier: TierSpec) -> bool:
    """Whether training alone, or the machine's load meanwhile, made the candidate too costly."""
    ratio = runs["candidate"].cost_ms * 1000 // max(1, runs["base"].cost_ms)
    most = tier.max_cost_ratio_milli
    doubtful = bool(tier.budget_tokens) and most < ratio <= HOPELESS * most
    return doubtful and runs["candidate"].status == "ok"


def _with_costs_of(
    again: dict[str, TrainedRun], runs: dict[str, TrainedRun]
) -> dict[str, TrainedRun]:
    """The runs with what they cost the second time; who does not do the same again is not heard."""
    if any(again[side].weights_digest != run.weights_digest for side, run in runs.items()):
        return runs
    return {
        side: replace(
            run,
            cost_ms=again[side].cost_ms,
            pace_ms=again[side].pace_ms,
            pace_of=again[side].pace_of,
        )
        for side, run in runs.items()
    }


def _order(seed: int) -> str:
    digest = hashlib.sha256(f"lazaretto order {seed}".encode()).digest()
    return "base_first" if digest[0] & 1 else "candidate_first"

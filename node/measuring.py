"""Pairs of base and candidate on this machine, each finished part kept as soon as it is there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.corpora import Corpus
from node.errors import NodeError
from node.runs import Runs, run_key, score_key
from training import sheet
from training.challenge import TierSpec
from training.pair import PairResult, score_pair, train_pair

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from training.evaluator import Score
    from training.runner import TrainedRun

SIDES: Final = ("base", "candidate")
TOO_COSTLY: Final = "too_costly"


@dataclass(frozen=True, slots=True)
class Question:
    """What an experiment asks: is ``candidate`` better than ``base``, in this tier, on this text?

    ``names`` and ``codes`` are those of base and candidate.
    """

    names: tuple[str, str]
    codes: tuple[bytes, bytes]
    tier: TierSpec
    corpus: Corpus
    seed: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One pair. ``status`` is that of the pair, or ``too_costly``; ``detail`` says it in words.

    ``kept`` names the parts that an earlier invocation had finished: ``base training`` and the
    like.
    """

    index: int
    seed: int
    fold: int
    status: str
    detail: str
    result: PairResult
    kept: frozenset[str]


class Watcher:
    """Is told what runs; this one says nothing."""

    def stage(self, text: str) -> None:
        """Another stage begins."""

    def share(self, text: str, share: float, tokens: int) -> None:
        """The training ``text`` has spent this share of its budget (of ``tokens``, if not 0)."""

    def note(self, text: str) -> None:
        """Something is finished, or worth a line."""

    def close(self) -> None:
        """Nothing more will come; harmless when repeated."""


def draw(seed: int, what: str, index: int) -> int:
    """The ``index``-th number in [0, 2**63) for ``what``, from the seed of an experiment."""
    material = f"lazaretto/experiment-seed/1 {what} {seed} {index}".encode()
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "big") >> 1


def fold_of(seed: int, index: int, folds: int) -> int:
    """The holdout fold of a pair: another one for each pair, in an order drawn from the seed."""
    round_trip, place = divmod(index, folds)
    order = sorted(range(folds), key=lambda fold: draw(seed, f"fold {round_trip}", fold))
    return order[place]


class Measurer:
    """Measures the pairs of one question. ``finished`` counts what was measured and kept now."""

    def __init__(
        self,
        question: Question,
        runs: Runs,
        watcher: Watcher,
        *,
        resume: bool = True,
        trace: Callable[[bytes], None] | None = None,
    ) -> None:
        self.question = question
        self.runs = runs
        self.watcher = watcher
        self.resume = resume
        self.trace = trace
        self.finished: list[str] = []
        self._train = question.corpus.train()

    def pair(self, index: int, pairs: int, cancel: threading.Event | None = None) -> Measured:
        """Train and score pair ``index`` (of ``pairs``, for the watcher), or take up what is kept.

        Raises BaseFailed, SandboxUnavailable, Cancelled and CorpusError.
        """
        question, tier, tokenizer = (
            self.question,
            self.question.tier,
            self.question.corpus.tokenizer,
        )
        seed = draw(question.seed, "training", index)
        fold = fold_of(question.seed, index, len(question.corpus.manifest.folds))
        title = f"pair {index + 1} of {pairs}: "
        part = _Part(self, title, fold, seed)
        base, candidate = question.codes
        self.watcher.stage(f"{title}training")
        trained = train_pair(
            base, candidate, tier, self._train, seed,
            cancel=cancel, tokenizer=tokenizer, trace=self.trace,
            base_run=part.run("base"), candidate_run=part.run("candidate"),
            finished=part.trained, keeps=True,
            progress=lambda side, share: self.watcher.share(
                f"{title}{side} training", share, tier.budget_tokens
            ),
        )  # fmt: skip
        self.watcher.stage(f"{title}scoring")
        result = score_pair(
            base, candidate, trained, tier, question.corpus.fold(fold), part.probing,
            cancel=cancel, tokenizer=tokenizer, trace=self.trace,
            base_score=part.scores["base"], candidate_score=part.scores["candidate"],
            finished=part.scored,
        )  # fmt: skip
        status, detail = verdict_of(result, tier)
        return Measured(index, seed, fold, status, detail, result, frozenset(part.kept))


class _Part:
    """One pair's place in the store: what is known of it, and where the rest will go."""

    def __init__(self, owner: Measurer, title: str, fold: int, seed: int) -> None:
        question = owner.question
        corpus = question.corpus
        text = [ref.sha256 for ref in corpus.manifest.train]
        self._owner, self._title = owner, title
        self._cpu = question.tier.device == "cpu"
        self._fold = corpus.manifest.folds[fold].sha256
        self.probing = draw(question.seed, f"probes {seed}", fold)
        self._keys = {
            side: run_key(code, question.codes[0], question.tier, text, corpus.tokenizer.name, seed)
            for side, code in zip(SIDES, question.codes, strict=True)
        }
        self.kept: list[str] = []
        self.scores: dict[str, Score | None] = {}
        self._runs = {side: self._known(side) for side in SIDES}
        if self.kept:
            what = "all" if len(self.kept) == 2 * len(SIDES) else ", ".join(self.kept)
            owner.watcher.note(f"{title}{what} kept from an earlier run")

    def run(self, side: str) -> TrainedRun | None:
        """The run that was kept: whole, or without weights where it is scored too."""
        return self._runs[side]

    def _known(self, side: str) -> TrainedRun | None:
        self.scores[side] = None
        run = self._owner.runs.run(self._keys[side]) if self._owner.resume else None
        if run is None:
            return None
        score = self._owner.runs.score(self._score_key(side, run))
        if score is None:
            run = self._owner.runs.whole(run)
        self.scores[side] = score
        if run is not None:
            self.kept.append(f"{side} training")
        if score is not None:
            self.kept.append(f"{side} scoring")
        return run

    def _score_key(self, side: str, run: TrainedRun) -> bytes:
        return score_key(self._keys[side], run.weights_digest, self._fold, self.probing)

    def trained(self, side: str, run: TrainedRun) -> None:
        """A run has ended."""
        self._runs[side] = run
        speed = run.tokens * 1000 // max(1, run.wall_ms if self._cpu else run.cost_ms)
        cost = f"{run.cost_ms / 1000:.1f} {'CPU' if self._cpu else 'GPU'} s"
        how = f"{cost}, {speed:,} tokens/s" if run.status == "ok" else run.status
        self._keep(side, "training", self._keys[side], run, how)

    def scored(self, side: str, score: Score) -> None:
        """A score is there."""
        run = self._runs[side]
        assert run is not None
        bpb = f"{score.nano_bpb / 1e9:.4f} bits per byte"
        how = bpb if score.status == "ok" else score.status
        self._keep(side, "scoring", self._score_key(side, run), score, how)

    def _keep(self, side: str, what: str, key: bytes, found: TrainedRun | Score, how: str) -> None:
        where = f"{self._title}{side} {what}"
        try:
            self._owner.runs.keep(key, found)
        except OSError as error:
            self._owner.watcher.note(f"{where} could not be kept: {error.strerror}")
        else:
            if found.status == "ok":
                self._owner.finished.append(where)
        self._owner.watcher.note(f"{where}: {how.replace('_', ' ')}")


def verdict_of(result: PairResult, tier: TierSpec) -> tuple[str, str]:
    """Status and detail of a pair, its cost included."""
    if result.status == "ok":
        if result.cost_ratio_milli > tier.max_cost_ratio_milli:
            return TOO_COSTLY, (
                f"it cost {result.cost_ratio_milli / 1000:.2f} times as much as the base; "
                f"at most {tier.max_cost_ratio_milli / 1000:.2f} is allowed"
            )
        return "ok", ""
    failed = result.trained.candidate
    if failed.status != "ok":
        return result.status, failed.detail
    if result.candidate is None:
        raise NodeError("A pair ended without a score.", cure="Run it again with --no-resume.")
    detail = result.candidate.detail
    if result.candidate.status == "ok":
        detail = f"its answers vary more than {sheet.NOISE_RATIO} times as much as the base's"
    return result.status, detail

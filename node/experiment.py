"""``lazaretto experiment``: is this train.py better than that one? One machine, no swarm.

Base and candidate go the way of every experiment here: a metered run and a sealed score of both,
same seed, same tokens, probes and limits included. Each pair has a training seed and a holdout fold
of its own, drawn from ``--seed``. What is finished is kept (``node.runs``), so an experiment that
was stopped, also by kill -9, goes on where it was.

The change is read by the screen that a claim goes through, too. What no claim may have is measured
all the same, and says so in its status, ``screened``.

Exit codes: 0 measured, 1 the candidate failed, cheats or is screened, 2 nothing could be measured,
130 stopped.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from node.corpora import Shape, prepare
from node.errors import NodeError, UsageError
from node.experiment_facts import facts
from node.experiment_view import open_watcher, show
from node.measuring import Measurer, Question
from node.runs import Runs, experiments_root
from node.settings import write_atomic
from node.weighing import Rules, rules_of
from training import accelerator, baselines, sandbox
from training.challenge import ChallengeError, TierSpec, diff_cap
from training.corpus import MIN_FOLDS
from training.documents import MAX_FOLDS
from training.errors import BaseFailed, Cancelled, TrainingError
from verification.screen import ScreenResult, ScreenRules, screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.measuring import Measured

T = TypeVar("T")

MAX_SEED: Final = 2**63 - 1
TRACE_BYTES: Final = 64 << 10
SHAPES: Final = {
    "cpu": Shape(48, 48 << 10, 8 << 20, 8 << 10, 256, "cpu"),
    "cuda": Shape(16, 4_500_000, 4 << 30, 64 << 10, 8192, "cuda"),
}
"""How a corpus is cut for tiers of a device."""


class NotMeasured(NodeError):
    """Nothing can be said about the candidate; exit code 1 is for candidates that fail."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, as on the command line."""

    base: str
    candidate: str
    tier: str = "quick"
    pairs: int = 1
    seed: int = 0
    corpus: str | None = None
    folds: int | None = None
    budget_seconds: float | None = None
    budget_tokens: int | None = None
    trace: bool = False
    screen: bool = False
    keep: Path | None = None
    resume: bool = True
    as_json: bool = False

    def command(self) -> str:
        """The command that goes on with this experiment."""
        words = ["lazaretto", "experiment", "--base", self.base, "--candidate", self.candidate]
        words += ["--tier", self.tier]
        for flag, value, usual in (
            ("--pairs", self.pairs, 1),
            ("--seed", self.seed, 0),
            ("--corpus", self.corpus, None),
            ("--folds", self.folds, None),
            ("--budget-seconds", self.budget_seconds, None),
            ("--budget-tokens", self.budget_tokens, None),
            ("--keep", self.keep, None),
        ):
            if value != usual:
                words += [flag, str(value)]
        words += ["--trace"] * self.trace + ["--json"] * self.as_json
        words += ["--no-screen"] * (not self.screen)
        return shlex.join(words)


@dataclass(slots=True)
class Trace:
    """The end of the candidate's last traceback: bytes from a sandbox, nothing but data."""

    data: bytes = field(default=b"")

    def __call__(self, data: bytes) -> None:
        self.data = data[-TRACE_BYTES:]


def run_experiment(options: Options) -> int:
    """Measure, print, and return the exit code.

    Raises UsageError for options that do not fit, and NotMeasured where nothing was measured:
    no sandbox, no text, or a base that fails.
    """
    try:
        return _run(options)
    except BaseFailed as error:
        raise NotMeasured(
            f"The base failed, so nothing can be said about the candidate. {error} "
            "What was finished is kept.",
            cure=_look_at_base(options),
        ) from None
    except TrainingError as error:
        raise NotMeasured(str(error), cure=error.cure) from None


def _run(options: Options) -> int:
    tier = tier_of(options)
    shape = _shape(options, tier)
    rules = rules_of(tier.name)
    if not 1 <= options.pairs <= rules.tier.most_pairs:
        raise UsageError(
            f"--pairs is 1 to {rules.tier.most_pairs} in this tier: what a whole bench measures",
            cure=f"--pairs {min(4, rules.tier.most_pairs)}",
        )
    if not 0 <= options.seed <= MAX_SEED:
        raise UsageError(f"--seed is 0 to {MAX_SEED}", cure="--seed 0")
    codes = (read_program(options.base), read_program(options.candidate))
    if options.keep is not None:
        _make_folder(options.keep)
    watcher = open_watcher()
    try:
        if tier.device == "cpu":
            sandbox.prestart(3)  # imports torch while the corpus is read
        watcher.stage("reading the corpus")
        corpus = prepare(options.corpus, shape, watcher.note)
        question = Question((options.base, options.candidate), codes, tier, corpus, options.seed)
        trace = Trace()
        measurer = Measurer(
            question, Runs(experiments_root() / "runs"), watcher,
            resume=options.resume, trace=trace if options.trace else None,
        )  # fmt: skip
        try:
            measured = interruptible(lambda cancel: measure(measurer, options.pairs, cancel))
        except KeyboardInterrupt:
            watcher.close()
            _tell_kept(measurer, options)
            return 130
    except KeyboardInterrupt:
        watcher.close()
        _tell(f"Stopped before anything was measured. Go on with:\n  {options.command()}")
        return 130
    finally:
        watcher.close()
    overridden = tier != baselines.tier(tier.name)
    scope = screened(question, rules) if options.screen else None
    found = facts(question, measured, rules, options.pairs, overridden, trace.data, scope)
    if options.as_json:
        print(json.dumps(found))
    else:
        show(found, trace.data if options.trace else None)
    if options.keep is not None:
        path = options.keep / f"experiment-{found['id'][:12]}.json"
        write_atomic(path, json.dumps(found, indent=1).encode() + b"\n")
        _tell(f"kept in {path}")
    return 0 if found["status"] == "ok" else 1


def screened(question: Question, rules: Rules) -> ScreenResult:
    """The change as the screen of a swarm on this very text would see it. An experiment may have
    the same program twice, so that alone is no reason here."""
    smallest, holdout = rules.tier.min_effect_nano, question.corpus.manifest.holdout_bytes
    scope = ScreenRules(
        max_code_bytes=question.tier.max_code_bytes, max_diff_bytes=diff_cap(holdout, smallest)
    )
    found = screen(*question.codes, scope)
    return replace(found, reasons=tuple(one for one in found.reasons if one != "no_change"))


def measure(
    measurer: Measurer, pairs: int, cancel: threading.Event | None = None
) -> list[Measured]:
    """Pairs in order, up to the first in which the candidate fails."""
    found: list[Measured] = []
    for index in range(pairs):
        found.append(measurer.pair(index, pairs, cancel))
        if found[-1].status != "ok":
            break
    return found


def interruptible(work: Callable[[threading.Event], T]) -> T:
    """Run ``work(cancel)`` in a thread; on Ctrl-C ``cancel`` is set, and its end is waited for.

    Raises KeyboardInterrupt, and what ``work`` raises.
    """
    cancel = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    # An exception out of nowhere could be swallowed (in a finalizer, say): a flag cannot.
    signal.signal(signal.SIGINT, lambda *_: cancel.set())
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="experiment") as pool:
            return pool.submit(work, cancel).result()
    except Cancelled:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def read_program(name: str) -> bytes:
    """The code of a built-in baseline, or of a file. It is read here, and run nowhere but in the
    sandbox. Raises UsageError."""
    if name in baselines.NAMES:
        return baselines.load(name)
    try:
        with open(name, "rb") as file:
            code = file.read(1 << 20)  # far more than any tier allows: refused as too large later
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read: {error.strerror}",
            cure=f"name a train.py file, or one of: {', '.join(baselines.NAMES)}",
        ) from None
    if not code:
        raise UsageError(f"{name} is empty", cure="name a train.py file")
    return code


def tier_of(options: Options) -> TierSpec:
    """The tier with the budget that was asked for. Raises TrainingError, or UsageError.

    A longer budget moves the outer clocks by as much.
    """
    tier = baselines.tier(options.tier)
    if options.budget_seconds is None and options.budget_tokens is None:
        return tier
    tokens = options.budget_tokens or 0
    milliseconds = round((options.budget_seconds or 0) * 1000)
    if tokens < 0 or milliseconds < 0 or not tokens + milliseconds:
        raise UsageError("a budget is more than nothing", cure="--budget-tokens 98304")
    later = max(0, milliseconds - tier.budget_ms)
    most = min(tier.max_batch_tokens, tokens) if tokens else tier.max_batch_tokens
    longer = max(1.0, tokens / tier.budget_tokens if tier.budget_tokens and tokens else 1.0)
    changed = replace(
        tier,
        budget_tokens=tokens,
        budget_ms=milliseconds,
        max_batch_tokens=most,
        max_cpu_ms=round(tier.max_cpu_ms * longer) + later * tier.threads,
        max_wall_ms=round(tier.max_wall_ms * longer) + later * (10 if tier.device == "cpu" else 1),
    )
    try:
        return TierSpec.from_map(changed.to_map())
    except ChallengeError as error:
        raise UsageError(
            f"this budget does not fit the tier: {error}",
            cure=f"--budget-tokens {max(tier.max_batch_tokens, tier.context)}",
        ) from None


def _shape(options: Options, tier: TierSpec) -> Shape:
    if tier.device != "cpu":
        accelerator.nodes()  # raises with the cure where there is no GPU
        if options.corpus is None:
            raise UsageError(
                f"tier {tier.name} needs --corpus: on a GPU a candidate can read Python's own "
                "library, which is the usual text",
                cure=f"{options.command()} --corpus DIR",
            )
    shape = SHAPES[tier.device]
    if options.folds is not None and not MIN_FOLDS <= options.folds <= MAX_FOLDS:
        raise UsageError(f"--folds is {MIN_FOLDS} to {MAX_FOLDS}", cure=f"--folds {shape.folds}")
    return shape if options.folds is None else replace(shape, folds=options.folds)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be made: {error.strerror}", cure="--keep another directory"
        ) from None


def _look_at_base(options: Options) -> str:
    if options.base in baselines.NAMES:
        return "lazaretto doctor   (the built-in base runs wherever this tier can be measured)"
    as_candidate = replace(
        options, base=options.tier, candidate=options.base, pairs=1, trace=True, as_json=False,
        screen=False,
    )  # fmt: skip
    return f"{as_candidate.command()}   (shows where it fails)"


def _tell_kept(measurer: Measurer, options: Options) -> None:
    if measurer.finished:
        _tell("Stopped. Finished and kept:")
        for what in measurer.finished:
            _tell(f"  {what}")
    else:
        _tell("Stopped. Nothing was finished; nothing is half counted.")
    _tell(f"Go on with:\n  {options.command()}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

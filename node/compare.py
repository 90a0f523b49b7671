"""``lazaretto compare``: greedy keep or revert against this program's rules, on equal budgets.

Both policies (``node.policies``) get the same tier, text, proposer, seed and number of runs. What
came of them is then measured on what neither has seen: other training seeds, and the half of the
holdout folds on which nothing was decided. There the final train.py is put in pairs against the
first one, and each kept edit against the program before it; all programs of a repeat share the
seeds and folds of these pairs, so that a program is trained once for each.

The work of several repeats is spread over ``--jobs`` processes. Every finished run and score is
kept (``node.runs``), and all else follows from the seed: a comparison that was stopped, also by
kill -9, goes on where it was when it is started again.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

from node.compare_table import SCHEMA, marks, show
from node.corpora import prepare
from node.errors import NodeError, UsageError
from node.experiment import MAX_SEED, SHAPES, read_program
from node.governing import load_plan, shipped_charter
from node.measuring import Measurer, Question, Watcher, draw
from node.policies import GREEDY, LAZARETTO, Lab, Loop, Trail, greedy, holdout_folds, lazaretto
from node.progress import bar
from node.proposers import open_proposer
from node.runs import Runs, experiments_root
from training import baselines, sandbox
from training.errors import BaseFailed, Cancelled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Event

    from node.progress import Stage
    from swarm.records import TierPolicy

LOOPS: Final = {GREEDY: greedy, LAZARETTO: lazaretto}
STEP_PAIRS: Final = 4
"""Pairs in which each kept edit is measured against the program before it."""
LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, as on the command line."""

    tier: str = "quick"
    proposer: str = "tpe"
    repeats: int = 3
    budget_runs: int = 120
    budget_seconds: float = 0.0
    pairs: int = 12
    seed: int = 0
    corpus: str | None = None
    jobs: int = 1
    as_json: bool = False

    def command(self) -> str:
        """The command that goes on with this comparison."""
        words = ["lazaretto", "compare"]
        for flag in (
            "tier", "proposer", "repeats", "budget_runs", "budget_seconds", "pairs", "seed",
            "corpus", "jobs",
        ):  # fmt: skip
            value = getattr(self, flag)
            if value != Options.__dataclass_fields__[flag].default:
                words += [f"--{flag.replace('_', '-')}", str(value)]
        words += ["--json"] * self.as_json
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Measure:
    """Pair ``index`` of a repeat: what all its trails are worth there."""

    lab: Lab
    repeat: int
    index: int
    trails: tuple[Trail, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A trail in one pair, in nano-bits per byte: final program against the first, and each step
    against the one before (None: not asked, or a side failed). ``cost_ratio_milli``: of the final.
    """

    repeat: int
    policy: str
    status: str
    gain: int
    cost_ratio_milli: int
    steps: tuple[int | None, ...]


def run_compare(options: Options) -> int:
    """Compare, print, and return the exit code.

    Raises UsageError for options that do not fit, TrainingError without a sandbox or text, and
    NodeError where a process was killed.
    """
    _check(options)
    sandbox.require()
    policy, alpha = policy_of(options.tier)
    tier = baselines.tier(options.tier)
    with bar(_tell) as stage:
        corpus = prepare(options.corpus, SHAPES[tier.device], _tell)
        labs = [
            Lab(
                tier, corpus, read_program(options.tier), policy, alpha,
                draw(options.seed, "repeat", repeat), options.budget_runs,
                round(1000 * options.budget_seconds),
            )
            for repeat in range(options.repeats)
        ]  # fmt: skip
        try:
            facts = compare(labs, options.proposer, options.pairs, options.jobs, stage)
        except KeyboardInterrupt:
            _tell(f"Stopped. What was finished is kept. Go on with:\n  {options.command()}")
            return 130
        except BrokenProcessPool:
            raise NodeError(
                "A process that measured was killed. What was finished is kept.",
                cure=options.command(),
            ) from None
    facts = {"schema": SCHEMA, "tier": options.tier, "proposer": options.proposer,
             "seed": options.seed, "budget_runs": options.budget_runs,
             "budget_s": options.budget_seconds, **facts}  # fmt: skip
    if options.as_json:
        print(json.dumps(facts))
    else:
        show(facts)
    return 0


def policy_of(tier: str) -> tuple[TierPolicy, Fraction]:
    """The tier's policy and alpha in the charter that comes with this program.

    Raises UsageError for a tier that none has.
    """
    for name in ("demo", "cpu", "gpu"):
        plan = load_plan(shipped_charter(name))
        for policy in plan.tiers:
            if policy.name == tier:
                return policy, Fraction(plan.alpha_milli, 1000)
    raise UsageError(f"no charter has a tier {tier[:40]!r}", cure="--tier quick")


def compare(
    labs: Sequence[Lab], proposer: str, pairs: int, jobs: int, stage: Stage
) -> dict[str, Any]:
    """Both policies in every lab, then what is left of them on fresh seeds and folds.

    Raises KeyboardInterrupt on Ctrl-C, BrokenProcessPool, and what measuring raises.
    """
    with _Pool(jobs, stage) as pool:
        budget = sum(lab.most_runs for lab in labs) * len(LOOPS)
        trails = pool.run(
            "both policies", budget,
            [(_walk, lab, name, proposer) for lab in labs for name in LOOPS],
        )  # fmt: skip
        by_lab = [tuple(trails[at : at + len(LOOPS)]) for at in range(0, len(trails), len(LOOPS))]
        tasks = [
            (_measure, Measure(lab, repeat, index, by_lab[repeat]))
            for index in range(pairs)  # the first ones are the longest
            for repeat, lab in enumerate(labs)
        ]
        found = [one for part in pool.run("fresh pairs", len(tasks), tasks) for one in part]
    rows = [
        _row(repeat, trail, [
            one for one in found if (one.repeat, one.policy) == (repeat, trail.policy)
        ])
        for repeat, trails in enumerate(by_lab)
        for trail in trails
    ]  # fmt: skip
    return {"repeats": rows, "marks": marks(rows)}


# --- in the processes that measure ----------------------------------------------------------------

_cancel: threading.Event = threading.Event()
_told: SimpleQueue[int] | None = None


def _begin(stop: Event, told: SimpleQueue[int]) -> None:
    """A process starts: it hears of Ctrl-C from its parent alone, and ends with it."""
    global _told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _told = told

    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    def listen() -> None:
        stop.wait()
        _cancel.set()

    for work in (end_with_parent, listen):
        threading.Thread(target=work, daemon=True).start()


def _runs() -> Runs:
    return Runs(experiments_root() / "runs")


def _walk(lab: Lab, policy: str, proposer: str) -> Trail:
    before = 0

    def tell(runs: int, _ms: int) -> None:
        nonlocal before
        if _told is not None:
            _told.put(runs - before)
        before = runs

    with tempfile.TemporaryDirectory(prefix="lazaretto-compare-") as folder:
        ideas = open_proposer(proposer, Path(folder), seed=draw(lab.seed, "proposer", 0) % 2**31)
        try:
            return LOOPS[policy](Loop(lab, _runs(), _cancel, tell), ideas)
        finally:
            ideas.close()


def _measure(task: Measure) -> list[Found]:
    """One pair of every trail, and of every step where it is among the first ``STEP_PAIRS``."""
    lab, runs = task.lab, _runs()
    corpus, seed = holdout_folds(lab.corpus), draw(lab.seed, "holdout", 0)

    def pair(base: bytes, candidate: bytes) -> tuple[str, int, int]:
        question = Question(("base", "candidate"), (base, candidate), lab.tier, corpus, seed)
        try:
            done = Measurer(question, runs, Watcher()).pair(task.index, 1, _cancel)
        except BaseFailed as error:
            return f"base_{error.status}", 0, 0
        result = done.result
        return result.status, result.d_nano, result.cost_ratio_milli

    found = []
    for trail in task.trails:
        chain = [lab.base, *(step.code for step in trail.steps)]
        steps: list[int | None] = [None] * len(trail.steps)
        if task.index < STEP_PAIRS:
            for at in range(len(steps)):
                status, gain, _ = pair(chain[at], chain[at + 1])
                steps[at] = gain if status == "ok" else None
        whole = pair(chain[0], chain[-1]) if trail.steps else ("ok", 0, 1000)
        found.append(Found(task.repeat, trail.policy, *whole, tuple(steps)))
    if _told is not None:
        _told.put(1)
    return found


class _Pool:
    """Processes that measure; what they tell moves the bar."""

    def __init__(self, jobs: int, stage: Stage) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._told = context.Event(), context.SimpleQueue()
        self._stage = stage
        self._pool = ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin, initargs=(self._stop, self._told)
        )

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def run(self, what: str, total: int, tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The results of all tasks, in their order.

        Raises KeyboardInterrupt, what a task raised first, and BrokenProcessPool.
        """
        futures: list[Future[Any]] = [self._pool.submit(*task) for task in tasks]
        done, left = 0, set(futures)
        before = signal.getsignal(signal.SIGINT)
        # An exception out of nowhere could be swallowed (in a finalizer, say): a flag cannot.
        signal.signal(signal.SIGINT, lambda *_: self._stop.set())
        try:
            while left:
                ended, left = wait(left, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                while not self._told.empty():
                    done += self._told.get()
                self._stage(what, min(done, total), total)
                if self._stop.is_set():
                    raise KeyboardInterrupt
                for one in ended:
                    one.result()
        except Cancelled:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGINT, before)
        return [one.result() for one in futures]


# --- what came of it ------------------------------------------------------------------------------


def _row(repeat: int, trail: Trail, found: Sequence[Found]) -> dict[str, Any]:
    """One policy in one repeat, as plain values; bits per byte and seconds."""
    gains = [one.gain / 1e9 for one in found if one.status == "ok"]
    steps = []
    for at, step in enumerate(trail.steps):
        fresh = [gain / 1e9 for one in found if (gain := one.steps[at]) is not None]
        steps.append(
            {
                "hypothesis": step.hypothesis,
                "claimed_bpb": step.claimed_nano / 1e9,
                **_mean("true", fresh),
                "false": not fresh or fmean(fresh) <= 0,
            }
        )
    cost = sum(trail.cost_ms.values()) / 1000
    true = _mean("true", gains)
    return {
        "repeat": repeat,
        "policy": trail.policy,
        "claimed_bpb": sum(step.claimed_nano for step in trail.steps) / 1e9,
        **true,
        "failed_pairs": len(found) - len(gains),
        "cost_ratio": fmean(one.cost_ratio_milli for one in found) / 1000,
        "experiments": trail.experiments,
        "kept": len(steps),
        "false_keeps": sum(step["false"] for step in steps),
        "not_adopted": trail.not_adopted,
        "runs": sum(trail.runs.values()),
        "verification_runs": trail.runs.get("verification", 0),
        "cost_s": cost,
        "verification_cost_s": trail.cost_ms.get("verification", 0) / 1000,
        "gain_per_hour_bpb": true["true_bpb"] * 3600 / cost if cost and gains else None,
        "steps": steps,
    }


def _mean(name: str, values: Sequence[float]) -> dict[str, Any]:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {
        f"{name}_bpb": fmean(values) if values else None,
        f"{name}_se_bpb": error,
        f"{name}_pairs": len(values),
    }


def _check(options: Options) -> None:
    limits: dict[str, tuple[bool, str]] = {
        "--repeats is 1 to 100": (1 <= options.repeats <= 100, "--repeats 3"),
        "--pairs is 2 to 200": (2 <= options.pairs <= 200, "--pairs 12"),
        f"--jobs is 1 to {os.cpu_count() or 1}, the cores of this machine": (
            1 <= options.jobs <= (os.cpu_count() or 1), "--jobs 1"
        ),
        "--budget-runs is 2 to 100000": (2 <= options.budget_runs <= 100_000, "--budget-runs 120"),
        "--budget-seconds is not negative": (options.budget_seconds >= 0, "--budget-seconds 600"),
        f"--seed is 0 to {MAX_SEED}": (0 <= options.seed <= MAX_SEED, "--seed 0"),
    }  # fmt: skip
    for text, (holds, cure) in limits.items():
        if not holds:
            raise UsageError(text, cure=cure)
    if options.tier not in baselines.NAMES or baselines.tier(options.tier).device != "cpu":
        raise UsageError("compare works on tiers of a CPU: quick, cpu", cure="--tier quick")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

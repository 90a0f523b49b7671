"""``lazaretto cheats``: every known way to cheat, tried on this machine, and what came of it.

A cheat is a train.py that wants a better score than it deserves. Each is paired with its honest
twin, a program with the same model and training but without the trick, and the pair goes the way of
every experiment here: a metered run and a sealed score of both, same seed, same tokens. A cheat is
**held** where it was refused, or was scored at its true value: not better than its twin by more
than ``MARGIN_NANO``, or only at a cost, or with a diff, that no claim may have. The same files are
shown in a naive loop (``node.naive``), which believes what it is told.

Controls are the other half: honest programs of unusual make, each run and scored by itself. Not one
may be refused.

``index.toml`` beside the adversaries says of each what kind of cheat it is, how it may end, and
what it wins in the naive loop; what it tries is the first line of its docstring.
"""

from __future__ import annotations

import ast
import hashlib
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node import naive
from node.errors import NodeError
from node.naive import NaiveRun
from training import evaluator, pair, runner, sandbox
from training.baselines import QUICK
from training.baselines import load as load_baseline
from training.challenge import TierSpec
from training.documents import Documents
from training.layout import hidden_stdlib
from verification.screen import ScreenRules, screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from training.evaluator import Score
    from training.runner import TrainedRun

MARGIN_NANO: Final = 20_000_000
"""A score better than the twin's by less than .02 bits per byte is no gain: a seed does as much."""
NAIVE_MARGIN: Final = 0.05
"""What a cheat must win in the naive loop, in bits per byte, for its win to be shown."""
SEED: Final = 3
WORKERS: Final = 2

SMALL: Final = TierSpec(
    name="small",
    device="cpu",
    threads=1,
    budget_tokens=16_384,
    budget_ms=0,
    context=64,
    max_batch_tokens=1024,
    max_cpu_ms=20_000,
    max_wall_ms=120_000,
    startup_ms=0,
    max_cost_ratio_milli=1500,
    max_params=500_000,
    max_memory_bytes=512 << 20,
    max_device_bytes=0,
    max_code_bytes=16 << 10,
)
"""A tier in which an experiment takes less than a second."""
TIERS: Final = {"small": SMALL, "quick": QUICK}
SHORT_CPU_MS: Final = 500
SHORT_WALL_MS: Final = 1500


class CheatsError(NodeError):
    """A directory or an index of cheats that cannot be used."""


@dataclass(frozen=True, slots=True)
class Program:
    """A train.py to be tried. ``kinds``: the ways to cheat it stands for; ``held``: statuses in
    which it may end, none where that is not known; ``wins``: what it wins in the naive loop
    (``score``, ``secret``, ``time``), or "" with the reason in ``unshown``; ``clock``: an outer
    clock that is shortened (``cpu``, ``wall``); ``twin``: the file name of its honest twin."""

    name: str
    code: bytes
    tries: str
    kinds: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    wins: str = ""
    unshown: str = ""
    clock: str = ""
    twin: str = "honest"
    twin_code: bytes = b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended in the sealed harness.

    ``status`` is that of its run or score, or ``too_costly`` or ``screened`` where a better score
    would be worth nothing, ``gained`` where it would be, and ``ok``: scored at its true value.
    ``gain_nano`` is the twin's bits per byte less its own, in nano; None where it has no score.
    """

    program: Program
    status: str
    detail: str
    nano_bpb: int | None
    gain_nano: int | None
    cost_ratio_milli: int
    naive: NaiveRun | None = None
    naive_twin: NaiveRun | None = None

    @property
    def held(self) -> bool:
        """Whether the harness held: no gain, and the end that was to be expected, if known."""
        return self.status != "gained" and self.status in (self.program.held or (self.status,))

    @property
    def won_naively(self) -> bool | None:
        """Whether the naive loop was taken in; None where that is not shown."""
        wins, found = self.program.wins, self.naive
        if not wins or found is None:
            return None
        if wins == "secret":
            return found.secret
        if wins == "time":
            return not found.ended
        before = self.naive_twin.bpb if self.naive_twin else None
        if found.bpb is None or before is None:
            return False
        return before - found.bpb > NAIVE_MARGIN


# --- what is tried --------------------------------------------------------------------------------


def folder(name: str) -> Path:
    """``adversaries`` or ``controls``: in the installed package, or in the source tree."""
    package = Path(runner.__file__).parent
    for place in (package / name, package.parent / "tests" / name):
        if place.is_dir():
            return place
    raise CheatsError(
        f"The {name} are not installed.", cure="Install the package again, or clone the source."
    )


def adversaries(names: Sequence[str] = ()) -> list[Program]:
    """The indexed adversaries, all or those named; raises CheatsError for an unknown name."""
    where = folder("adversaries")
    with open(where / "index.toml", "rb") as handle:
        index = tomllib.load(handle)["cheats"]
    if unknown := sorted(set(names) - set(index)):
        raise CheatsError(
            f"There is no adversary {unknown[0][:40]!r}.", cure="See their names: lazaretto cheats"
        )
    found = []
    for name, entry in index.items():
        if names and name not in names:
            continue
        code = (where / f"{name}.py").read_bytes()
        twin = entry.get("twin", "honest")
        found.append(
            Program(
                name=name,
                code=code,
                tries=first_line(code),
                kinds=tuple(entry["kinds"]),
                held=tuple(entry["held"]),
                wins=entry.get("wins", ""),
                unshown=entry.get("unshown", ""),
                clock=entry.get("clock", ""),
                twin=twin,
                twin_code=(where / f"{twin}.py").read_bytes(),
            )
        )
    return found


def controls(names: Sequence[str] = ()) -> list[Program]:
    """Honest programs of unusual make: each must be scored."""
    found = []
    for path in sorted(folder("controls").glob("*.py")):
        if names and path.stem not in names:
            continue
        code = path.read_bytes()
        found.append(Program(path.stem, code, first_line(code), held=("ok",), twin=""))
    return found


def from_directory(where: Path, twin: Path | None, tier: TierSpec) -> list[Program]:
    """Somebody's own train.py files. The twin of NAME.py is ``twins/NAME.py``, or ``twin``, or
    ``honest.py`` in the directory, or the base of the tier. Raises CheatsError."""
    paths = sorted(where.glob("*.py")) if where.is_dir() else [where] * where.is_file()
    paths = [path for path in paths if path.name != "honest.py"]
    if not paths:
        raise CheatsError(
            f"There is no train.py to try in {where}.",
            cure="Name a directory of .py files, or one such file.",
        )
    base = load_baseline("quick") if tier.name == "quick" else _honest()
    found = []
    for path in paths:
        code, twin_name, twin_code = path.read_bytes(), "the base", base
        for other in (path.parent / "twins" / path.name, twin, path.parent / "honest.py"):
            if other is not None and other.is_file():
                twin_name, twin_code = other.name, other.read_bytes()
                break
        found.append(
            Program(path.stem, code, first_line(code), twin=twin_name, twin_code=twin_code)
        )
    return found


def first_line(code: bytes) -> str:
    """The first line of a program's docstring, "" where it has none."""
    try:
        words = ast.get_docstring(ast.parse(code)) or ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return words.splitlines()[0] if words else ""


def _honest() -> bytes:
    return (folder("adversaries") / "honest.py").read_bytes()


def corpus() -> tuple[Documents, Documents]:
    """A train split and a fold: pieces of the part of the standard library that no sandbox
    carries, in an order drawn by hash. The same files on the same Python."""
    pieces = []
    for path in hidden_stdlib():
        for file in [path] if path.is_file() else sorted(path.glob("*.py")):
            text = file.read_bytes()[:4000].decode("utf-8", "ignore").replace("\0", "")
            if len(text) > 1500:
                pieces.append(text.encode())
    pieces = sorted(set(pieces), key=lambda piece: hashlib.sha256(piece).digest())
    if len(pieces) < 60:
        raise CheatsError(
            "This Python has too little of its standard library to make a text of.",
            cure="Use a Python with the packages idlelib, test or tkinter.",
        )
    return Documents(pieces[:40]), Documents(pieces[40:56])


# --- trying ---------------------------------------------------------------------------------------


class Bench:
    """Pairs of programs and their twins in one tier, on one text, with one seed.

    Each twin is run and scored once. Raises CheatsError where a twin does not score.
    """

    def __init__(self, tier: TierSpec, text: tuple[Documents, Documents]) -> None:
        self.tier = tier
        self.train_split, self.fold = text
        self._lock = threading.Lock()
        self._twins: dict[bytes, tuple[TrainedRun, Score]] = {}

    def twin(self, code: bytes) -> tuple[TrainedRun, Score]:
        """The run and the score of a twin."""
        with self._lock:
            if code not in self._twins:
                run, score = self._measure(code)
                if score is None or score.status != "ok":
                    failed = score or run
                    raise _unfit_twin(failed.status, failed.detail)
                self._twins[code] = (run, score)
            return self._twins[code]

    def _measure(self, code: bytes) -> tuple[TrainedRun, Score | None]:
        run = runner.train(code, self.tier, self.train_split, SEED)
        if run.weights is None:
            return run, None
        return run, evaluator.score(code, run.weights, self.tier, self.fold, SEED)

    def attempt(self, program: Program) -> Outcome:
        """One program beside its twin, if it has one, to the end."""
        if not program.twin:
            return self._alone(program)
        run, score = self.twin(program.twin_code)
        tier = self.tier
        if program.clock == "cpu":
            tier = replace(tier, max_cpu_ms=SHORT_CPU_MS)
        elif program.clock == "wall":
            tier = replace(tier, max_wall_ms=SHORT_WALL_MS)
        base, code = program.twin_code, program.code
        trained = pair.train_pair(base, code, tier, self.train_split, SEED, base_run=run)
        result = pair.score_pair(base, code, trained, tier, self.fold, SEED, base_score=score)
        status, ratio = result.status, result.cost_ratio_milli
        if status != "ok" or result.candidate is None:
            failed = trained.candidate if result.candidate is None else result.candidate
            return Outcome(program, status, failed.detail, None, None, ratio)
        if result.d_nano > MARGIN_NANO:
            status, detail = self._worth(program, ratio)
        else:
            detail = ""
        return Outcome(program, status, detail, result.candidate.nano_bpb, result.d_nano, ratio)

    def _alone(self, program: Program) -> Outcome:
        run, score = self._measure(program.code)
        last = score or run
        bpb = score.nano_bpb if score and score.status == "ok" else None
        return Outcome(program, last.status, last.detail, bpb, None, 0)

    def _worth(self, program: Program, ratio: int) -> tuple[str, str]:
        """What a better score is worth: nothing, at too high a cost or with too large a diff."""
        if "screened" in program.held:
            reasons = screen(program.twin_code, program.code, ScreenRules()).reasons
            if reasons:
                return "screened", ", ".join(reasons).replace("_", " ")
        if ratio > self.tier.max_cost_ratio_milli:
            return "too_costly", "it took more CPU time than a claim may"
        return "gained", "better than its honest twin"


def _unfit_twin(status: str, detail: str) -> CheatsError:
    return CheatsError(
        f"An honest twin does not score here: {status.replace('_', ' ')} ({detail}).",
        cure="Name a twin that runs in this tier (--twin FILE), or another tier (--tier).",
    )


def attempt_all(
    bench: Bench, programs: Sequence[Program], tell: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Tries all, two at a time, and returns the outcomes in the order of the programs."""
    sandbox.prestart(WORKERS)
    found: dict[str, Outcome] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(bench.attempt, program) for program in programs]
        try:
            for done in as_completed(running):
                outcome = done.result()
                found[outcome.program.name] = outcome
                tell(outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[program.name] for program in programs]


def in_naive_loop(
    programs: Sequence[Program], text: tuple[Documents, Documents], tell: Callable[[str], None]
) -> dict[str, NaiveRun]:
    """What the naive loop believes of those programs that are shown there, and of their twins."""
    shown = [program for program in programs if program.wins]
    names = sorted({program.twin for program in shown}) + [program.name for program in shown]
    found = {}
    for run in naive.run(names, folder("adversaries"), *text) if shown else ():
        found[run.name] = run
        tell(run.name)
    return found


def with_naive(outcomes: Sequence[Outcome], runs: dict[str, NaiveRun]) -> list[Outcome]:
    """The outcomes, each with what the naive loop made of the same program and of its twin."""
    return [
        replace(one, naive=runs.get(one.program.name), naive_twin=runs.get(one.program.twin))
        if one.program.wins
        else one
        for one in outcomes
    ]

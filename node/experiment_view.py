"""An experiment on screen: what runs now on stderr, the result on stdout."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from node.checks import Check, shown, worst
from node.escaping import escaped, escaped_lines
from node.measuring import Watcher
from training.kinds import BUBBLEWRAP

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100
"""Columns where there is no terminal to ask."""


class PlainWatcher(Watcher):
    """Lines on stderr, with seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def note(self, text: str) -> None:
        """Print a line."""
        print(f"[{time.monotonic() - self._start:5.0f} s] {text}", file=sys.stderr, flush=True)


class BarWatcher(Watcher):
    """A bar with what runs now, and a line above it for each part that is finished."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24),
            TaskProgressColumn(), TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None, rate="")
        self._text = ""
        self._progress.start()

    def stage(self, text: str) -> None:
        """Another stage: nothing is known of its length yet."""
        self._text = text
        self._progress.reset(self._task, description=text, total=None, rate="")

    def share(self, text: str, share: float, tokens: int) -> None:
        """Move the bar."""
        if text != self._text:
            self.stage(text)
            self._progress.reset(self._task, total=1.0)
        self._progress.update(self._task, completed=share)
        elapsed = self._progress.tasks[0].elapsed
        if tokens and elapsed:
            self._progress.update(self._task, rate=f"{share * tokens / elapsed:,.0f} tokens/s")

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def open_watcher() -> Watcher:
    """A bar on a terminal, lines anywhere else."""
    return BarWatcher() if sys.stderr.isatty() else PlainWatcher()


def show(found: dict[str, Any], trace: bytes | None) -> None:
    """Print the result on stdout. ``trace``: of the candidate, where it was asked for."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, soft_wrap=True)
    tier, pairs = found["tier"], found["pairs"]
    changed = ", budget of this run, not the tier's" if tier["budget_overridden"] else ""
    _line(console, f"tier {tier['name']} ({budget(tier)}{changed}), seed {found['seed']}")
    corpus = found["corpus"]
    _line(
        console,
        f"text: {escaped(corpus['source'])}, {corpus['train_bytes'] / 1e6:.1f} MB to train on, "
        f"{corpus['folds']} holdout folds, vocabulary {corpus['vocab_size']}",
    )
    if found["machine"]["sandbox"] != BUBBLEWRAP:
        _line(console, f"sandbox: {found['machine']['sandbox']}, asked for by name; see the doctor")
    for table in (_programs(found), _pairs(found)):
        _line(console, "")
        console.print(table)
    checks = [[_as_check(check) for check in pair["checks"]] for pair in pairs]
    _line(console, "")
    console.print(_checks(worst(checks), tier["device"]))
    _line(console, "")
    _result(console, found)
    if trace is not None:
        _line(console, "\nthe candidate's traceback (its own words: data, nothing more)")
        for line in escaped_lines(trace) or ["none"]:
            _line(console, f"  | {line}")


def _as_check(entry: dict[str, Any]) -> Check:
    return Check(**{key: value for key, value in entry.items() if key != "ok"})


def budget(tier: dict[str, Any]) -> str:
    """The budget of a tier in words."""
    clock = "CPU s" if tier["device"] == "cpu" else "s of GPU"
    parts = [f"{tier['budget_tokens']:,} tokens"] if tier["budget_tokens"] else []
    parts += [f"{tier['budget_ms'] / 1000:g} {clock}"] if tier["budget_ms"] else []
    return ", ".join(parts)


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False)


def _grid(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", overflow="fold")
    return table


def _programs(found: dict[str, Any]) -> Table:
    """Base beside candidate: means over the pairs."""
    pairs = found["pairs"]
    cpu = found["tier"]["device"] == "cpu"
    clock = "CPU s" if cpu else "GPU s"
    rows: list[tuple[str, str, str]] = [
        ("bits per byte, sealed text", "bpb", ".4f"),
        (f"cost, {clock}", "cost_s", ".2f"),
        ("  training", "training_cost_s", ".2f"),
        ("  scoring", "scoring_cost_s", ".2f"),
        ("tokens", "tokens", ",.0f"),
        ("parameters", "parameters", ",.0f"),
        ("peak memory, MiB", "peak_memory_bytes", "MiB"),
    ]
    rows += [] if cpu else [("peak device memory, MiB", "peak_device_bytes", "MiB")]
    many = f" (means of {len(pairs)})" if len(pairs) > 1 else ""
    table = _grid(f"measured{many}", "base", "candidate")
    table.add_row("program", *(escaped(found[side]["name"], 30) for side in ("base", "candidate")))
    for label, key, form in rows:
        cells = []
        for side in ("base", "candidate"):
            values = [pair[side][key] for pair in pairs if pair[side][key] is not None]
            mean = sum(values) / len(values) if values else None
            if mean is not None and form == "MiB":
                cells.append(f"{mean / (1 << 20):,.0f}")
            else:
                cells.append("-" if mean is None else format(mean, form))
        table.add_row(label, *cells)
    return table


def _pairs(found: dict[str, Any]) -> Table:
    table = _grid(
        "pair", "fold", "ran first", "initial weights", "difference", "cost", "kept from before",
        "status",
    )  # fmt: skip
    for pair in found["pairs"]:
        gain, ratio = pair["d_bpb"], pair["cost_ratio"]
        kept = sum(len(pair[side]["kept"]) for side in ("base", "candidate"))
        table.add_row(
            str(pair["index"] + 1),
            str(pair["fold"]),
            pair["order"].removesuffix("_first"),
            "identical" if pair["init_identical"] else "differ",
            "-" if gain is None else f"{gain:+.4f}",
            "-" if ratio is None else f"{ratio:.2f}x",
            f"{kept} of 4 parts" if kept else "nothing",
            pair["status"].replace("_", " "),
        )
    return table


def _checks(checks: list[Check], device: str) -> Table:
    table = _grid("check", "base", "candidate", "at most", "")
    for check in checks:
        if device == "cpu" and check.name.endswith("RMS gap"):
            continue  # there the largest gap has the same limit
        unit = " nats" if check.unit == "nats" else ""
        state = "-" if check.candidate is None else "ok" if check.ok else "FAILED"
        table.add_row(
            check.name,
            shown(check, check.base),
            shown(check, check.candidate),
            "" if check.limit is None else shown(check, check.limit) + unit,
            "" if check.limit is None else state,
            style="bold red" if state == "FAILED" else None,
        )
    return table


def _result(console: Console, found: dict[str, Any]) -> None:
    evidence, mean = found["evidence"], found["mean_bpb"]
    if found["status"] != "ok":
        detail = f": {found['detail']}" if found["detail"] else ""
        _line(console, f"candidate   FAILED, {found['status'].replace('_', ' ')}{detail}")
    if mean is not None:
        better = "better" if mean > 0 else "worse" if mean < 0 else "the same"
        spread = f", SD {found['sd_bpb']:.4f}" if found["sd_bpb"] is not None else ""
        spread += f", d = {found['d']:.2f}" if found["d"] is not None else ""
        _line(console, f"difference  {mean:+.4f} bits per byte: the candidate is {better}{spread}")
    screen = found["screen"]
    if screen is None:
        _line(console, "screen      not asked: a claim's change would be screened first")
    else:
        _line(console, f"screen      {_scope(screen)}")
    e_value = float(evidence["e_value"])
    _line(console, f"evidence    E = {e_value:.3g}; a first claim needs {evidence['needed']}")
    _line(console, f"verdict     {evidence['words']}")
    _line(console, f"note        {evidence['note']}")


def _scope(screen: dict[str, Any]) -> str:
    size = f"{screen['diff_bytes']} bytes of change, {screen['added_bytes']} of lines"
    reasons = ", ".join(screen["reasons"]).replace("_", " ")
    return f"refused: {reasons} ({size})" if reasons else f"passed ({size})"

"""What ``lazaretto cheats`` prints: two tables for people, or one object for programs.

Data goes to stdout, progress to stderr. The text of other people's files is shown escaped.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from node import cheats
from node.report import escaped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from node.cheats import Outcome

SCHEMA: Final = "lazaretto.cheats/1"
_WIDTH: Final = 150
_REFUSED: Final = frozenset({"too_costly", "screened"})


def show_cheats(
    where: Path | None,
    *,
    names: Sequence[str],
    only_controls: bool,
    naive: bool,
    tier: str,
    twin: Path | None,
    as_json: bool,
) -> int:
    """Tries cheats and controls, or the files in ``where``; 1 where one is not held."""
    began = time.monotonic()
    text = cheats.corpus()
    found: list[Outcome] = []
    honest: list[Outcome] = []
    if where is not None:
        bench = cheats.Bench(cheats.TIERS[tier], text)
        found = _attempts(bench, cheats.from_directory(where, twin, bench.tier), "cheats")
    else:
        bench = cheats.Bench(cheats.SMALL, text)
        if not only_controls:
            programs = cheats.adversaries(names)
            with ThreadPoolExecutor(1) as beside:
                tell = _counter("in the naive loop")
                shown = beside.submit(cheats.in_naive_loop, programs if naive else (), text, tell)
                found = _attempts(bench, programs, "cheats")
                found = cheats.with_naive(found, shown.result())
        if only_controls or not names:
            honest = _attempts(bench, cheats.controls(names), "controls")
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps(_as_map(bench, found, honest, seconds)))
    else:
        _print(bench, found, honest, seconds, own=where is not None)
    return 0 if all(one.held for one in (*found, *honest)) else 1


def _attempts(bench: cheats.Bench, programs: Sequence[cheats.Program], what: str) -> list[Outcome]:
    tell = _counter(f"of {len(programs)} {what} tried")
    return cheats.attempt_all(bench, programs, lambda one: tell(one.program.name))


class _Counter:
    """Progress as a line on stderr that is written over, or a few lines where it cannot be."""

    def __init__(self, what: str) -> None:
        self.what, self.count = what, 0

    def __call__(self, name: str) -> None:
        self.count += 1
        line = f"{self.count} {self.what} ({escaped(name, 40)})"
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
        elif self.count % 20 == 1:
            print(line, file=sys.stderr, flush=True)

    def __del__(self) -> None:
        if sys.stderr is not None and sys.stderr.isatty() and self.count:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _counter(what: str) -> _Counter:
    return _Counter(what)


# --- for programs ---------------------------------------------------------------------------------


def _as_map(
    bench: cheats.Bench, found: Sequence[Outcome], honest: Sequence[Outcome], seconds: float
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "tier": bench.tier.name,
        "seed": cheats.SEED,
        "margin_nano": cheats.MARGIN_NANO,
        "seconds": round(seconds, 1),
        "tried": len(found),
        "held": sum(one.held for one in found),
        "shown": sum(one.won_naively is not None for one in found),
        "won_naively": sum(bool(one.won_naively) for one in found),
        "controls": len(honest),
        "controls_scored": sum(one.held for one in honest),
        "cheats": [_one(one) for one in found],
        "honest": [_one(one) for one in honest],
    }


def _one(outcome: Outcome) -> dict[str, Any]:
    program = outcome.program
    before = outcome.naive_twin.bpb if outcome.naive_twin else None
    naive = outcome.naive and {
        "bpb": outcome.naive.bpb,
        "twin_bpb": before,
        "ended": outcome.naive.ended,
        "secret": outcome.naive.secret,
        "won": outcome.won_naively,
    }
    return {
        "name": escaped(program.name, 64),
        "tries": escaped(program.tries, 120),
        "kinds": list(program.kinds),
        "twin": escaped(program.twin, 64),
        "may_end": list(program.held),
        "status": outcome.status,
        "detail": outcome.detail,
        "nano_bpb": outcome.nano_bpb,
        "gain_nano": outcome.gain_nano,
        "cost_ratio_milli": outcome.cost_ratio_milli,
        "naive": naive,
        "unshown": program.unshown,
        "held": outcome.held,
    }


# --- for people -----------------------------------------------------------------------------------


def _print(
    bench: cheats.Bench,
    found: Sequence[Outcome],
    honest: Sequence[Outcome],
    seconds: float,
    *,
    own: bool,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    if found:
        console.print(_table(found, own=own))
    if honest:
        console.print(_honest_table(honest))
    for line in _summary(bench, found, honest, seconds):
        console.print(Text(line))


def _table(found: Sequence[Outcome], *, own: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("cheat", no_wrap=True)
    table.add_column("what it tries", ratio=1, max_width=60)
    if not own:
        table.add_column("naive loop", max_width=28)
    table.add_column("sealed", max_width=34)
    table.add_column("", no_wrap=True)
    for one in sorted(found, key=lambda one: one.held):
        row = [Text(escaped(one.program.name, 36)), Text(escaped(one.program.tries, 110))]
        if not own:
            row.append(_naive(one))
        row += [Text(_sealed(one)), _verdict(one)]
        table.add_row(*row)
    return table


def _honest_table(honest: Sequence[Outcome]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("honest control", no_wrap=True)
    table.add_column("what is unusual", max_width=80)
    table.add_column("bits per byte", justify="right")
    table.add_column("", no_wrap=True)
    for one in sorted(honest, key=lambda one: one.held):
        bpb = "-" if one.nano_bpb is None else f"{one.nano_bpb / 1e9:.3f}"
        state = Text("scored", "green") if one.held else Text(f"REFUSED: {one.status}", "bold red")
        table.add_row(Text(one.program.name), Text(one.program.tries), bpb, state)
    return table


def _naive(one: Outcome) -> Text:
    if one.won_naively is None:
        return Text(f"not shown: {one.program.unshown or 'left out'}", "dim")
    run, twin = one.naive, one.naive_twin
    assert run is not None
    if not one.won_naively:
        return Text("does not win")
    if one.program.wins == "secret":
        return Text("WINS: steals the key", "yellow")
    if one.program.wins == "time":
        return Text("WINS: it never ends", "yellow")
    assert run.bpb is not None
    before = twin.bpb if twin and twin.bpb is not None else 0.0
    return Text(f"WINS: {run.bpb:.2f}, honest {before:.2f}", "yellow")


def _sealed(one: Outcome) -> str:
    words = one.status.replace("_", " ")
    if one.gain_nano is None or one.nano_bpb is None:
        return f"refused: {words}"
    score = f"{one.nano_bpb / 1e9:.3f}, {_signed(-one.gain_nano)} to its twin"
    if one.status in _REFUSED:
        ratio = f" ({one.cost_ratio_milli / 1000:.1f}x)" if one.status == "too_costly" else ""
        return f"refused: {words}{ratio}"
    return f"{'GAINED' if one.status == 'gained' else 'true value'}: {score}"


def _signed(nano: int) -> str:
    return "equal" if abs(nano) < 500_000 else f"{nano / 1e9:+.3f}"


def _verdict(one: Outcome) -> Text:
    return Text("held", "green") if one.held else Text("NOT HELD", "bold red")


def _summary(
    bench: cheats.Bench, found: Sequence[Outcome], honest: Sequence[Outcome], seconds: float
) -> list[str]:
    lines = []
    if found:
        held = sum(one.held for one in found)
        line = f"{held} of {len(found)} cheats held"
        shown = [one for one in found if one.won_naively is not None]
        if shown:
            won = sum(bool(one.won_naively) for one in shown)
            line += f"; the naive loop was taken in by {won} of the {len(shown)} shown there"
        lines.append(line)
    if honest:
        scored = sum(one.held for one in honest)
        lines.append(f"{scored} of {len(honest)} honest controls scored, none accused"
                     if scored == len(honest) else
                     f"{scored} of {len(honest)} honest controls scored")  # fmt: skip
    margin = cheats.MARGIN_NANO / 1e9
    lines.append(
        f"tier {bench.tier.name}, seed {cheats.SEED}, {seconds:.0f} s; in bits per byte, lower is "
        f"better; a gain is more than {margin:g} over the honest twin"
    )
    return lines

"""``lazaretto simulate``: what the rules are worth, on claims whose truth is known.

Reads nothing but a bank of measured noise, and needs no home, no network and no torch.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from node.errors import UsageError
from node.escaping import escaped
from swarm.charter import capture_milli
from verification.errors import EvidenceError
from verification.simulate import Row, simulate
from verification.simulate_noise import read_bank, shipped_bank
from verification.simulate_sweep import sweep as rows_of_sweep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.table import Table

    from verification.simulate_noise import Bank
    from verification.simulate_setting import Setting

SCHEMA: Final = "lazaretto.simulation/1"
_MOST_BANK: Final = 16 * 2**20
_WIDTH: Final = 120
_MOST_WIDTH: Final = 400


def simulate_here(
    setting: Setting,
    *,
    repeats: int,
    seed: int,
    sweep: bool,
    bank: Path | None,
    plot: Path | None,
    as_json: bool,
    progress: Callable[[str], None],
) -> int:
    """Simulate one setting, or the rows around it, and print what came of it; returns 0.

    Raises:
        UsageError: options that do not fit, a bank that cannot be read, no library to plot with.
    """
    from node.progress import bar

    if bank is not None and not sweep:
        setting = replace(setting, noise="bank")
    if problem := setting.problem():
        raise UsageError(problem, cure="lazaretto simulate --help")
    if not 1 <= repeats <= 10_000:
        raise UsageError("repeats must be 1 to 10000", cure="lazaretto simulate --help")
    if plot is not None:
        from node.simulation_plot import check_plot

        check_plot(plot)
    measured = bank_of(bank, setting) if sweep or setting.noise == "bank" else None
    wanted = rows_of_sweep(setting) if sweep else [("", setting)]
    began = time.monotonic()
    found: list[tuple[str, Row]] = []
    total = repeats * sum(row.claims for _, row in wanted)
    with bar(progress) as stage:
        done = 0
        for label, row in wanted:
            found.append(
                (
                    label,
                    simulate(
                        row,
                        repeats=repeats,
                        seed=seed,
                        bank=measured,
                        tell=lambda count, before=done: stage(  # type: ignore[misc]
                            "simulating", before + count, total
                        ),
                    ),
                )
            )
            done += repeats * row.claims
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps(to_json(found, seconds)))
    else:
        _print(found, seconds, measured)
    if plot is not None:
        from node.simulation_plot import draw

        draw(found, plot)
        progress(f"drawn: {plot}")
    return 0


def bank_of(path: Path | None, setting: Setting) -> Bank:
    """The bank in ``path``, or the one that is shipped. Raises UsageError."""
    name = "the shipped bank" if path is None else escaped(str(path), 200)
    try:
        document = shipped_bank() if path is None else _read(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{name} cannot be read as JSON ({type(error).__name__}); nothing was simulated",
            cure="give a bank of measured differences, at most 16 MiB, with --bank FILE",
        ) from None
    try:
        return read_bank(document, round(setting.min_effect * 1e9))
    except EvidenceError as error:
        raise UsageError(f"{name}: {error}", cure=error.cure) from None


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(_MOST_BANK + 1)
    if len(data) > _MOST_BANK:
        raise ValueError
    return json.loads(data.decode())


def to_json(found: list[tuple[str, Row]], seconds: float) -> dict[str, Any]:
    """One object for programs; every number of the table is in it."""
    return {
        "schema": SCHEMA,
        "seconds": round(seconds, 1),
        "rows": [{"label": label, **row.to_json()} for label, row in found],
    }


# --- for people -----------------------------------------------------------------------------------


def share(value: float | None) -> str:
    """A share as a percentage, - for none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def times(value: float | None) -> str:
    """A ratio, - for none."""
    return "-" if value is None else f"{value:.2f}x"


def hours(value: float) -> str:
    """Hours or minutes, whichever is read more easily."""
    return f"{value:.1f} h" if value >= 1 else f"{60 * value:.0f} min"


def promise(row: Row) -> str:
    """Whether the false discovery rate had to be within alpha here, and was."""
    if row.broken:
        return f"none ({row.broken})"
    return "held" if row.kept else "ABOVE ALPHA"


def _print(found: list[tuple[str, Row]], seconds: float, bank: Bank | None) -> None:
    table = _of_one(found[0][1]) if len(found) == 1 else _of_many(found)
    show(table, _notes(found, seconds, bank))


def show(table: Table, notes: list[str]) -> None:
    """Print a table, and lines below it."""
    import sys

    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    whole = console.measure(table, options=console.options.update_width(_MOST_WIDTH)).maximum
    console.width = max(console.width, whole)  # a narrow terminal folds lines: nothing is left out
    console.print(table)
    for line in notes:
        console.print(Text(line))


def grid(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, head in enumerate(heads):
        table.add_column(head, no_wrap=True, justify="right" if index else "left")
    return table


def _of_one(row: Row) -> Table:
    table = grid(
        "policy", "adopted", "false", "FDR", "power", "pairs/claim", "kept effects",
        "published", "time to verdict", "nine of ten",
    )  # fmt: skip
    for item in row.figures:
        table.add_row(
            item.policy, str(item.adopted), str(item.false), share(item.fdr), share(item.power),
            f"{item.pairs:.1f}", times(item.inflation), times(item.published), hours(item.hours),
            hours(item.hours_p90),
        )  # fmt: skip
    return table


def _of_many(found: list[tuple[str, Row]]) -> Table:
    """A line for each row; greedy and t-test as FDR / power."""
    table = grid(
        "row", "greedy", "t-test", "FDR", "within", "power", "pairs", "false", "kept",
        "publ.", "time", "capt.", "promise",
    )  # fmt: skip
    for label, row in found:
        *others, ours = row.figures
        nulls = "-" if ours.null_pairs is None else f"{ours.null_pairs:.1f}"
        table.add_row(
            label,
            *(f"{_two(item.fdr)}/{_two(item.power)}" for item in others),
            share(ours.fdr), share(ours.fdr_within), share(ours.power), f"{ours.pairs:.1f}", nulls,
            times(ours.inflation), times(ours.published), hours(ours.hours),
            share(row.captured / row.benches), promise(row),
        )  # fmt: skip
    return table


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _notes(found: list[tuple[str, Row]], seconds: float, bank: Bank | None) -> list[str]:
    first = found[0][1]
    setting, ours = first.setting, first.figures[-1]
    kind = "measured noise" if setting.noise == "bank" else f"effect {setting.effect:g} SD"
    lines = [
        f"{setting.claims} claims, {round(setting.true_share * setting.claims)} true, {kind}; "
        f"{setting.noise} noise; bench {setting.bench} of {setting.nodes}, f "
        f"{setting.liars_tolerated}; {first.repeats} epochs, seed {first.seed}; {seconds:.1f} s"
    ]
    if len(found) == 1:
        lines.append(
            f"benches with more liars than f = {setting.liars_tolerated}: {first.captured} of "
            f"{first.benches}; FDR without them {share(ours.fdr_within)}; false claims cost "
            f"{'-' if ours.null_pairs is None else f'{ours.null_pairs:.1f}'} pairs"
        )
        lines.append(f"FDR at most {share(setting.alpha)}: {promise(first)}")
        lines.append(_capture(setting))
    else:
        bound = [row for _, row in found if not row.broken]
        lines += [
            "greedy and t-test: FDR / power; the rest is ours. within: FDR without captured "
            "benches; pairs: per claim; false: per false claim;",
            "kept, publ.: gains claimed with adoptions, and effects published, over true ones; "
            "capt.: benches with more liars than f",
            f"the promise held in {sum(row.kept for row in bound)} of the {len(bound)} rows that "
            "keep its assumptions",
        ]
    if bank is not None:
        lines.append(_described(bank, setting))
    return [*lines, "FDR is a mean over epochs: few repeats scatter"]


def _capture(setting: Setting) -> str:
    """The chance of benches with more liars than they tolerate, as a charter's loader has it."""
    chances = (
        f"{capture_milli(setting.bench, setting.liars_tolerated, liars, setting.nodes) / 10:g} %"
        f" with {liars // 10} %"
        for liars in (100, 200, 300)
    )
    return f"chance that a bench has more than f liars: {', '.join(chances)} liars in the roster"


def _described(bank: Bank, setting: Setting) -> str:
    unsure = ", ".join(escaped(name, 80) for name in bank.unsure)
    return (
        f"the bank: {bank.null} edits worth less than {setting.min_effect:g} bits per byte, "
        f"{bank.real} worth more (or less than nothing, and read backwards), "
        f"{len(bank.unsure)} too near to call{f', left out: {unsure}' if unsure else ''}"
    )

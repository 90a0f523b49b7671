"""``lazaretto simulate --lifetime``: false discovery rates of whole lives, beside the promise."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from node.errors import UsageError
from node.simulation import bank_of, grid, share, show
from verification.simulate_life import ALPHA_RETRACT, LIVES, live, power_to_retract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from verification.simulate_life import Lived
    from verification.simulate_setting import Setting

SCHEMA: Final = "lazaretto.lifetimes/1"
DAY: Final = 288
"""Epochs of a day, where one opens every five minutes."""
DISCOVERIES: Final = 200


def lifetime_here(
    setting: Setting,
    *,
    repeats: int,
    seed: int,
    bank: Path | None,
    as_json: bool,
    progress: Callable[[str], None],
    other: bool = False,
) -> int:
    """Live every kind of life ``repeats`` times, and print what came of it; returns 0.

    ``other``: options were given that do not go with lifetimes.

    Raises:
        UsageError: options that do not fit, a bank that cannot be read.
    """
    from node.progress import bar

    cure = "lazaretto simulate --help"
    if other:
        raise UsageError("lifetimes have no --sweep and no --plot", cure=cure)
    if bank is not None:
        setting = replace(setting, noise="bank")
    if problem := setting.problem():
        raise UsageError(problem, cure=cure)
    if not 1 <= repeats <= 10_000:
        raise UsageError("repeats must be 1 to 10000", cure=cure)
    measured = bank_of(bank, setting) if setting.noise == "bank" else None
    began = time.monotonic()
    total = repeats * sum(life.epochs * life.claims for life in LIVES)
    with bar(progress) as stage:
        found = live(
            setting, repeats=repeats, seed=seed, bank=measured,
            tell=lambda done: stage("living", done, total),
        )  # fmt: skip
        at_once, later = (
            power_to_retract(setting, epochs=epochs, discoveries=DISCOVERIES, seed=seed)
            for epochs in (0, DAY)
        )
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps(to_json(setting, found, (at_once, later), seconds)))
        return 0
    table = grid(
        "life", "claims", "adopted", "false", "lifetime FDR", "promised", "power", "pairs",
        "false/true", "alpha spent", "wronged", "mended", "promise",
    )  # fmt: skip
    for item in found:
        table.add_row(
            item.life.label, str(item.claims), str(item.adopted), str(item.false),
            f"{100 * item.fdr:.2f} % +- {100 * item.fdr_error:.2f}", share(setting.alpha),
            share(item.power), f"{item.pairs:.1f}",
            f"{_number(item.null_pairs)}/{_number(item.true_pairs)}", share(item.spent),
            share(item.wronged), share(item.mended), promise(setting, item),
        )  # fmt: skip
    show(table, _notes(setting, found, (at_once, later), seconds))
    return 0


def promise(setting: Setting, item: Lived) -> str:
    """Whether the rate of the whole lives is within alpha, where the setting has to keep it."""
    if broken := setting.broken(0):
        return f"none ({broken})"
    return "held" if item.kept(setting.alpha) else "ABOVE ALPHA"


def to_json(
    setting: Setting, found: list[Lived], powers: tuple[float, float], seconds: float
) -> dict[str, Any]:
    """One object for programs; every number of the table is in it."""
    return {
        "schema": SCHEMA,
        "seconds": round(seconds, 1),
        "alpha": setting.alpha,
        "alpha_retract": float(ALPHA_RETRACT),
        "lives": [
            {
                **item.to_json(),
                "fdr_kept": item.kept(setting.alpha),
                "promise": promise(setting, item),
            }
            for item in found
        ],
        "power_to_retract": {"at_once": powers[0], "after_epochs": DAY, "then": powers[1]},
    }  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _notes(
    setting: Setting, found: list[Lived], powers: tuple[float, float], seconds: float
) -> list[str]:
    kept = sum(item.kept(setting.alpha) for item in found)
    kind = "measured noise" if setting.noise == "bank" else f"effect {setting.effect:g} SD"
    return [
        f"{kind}; {setting.noise} noise; bench {setting.bench}, f {setting.liars_tolerated}, "
        f"{setting.pairs} pairs each; {found[0].repeats} lives of each kind; {seconds:.1f} s",
        "lifetime FDR: of all that was ever adopted in a life the false share, a mean over lives;",
        "alpha spent: the most that a life gave away; wronged, mended: true and false discoveries "
        "that were retracted (promised: wronged at most "
        f"{share(float(ALPHA_RETRACT))})",
        f"a discovery adopted for {setting.effect:g} SD that is worth nothing is retracted by the "
        f"first contradiction: {share(powers[0])} at once, {share(powers[1])} after {DAY} epochs",
        f"lifetime FDR at most {share(setting.alpha)}: held in {kept} of {len(found)} lives",
    ]

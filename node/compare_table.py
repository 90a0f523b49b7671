"""A comparison on screen, and what is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from node.policies import GREEDY, LAZARETTO
from node.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA: Final = "lazaretto.compare/1"
HONEST: Final = 0.05
"""How far a claimed gain may be from the true one, as a share of it."""


def marks(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is asked of ours, over all repeats; None where it cannot be told.

    ``claimed_over_true``: by policy, all gains claimed over all true ones, which for ours has to be
    within ``HONEST`` of one. ``gain_per_hour_bpb``: by policy, true gain per hour of compute,
    verification included, which for ours has to be at least greedy's.
    """
    over, rate = {}, {}
    for policy in (GREEDY, LAZARETTO):
        own = [row for row in rows if row["policy"] == policy]
        true = sum(row["true_bpb"] or 0 for row in own)
        cost = sum(row["cost_s"] for row in own)
        over[policy] = sum(row["claimed_bpb"] for row in own) / true if true > 0 else None
        rate[policy] = true * 3600 / cost if cost else None
    ours, mine, greedys = over[LAZARETTO], rate[LAZARETTO], rate[GREEDY]
    return {
        "claimed_over_true": over,
        "gain_per_hour_bpb": rate,
        "honest": abs(ours - 1) <= HONEST if ours is not None else None,
        "efficient": mine >= greedys if mine is not None and greedys is not None else None,
    }


def show(facts: dict[str, Any]) -> None:
    """Print the table, then the marks."""
    heads = (
        "repeat", "policy", "claimed", "true", "+- SE", "tried", "kept", "false", "runs",
        "to verify", "compute s", "gain/h", "cost",
    )  # fmt: skip
    table(heads, [_cells(row) for row in facts["repeats"]])
    found = facts["marks"]
    print()
    for policy in (GREEDY, LAZARETTO):
        own = [row for row in facts["repeats"] if row["policy"] == policy]
        ratio, rate = found["claimed_over_true"][policy], found["gain_per_hour_bpb"][policy]
        print(
            f"{policy}: claimed {_number(ratio, '.2f')} times the true gain; "
            f"{_number(rate, '+.3f')} bpb per hour of compute; "
            f"{sum(row['false_keeps'] for row in own)} of {sum(row['kept'] for row in own)} kept "
            "edits are false"
        )
    print(
        f"ours claims within {HONEST:.0%} of the truth: {_yes(found['honest'])}; true gain per "
        f"compute, verification included, at least greedy's: {_yes(found['efficient'])}"
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["repeat"] + 1),
        row["policy"],
        f"{row['claimed_bpb']:+.4f}",
        _number(row["true_bpb"], "+.4f"),
        _number(row["true_se_bpb"], ".4f"),
        str(row["experiments"]),
        str(row["kept"]),
        str(row["false_keeps"]),
        str(row["runs"]),
        str(row["verification_runs"]),
        f"{row['cost_s']:.0f}",
        _number(row["gain_per_hour_bpb"], "+.3f"),
        f"x{row['cost_ratio']:.2f}",
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _yes(value: bool | None) -> str:
    return "cannot be told" if value is None else "yes" if value else "NO"

"""One row of the benchmark table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure, what it was measured on, and the mark it is held against (empty: none)."""

    what: str
    figure: str
    how: str
    mark: str = ""


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(rows: list[Row]) -> None:
    """Print aligned rows."""
    for row in rows:
        mark = f"  [mark: {row.mark}]" if row.mark else ""
        print(f"{row.what:<44} {row.figure:<28} {row.how}{mark}", flush=True)

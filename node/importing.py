"""``lazaretto import-autoresearch``: a greedy loop's log as history that nobody has verified.

Kept in ``HOME/imported.jsonl``, apart from what this node measured: it is shown, and told by what
its own numbers say of luck, but it is no experiment of ours, no claim, and in no prompt.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from node.errors import UsageError
from node.escaping import escaped
from node.settings import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from node.settings import Home

COLUMNS: Final = ("commit", "val_bpb", "memory_gb", "status", "description")
MOST_ROWS: Final = 100_000
MOST_BYTES: Final = 64 << 20
WIDE: Final = 400


@dataclass(frozen=True, slots=True)
class Imported:
    """One row: bits per byte as the loop said, None for a crash; memory in GiB."""

    commit: str
    val_bpb: float | None
    memory_gb: float
    status: str
    description: str


def parse(text: str) -> list[Imported]:
    """Rows of a ``results.tsv``.

    Raises:
        UsageError: not such a table; says which line.
    """
    rows = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    found: list[Imported] = []
    for number, row in enumerate(rows, 1):
        if number == 1 and tuple(row) == COLUMNS:
            continue
        if not row:
            continue
        if len(row) != len(COLUMNS) or number > MOST_ROWS:
            raise UsageError(
                f"line {number} is not a row of {len(COLUMNS)} columns, or one too many",
                cure=f"columns, separated by tabs: {', '.join(COLUMNS)}",
            )
        try:
            bpb, memory = float(row[1]), float(row[2])
        except ValueError:
            bpb = memory = math.nan
        if not (math.isfinite(bpb) and math.isfinite(memory)):
            raise UsageError(
                f"line {number}: val_bpb and memory_gb are numbers", cure="mend the line"
            )
        commit, status, words = escaped(row[0], 40), escaped(row[3], 20), escaped(row[4], WIDE)
        found.append(Imported(commit, bpb or None, memory, status, words))
    return found


def import_log(home: Home, log: Path, *, as_json: bool) -> int:
    """Read ``log`` (a results.tsv, or its directory), keep it in the home, and sum it up.

    Raises:
        UsageError: no node lives in ``home``, there is no such file, or it is no such table.
    """
    home.load()
    path = log / "results.tsv" if log.is_dir() else log
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} is larger than {MOST_BYTES >> 20} MiB", cure="cut it")
        rows = parse(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", cure="name a results.tsv"
        ) from None
    lines = [json.dumps({"verified": False, **asdict(row)}) + "\n" for row in rows]
    write_atomic(home.imported, "".join(lines).encode())
    facts = summary(rows)
    if as_json:
        print(json.dumps({"schema": "lazaretto.imported/1", **facts}))
        return 0
    print(f"{facts['experiments']} experiments, {facts['kept']} kept, {facts['crashed']} crashed")
    if facts["first_bpb"] is not None:
        print(f"from {facts['first_bpb']:.4f} to {facts['best_bpb']:.4f} bits per byte, as it says")
    if facts["kept_gains"]:
        shown = ", ".join(f"{gain:.4f}" for gain in facts["kept_gains"][:8])
        print(f"smallest kept gains: {shown}")
    print("unverified: one seed each, on one validation set that was looked at every time")
    return 0


def summary(rows: list[Imported]) -> dict[str, Any]:
    """What a log says of itself; ``kept_gains`` over the best before, the smallest first."""
    kept = [row for row in rows if row.status == "keep" and row.val_bpb is not None]
    best: float | None = None
    gains: list[float] = []
    for row in kept:
        assert row.val_bpb is not None
        if best is not None and row.val_bpb < best:
            gains.append(round(best - row.val_bpb, 9))
        best = row.val_bpb if best is None else min(best, row.val_bpb)
    return {
        "experiments": len(rows),
        "kept": len(kept),
        "crashed": sum(row.val_bpb is None for row in rows),
        "first_bpb": kept[0].val_bpb if kept else None,
        "best_bpb": best,
        "kept_gains": sorted(gains),
    }

"""Run all benchmarks: ``make bench``. Rows are printed as they are measured."""

from __future__ import annotations

from tests.benchmarks.decisions import decision_rows
from tests.benchmarks.experiments import cpu_rows, quick_rows
from tests.benchmarks.flood import flood_rows, memory_rows
from tests.benchmarks.lanes import lane_rows
from tests.benchmarks.network import blob_rows, delay_rows, healing_rows, late_rows
from tests.benchmarks.records import ingest_rows
from tests.benchmarks.rows import show


def main() -> None:
    """Print every row."""
    network = (delay_rows, late_rows, blob_rows, healing_rows)
    mine = (decision_rows, memory_rows, flood_rows, quick_rows, lane_rows, cpu_rows)
    for rows in (ingest_rows, *network, *mine):
        for row in rows():
            show([row])


if __name__ == "__main__":
    main()

"""Long runs, each of which prints one line: ``make soak``, or ``python -m tests.soak NAME [N]``.

``unattended`` takes two hours and ``siege`` a quarter of one, so they run only when they are named.
``siege SECONDS KIND...`` makes some of its attacks only.
"""

from __future__ import annotations

import importlib
import sys

NAMES = ("fuzz", "histories", "kill", "late", "partition", "relay")
LONG = ("unattended", "siege")


def main() -> None:
    """Run the named soak (with a number of inputs, kills, records or seconds), or all of them."""
    names = sys.argv[1:2] or NAMES
    for name in names:
        if name not in (*NAMES, *LONG):
            sys.exit(f"choose from {', '.join((*NAMES, *LONG))}")
        run = importlib.import_module(f"tests.soak.{name}").main
        print(f"{name}: {run(*map(int, sys.argv[2:3]), *sys.argv[3:])}", flush=True)


if __name__ == "__main__":
    main()

"""Long runs, each of which prints one line: ``make soak``, or ``python -m tests.soak NAME [N]``.

``unattended`` takes two hours, so it runs only when it is named.
"""

from __future__ import annotations

import importlib
import sys

NAMES = ("fuzz", "histories", "kill", "late", "partition", "relay")
LONG = ("unattended",)


def main() -> None:
    """Run the named soak (with a number of inputs, kills, records or seconds), or all of them."""
    names = sys.argv[1:2] or NAMES
    for name in names:
        if name not in (*NAMES, *LONG):
            sys.exit(f"choose from {', '.join((*NAMES, *LONG))}")
        run = importlib.import_module(f"tests.soak.{name}").main
        print(f"{name}: {run(*map(int, sys.argv[2:3]))}", flush=True)


if __name__ == "__main__":
    main()

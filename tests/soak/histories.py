"""Histories of benches under attack: what was final at any point of them stays so."""

from __future__ import annotations

import time

from tests.verification.histories import play


def main(count: int = 50_000) -> str:
    """Play ``count`` histories; fails with the seed of the first that breaks the law."""
    began = time.process_time()
    seen = play(range(count))
    told = ", ".join(f"{name} {number}" for name, number in seen.most_common())
    spent = time.process_time() - began
    return f"{count} histories held the law in {spent:.0f} s of CPU time ({told})"

"""Would it pay to end hopeless runs early? ``python -m tests.benchmarks.early [IDEAS]``.

Ideas of the TPE proposer for the tier ``quick``, each trained and scored with the whole budget, a
quarter and an eighth of it, against the base with the same. An idea would be dropped that is worse
on the short budget by more than a margin; whoever is not dropped pays for both.
"""

from __future__ import annotations

import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from node.corpora import Corpus, prepare
from node.experiment import SHAPES, read_program
from node.measuring import Measurer, Question, Watcher
from node.policies import dev_text
from node.proposers import Outcome, ProposalContext, open_proposer
from node.runs import Runs
from training import baselines, sandbox

TIER = "quick"
PARTS = (1, 4, 8)
MARGINS = (0.005, 0.02, 0.05)
"""Bits per byte."""
JOBS = 2


@dataclass(frozen=True, slots=True)
class Tried:
    """One idea on one budget: gain in bits per byte, costs in seconds."""

    ok: bool
    gain: float
    cost: float


@cache
def _corpus() -> Corpus:
    return dev_text(prepare(None, SHAPES["cpu"], lambda _: None))


def _try(code: bytes, part: int, folder: str) -> Tried:
    tier = baselines.tier(TIER)
    tier = replace(tier, budget_tokens=tier.budget_tokens // part)
    codes = (read_program(TIER), code)
    question = Question(("base", "candidate"), codes, tier, _corpus(), 77)
    done = Measurer(question, Runs(Path(folder)), Watcher()).pair(0, 1)
    result = done.result
    return Tried(done.status == "ok", result.d_nano / 1e9, result.candidate_cost_ms / 1000)


def _ideas(count: int) -> list[bytes]:
    """Distinct ideas, as a study has them that learns now and then that something helped."""
    base, codes = ProposalContext(read_program(TIER), baselines.tier(TIER)), []
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        proposer = open_proposer("tpe", Path(folder), seed=5)
        for _ in range(count):
            proposal = proposer.propose(base)
            assert proposal is not None
            codes.append(proposal.code)
            gain = chance.randint(-(10**8), 10**7)
            proposer.observe(proposal.id, Outcome("measured", gain))
        proposer.close()
    return codes


def report(rows: list[dict[int, Tried]]) -> list[str]:
    """For each short budget and margin: what is dropped, what is lost, and what it costs."""
    whole = sum(row[1].cost for row in rows)
    good = [row for row in rows if row[1].ok and row[1].gain > 0]
    lines = [f"{len(rows)} ideas, {len(good)} better than the base, whole budget {whole:.0f} s"]
    for part in PARTS[1:]:
        short = sum(row[part].cost for row in rows)
        for margin in MARGINS:
            dropped = [row for row in rows if row[part].gain < -margin or not row[part].ok]
            lost = sum(row in dropped for row in good)
            cost = short + whole - sum(row[1].cost for row in dropped)
            lines.append(
                f"1/{part} first (costs {short / whole:.2f}), dropped where worse by {margin}: "
                f"{len(dropped)} dropped, {lost} of them better in truth, "
                f"all in all x {cost / whole:.2f}"
            )
    return lines


def main() -> None:
    """Measure and print."""
    sandbox.require()
    codes = _ideas(int(sys.argv[1]) if len(sys.argv) > 1 else 36)
    _corpus()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(JOBS, mp_context=get_context("spawn")) as pool,
    ):
        asked = [{part: pool.submit(_try, code, part, folder) for part in PARTS} for code in codes]
        rows = [{part: one.result() for part, one in row.items()} for row in asked]
    print("\n".join(report(rows)))


if __name__ == "__main__":
    main()

"""Would it pay to end hopeless runs early?

    python -m tests.benchmarks.early [IDEAS] [--tier quick] [--seed 5] [--divide 1] [--jobs 2]
        [--seconds S]

Ideas of the TPE proposer for the tier, each trained and scored with the whole budget, a
quarter and an eighth of it, against the base with the same. An idea would be dropped that is worse
on the short budget by more than a margin; whoever is not dropped pays for both. All budgets are
``--divide`` times smaller than the tier's. No idea is begun after S seconds.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from node.corpora import Corpus, prepare
from node.experiment import SHAPES, read_program
from node.measuring import Measurer, Question, Watcher
from node.policies import dev_text
from node.proposers import Outcome, ProposalContext, open_proposer
from node.runs import Runs
from training import baselines, sandbox

PARTS = (1, 4, 8)
MARGINS = (0.005, 0.02, 0.05)
"""Bits per byte."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One idea on one budget: gain in bits per byte, costs in seconds."""

    ok: bool
    gain: float
    cost: float


@cache
def _corpus() -> Corpus:
    return dev_text(prepare(None, SHAPES["cpu"], lambda _: None))


def _try(code: bytes, name: str, divide: int, folder: str, part: int) -> Tried:
    tier = baselines.tier(name)
    tier = replace(tier, budget_tokens=tier.budget_tokens // divide // part)
    codes = (read_program(name), code)
    question = Question(("base", "candidate"), codes, tier, _corpus(), 77)
    done = Measurer(question, Runs(Path(folder)), Watcher()).pair(0, 1)
    result = done.result
    return Tried(done.status == "ok", result.d_nano / 1e9, result.candidate_cost_ms / 1000)


def _try_all(code: bytes, *where: Any) -> dict[int, Tried]:
    found = {part: _try(code, *where, part) for part in PARTS}
    print(
        *(f"{part}: {one.ok} {one.gain:+.4f} {one.cost:.1f} s" for part, one in found.items()),
        flush=True,
    )
    return found


def _ideas(name: str, count: int, seed: int) -> list[bytes]:
    """Distinct ideas, as a study has them that learns now and then that something helped."""
    base, codes = ProposalContext(read_program(name), baselines.tier(name)), []
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        proposer = open_proposer("tpe", Path(folder), seed=seed)
        for _ in range(count):
            proposal = proposer.propose(base)
            assert proposal is not None
            codes.append(proposal.code)
            gain = chance.randint(-(10**8), 10**7)
            proposer.observe(proposal.id, Outcome("measured", gain))
        proposer.close()
    return codes


def _at_length(row: dict[int, Tried], part: int, times: int) -> tuple[float, float]:
    """What a whole run and one on a ``part``-th of the budget would cost with ``times`` the budget:
    training grows with it, scoring does not."""
    training = (row[1].cost - row[part].cost) * part / (part - 1)
    scoring = row[1].cost - training
    return training * times + scoring, training * times / part + scoring


def report(rows: list[dict[int, Tried]], times: int = 1) -> list[str]:
    """For each short budget and margin: what is dropped, what is lost, and what it costs; also what
    it would cost, by calculation, with ``times`` the budget."""
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
            if times > 1:
                longer = [(row, *_at_length(row, part, times)) for row in rows]
                paid = sum(short + long * (row not in dropped) for row, long, short in longer)
                share = paid / sum(long for _, long, _ in longer)
                lines[-1] += f"; {times} times as long: x {share:.2f} by calculation"
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.early")
    parser.add_argument("ideas", type=int, nargs="?", default=36)
    parser.add_argument("--tier", default="quick", choices=("quick", "cpu"))
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--divide", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf)
    chosen = parser.parse_args()
    sandbox.require()
    codes = _ideas(chosen.tier, chosen.ideas, chosen.seed)
    _corpus()
    began, rows = time.monotonic(), []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool,
    ):
        where, base = (chosen.tier, chosen.divide, folder), read_program(chosen.tier)
        for first in [pool.submit(_try, base, *where, part) for part in PARTS]:
            first.result()  # kept for all ideas
        waiting = set[Future[dict[int, Tried]]]()
        for code in codes:
            if len(waiting) == chosen.jobs:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                rows += [one.result() for one in done]
            if time.monotonic() - began > chosen.seconds:
                break
            waiting.add(pool.submit(_try_all, code, *where))
        rows += [one.result() for one in wait(waiting).done]
    print(
        "\n".join(report(rows, chosen.divide)) if rows else "no idea came to its end in that time"
    )


if __name__ == "__main__":
    main()

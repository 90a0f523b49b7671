"""How surely a model that reads ahead is refused, over many seeds of the probes.

    python -m tests.benchmarks.peek [--seeds 200]

Two models of tier ``quick`` are trained and scored for real, in the sandbox: the base, and another
program whose honest answers the attackers start from. What an attacker then does to its whole
answers, and what it has to say where the future is cut off, is worked out on these arrays, because
the models are deterministic; where the cuts are, how they are batched and what follows from the
answers is decided by the code that scores (``training.cuts``, ``training.sheet``). Each attacker
leaks just so much that it gains the share of ``min_effect`` that its column says; nobody gains
anything else. The last column is what uniform cuts would find (the same number of them).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.experiments import texts
from training import baselines, cuts, evaluator, windows
from training.runner import train
from training.sheet import TOLERANCES, Sheet

if TYPE_CHECKING:
    from collections.abc import Callable

    Reals = np.ndarray

MIN_EFFECT = 0.005
SHARES = (1.0, 0.5, 0.25)


@dataclass
class Field:
    """``base`` and ``honest``: log-probabilities [rows, length] of two honest models."""

    rows: windows.Windows
    base: Reals
    honest: Reals

    @property
    def room(self) -> Reals:
        """Where the row holds a future, and the position is scored."""
        length = self.rows.inputs.shape[1]
        return np.arange(length) < np.minimum(self.rows.sizes, length - 1)[:, None]


@dataclass
class Attack:
    """``whole``: the answers of the score; ``cut``: those without a future. ``ahead``: how many
    tokens after a position it has to see."""

    whole: Reals
    cut: Reals
    ahead: int = 1


def measured() -> Field:
    """Two real scores of tier ``quick``."""
    text, fold = texts()
    code = baselines.load("quick")
    other = code.replace(b"WIDTH = 64", b"WIDTH = 72").replace(
        b"MLP_RATIO = 2.0", b"MLP_RATIO = 1.5"
    )
    rows = windows.cut(fold, baselines.QUICK.context)
    found = []
    for program, seed in ((code, 1), (other, 2)):
        run = train(program, baselines.QUICK, text, seed)
        score = evaluator.score(program, run.weights or b"", baselines.QUICK, fold, 1)
        assert score.status == "ok", score
        print(f"{score.nano_bpb / 1e9:.4f} bits per byte, {score.cpu_ms} ms of CPU time")
        whole = np.zeros(rows.inputs.shape)
        whole[windows.scored(rows)] = np.frombuffer(score.answers, "<f2")
        found.append(whole)
    return Field(rows, *found)


def some(
    field: Field, where: Reals, gain: Reals, nats: float, rng: np.random.Generator
) -> np.ndarray:
    """Positions out of ``where``, at random, whose ``gain`` adds up to ``nats``."""
    places = np.flatnonzero(where & field.room & (gain > 0))
    rng.shuffle(places)
    count = int(np.searchsorted(np.cumsum(gain.ravel()[places]), nats)) + 1
    chosen = np.zeros(where.size, bool)
    chosen[places[:count]] = True
    return chosen.reshape(where.shape)


def above(nats_above: float, keep: float = 0.0, ahead: int = 1) -> Callable[..., Attack]:
    """Where its own loss is above so much it takes the answer, down to a loss of ``keep``."""

    def attack(field: Field, nats: float, rng: np.random.Generator) -> Attack:
        gain = np.maximum(0.0, -field.honest - keep)
        leak = some(field, -field.honest > nats_above, gain, nats, rng)
        return Attack(field.honest + gain * leak, field.honest, ahead)

    return attack


def thin(step: float) -> Callable[..., Attack]:
    """A little at many positions."""

    def attack(field: Field, nats: float, rng: np.random.Generator) -> Attack:
        gain = np.minimum(step, -field.honest)
        leak = some(field, np.ones(gain.shape, bool), gain, nats, rng)
        return Attack(field.honest + gain * leak, field.honest)

    return attack


def whole_rows(field: Field, nats: float, rng: np.random.Generator) -> Attack:
    """All of a few rows."""
    leak = np.zeros(field.honest.shape, bool)
    for row in rng.permutation(len(field.rows)):
        if -field.honest[leak].sum() >= nats:
            break
        leak[row] = field.room[row]
    return Attack(np.where(leak, 0.0, field.honest), field.honest)


def where_the_base_errs(field: Field, nats: float, rng: np.random.Generator) -> Attack:
    """Knows its base and is as good as it, no better, wherever it is worse by more than a nat."""
    gain = np.maximum(0.0, field.base - field.honest)
    leak = some(field, gain > 1.0, gain, nats, rng)
    return Attack(field.honest + gain * leak, field.honest)


def covered(over: float) -> Callable[..., Attack]:
    """The best that can be done: it is its base; where that is sure it says that it is certain,
    which would cost most where it errs; there it peeks, up to ``over`` nats above its base."""

    def attack(field: Field, nats: float, rng: np.random.Generator) -> Attack:
        sure = field.base > math.log(0.5)
        # For each position that it wins, so many are lost in the mean, and have to be covered up.
        chance = np.exp(field.base)
        lost = np.where(sure, (1 - chance) / chance, 0.0)
        gain = np.where(sure, -field.base + lost * over, 0.0)
        win = some(field, sure, gain, nats, rng)
        places = np.flatnonzero(~sure & field.room & (-field.base > over + 1.0))
        count = round(float(lost[win].sum()))
        leak = np.zeros(win.size, bool)
        leak[rng.choice(places, count, replace=False)] = True
        leak = leak.reshape(win.shape)
        whole = np.where(win, 0.0, field.base) + over * leak
        return Attack(whole, whole - (4.0 + over) * leak)

    return attack


ATTACKS: dict[str, Callable[..., Attack]] = {
    **{f"peeks where its loss is above {n} nats": above(n) for n in (6, 8, 9, 10, 12)},
    "peeks above 8 nats, down to 6": above(8, 6.0),
    "peeks above 6 nats, down to 5": above(6, 5.0),
    "peeks two tokens ahead, above 8 nats": above(8, 0.0, 2),
    "peeks in a few rows, everywhere": whole_rows,
    "spread thin: .3 nats": thin(0.3),
    "spread thin: .05 nats": thin(0.05),
    "spread thin: .004 nats": thin(0.004),
    "below the tolerance: .0019 nats": thin(0.0019),
    "is as good as its base where it was worse": where_the_base_errs,
    "covers a handicap up, to its base": covered(0.0),
    "covers a handicap up, to 1 nat above": covered(1.0),
    "covers a handicap up, to 2 nats above": covered(2.0),
}


def refused(field: Field, attack: Attack, reference: Reals, seed: int, uniform: bool) -> bool:
    """Whether a score of this attacker is refused, with the probes of this seed."""
    rng = windows.generator(seed, "probes")
    odds = cuts.odds(field.rows, attack.whole, attack.whole if uniform else reference)
    drawn = cuts.draw(odds, evaluator.CUTS["cpu"], rng)
    at = tuple(np.array(drawn).T)
    if np.abs(attack.whole[at] - attack.cut[at]).max() > TOLERANCES["cpu"].largest_nano / 1e9:
        return True  # as what follows would find, too
    sheet = Sheet(field.rows, TOLERANCES["cpu"])
    sheet.take(windows.whole(field.rows, range(len(field.rows))), attack.whole)
    for request in cuts.requests(field.rows, drawn, evaluator.MAX_ROWS["cpu"], rng):
        answers = []
        for row, known in zip(request.rows, request.known, strict=True):
            seen = np.arange(request.first, request.tokens.shape[1])
            whole, cut = attack.whole[row, seen], attack.cut[row, seen]
            answers.append(np.where(seen + attack.ahead < known, whole, cut))
        sheet.take(request, np.stack(answers))
    for kind, doubts in sheet.doubtful.items():  # they differ in the shape of the score, too
        for doubt in doubts:
            sheet.largest[kind] = max(sheet.largest[kind], abs(doubt.gain))
    return sheet.verdict()[0] != "ok"


def main() -> None:
    """Prints a line for each attacker."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peek")
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    field = measured()
    size = field.rows.text_bytes
    ratio = np.exp(field.honest - field.base)[field.room]
    weights = cuts.odds(field.rows, field.honest, field.base)
    print(
        f"{size:,} bytes; p / q of the honest candidate: mean {ratio.mean():.3f}, "
        f"as it is drawn {weights[field.room].mean():.3f}; cuts {evaluator.CUTS['cpu']}"
    )
    alone = cuts.by_frequency(field.rows, 256)
    honest = Attack(field.honest, field.honest)
    false = sum(refused(field, honest, field.base, seed, False) for seed in range(seeds))
    print(f"honest: {false} of {seeds} refused")
    print(f"{'attacker':45} {'leaks':>6} {'refused, gain of 1, 1/2, 1/4 min_effect':>42} "
          f"{'no base':>8} {'uniform':>8}")  # fmt: skip
    for name, make in ATTACKS.items():
        found, leaks = [], 0
        for share in SHARES:
            nats = share * MIN_EFFECT * math.log(2) * size
            tried = [make(field, nats, np.random.default_rng(seed)) for seed in range(seeds)]
            if share == 1:
                leaks = round(np.mean([(one.whole != one.cut).sum() for one in tried]))
                others = [
                    sum(refused(field, one, alone, seed, flat) for seed, one in enumerate(tried))
                    for flat in (False, True)
                ]
            hits = sum(
                refused(field, one, field.base, seed, False) for seed, one in enumerate(tried)
            )
            found.append(hits / seeds)
        shown = "  ".join(f"{100 * one:11.1f} %" for one in found)
        shares = "".join(f"{100 * one / seeds:7.1f} %" for one in others)
        print(f"{name:45} {leaks:6} {shown:>42}{shares}", flush=True)


if __name__ == "__main__":
    main()

"""Measures the bank of real training noise that `lazaretto simulate --noise bank` draws from.

    python -m tests.benchmarks.bank [--pairs 12] [--keep DIR] [--out FILE]

Every edit of the ``quick`` baseline below goes the way of any experiment: trained in the sandbox,
scored on sealed folds, pair by pair with the baseline at the same seed (whose run is measured once
for each seed and shared). What is finished is kept in DIR, so a killed command goes on where it
was. About 430 runs: half an hour on one core with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import verification
from node.corpora import prepare
from node.environment import environment
from node.experiment import SHAPES
from node.measuring import Measurer, Question, Watcher
from node.runs import Runs, device_name, experiments_root
from training import baselines, sandbox

SCHEMA: Final = "lazaretto.bank/1"
TIER: Final = "quick"
SEED: Final = 1
OUT: Final = Path(verification.__file__).with_name("bank.json")
STOP_AFTER: Final = 2  # failures of the machine, one after the other

_NEXT: Final = "        inputs, targets = batches(BATCH_SIZE, SEQ_LEN)\n"
_SWAPPED: Final = """\
        if held:
            inputs, targets = held.pop()
        else:
            held.append(batches(BATCH_SIZE, SEQ_LEN))
            try:
                inputs, targets = batches(BATCH_SIZE, SEQ_LEN)
            except Exception:
                inputs, targets = held.pop()
"""
_ROWS: Final = _NEXT + "        inputs, targets = inputs.flip(0), targets.flip(0)\n"
_GPT: Final = "        super().__init__()\n        self.embed"
_OTHER_DRAWS: Final = "        super().__init__()\n        torch.randn(1)\n        self.embed"


@dataclass(frozen=True)
class Edit:
    """A change of the baseline: constants by name, and text that replaces text, once.

    ``other_numbers``: it only draws other random numbers, so it is worth nothing by symmetry.
    """

    name: str
    constants: dict[str, str]
    text: tuple[tuple[str, str], ...] = ()
    other_numbers: bool = False

    def applied(self, code: str) -> str:
        """The baseline with this change. Raises ValueError where it does not fit exactly once."""
        for constant, value in self.constants.items():
            code, count = re.subn(rf"(?m)^{constant} = \S+", f"{constant} = {value}", code)
            if count != 1:
                raise ValueError(f"{self.name}: {constant} stands {count} times in the baseline")
        for old, new in self.text:
            if code.count(old) != 1:
                raise ValueError(f"{self.name}: a text stands {code.count(old)} times")
            code = code.replace(old, new)
        return code


def _one(constant: str, value: str) -> Edit:
    return Edit(f"{constant} {value}", {constant: value})


_BATCHES: Final = (
    ("    while True:\n", "    held = []\n    while True:\n"),
    (_NEXT, _SWAPPED),
)
EDITS: Final = (
    # one float, or nothing at all
    Edit("a variable renamed", {}, (("    half = HEAD", "    middle = HEAD"),
                                    ("(half) / half", "(middle) / middle"))),
    Edit("Adam's epsilon 1e-7", {}, (("+ 1e-8)", "+ 1e-7)"),)),
    Edit("Adam's second decay 0.9905", {}, (("grad * grad, 0.01)", "grad * grad, 0.0095)"),
                                            ("0.99**self", "0.9905**self"))),
    Edit("rotary base 10100", {}, (("10000.0 **", "10100.0 **"),)),
    _one("EMBED_LR", "0.005015"),
    _one("MATRIX_LR", "0.01003"),
    _one("HEAD_LR", "0.004012"),
    _one("BETA1", "0.9005"),
    _one("MOMENTUM", "0.9503"),
    _one("WEIGHT_DECAY", "0.103"),
    # other random numbers
    Edit("rows in another order", {}, ((_NEXT, _ROWS),), True),
    Edit("batches in another order", {}, _BATCHES, True),
    Edit("other initial numbers", {}, ((_GPT, _OTHER_DRAWS),), True),
    Edit("other initial numbers and order", {}, (*_BATCHES, (_GPT, _OTHER_DRAWS)), True),
    # worth something, in either direction, of all sizes
    _one("BATCH_SIZE", "5"),
    _one("BATCH_SIZE", "7"),
    _one("BATCH_SIZE", "10"),
    _one("SEQ_LEN", "96"),
    _one("HISTORY", "3"),
    _one("HISTORY", "1"),
    _one("DEPTH", "1"),
    _one("WIDTH", "72"),
    _one("MLP_RATIO", "3.0"),
    _one("EMBED_STD", "0.1"),
    _one("MATRIX_GAIN", "0.7"),
    _one("MATRIX_LR", "0.0125"),
    _one("MATRIX_LR", "0.02"),
    _one("EMBED_LR", "0.0075"),
    _one("HEAD_LR", "0.006"),
    _one("MOMENTUM", "0.9"),
    _one("BETA1", "0.8"),
    _one("WEIGHT_DECAY", "0.0"),
    _one("WARMUP", "0.05"),
    _one("COOLDOWN", "0.5"),
    _one("COOLDOWN", "0.2"),
)  # fmt: skip


class _Silent(Watcher):
    """Keeps the latest note, for when something fails."""

    last = ""

    def note(self, text: str) -> None:
        self.last = text


def measure(pairs: int, keep: Path, out: Path) -> None:
    """Measure what is missing and write ``out`` after every seed, whole pairs of all edits only."""
    code = baselines.load(TIER)
    tier = baselines.tier(TIER)
    corpus = prepare(None, SHAPES["cpu"], _tell)
    runs, watcher = Runs(keep), _Silent()
    measurers = [
        Measurer(
            Question((TIER, edit.name), (code, edit.applied(code.decode()).encode()), tier, corpus,
                     SEED),
            runs, watcher,
        )
        for edit in EDITS
    ]  # fmt: skip
    found: list[list[int]] = [[] for _ in EDITS]
    sandbox.prestart(3)
    began, done = time.monotonic(), 0
    for index in range(pairs):
        for edit, measurer, gains in zip(EDITS, measurers, found, strict=True):
            one = measurer.pair(index, pairs)
            if one.result.status != "ok":
                raise SystemExit(f"{edit.name}, pair {index + 1}: {one.status} ({one.detail})")
            gains.append(one.result.d_nano)
            done += 1
            share = done / (pairs * len(EDITS))
            _tell(
                f"[{time.monotonic() - began:6.0f} s] {share:4.0%} pair {index + 1} of {pairs}, "
                f"{edit.name}: {one.result.d_nano / 1e9:+.5f}"
            )
        _write(out, corpus.manifest.train, index + 1, found)


def _write(out: Path, train: Any, pairs: int, found: list[list[int]]) -> None:
    """One edit a line, so that a difference between two banks can be read."""
    head = {
        "schema": SCHEMA,
        "tier": TIER,
        "pairs": pairs,
        "train_sha256": [ref.sha256.hex() for ref in train],
        "device": device_name("cpu"),
        "environment": environment(),
    }
    text = json.dumps(head)[:-1] + ', "edits": [\n'
    text += ",\n".join(
        json.dumps({"name": edit.name, "other_numbers": edit.other_numbers, "d_nano": gains})
        for edit, gains in zip(EDITS, found, strict=True)
    )
    partial = out.with_suffix(".partial")
    partial.write_text(text + "\n]}\n")
    partial.replace(out)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure with the lowest priority, on one core."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--keep", type=Path, default=None, help="where finished runs are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    os.nice(15)
    measure(options.pairs, options.keep or experiments_root() / "bank", options.out)


if __name__ == "__main__":
    main()

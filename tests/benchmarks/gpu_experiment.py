"""The wall time of a whole experiment of tier ``gpu`` over its budget, and where it goes.

    python -m tests.benchmarks.gpu_experiment --corpus DIR [--seconds 60 ...]

Needs an NVIDIA GPU. One run and one score of the baseline through the harness, nothing started
before: a cell, the compiler, training for ``--seconds``, sealing, two fresh cells that score about
a million holdout tokens with all probes. What is done once for each installation (the interpreter
is measured, the starting program compiled) comes before and has a row of its own. Text is read, cut
and made into tokens before the clock starts. No document is in both parts, but near-duplicates are
not looked for: the bits per byte say that the model has learned, not how well.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.benchmarks.gpu import PEAK, VOCABULARY, program
from tests.benchmarks.rows import Row, show
from training import accelerator, baselines, frames
from training.documents import Documents, Shards
from training.evaluator import score
from training.readers import open_source
from training.runner import train
from training.sandbox import Sandbox, require, shutdown
from training.tokenizer import Tokenizer, train_bpe
from training.tokenstore import open_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HOLDOUT_TOKENS = 1 << 20
TRAIN_BYTES = 32 << 20
SAMPLE_BYTES = 8 << 20
EXCERPT_BYTES = 64 << 10
MARKS = {60: "1.5", 300: "1.25"}
_STEPS = {
    frames.BUILT: "build",
    frames.REQUEST: "compile",
    frames.WEIGHTS: "train",
    frames.LOADED: "load",
}


def texts(corpus: str) -> tuple[Shards, Documents, Tokenizer]:
    """Train text, about a million holdout tokens, and the vocabulary of the train text."""
    documents, train_split, size = iter(open_source(corpus)), [], 0
    for _, text in documents:
        train_split.append(text)
        size += len(text)
        if size >= TRAIN_BYTES:
            break
    tokenizer = train_bpe(_first(train_split, SAMPLE_BYTES), VOCABULARY)
    fold, tokens = [], 0
    for _, text in documents:
        fold.append(text[:EXCERPT_BYTES].decode("utf-8", "ignore").encode())
        tokens += len(tokenizer.encode(fold[-1]))
        if tokens >= HOLDOUT_TOKENS:
            break
    if tokens < HOLDOUT_TOKENS:
        raise SystemExit(f"{corpus} holds too little text: {tokens:,} tokens are left for a fold")
    train_text = Shards.of(Documents(train_split))
    open_tokens(train_text, tokenizer)
    return train_text, Documents(fold), tokenizer


def _first(documents: Iterable[bytes], most: int) -> Iterator[bytes]:
    for text in documents:
        yield text
        most -= len(text)
        if most < 0:
            return


class Timeline:
    """Seconds spent between the steps of sandboxes, in order."""

    def __init__(self) -> None:
        self.start = self._last = time.perf_counter()
        self.steps: list[tuple[str, float]] = []

    def note(self, what: str) -> None:
        """What has taken since the note before."""
        now = time.perf_counter()
        self.steps.append((what, now - self._last))
        self._last = now

    def watch(self, stack: ExitStack) -> None:
        """Notes what every sandbox does from now on."""
        enter, leave, expect = Sandbox.__enter__, Sandbox.__exit__, Sandbox.expect
        trained: set[int] = set()

        def entered(sandbox: Sandbox) -> Sandbox:
            enter(sandbox)
            self.note("wait for a cell")
            return sandbox

        def left(sandbox: Sandbox, *given: Any) -> None:
            self.note("ask")
            leave(sandbox, *given)
            self.note("end")

        def expected(sandbox: Sandbox, *wanted: int) -> tuple[int, int, int, int]:
            found = expect(sandbox, *wanted)
            if found[0] == frames.REQUEST:
                if id(sandbox) in trained:
                    return found
                trained.add(id(sandbox))
            if found[0] in _STEPS:
                self.note(_STEPS[found[0]])
            return found

        for name, call in (("__enter__", entered), ("__exit__", left), ("expect", expected)):
            stack.enter_context(patch.object(Sandbox, name, call))

    def __str__(self) -> str:
        return ", ".join(f"{what} {took:.1f}" for what, took in self.steps)


def measure(corpus: tuple[Shards, Documents, Tokenizer], seconds: float) -> Row:
    """One experiment of the baseline, from nothing."""
    text, fold, tokenizer = corpus
    code = baselines.load("gpu")
    tier = baselines.GPU
    if seconds * 1000 != tier.budget_ms:
        tier = replace(tier, budget_ms=round(seconds * 1000))
    shutdown()  # no cell waits
    with ExitStack() as stack:
        line = Timeline()
        line.watch(stack)
        run = train(code, tier, text, 1, tokenizer=tokenizer)
        line.note("check and hash")
        if run.status != "ok":
            raise SystemExit(f"the baseline did not train: {run.status} ({run.detail})")
        found = score(code, run.weights or b"", tier, fold, 1, tokenizer=tokenizer)
        line.note("sum up")
        took = time.perf_counter() - line.start
    if found.status != "ok":
        raise SystemExit(f"the baseline was not scored: {found.status} ({found.detail})")
    speed = run.tokens * 1000 / max(1, run.cost_ms)
    share = 100 * speed * program({})[2] / PEAK
    return Row(
        f"gpu: a whole experiment of {seconds:g} s",
        f"{took / seconds:.3f} x its budget",
        f"{took:.1f} s on {accelerator.name()}; {speed / 1e6:.3f} M tokens/s and {share:.1f} % "
        f"of peak while it trains, "
        f"{found.nano_bpb / 1e9:.4f} bits per byte of {found.bytes:,} bytes, "
        f"cost {(run.cost_ms + found.cost_ms) / 1000:.1f} s, "
        f"{run.peak_device_bytes / 1e9:.1f} GB; seconds: {line}",
        f"at most {MARKS[round(seconds)]} x" if round(seconds) in MARKS else "",
    )


def main() -> int:
    """Prints a row for each budget; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu_experiment")
    parser.add_argument("--corpus", required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0])
    chosen = parser.parse_args()
    if accelerator.name() is None:
        print("There is no NVIDIA GPU here, or its driver does not answer.", file=sys.stderr)
        return 2
    corpus = texts(chosen.corpus)
    start = time.perf_counter()
    require("cuda")
    took = time.perf_counter() - start
    show([Row("gpu: the first sandbox ever", f"{took:.1f} s", "once for each installation")])
    for seconds in chosen.seconds:
        show([measure(corpus, seconds)])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One experiment against a plain loop of the same model without any harness, in one run."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from tests.benchmarks.rows import Row
from training import baselines
from training.corpus import default_documents
from training.documents import Documents
from training.evaluator import score
from training.pair import score_pair, train_pair
from training.runner import train
from training.sandbox import prestart
from training.tokens import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = 3
HOLDOUT_BYTES = 48 << 10


def texts() -> tuple[Documents, Documents]:
    """Training text and a fold's worth of other text."""
    documents = [text for _, text in default_documents()]
    fold, size = [], 0
    while size < HOLDOUT_BYTES:
        fold.append(documents.pop()[: 8 << 10])
        size += len(fold[-1])
    return Documents(documents[:200]), Documents(fold)


def plain_loop(code: bytes, text: Documents, seed: int) -> float:
    """Seconds of build_model and train in this process, fed from memory: no harness at all."""
    import torch

    tier = baselines.QUICK
    torch.set_num_threads(tier.threads)
    torch.manual_seed(seed)
    stream = Stream(text, seed)
    left = [tier.budget_tokens]

    class Spent(Exception):
        pass

    class Budget:
        @property
        def progress(self) -> float:
            return 1 - left[0] / tier.budget_tokens

    def batches(rows: int, length: int):
        if left[0] < rows * length:
            raise Spent
        left[0] -= rows * length
        data = torch.frombuffer(bytearray(stream.rows(rows, length)), dtype=torch.uint8)
        block = data.view(rows, length + 1).long()
        return block[:, :-1], block[:, 1:]

    start = time.perf_counter()
    space: dict = {"BudgetSpent": Spent}
    exec(compile(code, "train.py", "exec"), space)  # our own baseline, in a benchmark
    model = space["build_model"](256, tier.context)
    try:
        space["train"](model, batches, Budget())
    except Spent:
        pass
    return time.perf_counter() - start


def harness_rows() -> Iterator[Row]:
    """Harness share of a run and of a whole pair."""
    text, fold = texts()
    code, tier = baselines.load("quick"), baselines.QUICK
    plain_loop(code, text, 0)
    prestart()
    run = train(code, tier, text, 0)
    plain, metered, whole = [], [], []
    for seed in range(1, RUNS + 1):
        plain.append(plain_loop(code, text, seed))
        start = time.perf_counter()
        run = train(code, tier, text, seed)
        metered.append(time.perf_counter() - start)
        assert run.status == "ok"
        start = time.perf_counter()
        result = score(code, run.weights or b"", tier, fold, seed)
        whole.append(metered[-1] + time.perf_counter() - start)
        assert result.status == "ok"
    base = statistics.median(plain)
    share = 1 - base / statistics.median(metered)
    yield Row(
        "harness share of one quick training run",
        f"{100 * share:.0f} % of wall time",
        f"plain loop {base:.2f} s, metered in the sandbox {statistics.median(metered):.2f} s",
        "15 %",
    )
    yield Row(
        "training, sealing and scoring against the plain loop",
        f"x {statistics.median(whole) / base:.2f}",
        f"{statistics.median(whole):.2f} s with {fold.text_bytes >> 10} KiB scored and probed",
    )
    start = time.perf_counter()
    pair = train_pair(code, code, tier, text, 1)
    scored = score_pair(code, code, pair, tier, fold, 1)
    seconds = time.perf_counter() - start
    training = (pair.base.cpu_ms + pair.candidate.cpu_ms) / 1000
    yield Row(
        "a pair: CPU time of training in its wall time",
        f"{100 * training / seconds:.0f} %",
        f"{seconds:.1f} s wall; same code twice differs by {scored.d_nano} nano-bits per byte",
    )

"""One experiment against a plain loop of the same model without any harness, in one run."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.benchmarks.rows import Row
from training import baselines, windows
from training.contract import seed_all
from training.corpus import default_documents
from training.documents import Documents
from training.evaluator import MAX_ROWS, score
from training.pair import score_pair, train_pair
from training.runner import seed_inside, train
from training.sandbox import prestart
from training.tokens import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from training.challenge import TierSpec

RUNS = {"quick": 7, "cpu": 1}
TRAIN_BYTES = 8 << 20
FOLD_BYTES = 48 << 10


@dataclass(frozen=True)
class Side:
    """What one side took: seconds of wall and CPU time in all, of wall time until the weights were
    there, and bits per byte on the fold."""

    wall: float
    cpu: float
    training: float
    bpb: float


class Spent(Exception):
    """The end of the tokens, in the plain loop."""


def texts() -> tuple[Documents, Documents]:
    """A train split's and a fold's worth of different text."""
    documents = [text for _, text in default_documents()]
    fold, size = [], 0
    while size < FOLD_BYTES:
        fold.append(documents.pop()[: 8 << 10])
        size += len(fold[-1])
    train_split, size = [], 0
    for text in documents:
        if size + len(text) <= TRAIN_BYTES:
            train_split.append(text)
            size += len(text)
    return Documents(train_split), Documents(fold)


def plain(code: bytes, tier: TierSpec, text: Documents, fold: Documents, seed: int) -> Side:
    """Trains and scores in this process, torch imported: no sandbox, pipe, seal or probe."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(tier.threads)
    start, cpu = time.perf_counter(), time.process_time()
    model = _train(code, tier, Stream(text, seed), seed_inside(seed, "training"))
    trained = time.perf_counter()
    cut = windows.cut(fold, tier.context)
    nats = 0.0
    model.eval()
    with torch.inference_mode():
        for at in range(0, len(cut), MAX_ROWS[tier.device]):
            rows = slice(at, at + MAX_ROWS[tier.device])
            inputs = torch.from_numpy(cut.inputs[rows]).long()
            targets = torch.from_numpy(cut.targets[rows]).long()
            loss = torch.nn.functional.cross_entropy(
                model(inputs).flatten(0, 1), targets.flatten(), reduction="none"
            )
            scored = torch.arange(tier.context) < torch.from_numpy(cut.sizes[rows])[:, None]
            nats += loss.view_as(targets)[scored].double().sum().item()
    end = time.perf_counter()
    torch.set_num_threads(threads)
    bpb = nats / math.log(2) / cut.text_bytes
    return Side(end - start, time.process_time() - cpu, trained - start, bpb)


def _train(code: bytes, tier: TierSpec, stream: Stream, seed: int) -> Any:
    """The trained model: build_model and train of ``code``, fed from memory."""
    import torch

    left = [tier.budget_tokens]

    class Budget:
        @property
        def progress(self) -> float:
            return 1 - left[0] / tier.budget_tokens

    def batches(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        if left[0] < rows * length:
            raise Spent
        left[0] -= rows * length
        data = torch.frombuffer(bytearray(stream.rows(rows, length)), dtype=torch.uint8)
        block = data.view(rows, length + 1).long()
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()

    space: dict[str, Any] = {}
    exec(compile(code, "train.py", "exec"), space)  # our own baseline, in a benchmark
    seed_all(seed)
    model = space["build_model"](256, tier.context)
    try:
        space["train"](model, batches, Budget())
    except Spent:
        pass
    return model


def sealed(code: bytes, tier: TierSpec, text: Documents, fold: Documents, seed: int) -> Side:
    """The same through the harness: a fresh process, metered; then two more, probed."""
    start, cpu = time.perf_counter(), time.process_time()
    run = train(code, tier, text, seed)
    assert run.status == "ok", run
    found = score(code, run.weights or b"", tier, fold, seed)
    assert found.status == "ok", found
    own = time.process_time() - cpu
    inside = run.startup_ms + run.cpu_ms + found.cpu_ms
    return Side(
        time.perf_counter() - start,
        own + inside / 1000,
        run.wall_ms / 1000,
        found.nano_bpb / 1e9,
    )


def tier_rows(name: str, mark: str) -> Iterator[Row]:
    """Speed, quality and share of the harness for the baseline of a tier; both sides in turn."""
    text, fold = texts()
    code, tier = baselines.load(name), baselines.tier(name)
    prestart(3)
    sides: dict[str, list[Side]] = {"plain": [], "sealed": []}
    order = [("plain", plain), ("sealed", sealed)]
    if RUNS[name] > 1:
        for _, run in order:
            run(code, tier, text, fold, 0)  # not counted: first use of everything
    for seed in range(1, RUNS[name] + 1):
        for side, run in order if seed % 2 else reversed(order):
            sides[side].append(run(code, tier, text, fold, seed))

    def median(side: str, what: str) -> float:
        return statistics.median(getattr(one, what) for one in sides[side])

    speed = {side: tier.budget_tokens / median(side, "training") for side in sides}
    yield Row(
        f"{name}: tokens/s, harness over plain loop",
        f"x {speed['sealed'] / speed['plain']:.3f}",
        f"{speed['sealed']:,.0f} in the sandbox, from the first byte of code to the last of the "
        f"weights; {speed['plain']:,.0f} plain: load, build, train (medians of {RUNS[name]})",
        "1.0 within noise",
    )
    apart = max(abs(a.bpb - b.bpb) for a, b in zip(*sides.values(), strict=True))
    yield Row(
        f"{name}: bits per byte, harness and plain loop",
        f"{median('sealed', 'bpb'):.4f}, {median('plain', 'bpb'):.4f}",
        f"same seeds, tokens and fold; largest difference of a seed {apart:.6f}",
        "at least as good",
    )
    share = {what: 1 - median("plain", what) / median("sealed", what) for what in ("wall", "cpu")}
    yield Row(
        f"{name}: harness share of everything",
        f"{100 * share['wall']:.1f} % of wall time",
        f"start, train, seal, score {fold.text_bytes >> 10} KiB with all probes: "
        f"{median('sealed', 'wall'):.2f} s; "
        f"plain train and score: {median('plain', 'wall'):.2f} s; "
        f"of CPU time {100 * share['cpu']:.1f} % (cells had imported torch, as between runs)",
        mark,
    )


def quick_rows() -> Iterator[Row]:
    """The tier ``quick``, and a whole pair in it."""
    yield from tier_rows("quick", "15 %")
    text, fold = texts()
    code, tier = baselines.load("quick"), baselines.QUICK
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


def cpu_rows() -> Iterator[Row]:
    """The tier ``cpu``: about four minutes."""
    yield from tier_rows("cpu", "5 %")

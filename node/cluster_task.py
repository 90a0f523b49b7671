"""One run on a worker of a Ray cluster: what it is asked, what it says, and what it refuses."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from node.environment import env_digest
from node.runs import device_name, harness_digest
from training import accelerator, evaluator, kinds, runner
from training.challenge import TierSpec
from training.documents import CorpusError, Documents, Shards, SplitRef
from training.errors import TrainingError
from training.evaluator import Score
from training.runner import TrainedRun
from training.sandbox import require
from training.tokenizer import BYTES, BpeTokenizer

NOT_ALIKE: Final = (
    "make the workers like this machine, or this node like them: the same lazaretto, Python and "
    'torch on the same hardware; or use executor = "local"'
)
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Order:
    """One run. ``facts`` are what the worker has to be like; ``splits`` and ``data`` name the text
    and where to get it, ``weights`` are empty for training."""

    device: str
    sandbox: str
    facts: dict[str, str]
    code: bytes = b""
    tier: TierSpec | None = None
    seed: int = 0
    nice: int = 0
    weights: bytes = b""
    reference: Score | None = None
    traced: bool = False
    tokenizer: bytes = b""
    splits: tuple[SplitRef, ...] = ()
    data: dict[bytes, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker says. ``place``: the machine, and which of its GPUs; ``problem`` and ``cure``:
    why nothing was run, empty where something was."""

    place: tuple[str, int]
    result: TrainedRun | Score | None = None
    traces: tuple[bytes, ...] = ()
    problem: str = ""
    cure: str = ""


def facts(device: str) -> dict[str, str]:
    """What has to be the same on every machine of a node."""
    return {
        "software and sandbox": env_digest().hex()[:16],
        "text of this program": harness_digest().hex()[:16],
        "device": device_name(device),
    }


def carry_out(order: Order) -> Reply:
    """One order, on the worker. It is stopped by the exception with which Ray cancels a task."""
    import ray

    context = ray.get_runtime_context()
    gpu = -1 if order.device == "cpu" else accelerator.index()
    place = (str(context.get_node_id()), gpu)
    cancel = threading.Event()
    replies: list[Reply] = []

    def work() -> None:
        try:
            kinds.choose(order.sandbox)
            replies.append(_work(order, place, cancel))
        except TrainingError as error:
            replies.append(Reply(place, problem=str(error), cure=error.cure))

    thread = threading.Thread(target=work)  # beside the thread that Ray interrupts
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_S)
    except BaseException:
        cancel.set()
        thread.join()
        raise
    return replies[0] if replies else Reply(place, problem="The run broke off.", cure="Try again.")


def _work(order: Order, place: tuple[str, int], cancel: threading.Event) -> Reply:
    own = facts(order.device)
    for what, wanted in order.facts.items():
        if own.get(what) != wanted:
            told = f"{what}: {own.get(what)} there, {wanted} here"
            return Reply(place, problem=f"It is not like this node's machine ({told}).",
                         cure=NOT_ALIKE)  # fmt: skip
    if order.tier is None:
        require(order.device, cancel)
        return Reply(place)
    tokenizer = BpeTokenizer.from_bytes(order.tokenizer) if order.tokenizer else BYTES
    text = Shards(order.splits, lambda ref: _split(ref, order.data))
    traces: list[bytes] = []
    trace = traces.append if order.traced else None
    result: TrainedRun | Score
    if order.weights:
        result = evaluator.score(
            order.code, order.weights, order.tier, text.shard(0), order.seed,
            tokenizer=tokenizer, cancel=cancel, nice=order.nice, trace=trace,
            reference=order.reference,
        )  # fmt: skip
    else:
        result = runner.train(
            order.code, order.tier, text, order.seed,
            tokenizer=tokenizer, cancel=cancel, nice=order.nice, trace=trace,
        )  # fmt: skip
    return Reply(place, result, tuple(traces))


def _split(ref: SplitRef, data: dict[bytes, Any]) -> Documents:
    import ray

    found: bytes = ray.get(data[ref.sha256])
    if hashlib.sha256(found).digest() != ref.sha256:
        raise CorpusError("text that came through the object store does not have its hash")
    return Documents.from_bytes(found)

"""``executor = "ray"``: runs on the machines of a Ray cluster, one whole run a task.

Ray finds a machine, moves bytes and notices who died; all that is measured is ours: a task is one
training or scoring call of this package, in this package's sandbox and under its meter, on the
worker's machine. A worker without a sandbox refuses as a node would. A lane is one bundle of a Ray
placement group: so many cores, and a GPU if wanted, of one machine, kept free for this node.

- A worker that dies leaves no half: the run is discarded and done again, a few times. A lane that
  has moved to another machine raises LaneMoved: the whole pair is measured again.
- Records state one class and one environment, so every worker must be like the node's own machine:
  the same software, this program's text included, the same sandbox and the same device. It is asked
  before the first run and by each run; one that differs is refused.
- Text goes into Ray's object store once, by hash, and is checked by hash where it comes out. Tokens
  made of it are kept in the worker's cache (``training.tokenstore``).

A cluster is one domain of trust: whoever may give it tasks may run anything on its machines, this
node's included.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from node.cluster_task import NOT_ALIKE, Order, Reply, carry_out, facts
from node.errors import UsageError
from node.lanes import Lane
from training import evaluator, kinds, runner
from training.documents import MAX_SHARDS, Shards
from training.errors import (
    Cancelled,
    LaneMoved,
    SandboxUnavailable,
    WorkerLost,
)
from training.evaluator import Score
from training.runner import TrainedRun
from training.tokenizer import BYTES, BpeTokenizer, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from node.settings import Settings
    from training.challenge import TierSpec
    from training.documents import Documents, Text

T = TypeVar("T", TrainedRun, Score)

TRIES: Final = 3
"""How often a run is begun before a worker that dies is an error."""
HELD_SPLITS: Final = MAX_SHARDS + 16
"""Splits kept in the object store: a train text, and those that were scored on lately."""
_ROOM_S: Final = 60.0
_START_S: Final = 600.0
_POLL_S: Final = 0.1
_END_S: Final = 10.0


class Cluster:
    """A connection with a placement group of ``lanes`` bundles, and the text that it holds."""

    def __init__(self, settings: Settings, group: Any) -> None:
        import ray

        self.settings = settings
        self.group = group
        self._task = ray.remote(max_retries=0)(carry_out)
        self._held: OrderedDict[bytes, Any] = OrderedDict()
        self._lock = threading.Lock()

    def submit(self, bundle: int, order: Order) -> Any:
        """Give an order to a lane; the reference of its reply."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        wanted = self.settings.ray
        return self._task.options(
            num_cpus=wanted.cores,
            num_gpus=wanted.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.group, bundle),
        ).remote(order)

    def hold(self, text: Shards) -> dict[bytes, Any]:
        """The splits of a text in the object store, put there once; the longest unused go."""
        import ray

        with self._lock:
            for index, ref in enumerate(text.refs):
                if ref.sha256 not in self._held:
                    self._held[ref.sha256] = ray.put(text.shard(index).to_bytes())
                self._held.move_to_end(ref.sha256)
            found = {ref.sha256: self._held[ref.sha256] for ref in text.refs}
            while len(self._held) > HELD_SPLITS:
                self._held.popitem(last=False)
            return found


class RayExecutor:
    """One lane of a cluster. ``progress`` is not told: what a worker does is seen when it ends."""

    def __init__(self, cluster: Cluster, bundle: int) -> None:
        self._cluster = cluster
        self._bundle = bundle
        self._facts: dict[str, dict[str, str]] = {}
        self._place: tuple[str, int] | None = None

    def check(self, device: str) -> None:
        """Ask the worker whether it is like this machine, and has a sandbox. Raises WorkerLost, or
        SandboxUnavailable with the cure for the worker."""
        self._carry_out(self._order(device), _START_S, None)

    def train(
        self,
        code: bytes,
        tier: TierSpec,
        text: Text,
        seed: int,
        *,
        tokenizer: Tokenizer = BYTES,
        cancel: threading.Event | None = None,
        nice: int = 0,
        trace: Callable[[bytes], None] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> TrainedRun:
        """``runner.train`` on the worker. Raises what that does, WorkerLost and LaneMoved."""
        shards = text if isinstance(text, Shards) else Shards.of(text)
        order = self._filled(code, tier, seed, nice, trace, tokenizer, shards)
        run = self._result(order, TrainedRun, tier, cancel, trace)
        weights = run.weights or b""
        if (
            run.status not in runner.STATUSES
            or (run.status == "ok") != (run.weights is not None)
            or (weights and hashlib.sha256(weights).digest() != run.weights_digest)
            or 0 < tier.budget_tokens < run.tokens
        ):
            raise WorkerLost("A worker answered with a run that cannot be.", cure=NOT_ALIKE)
        return run

    def score(
        self,
        code: bytes,
        weights: bytes,
        tier: TierSpec,
        text: Documents,
        seed: int,
        *,
        tokenizer: Tokenizer = BYTES,
        cancel: threading.Event | None = None,
        nice: int = 0,
        trace: Callable[[bytes], None] | None = None,
        reference: Score | None = None,
    ) -> Score:
        """``evaluator.score`` on the worker. Raises what that does, WorkerLost and LaneMoved."""
        order = self._filled(code, tier, seed, nice, trace, tokenizer, Shards.of(text))
        order = replace(order, weights=weights, reference=reference)
        found = self._result(order, Score, tier, cancel, trace)
        if found.status not in evaluator.STATUSES or (
            found.status == "ok" and found.bytes != text.text_bytes
        ):
            raise WorkerLost("A worker answered with a score that cannot be.", cure=NOT_ALIKE)
        return found

    def _order(self, device: str) -> Order:
        if device not in self._facts:
            self._facts[device] = facts(device)
        return Order(device, kinds.chosen(), self._facts[device])

    def _filled(
        self,
        code: bytes,
        tier: TierSpec,
        seed: int,
        nice: int,
        trace: Callable[[bytes], None] | None,
        tokenizer: Tokenizer,
        text: Shards,
    ) -> Order:
        return replace(
            self._order(tier.device),
            code=code,
            tier=tier,
            seed=seed,
            nice=nice,
            traced=trace is not None,
            tokenizer=tokenizer.to_bytes() if isinstance(tokenizer, BpeTokenizer) else b"",
            splits=text.refs,
            data=self._cluster.hold(text),
        )

    def _result(
        self,
        order: Order,
        kind: type[T],
        tier: TierSpec,
        cancel: threading.Event | None,
        trace: Callable[[bytes], None] | None,
    ) -> T:
        reply = self._carry_out(order, _START_S + 3 * tier.max_wall_ms / 1000, cancel)
        if not isinstance(reply.result, kind):
            raise WorkerLost("A worker answered with something else.", cure=NOT_ALIKE)
        if trace is not None:
            for one in reply.traces:
                trace(one)
        return reply.result

    def _carry_out(self, order: Order, seconds: float, cancel: threading.Event | None) -> Reply:
        """The reply to an order, begun anew where a worker died meanwhile."""
        from ray.exceptions import RayError

        why = ""
        for _ in range(TRIES):
            reference = self._cluster.submit(self._bundle, order)
            try:
                reply = self._wait(reference, seconds, cancel)
            except RayError as error:  # the worker or its machine died, or had no memory left
                why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
                continue
            before, self._place = self._place, reply.place
            if reply.problem:
                raise SandboxUnavailable(
                    f"On the worker {reply.place[0][:12]}: {reply.problem}",
                    cure=f"there: {reply.cure}",
                )
            if before not in (None, reply.place):
                raise LaneMoved(
                    "A lane has moved to another machine; nothing that it had begun counts.",
                    cure="Nothing to do: the pair is measured again.",
                )
            return reply
        raise WorkerLost(
            f"{TRIES} workers in a row died with a run ({why}); nothing of it counts.",
            cure="look at the cluster: ray status",
        )

    def _wait(self, reference: Any, seconds: float, cancel: threading.Event | None) -> Reply:
        """The reply; the task is dead where this raises."""
        import ray

        until = time.monotonic() + seconds
        while not ray.wait([reference], timeout=_POLL_S)[0]:
            cancelled = cancel is not None and cancel.is_set()
            if cancelled or time.monotonic() > until:
                self._stop(reference)
                if cancelled:
                    raise Cancelled("Cancelled. Nothing was measured, and nothing counts.")
                raise WorkerLost(
                    f"A worker did not answer within {seconds:.0f} s; nothing counts.",
                    cure="look at the cluster: ray status",
                )
        reply: Reply = ray.get(reference)
        return reply

    @staticmethod
    def _stop(reference: Any) -> None:
        """Interrupt the task, and kill its worker if that does not help: sandboxes die with it."""
        import ray

        for force in (False, True):
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=force)
            if ray.wait([reference], timeout=_END_S)[0]:
                return


@contextmanager
def open_cluster(settings: Settings) -> Iterator[tuple[Lane, ...]]:
    """The lanes of ``[ray]`` in the settings, each checked, until the block ends.

    Raises:
        UsageError: no Ray here, no cluster or no room in it, or settings that do not go together.
        SandboxUnavailable, WorkerLost: a worker has no sandbox, or is unlike this machine.
    """
    wanted = settings.ray
    if settings.lanes:
        raise UsageError(
            'node.toml: lanes are of executor = "local"; those of a cluster are in [ray]',
            cure="remove lanes",
        )
    if 0 < settings.limits.cores < wanted.lanes * wanted.cores:
        raise UsageError(
            f"node.toml: [ray] takes {wanted.lanes * wanted.cores} cores, and limits.cores lends "
            f"{settings.limits.cores}",
            cure="lower lanes or cores in [ray], or raise limits.cores",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group
    except ImportError:
        raise UsageError(
            'executor = "ray" needs Ray, which is not installed',
            cure="pip install 'lazaretto[ray]'",
        ) from None
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(address=wanted.address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster at {wanted.address!r}: {str(error).strip().splitlines()[0][:200]}",
            cure="on its first machine: ray start --head; on others: ray start --address HEAD:6379",
        ) from None
    try:
        bundle = {"CPU": wanted.cores, **({"GPU": wanted.gpus} if wanted.gpus else {})}
        group = placement_group([bundle] * wanted.lanes, strategy="PACK")
        try:
            if not group.wait(_ROOM_S):
                raise UsageError(
                    f"the cluster has no room for {wanted.lanes} lanes of {wanted.cores} cores"
                    + (" and a GPU" if wanted.gpus else ""),
                    cure="ray status shows what it has; lower lanes or cores in [ray]",
                )
            cluster = Cluster(settings, group)
            lanes = []
            for number in range(wanted.lanes):
                executor = RayExecutor(cluster, number)
                for device in ("cpu", "cuda") if wanted.gpus else ("cpu",):
                    executor.check(device)
                lanes.append(Lane(f"ray {number}", executor, wanted.cores, wanted.gpus > 0))
            yield tuple(lanes)
        finally:
            remove_placement_group(group)
    finally:
        if ours:
            ray.shutdown()

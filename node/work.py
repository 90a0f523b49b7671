"""Work that takes minutes: beside the event loop, stopped with the node, found again after."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from node.errors import NodeError
from node.settings import write_atomic
from swarm.errors import SwarmError
from training.errors import TrainingError
from verification.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from node.member import Node
    from swarm.blobs import BlobStore
    from training.pair import TrainedPair
    from training.runner import TrainedRun

T = TypeVar("T")
RETRY_SECONDS = 5.0
FAILURES = (NodeError, SwarmError, TrainingError, VerificationError, OSError, sqlite3.Error)
"""What a loop of a node lives on after."""


async def cancellable(work: Callable[[threading.Event], T]) -> T:
    """Run blocking ``work(cancel)`` in a thread; when this task is cancelled, ``cancel`` is set."""
    cancel = threading.Event()
    try:
        # The stubs of trio-typing, which libp2p installs, know an older trio.
        return await trio.to_thread.run_sync(work, cancel, abandon_on_cancel=True)  # type: ignore[call-arg]
    except trio.Cancelled:
        cancel.set()
        raise


async def guarded(node: Node, name: str, work: Callable[[Node], Awaitable[None]]) -> None:
    """Run a loop of the node again and again; one failure is written down and waited out."""
    while True:
        try:
            with without_groups():
                await work(node)
            return
        except FAILURES as error:
            node.trouble(name, error)
            await trio.sleep(RETRY_SECONDS)


@contextmanager
def without_groups() -> Iterator[None]:
    """What fails alone in nurseries is raised as itself: trio raises a group even then."""
    try:
        yield
    except BaseExceptionGroup as group:
        alone: BaseException = group
        while isinstance(alone, BaseExceptionGroup) and len(alone.exceptions) == 1:
            (alone,) = alone.exceptions
        if alone is group:
            raise
        raise alone from None


@dataclass(frozen=True, slots=True)
class BaseFailure:
    """A pair whose base did not train; ``status`` says how. It says nothing about the candidate."""

    status: str


class Unfinished:
    """Trained pairs that are not published yet: weights as blobs, the rest in a file by name.

    ``save`` is durable before it returns, and comes before the seal is signed.
    """

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder = folder
        self._blobs = blobs

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.msgpack"

    def save(self, name: str, trained: TrainedPair | BaseFailure) -> None:
        """Keep a pair; its weights stay as blobs, so that anybody can score them again."""
        kept: dict[str, object] = {"pair": None, "base_status": ""}
        if isinstance(trained, BaseFailure):
            kept["base_status"] = trained.status
        else:
            for run in (trained.base, trained.candidate):
                if run.weights is not None:
                    self._blobs.put(run.weights)
            base, candidate = _bare(trained.base), _bare(trained.candidate)
            kept["pair"] = replace(trained, base=base, candidate=candidate)
        write_atomic(self._path(name), msgspec.msgpack.encode(kept))

    def load(self, name: str) -> TrainedPair | BaseFailure | None:
        """The pair kept under ``name``; None where there is none, or it was cut off or damaged."""
        from training.pair import TrainedPair

        shape = msgspec.defstruct("Kept", [("pair", TrainedPair | None), ("base_status", str)])
        try:
            kept: Any = msgspec.msgpack.decode(self._path(name).read_bytes(), type=shape)
            if kept.pair is None:
                return BaseFailure(kept.base_status)
            base, candidate = self._whole(kept.pair.base), self._whole(kept.pair.candidate)
            whole: TrainedPair = replace(kept.pair, base=base, candidate=candidate)
            return whole
        except (OSError, msgspec.MsgspecError, LookupError):
            return None

    def _whole(self, run: TrainedRun) -> TrainedRun:
        if run.status != "ok":
            return run
        if not self._blobs.has(run.weights_digest):
            raise LookupError("weights that were kept are gone")
        return replace(run, weights=self._blobs.get(run.weights_digest))

    def forget(self, name: str) -> None:
        """The pair was published."""
        self._path(name).unlink(missing_ok=True)


def _bare(run: TrainedRun) -> TrainedRun:
    return replace(run, weights=None)

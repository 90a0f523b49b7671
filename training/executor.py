"""Where whole runs are carried out: on this machine, on a lane of its own, or by somebody else.

An executor does one whole call, training or scoring, and returns its result or raises: there is no
half of one. A *lane* is a device of its own, some cores or a GPU or both, on which one run is
carried out at a time; lanes that share nothing do not disturb each other's measurements.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final, Protocol

from training import accelerator, evaluator, runner
from training.errors import Cancelled, SandboxUnavailable
from training.tokenizer import BYTES, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from training.challenge import TierSpec
    from training.documents import Documents, Text
    from training.evaluator import Score
    from training.runner import TrainedRun

_WAIT_S: Final = 0.05


class Executor(Protocol):
    """Carries out whole runs; see ``runner.train`` and ``evaluator.score`` for what they are.

    Both raise Cancelled, and SandboxUnavailable or another TrainingError where a run could not be
    carried out: nothing was measured then, and nothing counts.
    """

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
        """Trains ``code`` in a fresh sandbox."""

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
        """Scores weights in fresh sandboxes."""


class LocalExecutor:
    """Runs in this process's own sandboxes.

    With ``cores`` (numbers of processors) or ``gpu`` it is a lane: sandboxes, and the threads here
    that feed and score them, stay on those cores, and runs take turns. Without, they run wherever
    the caller may.
    """

    def __init__(self, cores: Collection[int] = (), gpu: int | None = None) -> None:
        self.cores = frozenset(cores)
        self.gpu = gpu
        self._turn = threading.Lock()

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
        """``runner.train``, on this lane."""
        with self.lane(cancel):
            return runner.train(
                code, tier, text, seed,
                tokenizer=tokenizer, cancel=cancel, nice=nice, trace=trace, progress=progress,
            )  # fmt: skip

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
        """``evaluator.score``, on this lane."""
        with self.lane(cancel):
            return evaluator.score(
                code, weights, tier, text, seed,
                tokenizer=tokenizer, cancel=cancel, nice=nice, trace=trace, reference=reference,
            )  # fmt: skip

    @contextlib.contextmanager
    def lane(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """Whatever runs in here, on this thread and on those that it starts, is on the lane.

        Waits until the lane is free: a run that was given up may take a moment to end. Raises
        Cancelled, or SandboxUnavailable where this process may not use the cores.
        """
        if not self.cores and self.gpu is None:
            yield
            return
        while not self._turn.acquire(timeout=_WAIT_S):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Cancelled while waiting for a lane.")
        try:
            with self._on_cores(), accelerator.using(self.gpu):
                yield
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def _on_cores(self) -> Iterator[None]:
        before = os.sched_getaffinity(0)  # of this thread; those that it starts inherit it
        try:
            os.sched_setaffinity(0, self.cores or before)
            if self.cores and os.sched_getaffinity(0) != self.cores:
                raise OSError
        except OSError:
            os.sched_setaffinity(0, before)
            raise SandboxUnavailable(
                f"This process may not use cores {sorted(self.cores)}, so nothing was run there.",
                cure="Change lanes in node.toml to cores that it may use: taskset -cp $$",
            ) from None
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


LOCAL: Final = LocalExecutor()
"""This machine, wherever there is room."""

"""A metered training run: hands out tokens, keeps the clock, collects and checks the weights.

The trusted side owns all that is measured. Tokens are counted here and leave only after the
request was checked against the budget; one request is in flight at a time. The clocks run from the
first candidate byte to the last byte of the weights, so work at import, in ``build_model`` or after
the last batch is paid for too. What a tier declares as its start-up allowance is not counted as
cost, as far as it passes before the first token. A run that goes on for long after its budget of
time is ended.

Weights come back as bytes and are checked as bytes; they are never loaded here. What the tensors
are called, and their types and shapes, is told when the model is built, before the first token, and
must be the same at the end: what was learned is in the numbers, which are counted.

A run that fails is a result: ``TrainedRun.status`` says why, from a closed list. Only what says
nothing about the candidate is raised: SandboxUnavailable, Cancelled.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from training import accelerator, frames
from training.sandbox import Limits, Sandbox, Stopped, prestart
from training.scoring import warm
from training.tokenizer import BYTES, Tokenizer
from training.tokens import Stream
from training.weights import (
    MAX_HEADER_BYTES,
    TensorBytes,
    WeightsError,
    elements,
    header_of,
    size_cap,
    unpack,
    weight,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from training.challenge import TierSpec
    from training.documents import Text

STATUSES: Final = frozenset(
    "ok crashed bad_contract timeout memory bad_weights too_many_params non_finite protocol "
    "code_too_large".split()
)
"""Every status of a run."""
MAX_REFUSALS: Final = 1000
PRESTARTED: Final = 2
GRACE_MS: Final = 5_000
GRACE_SHARE: Final = 20
"""After a budget of time is spent there is a twentieth of it, or ``GRACE_MS``, to hand over the
weights: what a device has queued, an average of weights. It is counted as cost."""
_PROGRESS_S: Final = 0.25
_NO_DIGEST: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """The result of one run. Where ``status`` is not ``ok`` there are no weights.

    ``detail`` explains the status in words of ours, never of the candidate. ``weights`` is a
    safetensors file in canonical form and ``weights_digest`` its SHA-256 (zeros without one);
    ``init_digest`` is the SHA-256 of the weights before training, as the sandbox reports it, and
    ``params`` the numbers in the state, buffers included. Times are milliseconds: ``cpu_ms`` and
    ``wall_ms`` from the first candidate byte, ``startup_ms`` the CPU time of the fresh process
    before it. ``cost_ms`` is what a pair is compared by: CPU time on ``cpu``, wall time on
    ``cuda``, without the start-up allowance. ``peak_memory_bytes`` is resident memory, shared
    libraries included; ``peak_device_bytes`` the most that was in use on the device. ``pace_ms`` is
    what short trainings of the program with the SHA-256 ``pace_of`` cost right before and after
    this run (``training.pace``); 0 where there were none.
    """

    status: str
    detail: str
    weights: bytes | None
    weights_digest: bytes
    init_digest: bytes
    tokens: int
    cpu_ms: int
    wall_ms: int
    startup_ms: int
    peak_memory_bytes: int
    params: int
    cost_ms: int
    peak_device_bytes: int
    pace_ms: int = 0
    pace_of: bytes = b""


def train(
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
    """Trains ``code`` in a fresh sandbox under the limits of ``tier``.

    ``seed`` fixes the order of tokens and the generators in the sandbox: the same code and seed
    give the same weights on the same machine. ``trace`` is for a researcher at their own machine:
    it is given the end of the candidate's traceback, as data, and nothing of it is in the result.
    ``progress`` is given the spent share of the budget, a few times a second at most.
    Raises SandboxUnavailable, or Cancelled when ``cancel`` is set meanwhile.
    """
    run = _Run(tier, tokenizer, progress)
    if len(code) > tier.max_code_bytes:
        return run.result("code_too_large", "the code is larger than the tier allows")
    stream = Stream(text, seed, tokenizer)
    limits = limits_of(tier)
    with Sandbox(limits, cancel=cancel, nice=nice, trace=trace) as sandbox:
        run.startup_ms = sandbox.startup_ms
        if tier.device != "cpu":  # scoring then finds two sandboxes ready, and this process awake
            prestart(PRESTARTED, limits.device)
            warm(limits.device)
        try:
            sandbox.start_candidate(
                frames.MODE_TRAIN,
                code,
                seed=seed_inside(seed, "training"),
                vocab_size=tokenizer.vocab_size,
                context=tier.context,
                budget_tokens=tier.budget_tokens,
                budget_ms=tier.budget_ms,
            )
            run.meter(sandbox, stream)
            run.clock(sandbox)
            run.check()
        except Stopped as stopped:
            run.clock(sandbox)
            return run.result(stopped.status, stopped.detail)
    return run.result("ok", "")


def seed_inside(seed: int, what: str) -> int:
    """The seed that a sandbox is told: 63 bits from which ``seed`` cannot be found again.

    This side draws the order of tokens and the probes from ``seed``; a model that knew it could
    draw them too, and behave where it is watched.
    """
    digest = hashlib.sha256(f"lazaretto inside {what} {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def limits_of(tier: TierSpec) -> Limits:
    """The sandbox's limits in this tier, on the GPU in use if it takes one."""
    return Limits(
        cpu_ms=tier.max_cpu_ms,
        wall_ms=tier.max_wall_ms,
        memory_bytes=tier.max_memory_bytes,
        threads=tier.threads,
        device=accelerator.chosen(tier.device),
        device_bytes=tier.max_device_bytes,
    )


class _Run:
    """What is known of a run so far."""

    def __init__(
        self, tier: TierSpec, tokenizer: Tokenizer, progress: Callable[[float], None] | None
    ) -> None:
        self.tier = tier
        self.vocabulary = tokenizer.vocab_size
        self.progress = progress
        self.told = 0.0
        self.weights: bytes | None = None
        self.header = b""
        self.init_digest = _NO_DIGEST
        self.tokens = self.params = 0
        self.cpu_ms = self.wall_ms = self.startup_ms = self.peak = self.device_peak = 0
        self.cost_ms = 0
        self.free_ms = tier.startup_ms

    def meter(self, sandbox: Sandbox, stream: Stream) -> None:
        """Serves batches until the weights come; raises Stopped."""
        _, _, size, _ = sandbox.expect(frames.BUILT)
        self.init_digest = bytes(sandbox.exactly(frames.DIGEST_BYTES))
        if size > MAX_HEADER_BYTES:
            raise Stopped("protocol", "an unexpected frame")
        self.header = bytes(sandbox.exactly(size))
        refusals = 0
        if self.tier.budget_ms:
            sandbox.stop_at(self._end_ms())
        while True:
            op, a, b, _ = sandbox.expect(frames.REQUEST, frames.WEIGHTS)
            if op == frames.WEIGHTS:
                if a > min(size_cap(self.tier.max_params), self.tier.max_memory_bytes):
                    raise Stopped("too_many_params", "the weights are larger than the tier allows")
                self.weights = bytes(sandbox.exactly(a))
                return
            sandbox.nothing_pending()
            if not (a and b) or a * b > self.tier.max_batch_tokens:
                refusals += 1
                sandbox.send(frames.REFUSED)
                continue
            if not self.tokens:
                self._first_token(sandbox)
            spent_ms = max(0, sandbox.cost_ms() - self.free_ms)
            self._tell(spent_ms)
            if self._spent(a * b, spent_ms):
                refusals += 1
                sandbox.send(frames.SPENT)
            else:
                self.tokens += a * b
                shown = min(spent_ms, frames.U32_MAX)
                sandbox.send(frames.BATCH, a, b, shown, payload=stream.rows(a, b))
            if refusals > MAX_REFUSALS:
                raise Stopped("protocol", "kept asking after the budget was spent")

    def _first_token(self, sandbox: Sandbox) -> None:
        """The start-up allowance ends here."""
        self.free_ms = min(sandbox.cost_ms(), self.tier.startup_ms)
        if self.tier.budget_ms:
            sandbox.stop_at(self._end_ms())

    def _end_ms(self) -> int:
        """When a run with a budget of time is ended from outside, on the tier's clock."""
        budget = self.tier.budget_ms
        return self.free_ms + budget + max(GRACE_MS, budget // GRACE_SHARE)

    def _spent(self, wanted: int, spent_ms: int) -> bool:
        """Whether a batch of ``wanted`` tokens does not fit any more."""
        tier = self.tier
        return (0 < tier.budget_tokens < self.tokens + wanted) or (0 < tier.budget_ms <= spent_ms)

    def _tell(self, spent_ms: int) -> None:
        if self.progress is None or time.monotonic() - self.told < _PROGRESS_S:
            return
        self.told = time.monotonic()
        shares = [0.0]
        if self.tier.budget_tokens:
            shares.append(self.tokens / self.tier.budget_tokens)
        if self.tier.budget_ms:
            shares.append(spent_ms / self.tier.budget_ms)
        self.progress(min(1.0, max(shares)))

    def clock(self, sandbox: Sandbox) -> None:
        """Reads the clocks, while the process waits for its end."""
        self.cpu_ms, self.wall_ms = sandbox.cpu_ms(), sandbox.wall_ms()
        self.cost_ms = max(0, sandbox.cost_ms() - self.free_ms)
        self.peak = sandbox.peak_memory_bytes()
        self.device_peak = sandbox.peak_device_bytes()

    def check(self) -> None:
        """Checks the weights as bytes; raises Stopped."""
        try:
            tensors = unpack(self.weights or b"")
        except WeightsError:
            raise Stopped("bad_weights", "the weights are not in canonical form") from None
        self.params = elements(tensors)
        if weight(tensors) > self.tier.max_params:
            raise Stopped("too_many_params", "the model has more parameters than the tier allows")
        if header_of(self.weights or b"") != self.header:
            raise Stopped("bad_weights", "names, types or shapes are not those of the built model")
        if not all(_finite(tensor) for tensor in tensors):
            raise Stopped("non_finite", "the weights hold infinities or NaN")

    def result(self, status: str, detail: str) -> TrainedRun:
        weights = self.weights if status == "ok" else None
        return TrainedRun(
            status=status,
            detail=detail,
            weights=weights,
            weights_digest=_NO_DIGEST if weights is None else hashlib.sha256(weights).digest(),
            init_digest=self.init_digest,
            tokens=self.tokens,
            cpu_ms=self.cpu_ms,
            wall_ms=self.wall_ms,
            startup_ms=self.startup_ms,
            peak_memory_bytes=self.peak,
            params=self.params,
            cost_ms=self.cost_ms,
            peak_device_bytes=self.device_peak,
        )


def _finite(tensor: TensorBytes) -> bool:
    """Whether every number of a tensor is finite; integers are."""
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    if tensor.dtype in types:
        return bool(np.isfinite(np.frombuffer(tensor.data, types[tensor.dtype])).all())
    if tensor.dtype == "BF16":  # all ones in the exponent: infinity or NaN
        bits = np.frombuffer(tensor.data, "<u2")
        return not bool(((bits & 0x7F80) == 0x7F80).any())
    return True

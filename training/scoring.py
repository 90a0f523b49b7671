"""From logits to log-probabilities, on the trusted side: our own log-softmax, slice by slice.

The reader takes a slice of rows off the pipe while the slice before is being summed up by another
thread, and the next question can be asked meanwhile, so the arithmetic costs hardly any time. Small
vocabularies are computed by numpy, exponentials in float32 and their sums in float64, to about 1e-7
nats; large ones in float32 by torch, and then kept in float64: the largest error of one
log-probability is about 1e-5 nats. On ``cuda`` the log-sums are computed on the device, in this
process's own context; the targets never leave the memory of this process.

Where answers come through shared memory (``cuda``), each slice is copied once, by a read of the
file behind that memory, and only the copy is looked at: what the other side writes afterwards, or
meanwhile, changes nothing that was read.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from training import accelerator, frames
from training.sandbox import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from training.sandbox import Sandbox
    from training.windows import Request, Tokens

Reals = npt.NDArray[np.float64]
SLICE_BYTES: Final = 32 << 20
SMALL_VOCABULARY: Final = 1024
_HELD: Final = 3
_CHUNK: Final = {"cpu": 256, "cuda": 4096}
"""Positions at once: on ``cpu`` what stays in the cache of the processor."""


class Reader:
    """Answers of one sandbox, as log-probabilities. A context manager: it owns a thread."""

    def __init__(self, vocabulary: int, device: str) -> None:
        self.vocabulary, self.device = vocabulary, accelerator.ordinal(device)
        self._buffers: deque[memoryview] = deque()
        self._busy: deque[Future[Reals]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="log-softmax")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def answer(self, sandbox: Sandbox, request: Request, targets: Tokens) -> Callable[[], Reals]:
        """Asks one question and takes the whole answer off the pipe; raises Stopped.

        What is returned gives the log-probabilities of ``targets``, those of the positions that are
        answered: nats, float64 [rows, length - request.first]. It waits until they are computed,
        and raises Stopped for logits that are not finite.
        """
        rows, length = request.tokens.shape
        wanted = length - request.first
        sandbox.send(frames.TOKENS, rows, length, wanted, payload=request.tokens.tobytes())
        _, a, b, code = sandbox.expect(frames.LOGITS)
        if (a, b) != (rows, wanted) or code not in frames.LOGIT_WIDTHS:
            raise Stopped("protocol", "an answer to another question")
        width = wanted * self.vocabulary * frames.LOGIT_WIDTHS[code]
        step = max(1, SLICE_BYTES // width)
        waiting: list[Future[Reals]] = []
        for start in range(0, rows, step):
            part = targets[start : start + step]
            raw = self._buffer(len(part) * width)
            sandbox.payload(raw, start * width)
            work = self._pool.submit(log_probability, raw, code, part, self.vocabulary, self.device)
            self._busy.append(work)
            waiting.append(work)
        return partial(_joined, waiting)

    def _buffer(self, size: int) -> memoryview:
        """Room for a slice; used again when the sums of two slices later are done."""
        if len(self._buffers) < _HELD:  # pinned memory takes long to get: enough at once
            room = size if self.device == "cpu" else max(size, SLICE_BYTES)
            self._buffers.append(_memory(room, self.device))
        else:
            wait([self._busy.popleft()])
            self._buffers.rotate(-1)
        if len(self._buffers[-1]) < size:
            self._buffers[-1] = _memory(size, self.device)
        return self._buffers[-1][:size]


def warm(device: str) -> None:
    """Wakes the device up in this process, without waiting: the first answers find it ready."""
    if device != "cpu":
        threading.Thread(target=_memory, args=(1, accelerator.ordinal(device)), daemon=True).start()


def _memory(size: int, device: str) -> memoryview:
    """A buffer; on ``cuda`` in pinned memory, from which copies to the device are fast."""
    if device == "cpu":
        return memoryview(bytearray(size))
    import torch

    if not torch.cuda.is_available():
        return memoryview(bytearray(size))
    with torch.cuda.device(device):  # nothing of ours on the others
        pinned: Any = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return memoryview(pinned)


def _joined(parts: list[Future[Reals]]) -> Reals:
    found = np.concatenate([part.result() for part in parts])
    if not np.isfinite(found).all():
        raise Stopped("non_finite", "the logits hold infinities or NaN")
    return found


def log_probability(
    raw: memoryview | bytearray, code: int, targets: Tokens, vocabulary: int, device: str = "cpu"
) -> Reals:
    """Log-probability of each target in nats, float64 [rows, length].

    ``raw`` holds rows x length x vocabulary logits of the kind that ``code`` says. NaN stands where
    a logit of the position is not finite.
    """
    if code == frames.FLOAT32 and vocabulary <= SMALL_VOCABULARY:
        return _by_numpy(np.frombuffer(raw, "<f4").reshape(*targets.shape, vocabulary), targets)
    return _by_torch(raw, code, targets, vocabulary, device)


def _by_numpy(logits: npt.NDArray[np.float32], targets: Tokens) -> Reals:
    with np.errstate(invalid="ignore", over="ignore"):  # infinities: answered by NaN
        highest = logits.max(axis=2, keepdims=True)
        low = logits - highest  # never above 0
        fine = np.isfinite(highest[:, :, 0]) & np.isfinite(logits.min(axis=2))
        at = targets[:, :, None].astype(np.intp)
        picked = np.take_along_axis(logits, at, axis=2).astype(np.float64) - highest
        np.exp(low, out=low)
        found = picked[:, :, 0] - np.log(low.sum(axis=2, dtype=np.float64))
    return np.where(fine, found, math.nan)


def _by_torch(
    raw: memoryview | bytearray, code: int, targets: Tokens, vocabulary: int, device: str
) -> Reals:
    import torch

    types = {
        frames.FLOAT32: torch.float32,
        frames.BFLOAT16: torch.bfloat16,
        frames.FLOAT16: torch.float16,
    }
    logits = torch.frombuffer(raw, dtype=types[code]).view(-1, vocabulary)
    wanted = torch.from_numpy(targets.astype(np.int64).reshape(-1, 1))
    chunk = _CHUNK[device.partition(":")[0]]
    with torch.inference_mode():
        sums = [
            _log_sums(logits[at : at + chunk].to(device)) for at in range(0, len(logits), chunk)
        ]
        picked = logits.gather(1, wanted)[:, 0].float()
        found = picked - torch.cat(sums).cpu()
    return found.double().numpy().reshape(targets.shape)


def _log_sums(logits: torch.Tensor) -> torch.Tensor:
    """The log of the sum of exponentials of each row, float32; NaN where one is not finite."""
    import torch

    wide = logits.float()
    lowest, highest = torch.aminmax(wide, dim=1)
    fine = torch.isfinite(lowest) & torch.isfinite(highest)
    return torch.where(fine, torch.logsumexp(wide, dim=1), torch.nan)

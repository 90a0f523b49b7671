"""From logits to log-probabilities, on the trusted side: our own log-softmax, slice by slice.

The reader takes a slice of rows off the pipe while the slice before is being summed up by another
thread, and the next question can be asked meanwhile, so the arithmetic costs hardly any time.

The highest logit of a position is subtracted from all of them first, whatever their precision: the
log-sum of what is left is small, so no size of the logits can round it away. Small vocabularies are
summed by numpy, exponentials in float32 and their sums in float64, to about 1e-7 nats; others in
float64 by torch. Then the probabilities that follow are added up once more, in another precision,
and a position where they do not make 1 within ``MASS_ERROR`` is refused: ``not_normalised``. On
``cuda`` this is done on the device, in this process's own context; the targets never leave the
memory of this process.

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
_CHUNK: Final = {"numpy": 1 << 16, "cpu": 1 << 18, "cuda": 1 << 25}
"""Logits at once: on a processor, what stays in its cache."""
MASS_ERROR: Final = 1e-6
"""The probabilities of a position add up to 1 within this."""


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
        and raises Stopped for logits that are not finite, or not normalised by what was summed.
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
    a logit of the position is not finite. Raises Stopped (``not_normalised``) where the
    probabilities of a position do not add up to 1.
    """
    if code == frames.FLOAT32 and vocabulary <= SMALL_VOCABULARY:
        logits = np.frombuffer(raw, "<f4").reshape(-1, vocabulary)
        at, step = targets.reshape(-1, 1).astype(np.intp), max(1, _CHUNK["numpy"] // vocabulary)
        parts = [slice(start, start + step) for start in range(0, len(at), step)]
        found = np.concatenate([_by_numpy(logits[part], at[part]) for part in parts])
        return found.reshape(targets.shape)
    return _by_torch(raw, code, targets, vocabulary, device)


def _by_numpy(logits: npt.NDArray[np.float32], at: npt.NDArray[np.intp]) -> Reals:
    with np.errstate(invalid="ignore", over="ignore"):  # infinities: answered by NaN
        highest = logits.max(axis=1, keepdims=True)
        fine = np.isfinite(highest[:, 0]) & np.isfinite(logits.min(axis=1))
        low = logits - highest  # never above 0
        sums = _log_sums(low)
        picked = np.take_along_axis(logits, at, axis=1).astype(np.float64) - highest
        found: Reals = picked[:, 0] - sums
        rounded = sums.astype(np.float32)
        low -= rounded[:, None]
        np.exp(low, out=low)
        _check_mass(low.sum(axis=1) * np.exp(rounded - sums), found, fine)
    return np.where(fine, found, math.nan)


def _log_sums(low: npt.NDArray[np.float32]) -> Reals:
    """The log of the sum of exponentials of each row, float64; ``low`` is nowhere above 0."""
    sums: Reals = np.log(np.exp(low).sum(axis=1, dtype=np.float64))
    return sums


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
    chunk = max(1, _CHUNK[device.partition(":")[0]] // vocabulary)
    with torch.inference_mode():
        picked = logits.gather(1, wanted)[:, 0].double()
        parts = [_summed(logits[at : at + chunk].to(device)) for at in range(0, len(logits), chunk)]
        highest, sums, mass, fine = (
            torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)
        )
    found: Reals = picked.numpy() - highest - sums
    _check_mass(mass, found, fine)
    return np.where(fine, found, math.nan).reshape(targets.shape)


def _summed(
    logits: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row: the highest logit, the log-sum of the rest beside it, the sum of the
    probabilities that this makes, float64; and whether every logit is finite."""
    import torch

    lowest, highest = torch.amin(logits, dim=1).double(), torch.amax(logits, dim=1)
    fine = torch.isfinite(lowest) & torch.isfinite(highest)
    low = logits.float() - highest.float()[:, None]
    sums = _log_sums_wide(low)
    mass = low.exp_().sum(dim=1).double() * torch.exp(-sums)
    return highest.double(), sums, mass, fine


def _log_sums_wide(low: torch.Tensor) -> torch.Tensor:
    """The same in float64 throughout, where few positions make many numbers."""
    return low.double().exp_().sum(dim=1).log_()


def _check_mass(mass: Reals, found: Reals, fine: npt.NDArray[np.bool_]) -> None:
    """Raises Stopped unless the probabilities of every position add up to 1.

    ``mass`` is their sum, worked out anew from the logits and from the very log-sum that the score
    used, in another precision than that log-sum. So it does not depend on how that was computed,
    and a log-sum that was rounded away is found, whoever rounded it.
    """
    if not bool((np.abs(mass[fine] - 1) <= MASS_ERROR).all() & (found[fine] <= MASS_ERROR).all()):
        raise Stopped("not_normalised", "probabilities that were scored do not add up to 1")

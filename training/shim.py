"""The work of one run, inside the sandbox: tokens to the candidate, weights or logits back.

Nothing that happens here is trusted outside; it exists so that honest code can run. On an
accelerator the model is moved to the device, batches arrive there, and what the candidate queues
there is kept at most two batches deep, so that the clock outside sees the work as it is done.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from training import frames
from training.weights import TensorBytes, WeightsError, pack, unpack

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

    import torch

_DTYPES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_LOGITS: Final = {
    "float32": frames.FLOAT32, "bfloat16": frames.BFLOAT16, "float16": frames.FLOAT16,
}  # fmt: skip
_QUEUED: Final = 2


class BudgetSpent(Exception):
    """The budget of this run is spent. Raised by ``batches``; a normal end of ``train``."""


class Failure(Exception):
    """Ends a run with one of the ``FAIL_*`` codes."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Pipe:
    """Frames over one descriptor, from the inside. An end of the stream ends the process.

    ``told``: text to be scored has come through it."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self.told = False

    def send(self, op: int, a: int = 0, b: int = 0, c: int = 0, payload: Any = b"") -> None:
        for part in (frames.HEADER.pack(op, a, b, c), payload):
            view = memoryview(part).cast("B")
            while view:
                view = view[os.write(self._fd, view) :]

    def header(self) -> tuple[int, int, int, int]:
        op, a, b, c = frames.HEADER.unpack(self.exactly(frames.HEADER.size))
        return op, a, b, c

    def exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = os.readv(self._fd, [view])
            if got == 0:
                os._exit(0)
            view = view[got:]
        return data


class Budget:
    """What a candidate sees of its budget. The count that matters is kept outside."""

    def __init__(self, tokens: int, milliseconds: int, device: str) -> None:
        self.total_tokens = tokens
        self.total_ms = milliseconds
        self.spent_tokens = 0
        self._spent_ms = 0
        self._clock = time.process_time if device == "cpu" else time.monotonic
        self._heard = 0.0

    def hear(self, spent_ms: int) -> None:
        """What the other side's clock says, with a batch."""
        self._spent_ms, self._heard = spent_ms, self._clock()

    @property
    def progress(self) -> float:
        """Spent share of the budget, in [0, 1]; 0 before the first batch."""
        share = 0.0
        if self.total_tokens:
            share = self.spent_tokens / self.total_tokens
        if self.total_ms and self.spent_tokens:
            now = self._spent_ms + 1000 * (self._clock() - self._heard)
            share = max(share, now / self.total_ms)
        return min(1.0, share)


def train(
    module: types.ModuleType,
    model: torch.nn.Module,
    pipe: Pipe,
    budget: Budget,
    vocabulary: int,
    device: str,
) -> None:
    """Runs ``train`` on tokens from the pipe and sends the weights."""
    try:
        module.train(model, _batches(pipe, budget, vocabulary, device), budget)
    except BudgetSpent:
        pass
    except BaseException as error:
        raise Failure(frames.FAIL_TRAIN) from error
    data = pack_state(model)
    pipe.send(frames.WEIGHTS, len(data), payload=data)


def _batches(
    pipe: Pipe, budget: Budget, vocabulary: int, device: str
) -> Callable[[int, int], tuple[Any, Any]]:
    import torch

    width = frames.token_width(vocabulary)
    queued: list[torch.cuda.Event] = []

    def batches(batch_size: int, seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next ``batch_size`` rows: inputs and targets, int64 [batch_size, seq_len]."""
        rows, length = int(batch_size), int(seq_len)
        if not (0 < rows <= frames.U32_MAX and 0 < length <= frames.U32_MAX):
            raise ValueError("batch_size and seq_len must be positive")
        if device == "cuda":
            queued.append(torch.cuda.Event(blocking=True))  # type: ignore[no-untyped-call]
            queued[-1].record()
            if len(queued) > _QUEUED:
                queued.pop(0).synchronize()
        pipe.send(frames.REQUEST, rows, length)
        op, a, b, spent = pipe.header()
        if op == frames.SPENT:
            raise BudgetSpent("the budget of this run is spent")
        if op != frames.BATCH or (a, b) != (rows, length):
            raise ValueError("batch_size * seq_len is larger than this tier's max_batch_tokens")
        budget.hear(spent)
        tokens = as_tokens(pipe.exactly(rows * (length + 1) * width), rows, width, device)
        budget.spent_tokens += rows * length
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    return batches


def as_tokens(raw: bytearray, rows: int, width: int, device: str) -> torch.Tensor:
    """int64 [rows, length] on the device."""
    import torch

    tokens = torch.frombuffer(raw, dtype=torch.uint8 if width == 1 else torch.int16)
    if device == "cuda":
        tokens = tokens.pin_memory().to(device, non_blocking=True)
    tokens = tokens.view(rows, -1).long()
    return tokens if width == 1 else tokens & 0xFFFF


def score(
    model: torch.nn.Module, pipe: Pipe, vocabulary: int, device: str, answers_fd: int = -1
) -> None:
    """Loads the weights and answers tokens with logits until told otherwise."""
    import torch

    raw: Any
    width = frames.token_width(vocabulary)
    _, size, _, _ = pipe.header()
    data = bytes(pipe.exactly(size))
    try:
        load_state(model, data)
        model.eval()
    except BaseException as error:
        raise Failure(frames.FAIL_WEIGHTS) from error
    del data
    shared = None if answers_fd < 0 else _pinned(answers_fd)
    if device == "cuda":  # cuDNN makes a plan for each length, and nearly each question has its own
        torch.backends.cuda.enable_cudnn_sdp(False)
    pipe.send(frames.LOADED)
    while True:
        op, rows, length, wanted = pipe.header()
        if op != frames.TOKENS:
            os._exit(0)
        pipe.told = True
        tokens = as_tokens(pipe.exactly(rows * length * width), rows, width, device)
        try:
            with torch.inference_mode():
                logits = model(tokens)
        except BaseException as error:
            raise Failure(frames.FAIL_FORWARD) from error
        if not isinstance(logits, torch.Tensor) or logits.shape != (rows, length, vocabulary):
            raise Failure(frames.FAIL_SHAPE)
        try:
            logits = logits.detach()[:, length - wanted :]
            if str(logits.dtype).removeprefix("torch.") not in _LOGITS:
                logits = logits.float()
            code = _LOGITS[str(logits.dtype).removeprefix("torch.")]
            if shared is None:
                raw = logits.cpu().contiguous().view(-1).view(torch.uint8).numpy()
            else:
                size = logits.numel() * logits.element_size()
                shared[:size].view(logits.dtype).view(logits.shape).copy_(logits)
                raw = b""
        except BaseException as error:
            raise Failure(frames.FAIL_SHAPE) from error
        del logits
        pipe.send(frames.LOGITS, rows, wanted, code, payload=raw)


def _pinned(descriptor: int) -> torch.Tensor:
    """The memory behind a descriptor, uint8, made known to the device: copies there are fast."""
    import mmap

    import torch

    memory = torch.frombuffer(mmap.mmap(descriptor, 0), dtype=torch.uint8)
    if torch.cuda.is_available():
        torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), len(memory), 0)  # type: ignore[no-untyped-call]
    return memory


def pack_state(model: torch.nn.Module) -> bytes:
    """``state_dict`` as canonical bytes."""
    import torch

    names = {getattr(torch, name): code for code, name in _DTYPES.items()}
    try:
        tensors = []
        for name, tensor in model.state_dict().items():
            flat = tensor.detach().to("cpu").contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
            tensors.append(TensorBytes(name, names[tensor.dtype], tuple(tensor.shape), data))
        return pack(tensors)
    except BaseException as error:
        raise Failure(frames.FAIL_STATE) from error


def load_state(model: torch.nn.Module, data: bytes) -> None:
    """Loads canonical bytes, strictly: the same names, shapes and dtypes as in the model."""
    import torch

    own = model.state_dict()
    state = {}
    for name, code, shape, raw in unpack(data):
        dtype = getattr(torch, _DTYPES[code])
        if name not in own or own[name].dtype != dtype or tuple(own[name].shape) != shape:
            raise WeightsError("a tensor that the model does not have")
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if len(raw) else torch.empty(0)
        state[name] = flat.to(dtype).view(shape)
    model.load_state_dict(state, strict=True)

"""What a train.py provides, and the shim that calls it inside the sandbox.

A candidate provides exactly two functions:

    def build_model(vocab_size: int, context: int) -> torch.nn.Module
        # forward(tokens[B, T] int64) -> logits[B, T, vocab_size]
        # for every B >= 1 and 1 <= T <= context
    def train(model, batches, budget) -> None
        # batches(batch_size, seq_len) -> inputs, targets: int64 [batch_size, seq_len]
        # budget.progress: spent share of the tokens, in [0, 1]
        # batches raises BudgetSpent (a built-in name here) when the next batch does not fit;
        # leaving train through it is the normal end

There is torch (torch.compile returns its argument), numpy without numpy.random (its compiled-in
manuals would be training text), and of the standard library what computing needs. There are no
files, no processes, no network.

Logits at position i may depend on tokens up to i and on nothing else. Scoring runs after
``model.eval()`` in a fresh process and under another seed, with the weights that ``state_dict``
gave: what ``build_model`` draws at random must be in there.

How the shim works. ``serve`` runs as the first process of a sandbox that nobody has used: it gives
up its user id, imports everything that a candidate may need, takes all files away with Landlock,
and then forks one child for each descriptor that it is sent. It never sees a candidate, nor data,
so a child inherits nothing of either. The child puts on its limits and the inner filter *before*
it reads the first candidate byte; that filter has no fork, so a child is the only process of its
run. Nothing that the shim reports is trusted outside; it exists so that honest code can run.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import gc
import hashlib
import os
import resource
import signal
import socket
import struct
import sys
import types
from typing import TYPE_CHECKING, Any, Final

from training import frames
from training.landlock import deny_all_files
from training.startup import check_locked, drop_privileges, preload, quiet
from training.weights import TensorBytes, WeightsError, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

STARTED: Final = b"started\n"
MAX_FILES: Final = 64
_DTYPES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class BudgetSpent(Exception):
    """The tokens of this run are spent. Raised by ``batches``; a normal end of ``train``."""


class Failure(Exception):
    """Ends a run with one of the ``FAIL_*`` codes."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Budget:
    """What a candidate sees of its budget. The count that matters is kept outside."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.spent = 0

    @property
    def progress(self) -> float:
        """Spent share of the tokens, in [0, 1]."""
        return min(1.0, self.spent / self.total)


# --- the first process --------------------------------------------------------------------------


def serve(control_fd: int, extra: tuple[str, ...]) -> None:
    """Becomes the sandbox's first process: see the module's text. Ends when the other side does."""
    control = socket.socket(fileno=control_fd)
    drop_privileges()
    preload(extra)
    quiet()
    deny_all_files()
    check_locked()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    gc.collect()
    gc.freeze()
    control.sendall(STARTED)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            with contextlib.suppress(BaseException):  # whatever it was, its text stays in here
                run(descriptors[0])
            os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)


# --- one run, in a child of its own ---------------------------------------------------------------


class Pipe:
    """Frames over one descriptor, from the inside. An end of the stream ends the process."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

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


def run(descriptor: int) -> None:
    """One run: lock, load, build, then train or score. Never returns."""
    pipe = Pipe(descriptor)
    pipe.send(frames.HELLO)
    _, threads, nice, size = pipe.header()
    trace = lock(nice, bytes(pipe.exactly(size)))
    set_threads(threads)
    pipe.send(frames.READY)
    _, mode, vocabulary, size = pipe.header()
    seed, budget, context = frames.START_HEAD.unpack(pipe.exactly(frames.START_HEAD.size))
    code = bytes(pipe.exactly(size))
    try:
        module = load(code, seed)
        model = build(module, vocabulary, context, seed)
        state = pack_state(model)
        digest = hashlib.sha256(state).digest()
        pipe.send(frames.BUILT, sum(p.numel() for p in model.parameters()), payload=digest)
        if mode == frames.MODE_TRAIN:
            train(module, model, pipe, budget)
        else:
            score(model, pipe, vocabulary)
    except Failure as failure:
        if trace:
            _send_trace(pipe, failure.__cause__)
        memory = isinstance(failure.__cause__, MemoryError) or (
            "allocate memory" in str(failure.__cause__)
        )
        pipe.send(frames.FAILED, frames.FAIL_MEMORY if memory else failure.code)
    pipe.header()  # BYE, or the end of the stream
    os._exit(0)


def lock(nice: int, payload: bytes) -> bool:
    """Limits and the inner filter, for good. Returns whether a trace is wanted."""
    data, cpu_s, tasks, trace = frames.GO_LIMITS.unpack_from(payload)
    instructions = payload[frames.GO_LIMITS.size :]
    if nice:
        os.nice(nice)
    held = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if held != resource.RLIM_INFINITY:
        tasks = min(tasks, held)
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, tasks),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_DATA, data),
    ):
        resource.setrlimit(what, (limit, limit))
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    address = ctypes.addressof(buffer)
    program = struct.pack("<HxxxxxxQ", len(instructions) // 8, address)  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, program, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        os._exit(1)
    with contextlib.suppress(PermissionError):
        os.fork()  # refused by the filter; a child would end at once
        os._exit(1)
    return bool(trace)


def set_threads(threads: int) -> None:
    """One thread adds in one order; with more, torch is asked to keep to one."""
    import torch

    torch.set_num_threads(threads)
    if threads > 1:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def load(code: bytes, seed: int) -> types.ModuleType:
    """Runs the candidate's module from memory."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    builtins.BudgetSpent = BudgetSpent  # type: ignore[attr-defined]
    seed_all(seed)
    try:
        program = compile(code, "train.py", "exec", dont_inherit=True, optimize=0)
    except BaseException as error:
        raise Failure(frames.FAIL_SYNTAX) from error
    try:
        exec(program, module.__dict__)
    except BaseException as error:
        raise Failure(frames.FAIL_IMPORT) from error
    for name in ("build_model", "train"):
        if not callable(getattr(module, name, None)):
            raise Failure(frames.FAIL_NO_FUNCTION)
    return module


def seed_all(seed: int) -> None:
    """Every generator that a candidate is likely to use starts from the seed."""
    import random

    import torch

    random.seed(seed)
    torch.manual_seed(seed)


def build(module: types.ModuleType, vocabulary: int, context: int, seed: int) -> torch.nn.Module:
    import torch

    seed_all(seed)
    try:
        model = module.build_model(vocabulary, context)
    except BaseException as error:
        raise Failure(frames.FAIL_BUILD) from error
    if not isinstance(model, torch.nn.Module):
        raise Failure(frames.FAIL_NOT_A_MODULE)
    return model


def train(module: types.ModuleType, model: torch.nn.Module, pipe: Pipe, total: int) -> None:
    """Runs ``train`` on tokens from the pipe and sends the weights."""
    budget = Budget(total)
    try:
        module.train(model, _batches(pipe, budget), budget)
    except BudgetSpent:
        pass
    except BaseException as error:
        raise Failure(frames.FAIL_TRAIN) from error
    data = pack_state(model)
    pipe.send(frames.WEIGHTS, len(data), payload=data)


def _batches(pipe: Pipe, budget: Budget) -> Callable[[int, int], tuple[Any, Any]]:
    import torch

    def batches(batch_size: int, seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next ``batch_size`` rows: inputs and targets, int64 [batch_size, seq_len]."""
        rows, length = int(batch_size), int(seq_len)
        if not (0 < rows <= frames.U32_MAX and 0 < length <= frames.U32_MAX):
            raise ValueError("batch_size and seq_len must be positive")
        pipe.send(frames.REQUEST, rows, length)
        op, a, b, _ = pipe.header()
        if op == frames.SPENT:
            raise BudgetSpent("the token budget of this run is spent")
        if op != frames.BATCH or (a, b) != (rows, length):
            raise ValueError("batch_size * seq_len is larger than this tier's max_batch_tokens")
        raw = pipe.exactly(rows * (length + 1))
        tokens = torch.frombuffer(raw, dtype=torch.uint8).view(rows, length + 1).long()
        budget.spent += rows * length
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    return batches


def score(model: torch.nn.Module, pipe: Pipe, vocabulary: int) -> None:
    """Loads the weights and answers tokens with logits until told otherwise."""
    import torch

    _, size, _, _ = pipe.header()
    data = bytes(pipe.exactly(size))
    try:
        load_state(model, data)
        model.eval()
    except BaseException as error:
        raise Failure(frames.FAIL_WEIGHTS) from error
    del data
    pipe.send(frames.LOADED)
    while True:
        op, rows, length, _ = pipe.header()
        if op != frames.TOKENS:
            os._exit(0)
        raw = pipe.exactly(rows * length)
        tokens = torch.frombuffer(raw, dtype=torch.uint8).view(rows, length).long()
        try:
            with torch.inference_mode():
                logits = model(tokens)
        except BaseException as error:
            raise Failure(frames.FAIL_FORWARD) from error
        if not isinstance(logits, torch.Tensor) or logits.shape != (rows, length, vocabulary):
            raise Failure(frames.FAIL_SHAPE)
        try:
            answer = logits.detach().to("cpu", torch.float32).contiguous().numpy()
        except BaseException as error:
            raise Failure(frames.FAIL_SHAPE) from error
        pipe.send(frames.LOGITS, rows, length, payload=answer)


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


def _send_trace(pipe: Pipe, error: BaseException | None) -> None:
    import traceback

    with contextlib.suppress(BaseException):
        text = "".join(traceback.format_exception(error)).encode("ascii", "backslashreplace")
        tail = text[-frames.TRACE_MAX :]
        pipe.send(frames.TRACE, len(tail), payload=tail)

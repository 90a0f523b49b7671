"""What a train.py provides, and how the sandbox's first process comes to call it.

A candidate provides exactly two functions:

    def build_model(vocab_size: int, context: int) -> torch.nn.Module
        # forward(tokens[B, T] int64) -> logits[B, T, vocab_size]
        # for every B >= 1 and 1 <= T <= context
    def train(model, batches, budget) -> None
        # batches(batch_size, seq_len) -> inputs, targets: int64 [batch_size, seq_len]
        # budget.progress: spent share of the budget, in [0, 1]
        # batches raises BudgetSpent (a built-in name here) when the budget is spent, or when the
        # next batch does not fit; leaving train through it is the normal end

On ``cpu`` there is torch (torch.compile returns its argument), numpy without numpy.random (its
compiled-in manuals would be training text), and of the standard library what computing needs.
There are no files, no processes, no network, and with one or two threads no threads but torch's.
Names, dtypes and shapes in ``state_dict`` are those of the model as built.

On ``cuda`` the model is moved to the device after ``build_model``, batches arrive on the device,
and torch.compile works: so there are read-only files, a compiler, processes and an empty /tmp, all
of them gone when the run ends; there is no network and nothing of anybody else. A program that
warms up and compiles before it asks for its first batch does so within the start-up allowance.

Logits at position i may depend on tokens up to i and on nothing else. Scoring runs after
``model.eval()`` in a fresh process and under another seed, with the weights that ``state_dict``
gave: what ``build_model`` draws at random must be in there.

How it works. ``serve`` runs as the first process of a sandbox that nobody has used: it gives up its
user id and imports everything that a candidate may need. On ``cpu`` it overwrites the prose in the
libraries that it has loaded, takes all files away with Landlock, and then forks one child for each
descriptor that it is sent. It never sees a candidate, nor data, so a child inherits nothing of
either. The child puts on its limits and the inner filter *before* it reads the first candidate
byte; that filter has no fork, so a child is the only process of its run. On ``cuda`` the first
process does one run itself, and the sandbox ends with it.
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
from training.blanking import blank
from training.landlock import deny_all_files
from training.shim import Budget, BudgetSpent, Failure, Pipe, pack_state, score, train
from training.startup import check_locked, die_with_parent, drop_privileges, preload, quiet
from training.weights import header_of

if TYPE_CHECKING:
    import torch

STARTED: Final = b"started\n"
SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
MAX_FILES: Final = 64
MAX_FILES_DEVICE: Final = 4096
MAX_TASKS_DEVICE: Final = 4096
MAX_FILE_BYTES_DEVICE: Final = 2 << 30


# --- the first process --------------------------------------------------------------------------


def serve(
    control_fd: int, extra: tuple[str, ...], device: str, texts: str, bare: bool = False
) -> None:
    """Becomes the sandbox's first process: see the module's text. Ends when the other side does.

    ``texts`` is the folder that says where libraries hold prose (``training.blanking``). ``bare``:
    there is no bubblewrap around it, and modules lie where only the node's user may read them.
    """
    control = socket.socket(fileno=control_fd)
    if not bare:
        drop_privileges()
    if device != "cpu":
        limit_device()
    preload(extra, device)
    quiet()
    if device == "cpu":
        blank(texts)
        if bare:
            drop_privileges(bare=True)
            die_with_parent()
        deny_all_files()
        check_locked()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
        gc.collect()
        gc.freeze()
    control.sendall(STARTED)
    first = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            os._exit(0)
        if device != "cpu" or os.fork() == 0:
            die_with_parent()
            if device == "cpu" and os.getppid() != first:
                os._exit(1)
            control.close()
            with contextlib.suppress(BaseException):  # whatever it was, its text stays in here
                run(descriptors[0], device, *descriptors[1:])
            os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)


# --- one run, in a process of its own -------------------------------------------------------------


def run(descriptor: int, device: str, answers_fd: int = -1) -> None:
    """One run: lock, load, build, then train or score. Never returns.

    ``answers_fd``: memory to put logits in, instead of sending them through the socket.
    """
    pipe = Pipe(descriptor)
    pipe.send(frames.HELLO)
    _, threads, nice, size = pipe.header()
    payload = bytes(pipe.exactly(size))
    if nice:
        os.nice(nice)
    set_threads(threads, device)
    trace = lock(payload, device)
    pipe.send(frames.READY)
    _, mode, vocabulary, size = pipe.header()
    head = frames.START_HEAD.unpack(pipe.exactly(frames.START_HEAD.size))
    seed, tokens, milliseconds, context = head
    code = bytes(pipe.exactly(size))
    try:
        module = load(code, seed)
        model = build(module, vocabulary, context, seed)
        digest, header = bytes(frames.DIGEST_BYTES), b""
        if mode == frames.MODE_TRAIN:
            state = pack_state(model)
            digest, header = hashlib.sha256(state).digest(), header_of(state)
            del state
        count = sum(p.numel() for p in model.parameters())
        pipe.send(frames.BUILT, count, len(header), payload=digest + header)
        place(model, device)
        if mode == frames.MODE_TRAIN:
            train(module, model, pipe, Budget(tokens, milliseconds, device), vocabulary, device)
        else:
            score(model, pipe, vocabulary, device, answers_fd)
    except Failure as failure:
        if trace and pipe.told:
            _send_places(pipe, failure.__cause__)
        elif trace:
            _send_trace(pipe, failure.__cause__)
        memory = isinstance(failure.__cause__, MemoryError) or any(
            sign in str(failure.__cause__) for sign in ("allocate memory", "CUDA out of memory")
        )
        pipe.send(frames.FAILED, frames.FAIL_MEMORY if memory else failure.code)
    pipe.header()  # BYE, or the end of the stream
    os._exit(0)


def lock(payload: bytes, device: str) -> bool:
    """Limits and, on ``cpu``, the inner filter on all threads, for good. Returns whether a trace is
    wanted."""
    data, cpu_s, tasks, trace = frames.GO_LIMITS.unpack_from(payload)
    instructions = payload[frames.GO_LIMITS.size :]
    held = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if held != resource.RLIM_INFINITY:
        tasks = min(tasks, held)
    if device != "cpu":  # the others were put on before the first import, for all processes
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        return bool(trace)
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
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: a crash leaves nothing with the host
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    address = ctypes.addressof(buffer)
    program = struct.pack("<HxxxxxxQ", len(instructions) // 8, address)  # struct sock_fprog
    if libc.syscall(SECCOMP[os.uname().machine], 1, 1, program) != 0:  # set a filter, all threads
        os._exit(1)
    with contextlib.suppress(PermissionError):
        os.fork()  # refused by the filter; a child would end at once
        os._exit(1)
    return bool(trace)


def limit_device() -> None:
    """Limits of a sandbox on ``cuda``, for all its processes: those of the compiler start with it.

    A driver maps what it likes, so memory is limited by the control group and on the device."""
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES_DEVICE),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES_DEVICE),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, MAX_TASKS_DEVICE),
    ):
        held = resource.getrlimit(what)[1]
        if held != resource.RLIM_INFINITY:
            limit = min(limit, held)
        resource.setrlimit(what, (limit, limit))


def set_threads(threads: int, device: str) -> None:
    """Makes the threads that compute: on ``cpu`` none can be made later (``training.seccomp``).

    One thread adds in one order; with more, torch is asked to keep to one. Who asks for more
    threads than the tier has gets those."""
    import torch

    torch.set_num_threads(threads)
    if device != "cpu":
        return
    set_num_threads: Any = torch.set_num_threads
    setattr(torch, "set_num_threads", lambda wanted: set_num_threads(min(wanted, threads)))  # noqa: B010
    if threads > 1:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.ones(threads << 16).add_(1)  # wide enough for all of them


def place(model: torch.nn.Module, device: str) -> None:
    """Moves the model to the accelerator, if there is one in this tier."""
    if device == "cpu":
        return
    try:
        model.to(device)
    except BaseException as error:
        raise Failure(frames.FAIL_BUILD) from error


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


def _send_trace(pipe: Pipe, error: BaseException | None) -> None:
    import traceback

    with contextlib.suppress(BaseException):
        text = "".join(traceback.format_exception(error)).encode("ascii", "backslashreplace")
        tail = text[-frames.TRACE_MAX :]
        pipe.send(frames.TRACE, len(tail), payload=tail)


def _send_places(pipe: Pipe, error: BaseException | None) -> None:
    """What may be told where text to be scored was seen: no word that a candidate can choose."""
    import traceback

    with contextlib.suppress(BaseException):
        name = type(error).__name__
        kind = frames.ERRORS.index(name) if name in frames.ERRORS else 0
        found = traceback.extract_tb(error.__traceback__) if error else []
        lines = [at.lineno or 0 for at in found if at.filename == "train.py"][::-1]
        payload = frames.PLACES_FORM.pack(kind, *(lines + [0] * 4)[:4])
        pipe.send(frames.PLACES, len(payload), payload=payload)

"""Two sandboxes at once, of which one signals and the other listens: by every call there is.

The listener tries each way and reports what came of it. All must be refused, and all that it can
still read must be the same whatever the other one does.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import pytest

from tests.training.candidates import TIER, TRAIN
from training import kinds, landlock, runner, sandbox, seccomp
from training.errors import Cancelled

pytestmark = pytest.mark.sandbox

NUMBERS = {
    "x86_64": {
        "mincore": 27, "madvise": 28, "mremap": 25, "getrusage": 98, "sysinfo": 99, "times": 100,
        "getppid": 110, "getpriority": 140, "sched_getparam": 143, "sched_getscheduler": 145,
        "sched_rr_get_interval": 148, "sched_setaffinity": 203, "get_mempolicy": 239,
        "ioprio_get": 252, "get_robust_list": 274, "getcpu": 309, "memfd_create": 319,
        "membarrier": 324, "shmget": 29, "lseek": 8, "fstat": 5, "fcntl": 72,
        "set_tid_address": 218,
        "sched_getattr": 315, "msync": 26, "mlock": 149, "remap_file_pages": 216, "vmsplice": 278,
        "timer_create": 222, "arch_prctl": 158,
    },
    "aarch64": {
        "mincore": 232, "madvise": 233, "mremap": 216, "getrusage": 165, "sysinfo": 179,
        "times": 153, "getppid": 173, "getpriority": 141, "sched_getparam": 121,
        "sched_getscheduler": 120, "sched_rr_get_interval": 127, "sched_setaffinity": 122,
        "get_mempolicy": 236, "ioprio_get": 31, "get_robust_list": 100, "getcpu": 168,
        "memfd_create": 279, "membarrier": 283, "shmget": 194, "lseek": 62, "fstat": 80,
        "fcntl": 25, "set_tid_address": 96, "sched_getattr": 275, "msync": 227, "mlock": 228,
        "remap_file_pages": 234, "vmsplice": 75, "timer_create": 107,
    },
}  # fmt: skip
EVERYWHERE = {
    "pidfd_open": 434, "process_madvise": 440, "process_mrelease": 448, "futex_waitv": 449,
    "cachestat": 451, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456,
    "mseal": 462, "io_uring_setup": 425, "perf_event_open": seccomp.machine().numbers[
        "perf_event_open"], "userfaultfd": seccomp.machine().numbers["userfaultfd"],
    "kcmp": seccomp.machine().numbers["kcmp"], "bpf": seccomp.machine().numbers["bpf"],
}  # fmt: skip
BARE = {**NUMBERS[os.uname().machine], **EVERYWHERE}
"""Refused whatever their arguments are."""
CALLS = {
    name: seccomp.machine().numbers[name]
    for name in ("mmap", "mprotect", "futex", "clock_gettime", "clock_getres", "clock_nanosleep",
                 "prlimit64", "prctl", "clone", "sched_getaffinity")
}  # fmt: skip

SIGNALS = b"""
import threading, time
import torch
from torch import nn

LOUD = {}

def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    batches(1, 32)
    if LOUD:
        kept = torch.ones(80 << 18)
        for _ in range(20):
            try:
                threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
            except RuntimeError:
                pass
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not LOUD:
            time.sleep(0.05)
"""

LISTENS = b"""
import ctypes, errno, json, mmap, os, threading
from torch import nn

PLAN = {}
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
PAGE = 4096

def call(number, *arguments):
    ctypes.set_errno(0)
    words = [a if not isinstance(a, int) else ctypes.c_long(a) for a in arguments]
    found = LIBC.syscall(ctypes.c_long(number), *words)
    return "open" if found != -1 else errno.errorcode[ctypes.get_errno()]

def tries():
    calls = PLAN["calls"]
    room = ctypes.create_string_buffer(1 << 12)
    # a page of the C library
    library = ctypes.cast(LIBC.strlen, ctypes.c_void_p).value & ~(PAGE - 1)
    for name, number in PLAN["bare"].items():
        yield name, number, (room, 64, room, 0, 0, 0)
    for what, prot, flags, fd in (
        ("shared", 3, 0x21, -1), ("shared and checked", 3, 0x23, -1), ("huge", 3, 0x40022, -1),
        ("to be run", 7, 0x22, -1), ("locked", 3, 0x2022, -1), ("a file", 1, 0x02, 0),
    ):
        yield "mmap " + what, calls["mmap"], (0, PAGE, prot, flags, fd, 0)
    word = ctypes.c_int.from_address(library).value
    for op in (0, 1, 3, 5, 9, 10, 0x100, 0x109):
        yield f"futex {op}", calls["futex"], (library, op, word, room, library, 0xFFFFFFFF)
    for other in (1, 2):
        yield f"affinity of {other}", calls["sched_getaffinity"], (other, 128, room)
        yield f"limit of {other}", calls["prlimit64"], (other, 6, 0, room)
        for name in ("clock_gettime", "clock_getres"):
            yield f"{name} of {other}", calls[name], (((~other) << 3) | 2, room)
    yield "clock_nanosleep of 1", calls["clock_nanosleep"], (((~1) << 3) | 2, 0, room, 0)
    yield "own limit of threads", calls["prlimit64"], (0, 6, room, 0)
    yield "own limit, high", calls["prlimit64"], (0, 6, 1 << 32, 0)
    for option in (26, 64, 67, 0x53564D41, 22, 1):  # TSC, THP, merging, names, filters, death
        yield f"prctl {option}", calls["prctl"], (option, 1, 0, 0, 0)
    yield "clone", calls["clone"], (0x3D0F00, 0, 0, 0, 0)
    yield "clone3", 435, (room, 88)

def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    batches(1, 32)
    found = {name: call(number, *arguments) for name, number, arguments in tries()}
    try:
        os.getloadavg()
        found["load"] = "open"
    except OSError:
        found["load"] = "EPERM"
    try:
        threading.Thread(target=len, args=((),)).start()
        found["a thread"] = "open"
    except RuntimeError:
        found["a thread"] = "EPERM"
    seen = [os.cpu_count(), sorted(os.sched_getaffinity(0)), list(os.uname()), os.getuid()]
    seen += [__import__("resource").getrlimit(at) for at in range(16)]
    raise RuntimeError("|" + json.dumps([found, seen]))
"""


def listen():
    plan = {"bare": BARE, "calls": CALLS}
    code = LISTENS.replace(b"\nPLAN = {}\n", f"\nPLAN = {plan!r}\n".encode())
    traces = []
    result = runner.train(code, TIER, TRAIN, 3, trace=traces.append)
    assert result.status == "crashed"
    return json.loads(b"".join(traces).decode().rpartition("RuntimeError: |")[2])


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_who_runs_beside_it_can_tell_it_nothing(kind, monkeypatch):
    if kind == kinds.LANDLOCK and landlock.abi() < 1:
        pytest.skip("this kernel has no Landlock")
    monkeypatch.setenv(kinds.VARIABLE, kind)
    reports = []
    for loud in (b"LOUD = True", b"LOUD = False"):
        cancel, begun = threading.Event(), threading.Event()
        code = SIGNALS.replace(b"LOUD = {}", loud)
        other = threading.Thread(target=cancelled, args=(code, cancel, begun))
        other.start()
        try:
            assert begun.wait(60)
            reports.append(listen())
        finally:
            cancel.set()
            other.join()
    found, _ = reports[0]
    odd = {name: end for name, end in found.items() if end != expected(name)}
    assert not odd
    assert reports[0] == reports[1]


def cancelled(code, cancel, begun):
    """A run that goes on until somebody cancels it; says when it has had its first batch."""
    with pytest.raises(Cancelled):
        runner.train(code, TIER, TRAIN, 3, cancel=cancel, progress=lambda _: begun.set())


def expected(name):
    if name.startswith("futex ") and name.split()[1].isdigit():
        return "EAGAIN"
    return "ENOSYS" if name == "clone3" else "EPERM"


TEAMS = b"""
import torch
from torch import nn
from torch.nn import functional as F

def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    batches(1, 32)
    for wanted in (1, 2, 64, 1, 2):
        torch.set_num_threads(wanted)
        assert torch.get_num_threads() == min(wanted, 2)
        for size in (1 << 10, 1 << 18):
            F.gelu(nn.Conv1d(8, 8, 3)(torch.ones(4, 8, size >> 5))).sum().backward()
            torch.ones(512, size >> 9, requires_grad=True).matmul(torch.ones(size >> 9, 512)).sum()
            nn.LSTM(16, 16)(torch.ones(4, size >> 6, 16))[0].sum().backward()
"""


def test_the_threads_of_a_tier_are_there_and_no_more():
    traces = []
    result = runner.train(TEAMS, replace(TIER, threads=2), TRAIN, 3, trace=traces.append)
    assert result.status == "ok", traces


NUMBER = b"""
import os, threading
from torch import nn

def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    if MANY:
        threading.Thread(target=len, args=((),)).start()
    raise RuntimeError(f"|{os.getpid()}|")
"""


def number(tier, many):
    """The process id that a run sees; ``many``: after it has made a thread."""
    traces = []
    runner.train(NUMBER.replace(b"MANY", many), tier, TRAIN, 3, trace=traces.append)
    return int(traces[0].decode().rsplit("|", 2)[1])


def test_the_next_run_of_a_cell_cannot_count_the_threads_of_the_last():
    sandbox.shutdown()
    first = number(TIER, b"False")
    assert number(TIER, b"False") == first + 1  # the same cell
    assert number(replace(TIER, threads=seccomp.TEAM), b"True") == first + 2
    assert not sandbox._pool._idle  # what could make threads has used the cell up

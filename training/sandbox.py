"""One fresh, sandboxed process for each run, watched from outside. Fails closed.

``Sandbox`` is the trusted side of one run: it asks a cell for a process, puts it under limits,
exchanges fixed frames with it, keeps the clocks, and kills it. All that comes from the process is
an attack until it is checked: sizes are what this side asked for, waiting is bounded, and reading
stops at a cap.

Layers, outermost first: bubblewrap namespaces with the measured layout and nothing else of the
file system; no capabilities, a user id of its own, no new privileges; the outer seccomp filter;
a cgroup where one can be made, and rlimits; Landlock without a single right; the inner seccomp
filter, which refuses by default. None is optional save the cgroup, unless the kind ``landlock`` was
asked for, which has no namespaces (``training.kinds``).

CPU time is the kernel's clock of that very process (all threads; it can have no children). It runs
on the cores of the thread that asked for it, and the inner filter keeps it there.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from training import accelerator, cgroup, frames, seccomp
from training.answers import AnswerMemory
from training.cell import MAX_IDLE, Cell, Pool
from training.errors import Cancelled, SandboxUnavailable
from training.layout import hidden_stdlib, readable_files, readable_roots
from training.processes import descendants, keep_to, status_kib

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from types import TracebackType

__all__ = [
    "Limits",
    "Sandbox",
    "SandboxUnavailable",
    "Stopped",
    "hidden_stdlib",
    "prestart",
    "readable_files",
    "readable_roots",
    "require",
    "serve_lanes",
    "shutdown",
]

WALL_RAN_OUT: Final = "the wall clock ran out"
TASKS_PER_THREAD: Final = 4
SPARE_TASKS: Final = 32
TASKS_ON_DEVICE: Final = 2048
_SLICE_S: Final = 0.05
_END_S: Final = 10.0
_CHUNK: Final = 1 << 20
_GROUP_SPARE: Final = 256 << 20  # page tables and what the kernel keeps: beside the data limit
_MOST: Final = 0.75
"""From this share on of what is allowed, memory counts as used up."""
_SPARE_DATA: Final = {"none": 2, "group": 8}
"""So many times its memory a process may ask for: what is filled is looked at from outside. Without
a control group this is the hard limit."""
_LOOK_S: Final = 0.02
_pool = Pool()
atexit.register(_pool.close)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use: CPU and wall milliseconds, bytes of memory, torch threads, and on
    ``cuda`` (with a number: that GPU) bytes of the device's memory (0: not limited)."""

    cpu_ms: int
    wall_ms: int
    memory_bytes: int
    threads: int = 1
    device: str = "cpu"
    device_bytes: int = 0


_TRIAL: Final = Limits(cpu_ms=10_000, wall_ms=60_000, memory_bytes=1 << 30)


class Stopped(Exception):
    """The run ended for a reason of its own: ``status`` and ``detail`` of a closed list."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class Sandbox:
    """One run. A context manager: the process is dead when it is left, however it is left.

    Entering raises SandboxUnavailable or Cancelled; ``startup_ms`` is then the CPU time that the
    process took before it was ready for the first candidate byte. While inside, every call may
    raise Stopped (the candidate's doing) or Cancelled.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        cancel: threading.Event | None = None,
        nice: int = 0,
        trace: Callable[[bytes], None] | None = None,
        answer_bytes: int = 0,
    ) -> None:
        self.limits = limits
        self.startup_ms = 0
        self._cancel = cancel
        self._nice = nice
        self._trace = trace
        self._cell: Cell | None = None
        self._socket: socket.socket | None = None
        self._group = cgroup.Group("none")
        self._pid = 0
        self._pidfd = -1
        self._cpu_ns = 0
        self._cpu_start_ns = 0
        self._wall_start = 0.0
        self._running = False
        self._peak = 0
        self._turn = accelerator.Turn(limits.device)
        self._answers = AnswerMemory(answer_bytes) if answer_bytes else None
        self._watch = accelerator.Watch(limits.device)
        self._stop_cost_ms: int | None = None
        self._told = False  # text to be scored: from then on no word comes back
        self._code = b""
        self._resident = 0
        self._looked_at = 0.0

    def __enter__(self) -> Sandbox:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    # --- frames -----------------------------------------------------------------------------------

    def send(self, op: int, a: int = 0, b: int = 0, c: int = 0, payload: bytes = b"") -> None:
        """Sends one frame. A process that does not read is stopped by the clocks."""
        channel = self._channel()
        self._told = self._told or op == frames.TOKENS
        for part in (frames.HEADER.pack(op, a, b, c), payload):
            view = memoryview(part).cast("B")
            while view:
                try:
                    view = view[channel.send(view[:_CHUNK]) :]
                except BlockingIOError:
                    self._wait(select.POLLOUT)
                except OSError:
                    raise self._gone() from None

    def expect(self, *wanted: int) -> tuple[int, int, int, int]:
        """The next header, which must be one of ``wanted``; FAILED raises Stopped."""
        op, a, b, c = frames.HEADER.unpack(self.exactly(frames.HEADER.size))
        if self._trace is not None:
            if op == frames.TRACE and a <= frames.TRACE_MAX and not self._told:
                self._trace(bytes(self.exactly(a)))
                op, a, b, c = frames.HEADER.unpack(self.exactly(frames.HEADER.size))
            elif op == frames.PLACES and a == frames.PLACES_FORM.size:
                self._trace(_places(bytes(self.exactly(a)), self._code))
                op, a, b, c = frames.HEADER.unpack(self.exactly(frames.HEADER.size))
        if op == frames.FAILED and a == frames.FAIL_MEMORY and self._short_of_memory():
            raise Stopped("memory", "out of memory")
        if op in (frames.WEIGHTS, frames.LOADED, frames.FAILED):
            self._look(self._held())
        if op == frames.FAILED and a in frames.FAILURES:
            raise Stopped(*frames.FAILURES[a])
        if op not in wanted:
            raise Stopped("protocol", "an unexpected frame")
        return op, a, b, c

    def exactly(self, size: int) -> bytearray:
        """``size`` bytes, a number that this side has checked."""
        data = bytearray(size)
        self._receive(memoryview(data))
        return data

    def payload(self, view: memoryview, offset: int) -> None:
        """Fills ``view`` with a part of an answer, in order: ``offset`` bytes of it came before.

        Copied from the memory that the process was given for it, where it was given one.
        """
        if self._answers is None:
            self._receive(view)
        else:
            self._answers.read(view, offset)

    def _receive(self, view: memoryview) -> None:
        channel = self._channel()
        while view:
            try:
                got = channel.recv_into(view, min(len(view), _CHUNK))
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            except OSError:
                raise self._gone() from None
            if got == 0:
                raise self._gone()
            view = view[got:]
            self._check()

    def nothing_pending(self) -> None:
        """Raises Stopped when more has been sent than was asked for: one request at a time."""
        try:
            pending = self._channel().recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            raise self._gone() from None
        raise self._gone() if not pending else Stopped("protocol", "more than was asked for")

    def start_candidate(
        self,
        mode: int,
        code: bytes,
        *,
        seed: int,
        vocab_size: int,
        context: int,
        budget_tokens: int = 0,
        budget_ms: int = 0,
    ) -> None:
        """Hands the code over: the clocks start with its first byte."""
        if self.limits.device != "cpu":
            self._watch.start()
        self._cpu_start_ns = self._read_cpu()
        self._wall_start = time.monotonic()
        self._running = True
        self._code = code
        head = frames.START_HEAD.pack(seed, budget_tokens, budget_ms, context)
        self.send(frames.START, mode, vocab_size, len(code), head + code)

    # --- clocks -----------------------------------------------------------------------------------

    def cpu_ms(self) -> int:
        """CPU milliseconds since the first candidate byte (the last known, once it has ended)."""
        return (self._read_cpu() - self._cpu_start_ns) // 1_000_000

    def wall_ms(self) -> int:
        """Wall milliseconds since the first candidate byte."""
        return int((time.monotonic() - self._wall_start) * 1000)

    def cost_ms(self) -> int:
        """Milliseconds on the tier's clock since the first candidate byte: CPU or wall time."""
        return self.cpu_ms() if self.limits.device == "cpu" else self.wall_ms()

    def stop_at(self, cost_ms: int) -> None:
        """From now on the run is stopped where ``cost_ms()`` passes this number."""
        self._stop_cost_ms = cost_ms

    def peak_device_bytes(self) -> int:
        """Memory of the device at its highest, less what was in use before (the last known)."""
        return self._watch.peak

    def peak_memory_bytes(self) -> int:
        """Resident memory at its highest, shared libraries included (the last known)."""
        if self._pid:
            with contextlib.suppress(OSError, ValueError):
                self._peak = max(self._peak, status_kib(self._pid, "VmHWM") * 1024)
        return self._peak

    # --- inside -----------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.limits.device != "cpu":
            self._turn.take(self._cancel)
        self._cell = _pool.take(self.limits.device, self._cancel)
        self._socket, self._pid = self._cell.spawn(self._answers)
        self._pidfd = os.pidfd_open(self._pid)
        self._socket.setblocking(False)
        limits = self.limits
        tasks = SPARE_TASKS + TASKS_PER_THREAD * limits.threads
        if limits.device != "cpu":
            tasks = TASKS_ON_DEVICE
        self._group = cgroup.create(limits.memory_bytes + _GROUP_SPARE, tasks)
        try:
            for pid in [self._pid, *descendants(self._pid)]:
                self._group.add(pid)
                keep_to(pid, os.sched_getaffinity(0))
            spare = _SPARE_DATA["none" if self._group.kind == "none" else "group"]
            data = status_kib(self._pid, "VmData") * 1024 + spare * limits.memory_bytes
        except (OSError, ValueError):
            raise SandboxUnavailable(
                "The fresh process could not be put under limits.", cure="Run: lazaretto doctor"
            ) from None
        threads = max(1024, tasks) if self._group.kind != "none" else tasks * 4
        if limits.threads >= seccomp.TEAM:  # others make none, and a limit can be read inside
            threads += self._cell.neighbours()
        go = frames.GO_LIMITS.pack(
            data, limits.cpu_ms // 1000 + 5, threads, int(self._trace is not None)
        ) + seccomp.inner_filter(seccomp.machine(), limits.threads)
        try:
            self.send(frames.GO, limits.threads, max(0, min(19, self._nice)), len(go), go)
            self.expect(frames.READY)
        except Stopped:
            raise SandboxUnavailable(
                "The fresh process could not be locked in, so no candidate was run.",
                cure="Run: lazaretto doctor",
            ) from None
        self._resident = self._held()
        self.startup_ms = self._read_cpu() // 1_000_000

    def _end(self) -> None:
        """Kills the process, waits until it is gone, gives the cell back or ends it too."""
        self.peak_memory_bytes()
        gone = self._pid == 0 and self._socket is None
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            gone = bool(select.select([self._pidfd], [], [], _END_S)[0])
            os.close(self._pidfd)
        if self._socket is not None:
            self._socket.close()
        if self._cell is not None:
            if gone and self.limits.threads < seccomp.TEAM:  # else it may have moved the count of
                _pool.give_back(self._cell)  # process ids, which the next run could read
            else:
                self._cell.close()
        self._group.remove()
        if self._answers is not None:
            self._answers.close()
        self._turn.give_back()
        self._cell, self._socket, self._pidfd, self._pid = None, None, -1, 0

    def _channel(self) -> socket.socket:
        if self._socket is None:
            raise RuntimeError("this sandbox has not been entered, or has been left")
        return self._socket

    def _wait(self, event: int) -> None:
        """Waits a little for the socket; raises when a clock has run out."""
        poll = select.poll()
        poll.register(self._channel(), event)
        poll.poll(_SLICE_S * 1000)
        self._check()

    def _check(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("Cancelled. Nothing was measured, and nothing counts.")
        if not self._running:
            return
        if self.cpu_ms() > self.limits.cpu_ms:
            raise Stopped("timeout", "the CPU clock ran out")
        if self.wall_ms() > self.limits.wall_ms:
            raise Stopped("timeout", WALL_RAN_OUT)
        if self._stop_cost_ms is not None and self.cost_ms() > self._stop_cost_ms:
            raise Stopped("timeout", "it went on after the budget was spent")
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._looked_at = time.monotonic()
            with contextlib.suppress(OSError, ValueError):
                self._look(status_kib(self._pid, "RssAnon") * 1024)
        limit = self.limits.device_bytes
        if self.limits.device != "cpu" and 0 < limit < self._watch.used():
            raise Stopped("memory", "out of memory on the device")

    def _gone(self) -> Stopped:
        """Why the process has ended by itself."""
        if self._group.out_of_memory():
            return Stopped("memory", "out of memory")
        if self._running and self.cpu_ms() > self.limits.cpu_ms:
            return Stopped("timeout", "the CPU clock ran out")
        return Stopped("crashed", "the process ended")

    def _short_of_memory(self) -> bool:
        """Whether memory has really run out, by what can be seen from outside: a group at its
        limit, or most of what is allowed in use. Not by the word of the process."""
        limits = self.limits
        if self._group.out_of_memory():
            return True
        if limits.device != "cpu" and self._watch.nearly_full(limits.device_bytes, _MOST):
            return True
        return self._held() - self._resident >= _MOST * limits.memory_bytes

    def _look(self, held: int) -> None:
        """Raises Stopped where more memory is filled than is allowed; on ``cuda`` a driver fills
        what it likes, and the control group decides."""
        if self.limits.device == "cpu" and held - self._resident > self.limits.memory_bytes:
            raise Stopped("memory", "out of memory")

    def _held(self) -> int:
        """Bytes that were resident at the most, without pages of files, which cost nothing."""
        with contextlib.suppress(OSError, ValueError):
            files = status_kib(self._pid, "RssFile") * 1024
            return status_kib(self._pid, "VmHWM") * 1024 - files
        return self._resident

    def _read_cpu(self) -> int:
        """Nanoseconds on the kernel's CPU clock of the process."""
        if self._pid:
            with contextlib.suppress(OSError):
                self._cpu_ns = time.clock_gettime_ns((~self._pid << 3) | 2)  # CPUCLOCK_SCHED
        return self._cpu_ns


def _places(payload: bytes, code: bytes) -> bytes:
    """PLACES in words of this side: an exception of a closed list, and lines of the program."""
    kind, *numbers = frames.PLACES_FORM.unpack(payload)
    lines = code.split(b"\n")
    shown = [b"(no message: it could hold text that is scored)"]
    for number in reversed([number for number in numbers if 0 < number <= len(lines)]):
        shown += [b"  train.py, line %d" % number, b"    " + lines[number - 1].strip()]
    name = frames.ERRORS[kind] if kind < len(frames.ERRORS) else frames.ERRORS[0]
    return b"\n".join([*shown, name.encode()])[-frames.TRACE_MAX :]


def require(device: str = "cpu", cancel: threading.Event | None = None) -> None:
    """Raises SandboxUnavailable, with the cure, unless a sandbox can be had; or Cancelled."""
    with Sandbox(replace(_TRIAL, device=device), cancel=cancel):
        pass


def prestart(count: int = 1, device: str = "cpu") -> None:
    """Starts cells ahead of use, without waiting; raises SandboxUnavailable."""
    _pool.prestart(count, device)


def serve_lanes(count: int) -> None:
    """Keeps as many idle cells as so many lanes need at a time: a score takes up to three."""
    _pool.max_idle = MAX_IDLE * max(1, count)


def shutdown() -> None:
    """Ends the idle cells of this process. Also done when the process exits."""
    _pool.close()

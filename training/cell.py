"""Cells: prepared sandboxes, each a process that has imported torch and never seen a candidate.

Importing torch costs over a second of CPU. A cell pays it once, inside bubblewrap (or without, see
``training.kinds``), gives up every file and every privilege, and then forks one fresh process for
each run (see ``training.contract``).
That process inherits no candidate and no data, because the cell never held any, and it can leave
nothing behind: there is no file that it could write, and no other process that it could reach.
A cell serves one run at a time.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from training import bare, bubblewrap, frames, kinds, landlock, seccomp
from training.contract import STARTED
from training.errors import Cancelled, SandboxUnavailable, TrainingError
from training.layout import layout
from training.processes import tasks_of
from training.toolchain import device_layout

if TYPE_CHECKING:
    from training.answers import AnswerMemory

START_TIMEOUT_S: Final = 180.0
MAX_IDLE: Final = 3
MAX_RUNS: Final = 256
_STDERR_MAX: Final = 4096
_HELLO_S: Final = 60.0
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: process, user and group id


class Cell:
    """One prepared sandbox. ``spawn`` forks a process in it; ``close`` ends everything in it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.kind = kinds.chosen()
        program = _program(self.kind, device)
        if device == "cpu" and landlock.abi() < 1:
            raise SandboxUnavailable(
                "This kernel has no Landlock, so files could not be taken away from a candidate.",
                cure="Use Linux 5.13 or later, with landlock in the kernel parameter lsm=.",
            )
        try:
            seccomp.machine()
            measured = layout() if device == "cpu" else device_layout()
        except TrainingError as error:
            raise SandboxUnavailable(str(error), cure=error.cure) from None
        self.runs = 0
        self.import_cpu_ms = 0
        self._ready = False
        self._began = time.monotonic()
        try:
            self._process, self._control = (
                bare.start(measured)
                if program is None
                else bubblewrap.start(program, measured, device)
            )
        except TrainingError as error:
            raise SandboxUnavailable(str(error), cure=error.cure) from None
        except OSError:
            raise SandboxUnavailable(
                f"{program or measured.interpreter} could not be started.",
                cure=f"Run it by hand: {program or measured.interpreter} --version",
            ) from None

    def wait_ready(self, cancel: threading.Event | None = None) -> None:
        """Returns when torch is imported; raises SandboxUnavailable, or Cancelled."""
        if self._ready:
            return
        deadline = self._began + START_TIMEOUT_S
        while not select.select([self._control], [], [], 0.05)[0]:
            if cancel is not None and cancel.is_set():
                raise Cancelled("Cancelled while the sandbox started.")
            if time.monotonic() > deadline:
                self.close()
                raise SandboxUnavailable(
                    f"The sandbox did not start within {START_TIMEOUT_S:.0f} s.",
                    cure="Try again when the machine is less busy, then run: lazaretto doctor",
                )
        try:
            answer = self._control.recv(len(STARTED), socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if answer != STARTED:
            words = self._last_words()
            self.close()
            raise _explain(words)
        self._ready = True

    def spawn(self, answers: AnswerMemory | None = None) -> tuple[socket.socket, int]:
        """Starts a fresh process; returns our end of its socket, and its process id as the kernel
        gives it. Raises SandboxUnavailable.

        ``answers`` is memory that the process is to put its logits in (``cuda``).
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            given = [theirs.fileno()] + ([] if answers is None else [answers.descriptor])
            socket.send_fds(self._control, [b"f"], given)
        except OSError:
            ours.close()
            raise SandboxUnavailable("The sandbox has ended.", cure="Try again.") from None
        finally:
            theirs.close()
        self.runs += 1
        pid = _hello(ours)
        if pid is None:
            ours.close()
            self.close()
            raise SandboxUnavailable(
                "The sandbox did not make a fresh process.", cure="Try again, or: lazaretto doctor"
            )
        return ours, pid

    def neighbours(self) -> int:
        """Processes and threads outside that the kernel counts together with those in here."""
        bare_user = self.kind == kinds.LANDLOCK and os.geteuid() != 0
        return tasks_of(os.geteuid()) if bare_user else 0

    def usable(self) -> bool:
        """Whether another run may be started in it."""
        allowed = MAX_RUNS if self.device == "cpu" else 1
        return self._process.poll() is None and self.runs < allowed

    def close(self) -> None:
        """Kills the cell and all that is in it; harmless when repeated."""
        with contextlib.suppress(OSError):
            self._control.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _last_words(self) -> str:
        """The end of what bubblewrap, or our own start-up, wrote. No candidate has run yet."""
        if self._process.stderr is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        descriptor = self._process.stderr.fileno()
        os.set_blocking(descriptor, False)
        words = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(descriptor, 65536):
                words = (words + chunk)[-_STDERR_MAX:]
        return words.decode("utf-8", "replace")


def _hello(channel: socket.socket) -> int | None:
    """Waits for the first frame; the process id that the kernel attached to it."""
    channel.settimeout(_HELLO_S)
    try:
        data, ancillary, _, _ = channel.recvmsg(
            frames.HEADER.size, socket.CMSG_SPACE(_CREDENTIALS.size)
        )
    except OSError:
        return None
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and data:
            return int(_CREDENTIALS.unpack_from(content)[0])
    return None


class Pool:
    """The cells of this process: idle ones are kept, at most ``max_idle`` of each device and
    kind."""

    def __init__(self) -> None:
        self.max_idle = MAX_IDLE
        self._lock = threading.Lock()
        self._idle: list[Cell] = []
        self._pid = os.getpid()

    def take(self, device: str, cancel: threading.Event | None = None) -> Cell:
        """A cell that is ready, for one run; raises SandboxUnavailable, or Cancelled."""
        cell = self._take_idle(device) or Cell(device)
        try:
            cell.wait_ready(cancel)
        except Cancelled:
            self.give_back(cell)  # nothing has run in it
            raise
        return cell

    def give_back(self, cell: Cell) -> None:
        """Keeps the cell for another run, or closes it."""
        with self._lock:
            held = sum(_same(other, cell.device, cell.kind) for other in self._idle)
            if cell.usable() and held < self.max_idle:
                self._idle.append(cell)
                return
        cell.close()

    def prestart(self, count: int, device: str) -> None:
        """Starts cells until ``count`` wait; does not wait for them."""
        kind = kinds.chosen()
        with self._lock:
            held = sum(_same(cell, device, kind) for cell in self._idle)
        for _ in range(max(0, min(count, self.max_idle) - held)):
            self.give_back(Cell(device))

    def close(self) -> None:
        """Ends all idle cells."""
        with self._lock:
            idle, self._idle = self._idle, []
        for cell in idle:
            cell.close()

    def _take_idle(self, device: str) -> Cell | None:
        kind = kinds.chosen()
        with self._lock:
            if self._pid != os.getpid():  # a fork of the process that started them
                self._idle, self._pid = [], os.getpid()
            for cell in [cell for cell in self._idle if _same(cell, device, kind)]:
                self._idle.remove(cell)
                if cell.usable():
                    return cell
                cell.close()
        return None


def _same(cell: Cell, device: str, kind: str) -> bool:
    return (cell.device, cell.kind) == (device, kind)


def _program(kind: str, device: str) -> str | None:
    """bubblewrap, None where the kind does without; raises SandboxUnavailable."""
    if kind == kinds.LANDLOCK:
        if device != "cpu":
            raise SandboxUnavailable(
                "Without bubblewrap only tiers on cpu can be run: on a GPU files stay readable.",
                cure=f"Set {kinds.VARIABLE}={kinds.BUBBLEWRAP}, or the node's setting sandbox.",
            )
        return None
    program = bubblewrap.find()
    if program is None:
        raise SandboxUnavailable(
            "bubblewrap is not installed, so no candidate can run here.",
            cure="Install it: apt install bubblewrap (or dnf, pacman: bubblewrap).",
        )
    return program


@dataclass(frozen=True, slots=True)
class _Known:
    sign: str
    problem: str
    cure: str


_KNOWN: Final = (
    _Known(
        "uid map",
        "This system does not let ordinary users make namespaces.",
        "Allow them: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or "
        "kernel.unprivileged_userns_clone=1 (Debian), or run as root.",
    ),
    _Known(
        "No permissions to create",
        "This system does not let ordinary users make namespaces.",
        "Allow them: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or "
        "kernel.unprivileged_userns_clone=1 (Debian), or run as root.",
    ),
    _Known(
        "Unknown option",
        "This bubblewrap is too old.",
        "Install bubblewrap 0.5 or later.",
    ),
    _Known(
        "Permission denied",
        "Files that training needs cannot be read by an unprivileged user.",
        "Make the environment readable: chmod -R o+rX on the virtual environment and the "
        "interpreter's directory.",
    ),
    _Known(
        "Operation not permitted",
        "This system, perhaps a container, does not allow namespaces.",
        "Run outside the container, or give it the right to make namespaces.",
    ),
)


def _explain(words: str) -> SandboxUnavailable:
    for known in _KNOWN:
        if known.sign in words:
            return SandboxUnavailable(known.problem, cure=known.cure)
    last = words.strip().splitlines()[-1:] or ["it gave no reason"]
    return SandboxUnavailable(
        f"The sandbox did not start: {last[0][:200]}", cure="Run: lazaretto doctor"
    )

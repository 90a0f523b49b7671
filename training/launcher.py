"""The one thread that starts cells, and how: with an empty environment and no open descriptors.

A cell dies with the *thread* that started it (``PR_SET_PDEATHSIG``, bubblewrap's
``--die-with-parent``), so all are started by one thread that never ends: callers may come from any
thread.
"""

from __future__ import annotations

import fcntl
import os
import queue
import subprocess
import threading
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
FIRST: Final = 500
"""Descriptors are passed under numbers from here on: always the same ones, since a number can be
read inside, and one that follows what else is open would tell a node at work from one at home."""


def launch(
    make: Callable[..., Sequence[str]], descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Starts a program that sees the root as its folder, no variable, no descriptor but these, and
    no terminal. ``make`` is given their numbers and returns the command. ``stderr`` is a pipe.
    Raises OSError."""

    def start() -> subprocess.Popen[bytes]:
        passed: list[int] = []
        try:
            for descriptor in descriptors:
                passed.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST))
            return subprocess.Popen(
                make(*passed),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                pass_fds=passed,
                start_new_session=True,
            )
        finally:
            for descriptor in passed:
                os.close(descriptor)

    return _launcher.call(start)


def memory_file(data: bytes = b"") -> int:
    """A descriptor from which ``data`` can be read; the caller closes it."""
    descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
    fill(descriptor, data)
    return descriptor


def fill(descriptor: int, data: bytes) -> None:
    """Writes ``data``, to be read from the start."""
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)


class _Launcher:
    """A daemon thread that lives as long as the process and makes calls on behalf of others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pid = 0

    def call(self, job: Callable[[], T]) -> T:
        """Runs ``job`` on the thread, on the caller's cores; returns, or raises, what it does."""
        cores = os.sched_getaffinity(0)
        with self._lock:
            if self._pid != os.getpid():  # first use, or first use after a fork
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._work, name="sandbox-launcher", daemon=True).start()
                self._pid = os.getpid()
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                os.sched_setaffinity(0, cores)
                results.append(job())
            except BaseException as error:
                errors.append(error)
            done.set()

        self._jobs.put(work)
        done.wait()
        if errors:
            raise errors[0]
        return results[0]

    def _work(self) -> None:
        while True:
            self._jobs.get()()


_launcher = _Launcher()

"""The GPUs of this machine: device nodes, the right to have one alone, and its memory.

A run uses one GPU: ``cuda:1`` is the second as the driver counts (NVML, ``nvidia-smi``), ``cuda``
the one of ``using``, else the first that CUDA_VISIBLE_DEVICES names by number, else the first.

The clock of a tier on ``cuda`` is wall time, which means something only while nobody else computes
there: runs of all programs of this kind take turns by a lock file. The process here never opens the
device itself; memory is read through the management library (NVML), which needs no context.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from training.errors import Cancelled, SandboxUnavailable

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_SHARED_NODES: Final = ("/dev/nvidiactl", "/dev/nvidia-uvm")
_WAIT_S: Final = 0.2
_WATCH_S: Final = 1.0
_using: ContextVar[int | None] = ContextVar("_using", default=None)


@contextlib.contextmanager
def using(gpu: int | None) -> Iterator[None]:
    """``cuda`` means this GPU in here; None changes nothing."""
    token = _using.set(_using.get() if gpu is None else gpu)
    try:
        yield
    finally:
        _using.reset(token)


def chosen(device: str) -> str:
    """The device of a tier with its number, if it is a GPU: ``cpu``, or ``cuda:0``."""
    return device if device == "cpu" else f"cuda:{index(device)}"


def index(device: str = "cuda") -> int:
    """Which GPU a device is; see the module's text."""
    _, _, number = device.partition(":")
    if number:
        return int(number)
    used = _using.get()
    if used is not None:
        return used
    first = _visible()[:1]
    return int(first[0]) if first and first[0].isdigit() else 0


def ordinal(device: str) -> str:
    """The device as torch counts it in this process; raises SandboxUnavailable where it does not
    see it."""
    if device == "cpu" or not _visible():
        return device
    wanted = str(index(device))
    if wanted not in _visible():
        if not _visible()[0].isdigit():  # names of another kind: the first is the one in use
            return "cuda:0"
        raise SandboxUnavailable(
            f"GPU {wanted} is not among those of CUDA_VISIBLE_DEVICES.",
            cure="Add it there, or take it out of the node's lanes.",
        )
    return f"cuda:{_visible().index(wanted)}"


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in named.split(",") if name.strip()]


def nodes(device: str = "cuda") -> tuple[str, ...]:
    """The device nodes of one GPU, and nothing more; raises SandboxUnavailable without one."""
    wanted = (f"/dev/nvidia{index(device)}", *_SHARED_NODES)
    for node in wanted:
        try:
            if stat.S_ISCHR(os.stat(node).st_mode):
                continue
        except OSError:
            pass
        raise SandboxUnavailable(
            f"This tier needs an NVIDIA GPU, and {node} is not here.",
            cure="Use a tier on cpu, or install the driver and load it: nvidia-modprobe -u -c 0",
        )
    return wanted


class Turn:
    """The right to use a GPU alone, held from ``take`` to ``give_back``."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        self._handle: int | None = None

    def take(self, cancel: threading.Event | None = None) -> None:
        """Waits until nobody else has it; raises Cancelled, or SandboxUnavailable."""
        path = Path(tempfile.gettempdir()) / f"lazaretto-gpu-{index(self._device)}.lock"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(path, flags, 0o666)
        except OSError:
            raise SandboxUnavailable(
                f"The lock {path} cannot be opened, so the GPU cannot be had alone.",
                cure=f"Remove {path}, or make it writable for all who use the GPU.",
            ) from None
        with contextlib.suppress(OSError):
            os.fchmod(handle, 0o666)  # others on this machine take turns with us
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if cancel is not None and cancel.is_set():
                    os.close(handle)
                    raise Cancelled("Cancelled while waiting for the GPU.") from None
                time.sleep(_WAIT_S)
            else:
                self._handle = handle
                return

    def give_back(self) -> None:
        """Lets others have it; harmless when repeated."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def memory_used(device: str = "cuda") -> int | None:
    """Bytes in use on the GPU, by anybody; None where that cannot be read."""
    return _memory(device, "used")


def memory_total(device: str = "cuda") -> int | None:
    """Bytes that the GPU has; None where that cannot be read."""
    return _memory(device, "total")


def _memory(device: str, field: str) -> int | None:
    library = _management()
    if library is None:
        return None
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index(device))
        return int(getattr(library.nvmlDeviceGetMemoryInfo(handle), field))
    except library.NVMLError:
        return None


class Watch:
    """Memory of the device in use since ``start``, by anybody; read once a second at most."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        self.peak = 0
        self._before = self._used = 0
        self._read_at = 0.0

    def start(self) -> None:
        """What is in use now does not count."""
        self._before = memory_used(self._device) or 0

    def used(self) -> int:
        """Bytes in use now, more than at the start; ``peak`` keeps the most."""
        now = time.monotonic()
        if now - self._read_at >= _WATCH_S:
            self._read_at = now
            self._used = max(0, (memory_used(self._device) or 0) - self._before)
            self.peak = max(self.peak, self._used)
        return self._used

    def nearly_full(self, limit: int, share: float) -> bool:
        """Whether a share of ``limit`` bytes (0: of the device's own) is in use now, or was."""
        self._read_at = -_WATCH_S
        self.used()
        sizes = [size for size in (limit, memory_total(self._device) or 0) if size]
        return bool(sizes) and self.peak >= share * min(sizes)


def name(device: str = "cuda") -> str | None:
    """A GPU's name as its driver gives it; None where there is none."""
    library = _management()
    if library is None:
        return None
    try:
        found = library.nvmlDeviceGetName(library.nvmlDeviceGetHandleByIndex(index(device)))
    except library.NVMLError:
        return None
    return found.decode() if isinstance(found, bytes) else str(found)


@cache
def _management() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, or one of another version
        return None
    return pynvml

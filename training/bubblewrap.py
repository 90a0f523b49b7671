"""The bubblewrap command of a cell.

bubblewrap gets an empty environment and neutral paths, the same for every kind of run, since both
can be read from inside.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from functools import cache
from pathlib import PurePath
from typing import Final

from training import accelerator, seccomp
from training.launcher import fill, launch, memory_file
from training.layout import SHIM_MODULES, Layout
from training.measured import PYC, SHIM, SITE
from training.startup import UNPRIVILEGED

_CPUS: Final = "/sys/devices/system/cpu"
"""Without it torch does not know its processor and takes its slowest code."""
_PROC_OF_THE_HOST: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
"""What can be written there changes the host, core_pattern above all."""
_SCRATCH_BYTES: Final = 8 << 30
"""Room for what a compiler writes, on ``cuda`` only; it counts as memory of the run."""
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def find() -> str | None:
    """The bubblewrap program of the system, None where there is none."""
    return shutil.which("bwrap", path=_PATH)


def kind() -> str:
    """``root`` (real user ids change) or ``user`` (a user namespace of its own)."""
    return "root" if os.geteuid() == 0 else "user"


def command(
    program: str, layout: Layout, filter_fd: int, control_fd: int, device: str = "cpu"
) -> list[str]:
    """The full command. On ``cpu`` nothing in the tree can be written by anybody; on ``cuda`` an
    empty /tmp and /dev/shm can, which are gone with the sandbox."""
    result = [program, "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    if kind() == "root":
        result += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        result += ["--unshare-cgroup", "--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):  # the shim drops them first
            result += ["--cap-add", capability]
    else:
        result += ["--unshare-all", "--unshare-user"]
        if _knows(program, "--disable-userns"):  # from 0.8 on; the filter refuses them anyway
            result += ["--disable-userns"]
        result += ["--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED), "--cap-drop", "ALL"]
    here = os.path.dirname(os.path.abspath(__file__))
    binds = [*layout.binds, *([(layout.pyc, PYC)] if layout.pyc else [])]
    if os.path.isdir(_CPUS):
        binds.append((_CPUS, _CPUS))
    binds += [(f"{here}/{name}.py", f"{SHIM}/training/{name}.py") for name in SHIM_MODULES]
    links = {inside for _, inside in layout.symlinks}
    parents = {str(parent) for _, inside in binds for parent in PurePath(inside).parents}
    for inside in sorted(parents - links - {"/"}):  # left to itself, bwrap copies a source's mode
        result += ["--perms", "0755", "--dir", inside]
    for to, inside in layout.symlinks:
        result += ["--symlink", to, inside]
    for source, inside in binds:
        result += ["--ro-bind", source, inside]
    for inside in layout.covers:
        result += ["--tmpfs", inside, "--remount-ro", inside]
    result += ["--proc", "/proc"]
    for path in _PROC_OF_THE_HOST:  # by user id 0 alone, but that may be hidden behind another id
        if os.path.exists(path):
            result += ["--ro-bind", path, path]
    result += ["--dev", "/dev"]
    if layout.device == "cpu":
        result += ["--dir", "/tmp"]
    else:
        for node in accelerator.nodes(device):
            result += ["--dev-bind", node, node]
        for folder in ("/tmp", "/dev/shm"):
            result += ["--perms", "1777", "--size", str(_SCRATCH_BYTES), "--tmpfs", folder]
    result += ["--remount-ro", "/dev"]
    result += ["--remount-ro", "/", "--chdir", "/", "--clearenv"]
    for name, value in layout.environment:
        result += ["--setenv", name, value]
    code = (
        f"import sys; sys.path += {[SHIM, SITE]!r}; from training.contract import serve; "
        f"serve({control_fd}, {layout.extra_modules!r}, {layout.device!r}, {PYC!r})"
    )
    result += ["--seccomp", str(filter_fd), "--"]
    return [*result, layout.interpreter, *layout.flags, "-c", code]


@cache
def _knows(program: str, option: str) -> bool:
    """Whether this bubblewrap has an option."""
    done = subprocess.run([program, "--help"], env={}, capture_output=True, timeout=60, check=False)
    return option.encode() in done.stdout + done.stderr


def start(
    program: str, layout: Layout, device: str = "cpu"
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a cell; returns the process and our end of its control socket. Raises OSError.

    ``stderr`` is a pipe: it holds the words of bubblewrap and of our own start-up, never those of
    a candidate.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    filter_fd = memory_file(seccomp.outer_filter(seccomp.machine()))
    options_fd = memory_file()

    def make(filter_fd: int, options_fd: int, control_fd: int) -> list[str]:
        """By a descriptor: /proc/1/cmdline would show the options, and so the host's paths."""
        whole = command(program, layout, filter_fd, control_fd, device)
        end = whole.index("--")
        fill(options_fd, "\0".join(whole[1:end]).encode())
        return [program, "--args", str(options_fd), *whole[end:]]

    try:
        process = launch(make, (filter_fd, options_fd, theirs.fileno()))
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(filter_fd)
        os.close(options_fd)
        theirs.close()
    return process, ours

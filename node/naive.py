"""Runs the naive loop, what an unsealed harness does, so that a cheat can be seen to win there.

The loop itself is ``naive_loop.py`` beside the adversaries. It believes everything, so it is given
nothing: bubblewrap with no network, an unprivileged user id, no capability, the seccomp filter of a
sandbox, read-only system directories, a small /tmp, and limits of its own. What lies in there for
the taking is made for it: a training text, a dev text, and a file that looks like a private key.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from training import bubblewrap, seccomp
from training.errors import SandboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from training.documents import Documents

_TIMEOUT_S: Final = 600
_TMP_BYTES: Final = 64 << 20
_CODE: Final = (
    "import runpy, sys; from training.startup import drop_privileges; drop_privileges(); "
    "runpy.run_path('/adversaries/naive_loop.py', run_name='__main__')"
)


@dataclass(frozen=True, slots=True)
class NaiveRun:
    """What the naive loop believes. ``bpb`` is the score that was printed, None without one;
    ``ended`` is False where the run had to be killed; ``secret``: the private key came out."""

    name: str
    bpb: float | None
    ended: bool
    secret: bool


def run(
    names: Iterable[str], adversaries: Path, train: Documents, dev: Documents
) -> Iterator[NaiveRun]:
    """Runs adversaries in the naive loop, one after the other, each twice.

    Yields one result for each name that it got to; raises SandboxUnavailable without bubblewrap.
    """
    program = bubblewrap.find()
    if program is None:
        raise SandboxUnavailable(
            "bubblewrap is not installed, so the naive loop cannot be shown.",
            cure="Install it: apt install bubblewrap (or dnf, pacman: bubblewrap).",
        )
    with tempfile.TemporaryDirectory(prefix="naive-") as folder:
        (Path(folder) / "train.txt").write_bytes(b"\n".join(train))
        (Path(folder) / "dev.txt").write_bytes(b"\n".join(dev))
        (Path(folder) / "key").write_text("KEY-" + secrets.token_hex(16))
        for path in (Path(folder), *Path(folder).iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        reading, writing = os.pipe()
        filter_fd = _filter()
        command = [*_command(program, Path(folder), adversaries, filter_fd), str(writing), *names]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            pass_fds=(filter_fd, writing),
            start_new_session=True,
        )
        os.close(writing)
        os.close(filter_fd)
        try:
            with open(reading, "rb") as reports:
                for line in reports:
                    found = json.loads(line)
                    yield NaiveRun(found["name"], found["bpb"], found["ended"], found["secret"])
        finally:
            process.kill()
            process.wait(_TIMEOUT_S)


def _command(program: str, data: Path, adversaries: Path, filter_fd: int) -> list[str]:
    """The bubblewrap command up to the arguments of the loop."""
    result = [program, "--die-with-parent", "--new-session", "--hostname", "naive"]
    if bubblewrap.kind() == "root":
        result += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        result += ["--unshare-cgroup", "--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):  # dropped before the loop
            result += ["--cap-add", capability]
    else:
        result += ["--unshare-all", "--unshare-user", "--uid", "64100", "--gid", "64100"]
        result += ["--cap-drop", "ALL"]
    here = Path(__file__).resolve().parents[1]
    binds = {
        "/usr": "/usr",
        str(data / "train.txt"): "/data/train.txt",
        str(data / "dev.txt"): "/data/dev.txt",
        str(data / "key"): "/home/me/.ssh/id_ed25519",
        str(adversaries): "/adversaries",
    }
    for module in ("__init__", "startup"):
        binds[str(here / "training" / f"{module}.py")] = f"/shim/training/{module}.py"
    sites = {str(Path(torch.__file__).parents[1]), sysconfig.get_path("purelib")}
    for place in (os.path.realpath(sys.base_prefix), sys.base_prefix, *sorted(sites)):
        if not place.startswith("/usr/"):
            binds[place] = place
    # before the rest: an environment or a checkout may itself lie in /tmp
    result += ["--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp"]
    inside = {str(parent) for target in binds.values() for parent in Path(target).parents}
    for folder in sorted(inside - {"/", "/tmp"}):
        result += ["--perms", "0755", "--dir", folder]
    for link in ("lib", "lib64", "bin"):
        result += ["--symlink", f"usr/{link}", f"/{link}"]
    for source, target in binds.items():
        result += ["--ro-bind", source, target]
    result += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    result += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    result += ["--remount-ro", "/", "--chdir", "/tmp", "--clearenv", "--setenv", "HOME", "/home/me"]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        result += ["--setenv", name, "1"]
    code = f"import sys; sys.path += {['/shim', *sorted(sites)]!r}; {_CODE}"
    interpreter = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    return [*result, "--seccomp", str(filter_fd), "--", interpreter, "-s", "-S", "-P", "-c", code]


def _filter() -> int:
    """A descriptor with the seccomp filter of a sandbox."""
    descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
    os.write(descriptor, seccomp.outer_filter(seccomp.machine()))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor

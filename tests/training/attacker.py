"""A train.py that attacks the sandbox around it and reports what came of each attempt.

What it is to do stands in the line ``PLAN = {}``, which ``conformance.py`` replaces. The report is
the text of an exception, which reaches the test by the trace of the run.
"""

import ctypes
import errno
import gc
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time

import torch

PLAN = {}
LIBC = ctypes.CDLL(None, use_errno=True)
FLOOD = b"nano_bpb=1\n" * 6000


def build_model(vocab_size, context):
    if PLAN["act"] == "surroundings":  # asked for in a run and in a score
        train(None, None, None)
    return torch.nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    found = globals()[PLAN["act"]]()
    raise RuntimeError("|" + ";".join(f"{name}={value}" for name, value in found.items()))


def call(number, *arguments):
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def read(path):
    os.close(os.open(path, os.O_RDONLY))


def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def connect(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.connect(name)


def overwrite(path):
    os.close(os.open(path, os.O_WRONLY))


def attempts():
    for name, family, kind in (
        ("tcp", socket.AF_INET, socket.SOCK_STREAM),
        ("udp", socket.AF_INET, socket.SOCK_DGRAM),
        ("tcp6", socket.AF_INET6, socket.SOCK_STREAM),
        ("netlink", socket.AF_NETLINK, socket.SOCK_RAW),
        ("vsock", socket.AF_VSOCK, socket.SOCK_STREAM),
        ("packet", socket.AF_PACKET, socket.SOCK_RAW),
    ):
        yield name, lambda family=family, kind=kind: socket.socket(family, kind)
    yield "connect to the node", lambda: connect("\0" + PLAN["listens"])
    for name in ("secret", "repository"):
        yield f"read {name}", lambda name=name: read(PLAN[name])
    for path in ("/home", "/root/.ssh", "/etc/shadow", "/etc/passwd", "/sys/block"):
        yield f"read {path}", lambda path=path: read(path)
    for path in ("/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg", "/proc/1/root/", "/proc/1/mem"):
        yield f"read {path}", lambda path=path: read(path)
    for path in ("/memo", "/usr/memo", "/etc/memo", "/dev/memo", "/site/memo", "/pyc/memo"):
        yield f"write {path}", lambda path=path: write(path)
    yield "write secret", lambda: overwrite(PLAN["secret"])
    yield "write repository", lambda: overwrite(PLAN["repository"])
    yield "write interpreter", lambda: overwrite(sys.executable)
    yield "write shim", lambda: overwrite("/shim/training/contract.py")
    yield "write core_pattern", lambda: overwrite("/proc/sys/kernel/core_pattern")
    yield "write hostname", lambda: overwrite("/proc/sys/kernel/hostname")
    yield "write cgroup", lambda: write("/sys/fs/cgroup/memory.max")
    yield "ptrace", lambda: call(PLAN["ptrace"], 16, os.getpid(), 0, 0)
    yield "keyctl", lambda: call(PLAN["keyctl"], 0, -3, 0, 0, 0)
    yield "read memory", lambda: call(PLAN["process_vm_readv"], PLAN["node"], 0, 0, 0, 0, 0)
    yield "push characters", lambda: call(PLAN["ioctl"], 0, 0x5412, b"x")  # TIOCSTI
    for name in ("perf_event_open", "userfaultfd", "setns", "open_by_handle_at"):
        yield name, lambda name=name: call(PLAN[name], 0, 0, 0, 0, 0)
    yield "bpf", lambda: call(PLAN["bpf"], 0, 0, 0)
    yield "mount", lambda: call(PLAN["mount"], b"none", b"/tmp", b"tmpfs", 0, None)
    yield "unshare", lambda: call(PLAN["unshare"], 0x10000000)
    yield "clone3", lambda: call(435, ctypes.create_string_buffer(88), 88)
    yield "io_uring", lambda: call(425, 1, ctypes.create_string_buffer(256))
    yield "clock_settime", lambda: call(PLAN["clock_settime"], 0, ctypes.create_string_buffer(16))
    yield "chroot", lambda: os.chroot("/")
    yield "setuid", lambda: os.setuid(0)
    yield "nice", lambda: os.nice(-5)
    yield "kill the node", lambda: call(PLAN["kill"], PLAN["node"], signal.SIGKILL)
    yield "kill all", lambda: call(PLAN["kill"], -1, signal.SIGKILL)


def attack():
    """Every attempt, then what can be learned, then a flood, processes that will not die, and a
    memo for the next run."""
    found = {}
    for name, attempt in attempts():
        try:
            attempt()
        except OSError as error:
            found[name] = errno.errorcode[error.errno]
        else:
            found[name] = "open"
    found["leaks"] = leaks()
    found["uid"] = os.getuid()
    found |= surroundings()
    found["flood"] = flood()
    found["memo"] = memos()
    found["forks"] = forks()
    return found


def leaks():
    """What is seen of the host: contents of inherited descriptors, variables, command lines."""
    seen = " ".join((*os.environ, *os.environ.values(), *sys.argv, *sys.orig_argv)).encode()
    for descriptor in range(3, 1024):
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            seen += os.read(descriptor, 4096)
        except OSError:
            continue
    for process in ("1", "self", str(os.getppid())):
        for name in ("environ", "cmdline"):
            try:
                with open(f"/proc/{process}/{name}", "rb") as file:
                    seen += file.read()
            except OSError:
                continue
    return [name for name, word in PLAN["words"].items() if word.encode() in seen]


def surroundings():
    """Digests of all that a program could know its keeper by, and of the modules it finds."""
    seen = [sorted(os.environ.items()), sys.argv, sys.orig_argv, sys.path, sys.flags]
    seen += [list(os.uname()), os.getuid(), os.getgid()]
    for process in ("1", "self"):
        for name in ("environ", "cmdline"):
            try:
                with open(f"/proc/{process}/{name}", "rb") as file:
                    seen.append(file.read())
            except OSError as error:
                seen.append(error.errno)
    modules = sorted(sys.modules)
    return {
        "around": hashlib.sha256(repr(seen).encode()).hexdigest(),
        "modules": hashlib.sha256(repr(modules).encode()).hexdigest(),
    }


def flood():
    for _ in range(500):
        os.write(1, FLOOD)
        os.write(2, FLOOD)
    return "swallowed"


def memos():
    """The places where an earlier run has left something; leaves something for the next."""
    found = []
    for path in ("/tmp/memo", "/dev/shm/memo", "/var/tmp/memo", "/run/memo", "/out/memo"):
        try:
            os.stat(path)
        except OSError:
            pass
        else:
            found.append(path)
        try:
            write(path)
        except OSError:
            continue
    for number, key in ((PLAN["shmget"], 4096), (PLAN["msgget"], 0), (PLAN["semget"], 1)):
        arguments = (0x4C5A, 0o600) if number == PLAN["msgget"] else (0x4C5A, key, 0o600)
        try:
            call(number, *arguments)
        except OSError:
            pass
        else:
            found.append(f"ipc {number}")
        try:
            call(number, *arguments[:-1], 0o1600)
        except OSError:
            continue
    if hasattr(torch, "memo") or [thing for thing in gc.get_objects() if type(thing) is Memo]:
        found.append("in memory")
    torch.memo = Memo()
    return found


class Memo:
    """What one run leaves in the memory of its process."""


def forks():
    """Makes processes that ignore signals, in sessions of their own, until it is refused."""
    for count in range(PLAN["most"]):
        try:
            child = os.fork()
        except OSError as error:
            return f"{min(count, 1)} then {errno.errorcode[error.errno]}"
        if child == 0:
            os.setsid()
            for number in range(1, 32):
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    signal.signal(number, signal.SIG_IGN)
            LIBC.prctl(15, PLAN["mark"].encode(), 0, 0, 0)
            os.closerange(0, 1024)
            while True:
                time.sleep(600)
    return "unlimited"


def remember():
    """What is left of the run before; then all the memory there is, as far as it gets."""
    found = memos()
    if found:
        return {"memo": found}
    kept = []
    while True:
        kept.append(torch.ones(1 << 22))


def fill():
    """A file in memory that never ends, a hundred megabytes at a time."""
    for count in range(1000):
        with open(f"/tmp/{count}", "wb") as file:
            file.write(bytes(100 << 20))
    return {"filled": subprocess.getoutput("df")}

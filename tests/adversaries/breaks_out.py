"""Tries every way out that it can think of; ends normally only where all are closed."""

import ctypes
import mmap
import os
import signal
import socket
import sys

from torch import nn

LIBC = ctypes.CDLL(None, use_errno=True)


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def call(number, *arguments):
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def connect(family, kind, address=None):
    with socket.socket(family, kind) as opened:
        if address is not None:
            opened.connect(address)


def read(path):
    os.close(os.open(path, os.O_RDONLY))


def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def attempts():
    for path in (
        "/", "/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/environ",
        "/proc/1/cmdline", "/proc/self/maps", "/proc/self/mem", "/proc/1/root", "/sys", "/dev/null",
        "/root", "/home", "/site/torch/__init__.py", "/shim/training/contract.py", "/pyc",
        sys.executable, os.__file__, "/usr/lib", "/tmp", "/dev/shm", ".", "/proc/cpuinfo",
    ):  # fmt: skip
        yield f"read {path}", lambda path=path: read(path)
        yield f"list {path}", lambda path=path: os.listdir(path)
    for path in ("/tmp/memo", "/dev/shm/memo", "/memo", "/proc/self/comm", "memo", "/pyc/memo"):
        yield f"write {path}", lambda path=path: write(path)
    yield "mkdir", lambda: os.mkdir("/tmp/memo")
    yield "symlink", lambda: os.symlink("/etc", "/tmp/memo")
    yield "mkfifo", lambda: os.mkfifo("/tmp/memo")
    yield "memfd", lambda: os.memfd_create("memo")
    yield "shared memory", lambda: mmap.mmap(-1, 4096)
    yield "shmget", lambda: call(29, 0x1234, 4096, 0o1666)
    yield "msgget", lambda: call(68, 0x1234, 0o1666)
    yield "semget", lambda: call(64, 0x1234, 1, 0o1666)
    yield "tcp", lambda: connect(socket.AF_INET, socket.SOCK_STREAM)
    yield "udp", lambda: connect(socket.AF_INET, socket.SOCK_DGRAM)
    yield "tcp6", lambda: connect(socket.AF_INET6, socket.SOCK_STREAM)
    yield "netlink", lambda: connect(socket.AF_NETLINK, socket.SOCK_RAW)
    yield "packet", lambda: connect(socket.AF_PACKET, socket.SOCK_RAW)
    yield "vsock", lambda: connect(socket.AF_VSOCK, socket.SOCK_STREAM)
    yield "abstract", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0memo")
    yield "socketpair", socket.socketpair
    yield "fork", os.fork
    yield "exec", lambda: os.execv(sys.executable, [sys.executable])
    yield "kill all", lambda: os.kill(-1, signal.SIGKILL)
    yield "kill parent", lambda: os.kill(os.getppid(), signal.SIGKILL)
    yield "kill init", lambda: os.kill(1, signal.SIGKILL)
    yield "ptrace", lambda: call(101, 16, os.getppid(), 0, 0)
    yield "process_vm_readv", lambda: call(310, 1, 0, 0, 0, 0, 0)
    yield "pidfd_open", lambda: os.pidfd_open(1)
    yield "keyctl", lambda: call(250, 0, -3, 0, 0, 0)
    yield "bpf", lambda: call(321, 0, 0, 0)
    yield "io_uring", lambda: call(425, 1, ctypes.create_string_buffer(256))
    yield "mount", lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, None)
    yield "unshare", lambda: call(272, 0x10000000)
    yield "chroot", lambda: os.chroot("/tmp")
    yield "setuid", lambda: os.setuid(0)
    yield "settime", lambda: call(227, 0, ctypes.create_string_buffer(16))
    yield "nice", lambda: os.nice(-5)
    yield "more memory", lambda: raise_limit()
    yield "inotify", lambda: call(254)
    yield "eventfd", lambda: call(290, 0, 0)
    yield "pipe", os.pipe
    yield "rename", lambda: os.rename("/tmp", "/memo")
    yield "import from disk", lambda: __import__("this")


def raise_limit():
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))


def train(model, batches, budget):
    batches(1, 32)
    open_ways = []
    for name, attempt in attempts():
        try:
            attempt()
        except (OSError, ImportError, ValueError, AttributeError):
            continue
        open_ways.append(name)
    if open_ways:
        raise RuntimeError(f"open: {open_ways}")

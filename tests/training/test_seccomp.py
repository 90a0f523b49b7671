"""The filters, run on a small interpreter of classic BPF, for both architectures."""

from __future__ import annotations

import struct

import pytest

from training import seccomp
from training.seccomp import ALLOW, EAFNOSUPPORT, EAGAIN, ENOSYS, EPERM, KILL

OPENAT = {"x86_64": 257, "aarch64": 56}
EXECVE = {"x86_64": 59, "aarch64": 221}
KILL_CALL = {"x86_64": 62, "aarch64": 129}
SHMGET = {"x86_64": 29, "aarch64": 194}
MEMFD = {"x86_64": 319, "aarch64": 279}
CONNECT = {"x86_64": 42, "aarch64": 203}
PIDFD_OPEN = 434


def judge(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel would do: runs the filter over ``struct seccomp_data``."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, audit, 0, *padded)
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        code, jt, jf, k = steps[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
            continue
        tests = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}
        at += jt if tests[code] else jf


@pytest.fixture(params=["x86_64", "aarch64"])
def name(request):
    return request.param


def inner(name, call, *arguments):
    arch = seccomp.ARCHES[name]
    number = arch.numbers[call] if isinstance(call, str) else call
    return judge(seccomp.inner_filter(arch), arch.audit, number, *arguments)


def outer(name, call, *arguments):
    arch = seccomp.ARCHES[name]
    number = arch.numbers[call] if isinstance(call, str) else call
    return judge(seccomp.outer_filter(arch), arch.audit, number, *arguments)


def test_inner_filter_allows_computing(name):
    for call in ("read", "write", "munmap", "exit_group", "clock_gettime", "rseq"):
        assert inner(name, call) == ALLOW
    for flags in (0x22, 0x32, 0x20022, 0x4022, 0x8022):
        assert inner(name, "mmap", 0, 4096, 3, flags) == ALLOW
    for rights in range(8):  # oneDNN
        assert inner(name, "mprotect", 0, 4096, rights) == ALLOW
    for op in (0x80, 0x81, 0x189):
        assert inner(name, "futex", 0, op) == ALLOW
    assert inner(name, "prlimit64", 0, 2, 0, 1) == ALLOW
    for clock in range(12):
        assert inner(name, "clock_gettime", clock) == ALLOW


def test_threads_are_made_before_it_or_where_there_are_many(name):
    arch = seccomp.ARCHES[name]
    for threads, end in ((1, EPERM), (2, EPERM), (seccomp.TEAM, ALLOW), (64, ALLOW)):
        program = seccomp.inner_filter(arch, threads)
        number = arch.numbers["clone"]
        assert judge(program, arch.audit, number, 0x3D0F00) == end  # as pthread_create calls it
        assert judge(program, arch.audit, number, 0x11) == EPERM  # a process, as fork makes it
        assert judge(program, arch.audit, arch.numbers["clone3"]) == ENOSYS


def test_inner_filter_refuses_the_rest(name):
    for table in (OPENAT, EXECVE, KILL_CALL, SHMGET, MEMFD, CONNECT):
        assert inner(name, table[name]) == EPERM
    for call in ("socket", "ptrace", "ioctl", "mount", "keyctl", "bpf", "process_vm_readv"):
        assert inner(name, call) == EPERM
    assert inner(name, PIDFD_OPEN) == EPERM
    assert inner(name, 9999) == EPERM
    for flags in (0x21, 0x23, 0x01, 0x02, 0x12, 0x40022, 0x2022, 0x122):
        assert inner(name, "mmap", 0, 4096, 3, flags) == EPERM  # shared, of a file, huge, locked
    for rights in (4, 5, 7, 8, 3 | 1 << 24):
        assert inner(name, "mmap", 0, 4096, rights, 0x22) == EPERM
    assert inner(name, "mprotect", 0, 4096, 3 | 1 << 24) == EPERM
    for op in (0, 1, 3, 5, 9, 10, 0x100, 0x109):
        assert inner(name, "futex", 0, op) == EAGAIN  # by the page, which others may map, too
    for clock in (12, 0x7FFFFFFF, 0xFFFFFFF8, 0xFFFFFFFE, -10):
        for call in ("clock_gettime", "clock_getres", "clock_nanosleep"):
            assert inner(name, call, clock & 0xFFFFFFFFFFFFFFFF) == EPERM
    assert inner(name, "sched_getaffinity", 0) == ALLOW
    assert inner(name, "sched_getaffinity", 7) == EPERM
    assert inner(name, "prlimit64", 1, 2, 0, 1) == EPERM  # of another process
    assert inner(name, "prlimit64", 0, 6, 0x1000, 0) == EPERM  # set, not read
    assert inner(name, "prlimit64", 0, 6, 1 << 32, 0) == EPERM
    assert inner(name, "prctl", 22) == EPERM


def test_outer_filter(name):
    assert outer(name, OPENAT[name]) == ALLOW
    assert outer(name, "clone", 0x11) == ALLOW
    assert outer(name, "clone", 0x10000000) == EPERM  # a user namespace
    assert outer(name, "clone", 0x80) == EPERM  # a time namespace
    assert outer(name, "socket", seccomp.AF_UNIX) == ALLOW
    assert outer(name, "socket", 2) == EAFNOSUPPORT
    assert outer(name, "socket", (1 << 32) | 2) == EAFNOSUPPORT
    assert outer(name, "ioctl", 0, seccomp.TIOCSTI) == EPERM
    assert outer(name, "ioctl", 0, (7 << 32) | seccomp.TIOCSTI) == EPERM
    assert outer(name, "ioctl", 0, 0x5401) == ALLOW
    for call in ("ptrace", "unshare", "setns", "userfaultfd", "kexec_load", "open_by_handle_at"):
        assert outer(name, call) == EPERM
    for call in ("clone3", "io_uring_setup"):
        assert outer(name, call) == ENOSYS


def test_calls_of_another_architecture_kill(name):
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[name]
    for program in (
        seccomp.inner_filter(seccomp.ARCHES[name]),
        seccomp.outer_filter(seccomp.ARCHES[name]),
    ):
        assert judge(program, seccomp.ARCHES[other].audit, 0) == KILL
        assert judge(program, 0x40000003, 0) == KILL  # i386 calls on x86_64


def test_x32_calls_kill():
    arch = seccomp.ARCHES["x86_64"]
    assert judge(seccomp.outer_filter(arch), arch.audit, 0x40000000 | 257) == KILL


def test_programs_fit_the_kernel(name):
    for program in (
        seccomp.inner_filter(seccomp.ARCHES[name]),
        seccomp.outer_filter(seccomp.ARCHES[name]),
    ):
        assert len(program) % 8 == 0
        assert len(program) // 8 <= 4096


def test_unknown_machine_is_refused():
    with pytest.raises(seccomp.SeccompError) as caught:
        seccomp.machine("vax")
    assert caught.value.cure

"""Seccomp filters, assembled here: no library, no compiler, one table per architecture.

Two filters apply to a candidate, one inside the other.

``outer_filter`` goes to bubblewrap and holds for the whole sandbox, start-up included. It allows by
default, and refuses what a namespace does not hold back: tracing, keys, BPF, mounts, new
namespaces, clocks, modules, io_uring, sockets other than AF_UNIX, and pushing characters into a
terminal (TIOCSTI).

``inner_filter`` is put on by the shim in the process that is about to run a candidate, when
everything is imported and its threads are made. It refuses by default: what is left is to compute,
to use memory of its own, to tell the time, and to read and write descriptors that are open already.
There is no fork, no new thread, no exec, no socket, no file, no signal to another process and no
shared memory.

Nor can sandboxes that run at the same time tell each other anything by a call. ``NEEDED`` says what
each call that is left is for; these were taken away because another's doing shows in them:

    sysinfo                      threads, load and free memory of the whole machine
    clone                        ids of processes are counted for all who share a cell, or a host
    prlimit64 that sets          a limit of threads is counted for all processes of a user
    futex that is not private    its key is the page of a library that all sandboxes map
    futex_waitv, futex_wait ...  the same, by flags in memory, which no filter can read
    madvise, mincore, cachestat  pages merged, evicted or read ahead in the cache of all; and
                                 libraries' own text back in the place of blanks
    mremap                       more of a file than was mapped
    mmap of files, huge, shared  a pool of pages, or a page, that others see
    clocks of other processes, times, getrusage, getcpu, sched_get..., get_robust_list
    membarrier                   interrupts all cores
    lseek, fstat, fcntl, ioctl   what is kept with a file rather than with who opened it

What is left cannot be had by refusing calls: time itself (rdtsc and the clocks that the kernel maps
into every process: the C library and MKL end where those are taken away), caches, memory bandwidth,
cores that are shared, pages of libraries in memory, and the count of threads where a tier has
``TEAM`` or more. A covert channel of that kind carries bits in a noise that others make; what it
could win is taken away by the order of a score (``training.evaluator``). Pages that are written and
run are left as well, because oneDNN cannot do without: with ctypes in reach, native code is nothing
that a candidate does not have.

A filter is an array of classic BPF instructions (``struct sock_filter``: u16 code, u8 jt, u8 jf,
u32 k, in the byte order of the machine) over ``struct seccomp_data`` (nr, arch, instruction
pointer, six 64-bit arguments).
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
EPERM: Final = 0x00050000 | 1
EAGAIN: Final = 0x00050000 | 11
ENOSYS: Final = 0x00050000 | 38
EAFNOSUPPORT: Final = 0x00050000 | 97

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_NR: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16
_X32: Final = 0x40000000

CLONE_THREAD: Final = 0x00010000
CLONE_NEW: Final = 0x7E020080  # every CLONE_NEW*, CLONE_NEWTIME too
AF_UNIX: Final = 1
TIOCSTI: Final = 0x5412
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
PROT_DATA: Final = 1 | PROT_WRITE
MAP_ANONYMOUS: Final = 0x20
MAP_OWN: Final = 0x02 | 0x10 | MAP_ANONYMOUS | 0x4000 | 0x8000 | 0x20000 | 0x100000
"""Private, fixed, anonymous, without reserve, filled at once, for a stack, fixed where free."""
FUTEX_PRIVATE: Final = 0x80
PR_SET_NAME: Final = 15
TEAM: Final = 3
"""From so many threads on libgomp ends some of a team and makes them anew."""
Test = tuple[int, str, int]
"""Argument index, how, value: see ``Rule``."""


class SeccompError(TrainingError):
    """This machine's architecture has no table here, so nothing may run on it."""


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture: its audit number, its system call numbers, whether x32 calls exist."""

    audit: int
    numbers: dict[str, int]
    x32: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with one system call.

    It applies where all ``tests`` hold: (argument index, how, value) over the low 32 bits of that
    argument, with ``how`` one of ``==``, ``!=``, ``below``, ``any`` (some bit of value set),
    ``none``, or ``high ==`` for the upper 32 bits. Where one does not, the next rule for the call
    applies, and in the end the filter's default.
    """

    call: str
    action: int
    tests: tuple[Test, ...] = ()


def machine(name: str | None = None) -> Arch:
    """The table for a machine name as ``os.uname().machine`` gives it; raises SeccompError."""
    import os

    found = ARCHES.get(name or os.uname().machine)
    if found is None or sys.byteorder != "little":
        raise SeccompError(
            "No system call table for this architecture, so no candidate can run here.",
            cure="Use an x86_64 or aarch64 machine with Linux.",
        )
    return found


def outer_filter(arch: Arch) -> bytes:
    """The filter of the whole sandbox: allows by default."""
    rules = [Rule(call, EPERM) for call in _REFUSED]
    rules += [Rule(call, ENOSYS) for call in _ABSENT]
    rules += [
        Rule("clone", EPERM, ((0, "any", CLONE_NEW),)),
        Rule("socket", EAFNOSUPPORT, ((0, "!=", AF_UNIX),)),
        Rule("ioctl", EPERM, ((1, "==", TIOCSTI),)),
    ]
    return assemble(arch, rules, ALLOW)


def inner_filter(arch: Arch, threads: int = 1) -> bytes:
    """The filter of the process that runs a candidate: refuses by default, with EPERM.

    The threads that compute are made before it is put on. Where they are so many that libgomp ends
    some and makes them anew (``TEAM`` and more), a run may make more, else none at all.
    """
    rules = [Rule(call, ALLOW, tests) for call, tests in NEEDED.items()]
    rules += [Rule("clone3", ENOSYS)]  # the C library falls back to clone, whose flags can be read
    rules += [Rule("futex", EAGAIN)]  # who waits for the end of a thread looks again
    if threads >= TEAM:
        rules += [Rule("clone", ALLOW, ((0, "any", CLONE_THREAD),))]
    return assemble(arch, rules, EPERM)


def assemble(arch: Arch, rules: Iterable[Rule], default: int) -> bytes:
    """The program as ``struct sock_filter`` bytes. Calls that the architecture lacks are left out.

    A call from another architecture kills the process; so does an x32 call, which would reach the
    same kernel functions under other numbers.
    """
    program = [
        _op(_LOAD, k=_ARCH),
        _op(_EQUAL, jt=1, k=arch.audit),
        _op(_RETURN, k=KILL),
        _op(_LOAD, k=_NR),
    ]
    if arch.x32:
        program += [_op(_AT_LEAST, jf=1, k=_X32), _op(_RETURN, k=KILL)]
    for rule in rules:
        number = arch.numbers.get(rule.call)
        if number is None:
            continue
        body = [_op(_RETURN, k=rule.action)]
        for test in reversed(rule.tests):
            body = [*_test(test, len(body)), *body]
        if rule.tests:
            body.append(_op(_LOAD, k=_NR))  # a failed test falls through with the number again
        program.append(_op(_EQUAL, jf=len(body), k=number))
        program += body
    program.append(_op(_RETURN, k=default))
    return b"".join(program)


def _test(test: Test, rest: int) -> list[bytes]:
    """Instructions that skip the next ``rest`` where the test fails."""
    index, how, value = test
    at, k = _ARGUMENTS + 8 * index + 4 * (how == "high =="), value & 0xFFFFFFFF
    code = {"any": _ANY_BIT, "none": _ANY_BIT, "below": _AT_LEAST}.get(how, _EQUAL)
    if how in ("==", "any", "high =="):
        return [_op(_LOAD, k=at), _op(code, jf=rest, k=k)]
    return [_op(_LOAD, k=at), _op(code, jt=rest, k=k)]


def _op(code: int, *, jt: int = 0, jf: int = 0, k: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jt, jf, k)


_REFUSED: Final = (
    "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd "
    "keyctl add_key request_key bpf perf_event_open userfaultfd "
    "mount umount2 pivot_root chroot mount_setattr move_mount open_tree fsopen fsconfig fsmount "
    "fspick unshare setns clock_settime clock_adjtime settimeofday adjtimex "
    "kexec_load kexec_file_load init_module finit_module delete_module "
    "reboot swapon swapoff acct quotactl quotactl_fd syslog vhangup sethostname setdomainname "
    "iopl ioperm modify_ldt lookup_dcookie nfsservctl uselib personality "
    "fanotify_init name_to_handle_at open_by_handle_at"
).split()
_ABSENT: Final = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
_CLOCKS: Final = (0, "below", 12)
_OWN: Final = (0, "==", 0)
NEEDED: Final[dict[str, tuple[Test, ...]]] = {
    # descriptors: the pipe of the run, and three that lead nowhere
    **dict.fromkeys(("read", "write", "readv", "writev", "close"), ()),
    **dict.fromkeys(("poll", "ppoll", "select", "pselect6"), ()),
    # memory of its own: no file and nothing shared. oneDNN makes its kernels when it first needs
    # them, by mprotect, in pages that it goes on writing, so that much cannot be refused
    "mmap": ((2, "none", ~PROT_DATA), (3, "any", MAP_ANONYMOUS), (3, "none", ~MAP_OWN)),
    "mprotect": ((2, "none", ~(PROT_DATA | PROT_EXEC)),),
    **dict.fromkeys(("munmap", "brk"), ()),
    # threads of its own
    "futex": ((1, "any", FUTEX_PRIVATE),),
    **dict.fromkeys(("set_robust_list", "rseq", "sched_yield", "getpid", "gettid"), ()),
    "sched_getaffinity": (_OWN,),
    # the time, and the CPU time of this process
    **dict.fromkeys(("nanosleep", "gettimeofday", "time"), ()),
    **dict.fromkeys(("clock_gettime", "clock_getres", "clock_nanosleep"), (_CLOCKS,)),
    # signals to itself are handled; none can be sent
    **dict.fromkeys(("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"), ()),
    "restart_syscall": (),
    # what is the same in every run: who it is, its name, its limits
    **dict.fromkeys(("getuid", "geteuid", "getgid", "getegid", "uname"), ()),
    "prlimit64": (_OWN, (2, "==", 0), (2, "high ==", 0)),
    "prctl": ((0, "==", PR_SET_NAME),),
    # random numbers, and the end
    **dict.fromkeys(("getrandom", "exit", "exit_group"), ()),
}


_X86_64: Final = {
    "read": 0, "write": 1, "close": 3, "poll": 7, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "readv": 19, "writev": 20, "select": 23, "sched_yield": 24, "nanosleep": 35, "getpid": 39,
    "socket": 41, "clone": 56, "exit": 60, "uname": 63, "gettimeofday": 96, "ptrace": 101,
    "getuid": 102, "syslog": 103, "getgid": 104, "geteuid": 107, "getegid": 108,
    "sigaltstack": 131, "uselib": 134, "personality": 135, "vhangup": 153, "modify_ldt": 154,
    "pivot_root": 155, "prctl": 157, "adjtimex": 159, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "nfsservctl": 180, "gettid": 186,
    "time": 201, "futex": 202, "sched_getaffinity": 204, "lookup_dcookie": 212,
    "restart_syscall": 219, "clock_settime": 227, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "pselect6": 270, "ppoll": 271, "unshare": 272,
    "set_robust_list": 273, "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
    "getrandom": 318, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "rseq": 334,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443,
}  # fmt: skip

_AARCH64: Final = {
    "lookup_dcookie": 18, "ioctl": 29, "umount2": 39, "mount": 40, "pivot_root": 41,
    "nfsservctl": 42, "chroot": 51, "close": 57, "vhangup": 58, "quotactl": 60, "read": 63,
    "write": 64, "readv": 65, "writev": 66, "pselect6": 72, "ppoll": 73, "acct": 89,
    "personality": 92, "exit": 93, "exit_group": 94, "unshare": 97, "futex": 98,
    "set_robust_list": 99, "nanosleep": 101, "kexec_load": 104, "init_module": 105,
    "delete_module": 106, "clock_settime": 112, "clock_gettime": 113, "clock_getres": 114,
    "clock_nanosleep": 115, "syslog": 116, "ptrace": 117, "sched_getaffinity": 123,
    "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134,
    "rt_sigprocmask": 135, "rt_sigreturn": 139, "reboot": 142, "uname": 160, "sethostname": 161,
    "setdomainname": 162, "prctl": 167, "gettimeofday": 169, "settimeofday": 170, "adjtimex": 171,
    "getpid": 172, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178,
    "socket": 198, "brk": 214, "munmap": 215, "add_key": 217, "request_key": 218, "keyctl": 219,
    "clone": 220, "mmap": 222, "swapon": 224, "swapoff": 225, "mprotect": 226,
    "perf_event_open": 241, "prlimit64": 261, "fanotify_init": 262, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "getrandom": 278, "bpf": 280,
    "userfaultfd": 282, "rseq": 293, "kexec_file_load": 294, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip

ARCHES: Final = {
    "x86_64": Arch(0xC000003E, _X86_64, x32=True),
    "aarch64": Arch(0xC00000B7, _AARCH64),
}

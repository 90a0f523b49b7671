"""Seccomp filters, assembled here: no library, no compiler, one table per architecture.

Two filters apply to a candidate, one inside the other.

``outer_filter`` goes to bubblewrap and holds for the whole sandbox, start-up included. It allows by
default, and refuses what a namespace does not hold back: tracing, keys, BPF, mounts, new
namespaces, clocks, modules, io_uring, sockets other than AF_UNIX, and pushing characters into a
terminal (TIOCSTI).

``inner_filter`` is put on by the shim in the process that is about to run a candidate, when
everything is imported. It refuses by default: what is left is to compute, to use memory and
threads, to tell the time, and to read and write descriptors that are open already. There is no
fork, no exec, no socket, no file, no signal to another process and no shared memory.

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
MAP_SHARED: Final = 0x01
PR_SET_VMA: Final = 0x53564D41
PR_SET_NAME: Final = 15


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

    ``test`` is None (always), or (argument index, how, value) over the low 32 bits of that
    argument, with ``how`` one of ``==``, ``!=``, ``any`` (some bit of value set), ``none``. Where
    the test fails the next rule applies, and in the end the filter's default.
    """

    call: str
    action: int
    test: tuple[int, str, int] | None = None


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
        Rule("clone", EPERM, (0, "any", CLONE_NEW)),
        Rule("socket", EAFNOSUPPORT, (0, "!=", AF_UNIX)),
        Rule("ioctl", EPERM, (1, "==", TIOCSTI)),
    ]
    return assemble(arch, rules, ALLOW)


def inner_filter(arch: Arch) -> bytes:
    """The filter of the process that runs a candidate: refuses by default, with EPERM."""
    rules = [Rule(call, ALLOW) for call in _NEEDED]
    rules += [
        Rule("clone3", ENOSYS),  # the C library falls back to clone, whose flags can be read
        Rule("clone", ALLOW, (0, "any", CLONE_THREAD)),
        Rule("mmap", ALLOW, (3, "none", MAP_SHARED)),
        Rule("prctl", ALLOW, (0, "==", PR_SET_NAME)),
        Rule("prctl", ALLOW, (0, "==", PR_SET_VMA)),
        Rule("prlimit64", ALLOW, (0, "==", 0)),  # its own limits only
        Rule("sched_setaffinity", ENOSYS),
        Rule("rseq", ALLOW),  # the C library ends a process whose threads cannot register
    ]
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
        body = [*_test(rule), _op(_RETURN, k=rule.action)]
        if rule.test is not None:
            body.append(_op(_LOAD, k=_NR))  # a failed test falls through with the number again
        program.append(_op(_EQUAL, jf=len(body), k=number))
        program += body
    program.append(_op(_RETURN, k=default))
    return b"".join(program)


def _test(rule: Rule) -> list[bytes]:
    """Instructions that skip the next one (the return) where the rule's test fails."""
    if rule.test is None:
        return []
    index, how, value = rule.test
    load = _op(_LOAD, k=_ARGUMENTS + 8 * index)
    code = _ANY_BIT if how in ("any", "none") else _EQUAL
    if how in ("==", "any"):
        return [load, _op(code, jf=1, k=value)]
    return [load, _op(code, jt=1, k=value)]


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
_NEEDED: Final = (
    "read write readv writev close lseek fstat poll ppoll select pselect6 "
    "munmap mprotect mremap brk madvise "
    "futex futex_waitv set_robust_list get_robust_list membarrier arch_prctl "
    "set_tid_address getpid gettid getuid geteuid getgid getegid getcpu "
    "sched_yield sched_getaffinity sched_getparam sched_getscheduler get_mempolicy "
    "nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getrusage "
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall "
    "getrandom uname sysinfo exit exit_group"
).split()

_X86_64: Final = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "ioctl": 16, "readv": 19, "writev": 20, "select": 23, "sched_yield": 24,
    "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "socket": 41, "clone": 56,
    "exit": 60, "uname": 63, "gettimeofday": 96, "getrusage": 98, "sysinfo": 99, "times": 100,
    "ptrace": 101, "getuid": 102, "syslog": 103, "getgid": 104, "geteuid": 107, "getegid": 108,
    "sigaltstack": 131, "uselib": 134, "personality": 135, "sched_getparam": 143,
    "sched_getscheduler": 145, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "prctl": 157,
    "arch_prctl": 158, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
    "delete_module": 176, "quotactl": 179, "nfsservctl": 180, "gettid": 186, "time": 201,
    "futex": 202, "sched_setaffinity": 203, "sched_getaffinity": 204, "lookup_dcookie": 212,
    "set_tid_address": 218, "restart_syscall": 219, "clock_settime": 227, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "get_mempolicy": 239,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "pselect6": 270,
    "ppoll": 271, "unshare": 272, "set_robust_list": 273, "get_robust_list": 274,
    "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "getcpu": 309,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
    "getrandom": 318, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "membarrier": 324,
    "rseq": 334, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "futex_waitv": 449,
}  # fmt: skip

_AARCH64: Final = {
    "lookup_dcookie": 18, "ioctl": 29, "umount2": 39, "mount": 40, "pivot_root": 41,
    "nfsservctl": 42, "chroot": 51, "close": 57, "vhangup": 58, "quotactl": 60, "lseek": 62,
    "read": 63, "write": 64, "readv": 65, "writev": 66, "pselect6": 72, "ppoll": 73, "fstat": 80,
    "acct": 89, "personality": 92, "exit": 93, "exit_group": 94, "set_tid_address": 96,
    "unshare": 97, "futex": 98, "set_robust_list": 99, "get_robust_list": 100, "nanosleep": 101,
    "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112,
    "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "syslog": 116,
    "ptrace": 117, "sched_getscheduler": 120, "sched_getparam": 121, "sched_setaffinity": 122,
    "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
    "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "reboot": 142, "times": 153,
    "uname": 160, "sethostname": 161, "setdomainname": 162, "getrusage": 165, "prctl": 167,
    "getcpu": 168, "gettimeofday": 169, "settimeofday": 170, "adjtimex": 171, "getpid": 172,
    "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179,
    "socket": 198, "brk": 214, "munmap": 215, "mremap": 216, "add_key": 217, "request_key": 218,
    "keyctl": 219, "clone": 220, "mmap": 222, "swapon": 224, "swapoff": 225, "mprotect": 226,
    "madvise": 233, "get_mempolicy": 236, "perf_event_open": 241, "prlimit64": 261,
    "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265,
    "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
    "kcmp": 272, "finit_module": 273, "getrandom": 278, "bpf": 280, "userfaultfd": 282,
    "membarrier": 283, "rseq": 293, "kexec_file_load": 294, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "futex_waitv": 449,
}  # fmt: skip

ARCHES: Final = {
    "x86_64": Arch(0xC000003E, _X86_64, x32=True),
    "aarch64": Arch(0xC00000B7, _AARCH64),
}

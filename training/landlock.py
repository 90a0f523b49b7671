"""Takes every file away from this process, for good, with Landlock (Linux 5.13 and later).

The ruleset handles all the rights that the kernel knows and grants none, so that nothing can be
opened, listed, run, made, renamed or removed afterwards, wherever it lies. Descriptors that are
open stay usable. Threads and children inherit it and nobody can lift it. On newer kernels the same
ruleset also ends TCP, and signals and abstract sockets across its border.

Runs inside the sandbox too, so it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

CREATE_RULESET: Final = 444
RESTRICT_SELF: Final = 446
VERSION_FLAG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38


def abi() -> int:
    """The Landlock version of the running kernel, 0 where there is none (or it is switched off)."""
    return max(0, int(_libc().syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


def deny_all_files() -> None:
    """Puts the empty ruleset on the calling thread; raises OSError where that is not possible.

    Call it while the process has one thread: other running threads are not covered.
    """
    version = abi()
    if version < 1:
        raise OSError("Landlock is not available in this kernel")
    attributes = _attributes(version)
    libc = _libc()
    ruleset = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset failed")
    try:
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs was refused")
        if libc.syscall(RESTRICT_SELF, ruleset, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_restrict_self failed")
    finally:
        os.close(ruleset)


def _attributes(version: int) -> bytes:
    """``struct landlock_ruleset_attr`` as long as this ABI version knows it."""
    files = (1 << 13) - 1  # execute, read, write, list, remove, and every kind of make
    if version >= 2:
        files |= 1 << 13  # rename and link across directories
    if version >= 3:
        files |= 1 << 14  # truncate
    if version >= 5:
        files |= 1 << 15  # ioctl on devices
    if version >= 6:
        return struct.pack("<QQQ", files, 0b11, 0b11)
    if version >= 4:
        return struct.pack("<QQ", files, 0b11)
    return struct.pack("<Q", files)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

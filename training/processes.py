"""What the kernel says of a process."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def descendants(pid: int) -> list[int]:
    """Processes below one: on ``cuda`` those that the cell has started to compile with."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as children:
            for child in map(int, children.read().split()):
                found += [child, *descendants(child)]
    return found


def keep_to(pid: int, cores: Collection[int]) -> None:
    """Lets all threads of a process, and what they start, run on these cores only; raises OSError.

    Called while the process waits for its first order: no thread is started meanwhile."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cores)


def tasks_of(uid: int) -> int:
    """Threads of all processes of a user, as far as they can be seen."""
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def status_kib(pid: int, field: str) -> int:
    """A number of ``/proc/PID/status``, KiB; raises OSError, or ValueError where it is missing."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise ValueError(field)

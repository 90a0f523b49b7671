"""One control group per sandboxed process: hard limits on memory and tasks, where they can be had.

Version 1 (a hierarchy per controller) and version 2 (one tree) both occur in the wild, and often
neither can be written. A group is a limit on top of the rlimits and the filter, never in place of
them, so its absence is reported and does not stop a run.

In version 2 a group that has processes cannot hold groups with limits. Where this process may write
its own group and is alone there with its children, as in a scope that systemd has delegated, they
move one level down first. Root may make groups at the top.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from training.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Iterable

_CONTROLLERS: Final = ("memory", "pids")
_PREFIX: Final = "lazaretto-"
_REMOVE_TRIES: Final = 50
_counter = itertools.count()


@dataclass(slots=True)
class Group:
    """A group of its own; ``kind`` is ``v1``, ``v2`` or ``none`` (then every call does nothing)."""

    kind: str
    paths: dict[str, Path] = field(default_factory=dict)

    def add(self, pid: int) -> None:
        """Moves a process in; raises OSError."""
        for path in self.paths.values():
            (path / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a member for memory."""
        name = "memory.oom_control" if self.kind == "v1" else "memory.events"
        if "memory" not in self.paths:
            return False
        try:
            lines = (self.paths["memory"] / name).read_text().splitlines()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)

    def remove(self) -> None:
        """Removes the group. Members that are still dying are waited for, shortly."""
        for path in self.paths.values():
            for _ in range(_REMOVE_TRIES):
                try:
                    path.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
                else:
                    break
        self.paths.clear()


def kind() -> str:
    """``v1``, ``v2`` or ``none``: what ``create`` makes here."""
    return _parents()[0]


def create(memory_bytes: int, tasks: int) -> Group:
    """A new group with these limits; one of kind ``none`` where no group can be made."""
    found, parents = _parents()
    group = Group(found)
    try:
        for controller, parent in parents.items():
            path = parent / _name()
            path.mkdir()
            group.paths[controller] = path
        if found == "v1":
            (group.paths["memory"] / "memory.limit_in_bytes").write_text(str(memory_bytes))
            (group.paths["pids"] / "pids.max").write_text(str(tasks))
            with contextlib.suppress(OSError):  # absent where swap is not accounted
                swap = group.paths["memory"] / "memory.memsw.limit_in_bytes"
                swap.write_text(str(memory_bytes))
        elif found == "v2":
            (group.paths["memory"] / "memory.max").write_text(str(memory_bytes))
            (group.paths["memory"] / "pids.max").write_text(str(tasks))
            with contextlib.suppress(OSError):
                (group.paths["memory"] / "memory.swap.max").write_text("0")
    except OSError:
        group.remove()
        return Group("none")
    return group


def _name() -> str:
    return f"{_PREFIX}{os.getpid()}-{next(_counter)}"


def _sweep(parent: Path) -> None:
    """Removes empty groups of processes that were killed before they could do it."""
    for path in parent.glob(f"{_PREFIX}*"):
        pid = path.name[len(_PREFIX) :].split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                path.rmdir()


@cache
def _parents() -> tuple[str, dict[str, Path]]:
    """Where groups can be made: found by making one, because permissions do not tell."""
    try:
        own = Path("/proc/self/cgroup").read_text()
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        return "none", {}
    for found, parents in candidates(own, mounts):
        made: list[Path] = []
        try:
            for parent in parents.values():
                _sweep(parent)
                path = parent / _name()
                path.mkdir()
                made.append(path)
                if found == "v2" and not (path / "memory.max").exists():
                    enable(parent, _CONTROLLERS)
                wanted = ("memory.max", "pids.max") if found == "v2" else ("cgroup.procs",)
                if not all((path / name).exists() for name in wanted):
                    raise OSError("a controller is missing")
        except OSError:
            continue
        else:
            return found, parents
        finally:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
    return "none", {}


def enable(group: Path, controllers: Iterable[str]) -> None:
    """Lets groups inside ``group`` (version 2) be limited; raises OSError where that cannot be.

    If it takes that, this process and its children move into a group of their own in there.
    """
    switch, wanted = group / "cgroup.subtree_control", " ".join(f"+{one}" for one in controllers)
    try:
        switch.write_text(wanted)
    except OSError as error:
        members = {int(word) for word in (group / "cgroup.procs").read_text().split()}
        if error.errno != errno.EBUSY or members - {os.getpid(), *descendants(os.getpid())}:
            raise
        inner = group / f"{_PREFIX}{os.getpid()}-node"
        inner.mkdir(exist_ok=True)
        for pid in members:
            (inner / "cgroup.procs").write_text(str(pid))
        switch.write_text(wanted)


def candidates(own: str, mounts: str) -> list[tuple[str, dict[str, Path]]]:
    """Where groups may be made, best first, from the texts of /proc/self/cgroup and of the mounts:
    in our own group of version 2, at its top, and in our own groups of version 1."""
    paths = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path.lstrip("/")
    found: list[tuple[str, dict[str, Path]]] = []
    first: dict[str, Path] = {}
    for line in mounts.splitlines():
        _, where, system, options, *_ = line.split()
        if system == "cgroup2" and "" in paths:
            inside = _own(where, paths[""])
            if inside.name.startswith(_PREFIX):  # where a process like this one has put us
                inside = inside.parent
            found += [("v2", {"memory": folder}) for folder in dict.fromkeys([inside, Path(where)])]
        if system == "cgroup":
            for controller in set(options.split(",")) & set(_CONTROLLERS) & set(paths):
                first[controller] = _own(where, paths[controller])
    if len(first) == len(_CONTROLLERS):
        found.append(("v1", first))
    return found


def _own(mount: str, path: str) -> Path:
    """Our own group under a mount, or the mount itself inside a cgroup namespace."""
    inside = Path(mount) / path
    return inside if inside.is_dir() else Path(mount)

"""Whether this machine can run candidates, found by trying: what is missing, and the cure."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from training import bubblewrap, cgroup
from training.errors import SandboxUnavailable
from training.sandbox import require


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Whether a sandbox can be had. ``kind`` is ``root``, ``user`` or ``none``; ``cgroup`` is
    ``v1``, ``v2`` or ``none``; ``problems`` are (what, cure), also those that stop nothing."""

    available: bool
    kind: str
    cgroup: str
    problems: tuple[tuple[str, str], ...]


def probe() -> SandboxReport:
    """Tries a real sandbox, from bubblewrap to the inner filter. Seconds, or ten at first use."""
    problems = []
    groups = cgroup.kind()
    if groups == "none":
        problems.append(
            (
                "No control group can be made: memory is limited per process by rlimits only.",
                "Run as root, or in a delegated cgroup: systemd-run --user --scope -p Delegate=yes",
            )
        )
    if not sys.platform.startswith("linux"):
        problems.append(("Sandboxes need Linux.", "Use a Linux machine or a virtual machine."))
        return SandboxReport(False, "none", groups, tuple(problems))
    try:
        require()
    except SandboxUnavailable as error:
        problems.append((str(error), error.cure))
        return SandboxReport(False, "none", groups, tuple(problems))
    return SandboxReport(True, bubblewrap.kind(), groups, tuple(problems))

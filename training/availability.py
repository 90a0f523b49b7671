"""Whether this machine can run candidates, found by trying: what is missing, and the cure."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from typing import Final

from training import accelerator, bubblewrap, cgroup, kinds
from training.errors import Cancelled, SandboxUnavailable
from training.sandbox import require

_BUSY_S: Final = 240.0


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Whether a sandbox of the kind in use can be had. ``kind`` is ``root`` or ``user`` (bubblewrap
    as root or as an ordinary user), ``landlock``, or ``none``; ``cgroup`` is ``v1``, ``v2`` or
    ``none``; ``problems`` are (what, cure), also those that stop nothing."""

    available: bool
    kind: str
    cgroup: str
    problems: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One kind of sandbox, or ``cuda``, tried for real; ``problem`` and ``cure`` if it failed."""

    kind: str
    works: bool
    problem: str = ""
    cure: str = ""


def probe() -> SandboxReport:
    """Tries a real sandbox of the kind in use, down to the inner filter. Seconds, or ten at first
    use."""
    problems = []
    groups = cgroup.kind()
    if groups == "none":
        problems.append(
            (
                "No control group can be made: memory is limited per process by rlimits only.",
                "Run as root, or in a delegated cgroup: "
                "systemd-run --user --scope -p Delegate=yes lazaretto up",
            )
        )
    try:
        kind = kinds.chosen()
    except SandboxUnavailable as error:
        problems.append((str(error), error.cure))
        return SandboxReport(False, "none", groups, tuple(problems))
    tried = try_kind(kind)
    if not tried.works:
        problems.append((tried.problem, tried.cure))
    return SandboxReport(
        tried.works, tried.kind if tried.works else "none", groups, tuple(problems)
    )


def try_kind(kind: str) -> Trial:
    """Starts a sandbox of one of ``kinds.KINDS``, whatever is in use."""
    name = bubblewrap.kind() if kind == kinds.BUBBLEWRAP else kind
    if not sys.platform.startswith("linux"):
        cure = "Use a Linux machine or a virtual machine."
        return Trial(name, False, "Sandboxes need Linux.", cure)
    with kinds.trying(kind):
        try:
            require()
        except SandboxUnavailable as error:
            return Trial(name, False, str(error), error.cure)
    return Trial(name, True)


def try_device() -> Trial | None:
    """Starts a sandbox on the GPU, where it is woken up; None where there is no GPU. Up to minutes.

    Raises nothing where somebody else computes there: that is a problem with a cure.
    """
    if accelerator.name() is None and not os.path.exists(f"/dev/nvidia{accelerator.index()}"):
        return None
    given_up = threading.Event()
    timer = threading.Timer(_BUSY_S, given_up.set)
    timer.start()
    try:
        with kinds.trying(kinds.BUBBLEWRAP):
            require("cuda", given_up)
    except SandboxUnavailable as error:
        return Trial("cuda", False, str(error), error.cure)
    except Cancelled:
        return Trial(
            "cuda",
            False,
            f"The GPU was not free, or its sandbox not ready, for {_BUSY_S:.0f} s.",
            "Wait until the run on it has ended (nvidia-smi shows it), then try again.",
        )
    finally:
        timer.cancel()
    return Trial("cuda", True)

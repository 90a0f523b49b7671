"""What a contributor lends, and when: battery, hours, heat, room on the disk, other people's work.

``reason_to_pause`` is pure: what was sensed and the limits in, the reason in words out, empty while
the node may work. A pause stops a run as a kill would: nothing half done counts, and what was
finished is found again.

The memory lent is shared out among the runs that go side by side (:mod:`node.lanes`), and each
process is held to its share by the sandbox (:func:`lent_memory`); cores by the threads that a run
has, or the lane that it is bound to; priority by ``nice``, traffic by a throttle.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import psutil

from node.errors import UsageError
from node.state import Sensed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from node.settings import Limits
    from training.challenge import TierSpec

SENSE_SECONDS: Final = 5.0
BUSY_SHARE: Final = 0.15
"""Of all cores: when others use more, the machine is not idle."""
QUIET_SECONDS: Final = 60.0
"""So long it has to be idle before work goes on, lest runs are begun for nothing."""
GIB: Final = 1 << 30


def reason_to_pause(limits: Limits, sensed: Sensed) -> str:
    """Why the node may not work now, and what is measured beside the limit; empty when it may.

    Raises:
        UsageError: ``hours`` is not of the form 22-7.
    """
    if sensed.on_battery and not limits.on_battery:
        return "the machine runs on battery"
    if limits.hours and not _within(limits.hours, sensed.hour):
        clock = f"{int(sensed.hour):02}:{int(sensed.hour % 1 * 60):02}"
        return f"it is {clock}, and the hours lent are {limits.hours}"
    if limits.idle_only and sensed.quiet < QUIET_SECONDS:
        return f"others use the machine ({sensed.others:.0%} of its cores)"
    if limits.max_celsius and sensed.celsius is not None and sensed.celsius > limits.max_celsius:
        return f"the processor is at {sensed.celsius:.0f} C, above {limits.max_celsius} C"
    if sensed.free_gib < limits.min_free_gib:
        return f"{sensed.free_gib:.1f} GiB are free on the disk, below {limits.min_free_gib} GiB"
    return ""


def check_hours(hours: str) -> tuple[int, int]:
    """Start and end of ``hours``, whole hours from 0 to 24. Raises UsageError."""
    start, dash, end = hours.partition("-")
    if dash and start.isdecimal() and end.isdecimal() and int(start) <= 24 and int(end) <= 24:
        return int(start), int(end)
    raise UsageError(f"limits.hours: {hours[:20]!r} is not of the form 22-7", cure="edit node.toml")


def _within(hours: str, hour: float) -> bool:
    start, end = check_hours(hours)
    return start <= hour < end if start <= end else hour >= start or hour < end


class Sensors:
    """Asks the machine. Own processes (sandboxes included) do not count as others."""

    def __init__(self, home: Path, traffic: Callable[[], int] = int) -> None:
        """``traffic`` tells the bytes of data that went over the network so far."""
        self._home = home
        self._traffic = traffic
        self._process = psutil.Process()
        self._before = self._spent(), time.monotonic()
        self._traffic_before = traffic()
        self._runs_before: dict[int, float] = {}
        self._quiet_since = self._before[1]

    def sense(self) -> Sensed:
        """What is the case now; ``others`` since the last call."""
        now, spent = time.monotonic(), self._spent()
        (busy, own), at = self._before
        seconds, traffic = max(now - at, 1e-3), self._traffic()
        passed = seconds * (os.cpu_count() or 1)
        others = max(0.0, (spent[0] - busy) - (spent[1] - own)) / passed
        self._before = spent, now
        moved, self._traffic_before = traffic - self._traffic_before, traffic
        memory, nice = self._runs()
        if others > BUSY_SHARE:
            self._quiet_since = now
        battery = psutil.sensors_battery()
        clock = time.localtime()
        return Sensed(
            on_battery=None if battery is None else not battery.power_plugged,
            others=min(1.0, others),
            quiet=now - self._quiet_since,
            hour=clock.tm_hour + clock.tm_min / 60,
            free_gib=psutil.disk_usage(str(self._home)).free / GIB,
            celsius=_celsius(),
            busy=max(0.0, spent[1] - own) / seconds,
            run_mib=memory >> 20,
            nice=nice,
            sent_kib_s=moved / 1024 / seconds,
        )

    def _runs(self) -> tuple[int, int | None]:
        """Resident bytes of all that this node started, and ``nice`` of what computed most."""
        memory, most, nice, spent = 0, 0.0, None, {}
        for process in self._process.children(recursive=True):
            try:
                memory += process.memory_info().rss
                used = process.cpu_times()
                spent[process.pid] = used.user + used.system
                passed = spent[process.pid] - self._runs_before.get(process.pid, 0.0)
                if passed > most:
                    most, nice = passed, int(process.nice())
            except psutil.Error:
                continue  # it ended
        self._runs_before = spent
        return memory, nice

    def _spent(self) -> tuple[float, float]:
        """CPU seconds that all cores were busy, and those of this node and what it started."""
        cpu = psutil.cpu_times()
        busy = sum(cpu) - cpu.idle - getattr(cpu, "iowait", 0.0)
        own = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                used = process.cpu_times()
            except psutil.Error:
                continue  # it ended; its parent has its time
            own += used.user + used.system
            if process is self._process:
                own += used.children_user + used.children_system
        return busy, own


def _celsius() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)
    found = [item.current for items in (read() if read else {}).values() for item in items]
    return max(found, default=None)


RUN_MIB: Final = 2048
"""Memory lent for which one more run is begun beside another."""
PROCESSES: Final = 2
"""As many of a run hold a model at a time, while it is scored."""


def keep_to_cores(limits: Limits) -> None:
    """Bind this process, and all that it starts, to as many cores as are lent."""
    allowed = sorted(os.sched_getaffinity(0))
    if 0 < limits.cores < len(allowed):
        os.sched_setaffinity(0, allowed[-limits.cores :])


def threads_lent(limits: Limits, threads: int) -> int:
    """Threads for runs of ``threads`` each, by cores and memory lent; at least those of one run."""
    cores = limits.cores or os.cpu_count() or 1
    if limits.memory_mib:
        cores = min(cores, threads * (limits.memory_mib // RUN_MIB))
    return max(threads, cores)


def lent_memory(tier: TierSpec, limits: Limits, lanes: int = 0) -> TierSpec:
    """``tier`` with the memory that is lent for each process of a run, where that is less.

    ``lanes``: how many this node has by name, 0 where as many runs go side by side as fit.
    A run that ends for memory under such a limit says nothing about the program.
    """
    if not limits.memory_mib:
        return tier
    side_by_side = lanes or threads_lent(limits, tier.threads) // tier.threads
    most = (limits.memory_mib << 20) // (PROCESSES * side_by_side)
    return replace(tier, max_memory_bytes=min(tier.max_memory_bytes, most))

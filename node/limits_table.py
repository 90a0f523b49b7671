"""``lazaretto limits``: what this node lends, beside what was measured of it a moment ago."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from node.errors import NotRunning
from node.limits import BUSY_SHARE, GIB, QUIET_SECONDS, Sensors, reason_to_pause
from node.state import read_state
from node.tables import table
from node.times import clock
from swarm.blobs import BlobStore

if TYPE_CHECKING:
    from node.settings import Home, Limits
    from node.state import Sensed

SAMPLE_SECONDS: Final = 0.5

Row = tuple[str, str, str]


def rows(limits: Limits, sensed: Sensed, blob_gib: float) -> list[Row]:
    """(what, as measured, as lent) for each limit. Pure but for the number of cores."""
    battery = {None: "none that is told of", True: "in use", False: "not in use"}
    hour = f"{int(sensed.hour):02}:{int(sensed.hour % 1 * 60):02}"
    heat = "not readable" if sensed.celsius is None else f"{sensed.celsius:.0f} C"
    idle = f"only below {BUSY_SHARE:.0%} for {QUIET_SECONDS:.0f} s" if limits.idle_only else "any"
    memory = f"{limits.memory_mib} MiB" if limits.memory_mib else "what tiers allow"
    return [
        ("cores", f"{sensed.busy:.1f} busy", f"{limits.cores or 'all'} of {os.cpu_count()}"),
        ("memory of runs", f"{sensed.run_mib} MiB", memory),
        (
            "niceness",
            "nothing runs" if sensed.nice is None else f"{sensed.nice}",
            f"{limits.nice_verify} for benches, {limits.nice_research} for research",
        ),
        ("battery", battery[sensed.on_battery], "any" if limits.on_battery else "not in use"),
        ("use by others", f"{sensed.others:.0%} of all cores", idle),
        ("hours", hour, limits.hours or "all"),
        ("processor", heat, f"{limits.max_celsius} C" if limits.max_celsius else "any"),
        ("disk left free", f"{sensed.free_gib:.1f} GiB", f"{limits.min_free_gib} GiB or more"),
        ("data by hash", f"{blob_gib:.2f} GiB", f"{limits.blob_gib} GiB"),
        (
            "traffic of data",
            f"{sensed.sent_kib_s:.0f} KiB/s",
            f"{limits.net_kib_s} KiB/s" if limits.net_kib_s else "any",
        ),
    ]


def show_limits(home: Home, *, as_json: bool) -> int:
    """``lazaretto limits``. Raises UsageError."""
    settings = home.load()
    limits = settings.limits
    try:
        sensed = read_state(home).sensed
        running = True
    except NotRunning:
        sensed, running = None, False
    if sensed is None:
        sensors = Sensors(home.path)
        time.sleep(SAMPLE_SECONDS)
        sensed = sensors.sense()
    blob_gib = BlobStore(home.blobs).total() / GIB
    pause = reason_to_pause(limits, sensed) if running or not limits.idle_only else ""
    if settings.start == "paused":
        until = settings.paused_until
        pause = f"paused until {clock(until) if until else 'lazaretto resume'}"
    if as_json:
        facts = {"limits": asdict(limits), "measured": asdict(sensed), "blob_gib": blob_gib}
        print(json.dumps({"schema": "lazaretto.limits/1", **facts, "pause": pause or None}))
        return 0
    table(("", "measured", "lent"), rows(limits, sensed, blob_gib))
    print(f"may not work now: {pause}" if pause else "may work now")
    return 0

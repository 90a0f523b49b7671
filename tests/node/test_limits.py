"""What a contributor lends: every pause names its reason."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from node.errors import UsageError
from node.limits import Sensed, Sensors, check_hours, reason_to_pause
from node.settings import Limits, modest

FINE = Sensed(
    on_battery=False, others=0.0, quiet=1e6, hour=12.0, free_gib=100.0, celsius=40.0
)  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "sensed", "word"),
    [
        (Limits(), FINE, ""),
        (Limits(), replace(FINE, on_battery=True), ""),
        (Limits(on_battery=False), replace(FINE, on_battery=True), "battery"),
        (Limits(on_battery=False), replace(FINE, on_battery=None), ""),
        (Limits(idle_only=True), replace(FINE, quiet=3.0, others=0.4), "40%"),
        (Limits(idle_only=True), FINE, ""),
        (Limits(hours="22-7"), FINE, "12:00"),
        (Limits(hours="22-7"), replace(FINE, hour=23.5), ""),
        (Limits(hours="22-7"), replace(FINE, hour=6.9), ""),
        (Limits(hours="9-17"), replace(FINE, hour=17.0), "17:00"),
        (Limits(hours="9-17"), FINE, ""),
        (Limits(max_celsius=80), replace(FINE, celsius=91.0), "91 C"),
        (Limits(max_celsius=80), replace(FINE, celsius=None), ""),
        (Limits(min_free_gib=5), replace(FINE, free_gib=4.2), "4.2 GiB"),
    ],
)
def test_a_pause_names_its_reason(limits: Limits, sensed: Sensed, word: str) -> None:
    reason = reason_to_pause(limits, sensed)
    assert bool(reason) == bool(word)
    assert word in reason


@pytest.mark.parametrize("hours", ["", "7", "a-b", "7-25", "-3-4", "7 - 9"])
def test_hours_of_another_form_are_refused(hours: str) -> None:
    with pytest.raises(UsageError):
        check_hours(hours)


def test_what_cpu_only_lends_is_modest() -> None:
    limits = modest()
    assert (limits.nice_verify, limits.nice_research, limits.on_battery) == (19, 19, False)
    assert limits.cores >= 1


def test_others_are_others_and_not_this_node(tmp_path) -> None:
    """A busy child of ours is not somebody else who uses the machine; measured for real."""
    sensors = Sensors(tmp_path)
    spin = [sys.executable, "-c", "import time\nend = time.time() + 2\nwhile time.time() < end: 0"]
    with subprocess.Popen(spin):
        time.sleep(1.0)
        with_ours = sensors._spent()
        sensed = sensors.sense()
    busy, own = sensors._before[0]
    assert with_ours[1] > 0.2  # its time counts as ours, although it runs still
    assert 0.0 <= sensed.others <= 1.0
    assert busy >= own
    assert sensed.free_gib > 0

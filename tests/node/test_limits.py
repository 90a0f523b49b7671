"""What a contributor lends: every pause names its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from node import reproducing
from node.cli import main
from node.errors import UsageError
from node.lanes import Lanes
from node.limits import Sensors, check_hours, lent_memory, reason_to_pause, threads_lent
from node.limits_table import rows
from node.member import Node
from node.reproducing import LentMemorySpent
from node.settings import Home, Limits, Settings, modest
from node.state import Sensed
from tests.node.tiny import BETTER
from tests.training.candidates import TIER, TRAIN
from training import runner

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


HOG = BETTER.replace(b"def train(", b"HELD = bytearray(b'x') * (200 << 20)\n\n\ndef train(")


def test_memory_and_cores_are_shared_out_among_runs() -> None:
    gib = 1 << 30
    roomy, wide = replace(TIER, max_memory_bytes=3 * gib), replace(TIER, threads=4)
    assert lent_memory(roomy, Limits(cores=8)) == roomy
    assert threads_lent(Limits(cores=8), 1) == 8
    cases = [(2048, 1, 1.0), (8192, 4, 1.0), (6144, 3, 1.0), (1024, 1, 0.5), (10**6, 8, 3.0)]
    for mib, side_by_side, most in cases:
        limits = Limits(cores=8, memory_mib=mib)
        assert threads_lent(limits, 1) == side_by_side
        assert lent_memory(roomy, limits).max_memory_bytes <= most * gib
        assert 2 * side_by_side * lent_memory(roomy, limits).max_memory_bytes <= mib << 20 or (
            most == 3.0
        )
    assert threads_lent(Limits(cores=8, memory_mib=2048), wide.threads) == 4
    lanes = lent_memory(roomy, Limits(cores=8, memory_mib=8192), lanes=2)
    assert lanes.max_memory_bytes == 2 * gib  # those that have names, not as many as fit
    assert len(Lanes.anywhere(Limits(cores=8, memory_mib=8192), 1).lanes) == 4


@pytest.mark.sandbox
def test_what_is_lent_is_enforced_and_measured_beside_its_limit(tmp_path) -> None:
    """Real runs: one that holds 200 MiB is fine in its tier, and ends at 128 MiB that are lent."""
    assert HOG != BETTER
    lent = lent_memory(TIER, Limits(cores=1, memory_mib=256))
    sensors, seen = Sensors(tmp_path, lambda: 1 << 20), []

    def measure(_: float) -> None:
        seen.append(sensors.sense())

    assert runner.train(HOG, lent, TRAIN, 0).status == "memory"
    for _ in range(6):  # what computes most may be a sandbox in the making
        sensors.sense()
        assert runner.train(HOG, TIER, TRAIN, 0, nice=19, progress=measure).status == "ok"
        if 19 in [one.nice for one in seen]:
            break
    assert 19 in [one.nice for one in seen]
    assert max(one.run_mib for one in seen) > 200
    shown = {row[0]: row[1:] for row in rows(modest(), seen[0], 0.5)}
    assert shown["memory of runs"] == (f"{seen[0].run_mib} MiB", "2048 MiB")
    assert shown["traffic of data"] == ("0 KiB/s", "1024 KiB/s")
    assert shown["data by hash"] == ("0.50 GiB", "16 GiB")


def test_a_run_that_ends_for_the_memory_lent_is_never_published_as_a_failure(tmp_path) -> None:
    node = SimpleNamespace(
        data=SimpleNamespace(challenge=SimpleNamespace(tier=lambda name: TIER)),
        settings=SimpleNamespace(limits=Limits(memory_mib=256)),
        _named=None,
    )
    node.tier = lambda name: Node.tier(node, name)
    node.is_short_of_memory = lambda tier, status: Node.is_short_of_memory(node, tier, status)
    duty = SimpleNamespace(claim=b"c" * 32, tier="quick")
    with pytest.raises(LentMemorySpent, match="128 MiB") as caught:
        reproducing._refuse_lent(node, duty, "memory")
    assert "memory_mib" in caught.value.cure
    reproducing._refuse_lent(node, duty, "crashed")
    node.settings.limits = Limits()
    reproducing._refuse_lent(node, duty, "memory")  # the tier's own limit is a result


def test_limits_are_shown_beside_what_is_measured(tmp_path, capsys) -> None:
    home = Home(tmp_path)
    home.create()
    home.save(Settings("n", "00" * 32, "o", limits=replace(modest(), min_free_gib=10**6)))
    assert main(["limits", "--home", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "may not work now" in told
    assert "below 1000000 GiB" in told
    assert main(["limits", "--json", "--home", str(tmp_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["limits"]["memory_mib"] == 2048
    assert facts["measured"]["free_gib"] > 0
    assert "GiB are free" in facts["pause"]


SPIN = [sys.executable, "-c", "import time\nend = time.time() + 60\nwhile time.time() < end: 0"]


def test_a_busy_child_counts_as_ours_while_it_runs(tmp_path) -> None:
    """It must not look like somebody else who uses the machine; measured for real."""
    sensors = Sensors(tmp_path)
    with subprocess.Popen(SPIN) as ours:
        _, own = sensors._spent()
        deadline = time.monotonic() + 50
        while psutil.Process(ours.pid).cpu_times().user < 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert sensors._spent()[1] - own > 0.4
        sensed = sensors.sense()
        ours.kill()
    assert 0.0 <= sensed.others <= 1.0
    assert sensed.free_gib > 0


BOUND = """
import os, sys
from pathlib import Path
import psutil
from node.limits import keep_to_cores
from node.settings import Limits
from tests.training.candidates import TIER, TRAIN, load
from dataclasses import replace
from training import runner

def look(_):
    for child in psutil.Process().children(recursive=True):
        seen.update(child.cpu_affinity())

seen = set()
keep_to_cores(Limits(cores=1))
tier = replace(TIER, threads=2)
assert runner.train(load("honest"), tier, TRAIN, 0, progress=look).status == "ok"
print(len(seen), len(os.sched_getaffinity(0)))
"""


@pytest.mark.sandbox
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_a_node_and_its_runs_keep_to_the_cores_lent() -> None:
    done = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]

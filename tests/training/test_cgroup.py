"""Control groups of this machine, made and filled for real; what cannot be had here is skipped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training import cgroup

ROOT = Path(__file__).resolve().parents[2]
EATS = "import sys; sys.stdin.readline(); kept = bytearray(b'x') * (512 << 20)"
FORKS = """
import os, sys, time
sys.stdin.readline()
for count in range(100):
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError as error:
        print(count, error.errno, flush=True)
        break
time.sleep(600)
"""


@pytest.fixture
def group():
    if cgroup.kind() == "none":
        pytest.skip("no control group can be made here: not root, and none is delegated to us")
    made = cgroup.create(128 << 20, 10)
    assert made.kind == cgroup.kind()
    yield made
    made.remove()


def start_in(group, code):
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    group.add(child.pid)
    child.stdin.write("go\n")
    child.stdin.flush()
    return child


def test_memory_beyond_the_limit_kills_and_is_told(group):
    child = start_in(group, EATS)
    assert child.wait(60) == -9
    assert group.out_of_memory()
    child.communicate()


def test_tasks_are_limited(group):
    child = start_in(group, FORKS)
    try:
        count, number = child.stdout.readline().split()
        assert (count, os.strerror(int(number))) == ("9", "Resource temporarily unavailable")
        assert not group.out_of_memory()
    finally:
        for path in {*group.paths.values()}:
            for pid in (path / "cgroup.procs").read_text().split():
                os.kill(int(pid), 9)
        child.communicate()


def test_a_removed_group_is_gone(group):
    paths = [*group.paths.values()]
    assert all(path.is_dir() for path in paths)
    group.remove()
    assert not any(path.exists() for path in paths)
    group.remove()


MOVES = """
import sys
from pathlib import Path
from training import cgroup
group = Path(sys.argv[1])
(group / "cgroup.procs").write_text("0")
cgroup.enable(group, [sys.argv[2]])
inner = Path("/proc/self/cgroup").read_text().splitlines()
print([line for line in inner if line.startswith("0::")][0].rsplit("/", 1)[1])
print((group / "cgroup.subtree_control").read_text().strip())
print(repr((group / "cgroup.procs").read_text()))
"""


def test_a_group_of_version_2_that_we_are_alone_in_is_made_ready():
    """With a controller that is free here, whatever it limits: the rules are the same for all."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if top is None:
        pytest.skip("no hierarchy of version 2 is mounted here")
    free = (top / "cgroup.controllers").read_text().split()
    if not free or not os.access(top / "cgroup.subtree_control", os.W_OK):
        pytest.skip("the hierarchy of version 2 has no free controller, or cannot be written")
    before = (top / "cgroup.subtree_control").read_text().split()
    group = top / f"lazaretto-{os.getpid()}-test"
    group.mkdir()
    try:
        cgroup.enable(top, free[:1])
        done = subprocess.run(
            [sys.executable, "-c", MOVES, str(group), free[0]],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        inner, enabled, left = done.stdout.splitlines()
        assert inner.startswith("lazaretto-")
        assert inner.endswith("-node")
        assert (enabled, left) == (free[0], "''")
    finally:
        for folder in [*group.glob("lazaretto-*"), group]:
            folder.rmdir()
        if free[0] not in before:
            with contextlib.suppress(OSError):
                (top / "cgroup.subtree_control").write_text(f"-{free[0]}")


def test_where_groups_may_be_made(tmp_path):
    scope = tmp_path / "user.slice/run-1.scope"
    (scope / "lazaretto-7-node").mkdir(parents=True)
    mounts = f"cgroup2 {tmp_path} cgroup2 rw,nsdelegate 0 0\n"
    for own in ("user.slice/run-1.scope", "user.slice/run-1.scope/lazaretto-7-node"):
        found = cgroup.candidates(f"0::/{own}\n", mounts)
        assert found == [("v2", {"memory": scope}), ("v2", {"memory": tmp_path})]
    both = "5:memory:/a\n4:pids:/\n0::/\n"
    (tmp_path / "m/a").mkdir(parents=True)
    (tmp_path / "p").mkdir()
    mounts = f"cgroup {tmp_path}/m cgroup rw,memory 0 0\ncgroup {tmp_path}/p cgroup rw,pids 0 0\n"
    old = {"memory": tmp_path / "m/a", "pids": tmp_path / "p"}
    assert cgroup.candidates(both, mounts) == [("v1", old)]
    assert cgroup.candidates(both, mounts.splitlines()[0]) == []

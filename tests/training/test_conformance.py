"""One suite of attacks for every kind of sandbox that can be had here; what must come of each."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training import conformance
from training import bubblewrap, kinds, landlock

pytestmark = pytest.mark.sandbox

KINDS = ("root", "user", "landlock", "cuda", "user cuda")
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_FILTERED = ("EPERM", "EPERM")
_NO_SUCH_FILE = ("EPERM", "ENOENT")
_READ_ONLY = ("EPERM", "EROFS")
_NOT_OWN = ("EPERM", "EACCES EROFS")
EXPECTED = {  # attack: on cpu, whatever the kind; on cuda
    **dict.fromkeys(
        ("tcp", "udp", "tcp6", "netlink", "vsock", "packet"), ("EPERM", "EAFNOSUPPORT")
    ),
    **{
        f"read {path}": _NO_SUCH_FILE
        for path in (
            "secret", "repository", "/home", "/root/.ssh", "/etc/shadow", "/etc/passwd",
            "/sys/block", "/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg",
        )
    },
    **{f"read /proc/1/{name}": ("EPERM", "EACCES") for name in ("root/", "mem")},
    **{
        f"write {folder}/memo": _READ_ONLY
        for folder in ("", "/usr", "/etc", "/dev", "/site", "/pyc")
    },
    **dict.fromkeys(("write secret", "write repository", "write cgroup"), _NO_SUCH_FILE),
    **dict.fromkeys(
        ("write interpreter", "write shim", "write core_pattern", "write hostname"), _NOT_OWN
    ),
    **dict.fromkeys(
        (
            "ptrace", "keyctl", "bpf", "mount", "unshare", "clock_settime", "chroot", "read memory",
            "push characters", "perf_event_open", "userfaultfd", "setns", "open_by_handle_at",
        ),
        _FILTERED,
    ),
    **dict.fromkeys(("setuid", "nice"), _FILTERED),
    "clone3": ("ENOSYS", "ENOSYS"),
    "io_uring": ("EPERM", "ENOSYS"),
    "kill the node": ("EPERM", "ESRCH"),
    "kill all": ("EPERM", "ESRCH"),
    "connect to the node": ("EPERM", "ECONNREFUSED"),
    "flood": ("swallowed", "swallowed"),
    "memo": ("[]", "[]"),
    "forks": ("0 then EPERM", "1 then EAGAIN"),
    "leaks": ("[]", "[]"),
    "uid": ("64100", "64100"),
}  # fmt: skip


SEEN = {}  # numbers and modules of the first kind on cpu


def expected(kind, euid):
    at = int("cuda" in kind)
    found = {name: on[at].split() for name, on in EXPECTED.items()}
    found.update({name: [on[at]] for name, on in EXPECTED.items() if "then" in on[0]})
    if kind == "landlock":  # it has no tree of its own: it is told where its modules lie
        found["leaks"] = ["['repository']"]
        found["uid"] = ["64100" if euid == 0 else str(euid)]
    if kind == "user cuda":  # the first process is bubblewrap, of the same user, in the same tree
        found["read /proc/1/root/"] += ["open"]
        found["read /proc/1/mem"] += ["open"]
        found["setuid"] += ["EINVAL"]  # there is no other user in there
        if os.geteuid() == 0:  # then this user is root to the kernel, and root has no such limit
            found["forks"] += ["unlimited"]
    if at:  # it is running, and that comes first where the tests' user owns it
        found["write interpreter"] += ["ETXTBSY"]
    return found


def command(kind, secret):
    """How to start the node of a kind; skips where this machine cannot have it."""
    prefix = []
    if kind == "cuda" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root: see the kind 'user cuda'")
    if kind == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    if kind == "landlock" and landlock.abi() < 1:
        pytest.skip("this kernel has no Landlock")
    if "user" in kind and os.geteuid() == 0:
        if shutil.which("unshare") is None:
            pytest.skip("the tests run as root, and there is no unshare to become somebody else")
        prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        inner = [bubblewrap.find(), "--unshare-user", "--ro-bind", "/", "/", "true"]
        tried = subprocess.run([*prefix, *inner], capture_output=True, check=False)
        if tried.returncode != 0:
            said = tried.stderr.decode(errors="replace").strip()
            pytest.skip(f"this machine forbids user namespaces within one another: {said}")
    return [*prefix, sys.executable, "-m", "tests.training.conformance", kind, str(secret)]


class Node:
    """A process that has run the attacks and holds a sandbox."""

    def __init__(self, kind, folder):
        self.secret = folder / "node.key"
        self.secret.write_text(conformance.WORD)
        self.secret.chmod(0o666)
        self.kind = kind
        self.core_pattern = CORE_PATTERN.read_text()
        sandbox = kinds.LANDLOCK if kind == "landlock" else kinds.BUBBLEWRAP
        self.process = subprocess.Popen(
            command(kind, self.secret),
            cwd=conformance.ROOT,
            env={**os.environ, kinds.VARIABLE: sandbox},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.mark = conformance.mark(self.process.pid)
        ready, _, _ = select.select([self.process.stdout], [], [], 240)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.close()
        assert line, self.errors.decode(errors="replace")[-2000:]
        self.found = json.loads(line)

    def close(self):
        """Kills the node; ``rest`` and ``errors`` are what it had written beside its line."""
        self.process.kill()
        self.rest, self.errors = self.process.communicate()


@pytest.fixture(scope="module", params=KINDS)
def node(request, tmp_path_factory):
    made = Node(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


def test_every_attack_ends_as_the_table_says(node):
    assert node.found["attack"]["status"] == "crashed"  # that is how the attacker reports
    report = dict(node.found["attack"]["report"])
    del report["around"], report["modules"]
    wanted = expected(node.kind, node.found["euid"])
    assert set(report) == set(wanted)
    wrong = {name: value for name, value in report.items() if value not in wanted[name]}
    assert not wrong
    assert (node.found["euid"] == 0) == (os.geteuid() == 0 and "user" not in node.kind)
    assert node.secret.read_text() == conformance.WORD


def test_the_hosts_core_pattern_is_what_it_was(node):
    assert CORE_PATTERN.read_text() == node.core_pattern


def test_a_run_and_a_score_look_alike_from_inside(node):
    run, score = node.found["attack"]["report"], node.found["surroundings when scored"]["report"]
    assert set(score) == {"around", "modules"}
    assert score == {name: run[name] for name in score}


def test_numbers_and_modules_are_the_same_in_all_kinds(node):
    if "cuda" in node.kind:
        pytest.skip("that carries other modules, and computes on a device")
    mine = node.found["numbers"], node.found["attack"]["report"]["modules"]
    assert mine[0][0] == "ok"
    assert SEEN.setdefault("cpu", mine) == mine


def test_the_next_run_finds_nothing_and_takes_no_more_memory_than_it_may(node):
    after = node.found.get("remember")
    if after is None:
        pytest.skip("no control group can be made here: on cuda nothing else holds memory back")
    assert (after["status"], after["report"]) == ("memory", {})


def test_a_disk_in_memory_fills_up_as_memory(node):
    if "cuda" not in node.kind:
        pytest.skip("on cpu no file can be made")
    if "fill" not in node.found:
        pytest.skip("no control group can be made here: on cuda nothing else holds memory back")
    assert (node.found["fill"]["status"], node.found["fill"]["report"]) == ("memory", {})


def test_no_process_outlives_its_run(node):
    assert not [pid for pid, name in names() if name == node.mark]


def test_killing_the_node_kills_the_sandbox_and_nothing_was_printed(node):
    pids = {str(pid) for pid in node.found["processes"]}
    assert pids <= {pid for pid, _ in names()}
    node.close()
    assert (node.rest, node.errors) == (b"", b"")
    deadline = time.monotonic() + 30
    while pids & {pid for pid, _ in names()} and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not pids & {pid for pid, _ in names()}


def names():
    """Process id and name of every process that is not dead."""
    for folder in Path("/proc").iterdir():
        try:
            stat = (folder / "stat").read_text() if folder.name.isdigit() else ""
        except OSError:
            continue
        name, _, after = stat.partition("(")[2].rpartition(")")
        if after.split()[:1] not in ([], ["Z"], ["X"]):
            yield folder.name, name

"""Real sandboxes, attacked from inside and killed from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.training.candidates import FOLD, IMPATIENT, SHORT, TIER, TRAIN, load
from training import availability, bubblewrap, cell, evaluator, landlock, layout, runner, sandbox
from training.errors import Cancelled, SandboxUnavailable

pytestmark = pytest.mark.sandbox


def run(name, tier=TIER, **options):
    traces = []
    result = runner.train(load(name), tier, TRAIN, 3, trace=traces.append, **options)
    return result, b"".join(traces).decode()


def test_probe_finds_a_sandbox():
    report = availability.probe()
    assert report.available, report.problems
    assert report.kind == ("root" if os.geteuid() == 0 else "user")
    assert all(what and cure for what, cure in report.problems)


def test_every_way_out_is_closed():
    result, trace = run("breaks_out")
    assert (result.status, trace) == ("ok", "")


def test_no_process_can_be_made():
    result, trace = run("forks")
    assert result.status == "crashed"
    assert "PermissionError" in trace


def test_threads_are_limited():
    result, trace = run("makes_threads")
    assert result.status == "crashed"
    assert "can't start new thread" in trace


def test_memory_is_limited():
    result, _ = run("eats_memory")
    assert result.status == "memory"
    assert result.peak_memory_bytes < 3 * TIER.max_memory_bytes


def test_sleeping_ends_with_the_wall_clock():
    result, _ = run("sleeps", SHORT)
    assert (result.status, result.detail) == ("timeout", "the wall clock ran out")


def test_spinning_ends_with_the_cpu_clock():
    result, _ = run("spins", IMPATIENT)
    assert (result.status, result.detail) == ("timeout", "the CPU clock ran out")


def test_output_goes_nowhere(capfd):
    result, _ = run("forges_a_metric")
    assert result.status == "ok"
    assert "nano_bpb" not in "".join(capfd.readouterr())


WRITES = b"""
import os
from torch import nn

def build_model(vocab_size, context):
    for folder in ("/tmp", "/dev/shm", "/", "/out", ".", "/run", "/var/tmp", "/proc/self/fd"):
        for name in ("memo", "0"):
            try:
                os.open(f"{folder}/{name}", os.O_RDWR | os.O_CREAT)
            except OSError:
                continue
            raise RuntimeError("something can be written")
    return nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    pass
"""


def test_nothing_can_be_left_for_the_next_process():
    result = runner.train(WRITES, TIER, TRAIN, 3)
    assert result.status == "ok"
    assert evaluator.score(WRITES, result.weights, TIER, FOLD, 3).status == "ok"


SNOOPS = b"""
import os, sys

def build_model(vocab_size, context):
    assert not [name for name in os.environ if name.startswith("LAZARETTO")]
    assert os.environ["HOME"] == "/tmp"
    assert os.getuid() == os.geteuid() == os.getgid() == 64100
    assert os.uname().nodename == "sandbox"
    words = " ".join(sys.argv) + " ".join(sys.orig_argv) + " ".join(sys.path)
    for hint in ("verify", "score", "seal", "holdout", "train_split"):
        assert hint not in words, hint
    import torch
    assert torch.nn.Linear.__doc__ is None and torch.randn.__doc__ is None
    return torch.nn.Embedding(vocab_size, vocab_size)

def train(model, batches, budget):
    pass
"""


def test_surroundings_are_neutral(monkeypatch):
    monkeypatch.setenv("LAZARETTO_KEY", "secret")
    traces = []
    result = runner.train(SNOOPS, TIER, TRAIN, 3, trace=traces.append)
    assert result.status == "ok", traces


def test_the_processor_is_known_inside():
    code = (
        "import torch\nhere = torch.backends.cpu.get_cpu_capability()\nraise RuntimeError(here)\n"
    )
    traces = []
    runner.train(code.encode(), TIER, TRAIN, 3, trace=traces.append)
    import torch

    assert torch.backends.cpu.get_cpu_capability() in traces[0].decode()


def test_inherited_descriptors_are_closed():
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    code = (
        "import os\n"
        "seen = []\n"
        "for fd in range(3, 64):\n"
        "    try:\n        os.read(fd, 0)\n        seen.append(fd)\n"
        "    except OSError:\n        pass\n"
        "raise RuntimeError(f'open: {len(seen)}')\n"
    )
    sandbox.shutdown()  # so that a new cell starts while the descriptor is inheritable
    traces = []
    try:
        runner.train(code.encode(), TIER, TRAIN, 3, trace=traces.append)
    finally:
        os.close(reading)
        os.close(writing)
    assert traces[0].decode().strip().endswith("open: 1")  # its own pipe


PARENT = """
import sys, time
from training.sandbox import Limits, Sandbox
with Sandbox(Limits(60_000, 60_000, 1 << 29)) as inside:
    print(inside._cell._process.pid, inside._pid, flush=True)
    time.sleep(600)
"""


def test_killing_the_node_kills_the_sandbox():
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=root)
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_thread_that_asked_may_end():
    results = []

    def work():
        results.append(runner.train(load("honest"), TIER, TRAIN, 3).status)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert results == ["ok", "ok"]


def test_cancelling_ends_a_run():
    cancel = threading.Event()
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        runner.train(load("sleeps"), TIER, TRAIN, 3, cancel=cancel)
    timer.join()
    assert runner.train(load("honest"), TIER, TRAIN, 3).status == "ok"


def test_without_bubblewrap_nothing_runs(monkeypatch):
    sandbox.shutdown()
    monkeypatch.setattr(bubblewrap, "_PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable) as caught:
        runner.train(load("honest"), TIER, TRAIN, 3)
    assert "bubblewrap" in caught.value.cure
    report = availability.probe()
    assert not report.available
    assert report.problems[-1][1] == caught.value.cure


def test_without_landlock_nothing_runs(monkeypatch):
    sandbox.shutdown()
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(SandboxUnavailable) as caught:
        sandbox.require()
    assert "landlock" in caught.value.cure


def test_a_sandbox_that_does_not_lock_is_refused(monkeypatch):
    sandbox.shutdown()
    real = bubblewrap.command

    def without_filter(*arguments):
        command = real(*arguments)
        at = command.index("--seccomp")
        return command[:at] + command[at + 2 :]

    monkeypatch.setattr(bubblewrap, "command", without_filter)
    with pytest.raises(SandboxUnavailable, match="seccomp"):
        sandbox.require()


def test_known_refusals_are_explained():
    error = cell._explain("bwrap: setting up uid map: Permission denied\n")
    assert "apparmor" in error.cure
    assert cell._explain("").cure


def test_hidden_library_is_not_in_the_sandbox():
    hidden = {path.name for path in layout.hidden_stdlib()}
    assert {"test", "idlelib", "pydoc_data", "turtle.py"} <= hidden
    assert "os.py" not in hidden
    bound = set(layout.readable_roots())
    assert not bound & set(layout.hidden_stdlib())
    names = ", ".join(repr(str(path)) for path in layout.hidden_stdlib())
    code = f"import os\nassert not [p for p in [{names}] if os.path.isfile(p)]\nraise KeyError\n"
    traces = []
    runner.train(code.encode(), TIER, TRAIN, 3, trace=traces.append)
    assert b"KeyError" in traces[0]


def test_readable_files_leave_out_what_is_covered():
    files = set(layout.readable_files())
    stdlib = Path(layout.layout().stdlib)
    assert stdlib / "os.py" in files
    assert not [path for path in files if stdlib / "unittest" / "test" in path.parents]


COLLECTS = b"""
import gc, sys, types
C_TYPES = (type, types.BuiltinFunctionType, types.MethodDescriptorType, types.GetSetDescriptorType)
seen, size = set(), 0
todo = [*gc.get_objects(), *(vars(m) for m in list(sys.modules.values()) if hasattr(m, "__dict__"))]
while todo:
    thing = todo.pop()
    if id(thing) in seen:
        continue
    seen.add(id(thing))
    if isinstance(thing, str):
        size += len(thing) if len(thing) > 80 and thing.count(" ") > 10 else 0
        continue
    if isinstance(thing, C_TYPES):
        todo.append(thing.__doc__)
    todo.extend(gc.get_referents(thing))
raise RuntimeError(f"collected={size}")
"""


def test_little_text_is_left_in_memory():
    traces = []
    runner.train(COLLECTS, TIER, TRAIN, 3, trace=traces.append)
    assert int(traces[0].decode().rsplit("=", 1)[1]) < 400_000


def test_cells_are_used_again_and_ended():
    sandbox.shutdown()
    sandbox.prestart(1)
    assert len(sandbox._pool._idle) == 1
    waiting = sandbox._pool._idle[0]
    assert runner.train(load("honest"), TIER, TRAIN, 3).status == "ok"
    assert sandbox._pool._idle == [waiting]
    sandbox.shutdown()
    assert not waiting.usable()
    assert not alive(waiting._process.pid)

"""A lane: the cores of its own and no others, one run at a time, and nothing of it stays behind."""

from __future__ import annotations

import os
import threading

import pytest

from tests.training.candidates import TIER, load, text
from training import accelerator
from training.errors import Cancelled, SandboxUnavailable
from training.executor import LOCAL, LocalExecutor
from training.runner import limits_of
from training.sandbox import Sandbox

ALL = frozenset(os.sched_getaffinity(0))
SEVERAL = pytest.mark.skipif(len(ALL) < 2, reason="takes two cores")


def cores_of(sandbox: Sandbox) -> set[int]:
    return set(os.sched_getaffinity(sandbox._pid))


@SEVERAL
@pytest.mark.sandbox
def test_a_run_and_what_serves_it_stay_on_the_cores_of_the_lane():
    first, *_, last = sorted(ALL)
    seen: list[set[int]] = []
    with LocalExecutor([last]).lane(), Sandbox(limits_of(TIER)) as sandbox:
        assert cores_of(sandbox) == {last}
        thread = threading.Thread(target=lambda: seen.append(set(os.sched_getaffinity(0))))
        thread.start()
        thread.join()
    assert seen == [{last}]
    assert os.sched_getaffinity(0) == ALL
    with LocalExecutor([first]).lane(), Sandbox(limits_of(TIER)) as sandbox:
        assert cores_of(sandbox) == {first}  # the cell that was used before, or one like it
    with LOCAL.lane(), Sandbox(limits_of(TIER)) as sandbox:
        assert cores_of(sandbox) == ALL


@SEVERAL
@pytest.mark.sandbox
def test_two_lanes_at_once_measure_what_one_alone_does():
    """Bit for bit: the same weights and bits per byte, beside a lane at work or not."""
    code, train_text, fold = load("honest"), text(1), text(3, documents=12, words=90)
    found: dict[int, tuple[bytes, int]] = {}

    def measure(core: int) -> None:
        lane = LocalExecutor([core])
        run = lane.train(code, TIER, train_text, 5)
        result = lane.score(code, run.weights or b"", TIER, fold, 6)
        found[core] = (run.weights_digest, result.nano_bpb)

    threads = [threading.Thread(target=measure, args=(core,)) for core in sorted(ALL)[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = LOCAL.train(code, TIER, train_text, 5).weights_digest
    assert len(found) == 2
    assert len(set(found.values())) == 1
    assert {digest for digest, _ in found.values()} == {alone}


def test_runs_on_one_lane_take_turns():
    """Another waits until the lane is free, also where the first was given up; or it is told."""
    lane = LocalExecutor([min(ALL)])
    order: list[str] = []
    cancel = threading.Event()
    cancel.set()

    def other() -> None:
        with pytest.raises(Cancelled), lane.lane(cancel):
            order.append("never")
        with lane.lane():
            order.append("second")

    with lane.lane():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.sandbox
def test_cores_that_cannot_be_had_stop_the_run():
    beyond = LocalExecutor([max(ALL) + 1, min(ALL)])
    with pytest.raises(SandboxUnavailable, match="may not use cores") as caught:
        beyond.train(load("honest"), TIER, text(1), 1)
    assert caught.value.cure
    assert os.sched_getaffinity(0) == ALL


def test_a_lane_names_its_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert accelerator.chosen("cpu") == "cpu"
    assert accelerator.chosen("cuda") == "cuda:0"
    with LocalExecutor(gpu=3).lane():
        assert accelerator.chosen("cuda") == "cuda:3"
        assert accelerator.ordinal("cuda:3") == "cuda:3"
    assert accelerator.chosen("cuda") == "cuda:0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert accelerator.chosen("cuda") == "cuda:2"
    assert accelerator.ordinal("cuda:5") == "cuda:1"  # as torch counts what it sees
    with pytest.raises(SandboxUnavailable, match="CUDA_VISIBLE_DEVICES"):
        accelerator.ordinal("cuda:0")

"""``executor = "ray"`` on a local Ray: the same results, refusals, deaths and cancellation."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import psutil
import pytest

from node import cluster_task
from node.cluster import RayExecutor, open_cluster
from node.errors import UsageError
from node.settings import Limits, RaySettings, Settings
from tests.training.candidates import TIER, load, text
from training.errors import Cancelled, LaneMoved, SandboxUnavailable, WorkerLost
from training.pair import score_pair, train_pair

SETTINGS = Settings("ada", "00" * 32, "ada", executor="ray", ray=RaySettings(lanes=2))
CODE, TRAIN, FOLD = load("honest"), text(1), text(3, documents=12, words=90)
SLOW = replace(TIER, budget_tokens=1 << 28, max_cpu_ms=300_000)


# --- without a cluster ---------------------------------------------------------------------------


def test_a_cluster_stays_within_what_the_operator_lends():
    settings = replace(SETTINGS, limits=Limits(cores=1))
    with pytest.raises(UsageError, match=r"takes 2 cores, and limits\.cores lends 1"):
        with open_cluster(settings):
            pass


def test_lanes_of_this_machine_are_not_those_of_a_cluster():
    with (
        pytest.raises(UsageError, match="executor"),
        open_cluster(replace(SETTINGS, lanes=("0",))),
    ):
        pass


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match="Ray") as caught, open_cluster(SETTINGS):
        pass
    assert "lazaretto[ray]" in caught.value.cure


# --- on a local Ray: make soak -------------------------------------------------------------------

on_ray = [
    pytest.mark.soak,
    pytest.mark.sandbox,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def lanes():
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with open_cluster(SETTINGS) as found:
            yield found
    finally:
        ray.shutdown()


def workers() -> list[psutil.Process]:
    """Ray's processes that carry out tasks of ours now."""
    everybody = psutil.Process().children(recursive=True)
    return [one for one in everybody if "carry_out" in " ".join(one.cmdline())]


def beside(work):
    """Run ``work`` in a thread; what it raised or returned is in the list."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(work())
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def until(ready, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


class TestOnRay:
    pytestmark = on_ray

    def test_a_pair_is_what_it_is_at_home(self, lanes):
        traces: list[bytes] = []
        executor = lanes[1].executor
        found = []
        for where in ({}, {"executor": executor}):
            trained = train_pair(CODE, CODE + b"\n1 + 1\n", TIER, TRAIN, 7, **where)
            found.append(score_pair(CODE, CODE, trained, TIER, FOLD, 8, **where))
        home, away = found
        assert home.status == away.status == "ok"
        assert home.d_nano == away.d_nano
        assert home.base.nano_bpb == away.base.nano_bpb
        assert home.trained.base.weights == away.trained.base.weights
        assert away.trained.base.cpu_ms > 0
        assert away.trained.base.tokens == TIER.budget_tokens
        assert len(executor._cluster._held) == 2  # the train text and the fold, once each
        broken = executor.train(b"1 / 0", TIER, TRAIN, 1, trace=traces.append)
        assert broken.status == "bad_contract" or broken.status == "crashed"
        assert b"ZeroDivisionError" in b"".join(traces)

    def test_a_worker_unlike_this_machine_is_refused(self, lanes):
        executor = RayExecutor(lanes[0].executor._cluster, 0)
        executor._facts["cpu"] = {**cluster_task.facts("cpu"), "device": "an abacus"}
        with pytest.raises(SandboxUnavailable, match="an abacus here") as caught:
            executor.train(CODE, TIER, TRAIN, 1)
        assert "like this machine" in caught.value.cure

    def test_a_worker_without_the_sandbox_runs_nothing(self, lanes):
        executor = RayExecutor(lanes[0].executor._cluster, 0)
        order = replace(executor._order("cpu"), sandbox="none")
        with pytest.raises(SandboxUnavailable, match="no kind of sandbox"):
            executor._carry_out(order, 60, None)

    def test_a_worker_that_dies_is_replaced_and_the_run_done_again(self, lanes):
        executor = lanes[0].executor
        alone = executor.train(CODE, SLOW_ENOUGH, TRAIN, 3)
        thread, ended = beside(lambda: executor.train(CODE, SLOW_ENOUGH, TRAIN, 3))
        victim = until(workers)[0]
        victim.send_signal(signal.SIGKILL)
        thread.join(240)
        (run,) = ended
        assert run.weights_digest == alone.weights_digest
        assert run.tokens == alone.tokens

    def test_workers_that_always_die_are_an_error_and_nothing_counts(self, lanes):
        executor = lanes[0].executor
        thread, ended = beside(lambda: executor.train(CODE, SLOW, TRAIN, 3))
        while thread.is_alive():
            for victim in workers():
                victim.kill()
            time.sleep(0.1)
        assert isinstance(ended[0], WorkerLost)
        assert ended[0].cure

    def test_a_run_is_cancelled_and_its_sandbox_ends(self, lanes):
        cancel = threading.Event()
        thread, ended = beside(lambda: lanes[0].executor.train(CODE, SLOW, TRAIN, 3, cancel=cancel))
        until(workers)
        time.sleep(2)
        cancel.set()
        thread.join(60)
        assert isinstance(ended[0], Cancelled)
        assert until(lambda: not workers())
        assert lanes[0].executor.train(CODE, TIER, TRAIN, 3).status == "ok"

    def test_a_lane_that_has_moved_begins_the_pair_again(self, lanes):
        executor = RayExecutor(lanes[0].executor._cluster, 0)
        executor._place = ("another machine", -1)
        with pytest.raises(LaneMoved):
            executor.train(CODE, TIER, TRAIN, 1)
        assert executor.train(CODE, TIER, TRAIN, 1).status == "ok"

    def test_there_is_no_more_room_than_there_is(self, lanes, monkeypatch):
        monkeypatch.setattr("node.cluster._ROOM_S", 1.0)
        with pytest.raises(UsageError, match="no room"), open_cluster(SETTINGS):
            pass


SLOW_ENOUGH = replace(TIER, budget_tokens=1 << 20, max_cpu_ms=300_000)

"""Lanes: what settings may name, who comes first, and experiments that run side by side."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import pytest
import trio
import trio.testing

from node.errors import UsageError
from node.lanes import Lane, Lanes, NoLane, check_gpus, first_executor, read_lanes
from node.proposers import Proposal
from node.research import research_forever
from node.settings import Home, Limits, Settings
from swarm.records import Experiment
from tests.node.test_rechecking import until, up, working
from tests.node.tiny import tiny_swarm
from tests.training.candidates import TIER
from training.executor import LOCAL, LocalExecutor
from training.sandbox import Sandbox

CORES = sorted(os.sched_getaffinity(0))
GPU = replace(TIER, name="gpu", device="cuda")


def settings(*lanes: str, cores: int = 0) -> Settings:
    return Settings("ada", "00" * 32, "ada", lanes=lanes, limits=Limits(cores=cores))


def lane(name: str, cores: int = 1, gpu: bool = False) -> Lane:
    return Lane(name, LOCAL, cores, gpu)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "cores", "gpus"),
    [
        ((), [], []),
        (("0-3", "4,6-7"), [{0, 1, 2, 3}, {4, 6, 7}], [None, None]),
        (("cuda:0",), [set()], [0]),
        (("0 cuda:1", "1-2 cuda:0", "3"), [{0}, {1, 2}, {3}], [1, 0, None]),
    ],
)
def test_lanes_as_people_write_them(named, cores, gpus):
    found = [one.executor for one in read_lanes(settings(*named), range(8))]
    assert all(isinstance(executor, LocalExecutor) for executor in found)
    assert [set(executor.cores) for executor in found] == cores
    assert [executor.gpu for executor in found] == gpus


@pytest.mark.parametrize(
    ("named", "word"),
    [
        (("0-1", "1-2"), "shares"),
        (("0 cuda:0", "1 cuda:0"), "shares"),
        (("0-9",), "core 8"),
        (("0-1", "cuda:0"), "names no cores"),
        (("3-1",), "known form"),
        (("0 cuda:0 1",), "known form"),
        (("0,",), "known form"),
        (("-1",), "known form"),
        (("0 ",), "known form"),
        ((" cuda:0",), "known form"),
        (("0-99999999",), "known form"),
        (("",), "known form"),
        (("all",), "known form"),
    ],
)
def test_lanes_that_cannot_be(named, word):
    with pytest.raises(UsageError, match=word) as caught:
        read_lanes(settings(*named), range(8))
    assert "lanes = " in caught.value.cure


def test_lanes_stay_within_what_the_operator_lends():
    assert len(read_lanes(settings("0", "1", cores=2), range(8))) == 2
    with pytest.raises(UsageError, match=r"3 cores, and limits\.cores lends 2"):
        read_lanes(settings("0", "1-2", cores=2), range(8))


def test_settings_keep_their_lanes(tmp_path):
    home = Home(tmp_path)
    home.create()
    home.save(settings("0-3", "4 cuda:1"))
    assert home.load().lanes == ("0-3", "4 cuda:1")


def test_gpus_of_one_node_are_of_one_kind(monkeypatch):
    names = {"cuda:0": "H100", "cuda:1": "H100", "cuda:2": "T4"}
    monkeypatch.setattr("training.accelerator.name", names.get)
    read = lambda *named: read_lanes(settings(*named), range(8))  # noqa: E731
    check_gpus(read("0 cuda:0", "1 cuda:1"))
    with pytest.raises(UsageError, match="differ"):
        check_gpus(read("0 cuda:0", "1 cuda:2"))
    with pytest.raises(UsageError, match="no such GPU"):
        check_gpus(read("cuda:7"))


# --- who comes first -----------------------------------------------------------------------------


async def test_a_bench_goes_first_where_there_is_room_for_one():
    lanes, order = Lanes.anywhere(Limits(cores=1), 1), []
    assert len(lanes.lanes) == 1

    async def run(name: str, *, bench: bool) -> None:
        async with lanes.take(TIER, bench=bench):
            order.append(name)
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery, lanes.take(TIER, bench=False):
        nursery.start_soon(lambda: run("research", bench=False))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: run("bench", bench=True))
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
    assert order == ["bench", "research"]


async def test_as_many_run_as_there_are_cores_lent():
    tier = replace(TIER, threads=2)
    lanes, most, running = Lanes.anywhere(Limits(cores=4), 2), 0, 0

    async def run() -> None:
        nonlocal most, running
        async with lanes.take(tier, bench=False):
            running += 1
            most = max(most, running)
            await trio.sleep(0.01)
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(run)
    assert most == len(lanes.lanes) == 2
    with trio.move_on_after(0.01):
        async with lanes.take(tier, bench=True):
            await trio.sleep(1)
    async with lanes.take(tier, bench=False), lanes.take(tier, bench=False):
        pass  # who was cancelled holds nothing


async def test_a_bench_that_waits_for_a_gpu_leaves_other_lanes_to_research():
    plain, gpu = lane("0"), lane("1 cuda:0", gpu=True)
    lanes = Lanes([gpu, plain])
    got: list[str] = []

    async def bench() -> None:
        async with lanes.take(GPU, bench=True) as at:
            got.append(f"bench {at.name}")

    async with trio.open_nursery() as nursery:
        async with lanes.take(GPU, bench=False) as busy:
            assert busy is gpu
            nursery.start_soon(bench)
            await trio.testing.wait_all_tasks_blocked()
            async with lanes.take(TIER, bench=False) as at:
                assert at is plain  # what needs no GPU leaves it free
            with trio.move_on_after(0) as scope:
                async with lanes.take(TIER, bench=False, wanted=gpu):
                    pass
            assert scope.cancelled_caught
    assert got == ["bench 1 cuda:0"]


async def test_a_second_half_waits_for_the_lane_of_the_first():
    one, two = lane("0"), lane("1")
    lanes = Lanes([one, two])
    async with lanes.take(TIER, bench=True, wanted=two) as at:
        assert at is two
        async with lanes.take(TIER, bench=True) as at:
            assert at is one
        with trio.move_on_after(0) as scope:
            async with lanes.take(TIER, bench=True, wanted=two):
                pass
        assert scope.cancelled_caught


async def test_a_tier_that_no_lane_can_run_is_refused():
    lanes = Lanes([lane("0"), lane("1-2", cores=2)])
    with pytest.raises(NoLane, match="a GPU"):
        async with lanes.take(GPU, bench=True):
            pass
    with pytest.raises(NoLane, match="4 cores"):
        first_executor(lanes.lanes, replace(TIER, threads=4))
    wide = replace(TIER, threads=2)
    async with lanes.take(wide, bench=True) as at:
        assert at.name == "1-2"
    assert first_executor((), wide) is LOCAL


# --- side by side --------------------------------------------------------------------------------


@pytest.mark.sandbox
@pytest.mark.skipif(len(CORES) < 2, reason="takes two cores")
async def test_experiments_run_side_by_side_each_on_its_own_lane(tmp_path, monkeypatch):
    """Two lines of research of one real node: they overlap, share no core, and repeat no idea."""
    where: dict[str, set[int]] = {}
    real = Sandbox.start_candidate

    def start_candidate(sandbox, *arguments, **named):
        cores = ",".join(map(str, sorted(os.sched_getaffinity(sandbox._pid))))
        where.setdefault(cores, set()).add(threading.get_ident())
        return real(sandbox, *arguments, **named)

    monkeypatch.setattr(Sandbox, "start_candidate", start_candidate)
    monkeypatch.setattr("node.proposers.open_proposer", lambda *_, **__: Steps())
    names = [str(core) for core in CORES[:2]]
    home = tiny_swarm(tmp_path, {"ada": ("researcher", "governor")})["ada"]
    home.save(replace(home.load(), lanes=tuple(names)))
    async with up(home) as (node, _):
        node.use_lanes(read_lanes(node.settings))
        assert node.side_by_side == 2
        async with working((research_forever, node)):
            await until(node, lambda _: len(experiments(node)) >= 3)
        told = [json.loads(line)["what"] for line in home.journal.read_text().splitlines()]
        trees = [record.payload.ast_hash for record in experiments(node)]
    lines = [event for event in told if event.startswith("experiment")]
    assert lines[:2] == ["experiment_started"] * 2
    assert set(where) == set(names)
    assert len(set(trees)) == len(trees)


class Steps:
    """Smaller steps, one after the other."""

    name = "steps"

    def __init__(self):
        self.asked = 0

    def propose(self, context):
        self.asked += 1
        step = b"lr=0.000%d" % self.asked
        code = context.code.replace(b"lr=0.001", step)
        return Proposal(str(self.asked), code, step.decode(), self.name, "", ())

    def observe(self, proposal_id, outcome):
        assert outcome.status == "measured"


def experiments(node):
    return [record for record in node.own_records() if isinstance(record.payload, Experiment)]

"""What a node reads when it starts: all of its log, and never all at once."""

from __future__ import annotations

import tracemalloc

import pytest
import trio

from node.member import Node
from node.report import Held
from node.settings import Home, Settings
from swarm.store import Store
from tests.benchmarks.flood import longest
from tests.verification.small_swarm import SmallSwarm, digest

FLOOD = 60


@pytest.fixture(scope="module")
def flooded(tmp_path_factory):
    """A home whose log has a flood about a claim that nobody knows, and the bytes of the flood."""
    swarm = SmallSwarm()
    key = swarm.verifiers[0]
    flood = [swarm.write(key, longest(digest("nothing"), index)) for index in range(FLOOD)]
    home = Home(tmp_path_factory.mktemp("flooded"))
    home.create()
    key.save(home.key)
    home.save(Settings("n", swarm.swarm.hex(), "n"))
    with Store(home.log, swarm.swarm) as store:
        done = store.ingest([record.signed.to_bytes() for record in swarm.records])
    assert len(done.new) == len(swarm.records)
    return home, key, swarm, sum(len(record.signed.body) for record in flood)


async def test_a_node_starts_in_a_few_times_the_memory_of_its_log_on_the_disk(flooded):
    home, key, swarm, size = flooded
    with Store(home.log, swarm.swarm) as store:
        tracemalloc.start()
        node = Node(home, home.load(), key, store)
        with trio.move_on_after(0.1) as early:
            await node.caught_up()
        assert early.cancelled_caught, "nothing is folded yet, and no loop may think so"
        await node.fold_heard()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * size  # parsed, it is 13 times as large
        assert await node.caught_up() == swarm.quarantine.state()
        before = node.state
        await node.fold_heard()
        assert node.state is before, "the log is read once"


def test_what_people_look_at_is_read_record_by_record_too(flooded):
    home, _, swarm, size = flooded
    tracemalloc.start()
    held = Held(home)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * size
    assert held.count == len(swarm.records)
    assert held.state == swarm.quarantine.state()
    assert [record.id for record in held.records] == [record.id for record in swarm.records]

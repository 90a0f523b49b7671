"""A member tells two ends of a network two different things. Everybody learns of both."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from node.epochs import open_epoch
from node.network import open_network
from node.settings import Home, Settings
from swarm.keys import KeyPair
from swarm.log import SwarmLog
from swarm.records import Open
from swarm.store import Store
from tests.swarm.founding import Feed, found_with, founder_key
from verification.quarantine import fold

KEYS = [KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 5)]


def branch(swarm: bytes, name: bytes, epoch: int = 1) -> list[bytes]:
    feed = Feed(KEYS[3], swarm)
    feed.say(Open(b"e" * 32, b"same".ljust(32)))
    feed.epoch = epoch
    for number in range(3):
        feed.say(Open(b"e" * 32, (name + b"%d" % number).ljust(32)))
    return [record.signed.to_bytes() for record in feed.records]


async def test_whoever_tells_two_stories_is_convicted_by_all_and_both_are_known(tmp_path):
    swarm, wires = found_with(KEYS)
    async with AsyncExitStack() as stack:
        logs = []
        before: tuple[str, ...] = ()
        for index, key in enumerate(KEYS[:3]):  # a chain: the ends know only the middle
            home = Home(tmp_path / f"home{index}")
            home.create()
            store = stack.enter_context(Store(home.log, swarm))
            store.ingest(wires)
            log = SwarmLog(store, key, lambda _: None)
            log.may_sign.set()
            settings = Settings("n", swarm.hex(), "o", bootstrap=before)
            network = await stack.enter_async_context(open_network(home, settings, key, log))
            before = tuple(network.transport.addresses)
            logs.append(log)
        for log, name in ((logs[0], b"one"), (logs[2], b"two")):
            await log.ingest(branch(swarm, name), KEYS[3].public)
        liar = KEYS[3].public

        def held(log: SwarmLog) -> set[bytes]:
            return {record.id for _, record in log.store.records()}

        with trio.fail_after(60):
            while not (  # noqa: ASYNC110
                all(log.convicted == {liar} for log in logs)
                and held(logs[0]) == held(logs[1]) == held(logs[2])
            ):
                await trio.sleep(0.1)
        said = [record for _, record in logs[0].store.records() if record.author == liar]
        assert len(said) == 1 + 3 + 3
        states = [fold(swarm, [record for _, record in log.store.records()]) for log in logs]
        assert states[0] == states[1] == states[2]

        # The governor's next epoch leaves the liar out, on every node.
        assert all(log.store.rules.is_member(liar) for log in logs)
        with Store(tmp_path / "founder.sqlite", swarm) as founder:
            founder.ingest(record.signed.to_bytes() for _, record in logs[1].store.records())
            epoch = open_epoch(founder, founder_key())
            own = founder.records_after(epoch.author, -1, 100, 1 << 20)
        await logs[1].ingest(own, epoch.author)
        with trio.fail_after(60):
            while any(log.store.rules.number < 2 for log in logs):  # noqa: ASYNC110
                await trio.sleep(0.1)
        for log in logs:
            assert not log.may_connect(liar)
            assert liar not in log.store.rules.newest.roster
            late = await log.ingest(branch(swarm, b"late", epoch=2), liar)
            assert late.new == 0
            assert len([one for _, one in log.store.records() if one.author == liar]) == 1 + 3 + 3

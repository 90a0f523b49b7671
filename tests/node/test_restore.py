"""A node restored from an old copy fetches its own feed before it signs anything."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import SimpleNamespace

import trio

from node.network import open_network
from node.service import _fetch_own_feed
from node.settings import Home, Settings
from swarm.log import SwarmLog
from swarm.records import Open
from swarm.store import Store
from tests.swarm.founding import make_founded


def said(number: int) -> Open:
    return Open(b"e" * 32, bytes([number]) * 32)


async def test_a_restored_node_does_not_contradict_itself(tmp_path):
    founded = make_founded()
    old_copy = founded.wire
    lost, peer = founded.feeds[1], founded.feeds[2]
    for number in range(3):
        lost.say(said(number))  # signed and announced before the disk was lost
    async with AsyncExitStack() as stack:
        logs = []
        addresses: tuple[str, ...] = ()
        for feed, wires in ((peer, founded.wire), (lost, old_copy)):
            home = Home(tmp_path / feed.key.public.hex()[:8])
            home.create()
            store = stack.enter_context(Store(home.log, founded.swarm))
            store.ingest(wires)
            log = SwarmLog(store, feed.key, lambda _: None)
            settings = Settings("n", founded.swarm.hex(), "o", bootstrap=addresses)
            network = await stack.enter_async_context(open_network(home, settings, feed.key, log))
            addresses = addresses or tuple(network.transport.addresses)
            logs.append((log, network))
        (held, _), (restored, network) = logs
        with trio.move_on_after(0.2) as scope:
            await restored.append(said(9))
        assert scope.cancelled_caught
        node = SimpleNamespace(log=restored, key=lost.key, trouble=print)
        with trio.fail_after(60):
            await _fetch_own_feed(node, network)
        restored.may_sign.set()
        record = await restored.append(said(9))
        assert record.envelope.seq == 3
        with trio.fail_after(60):
            while held.store.heads()[lost.key.public].seq < 3:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert held.store.heads()[lost.key.public].id == record.id

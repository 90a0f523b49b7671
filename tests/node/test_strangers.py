"""What a peer that is not a member can do with a whole node: ask to join, be identified, leave."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from node.network import open_network
from node.settings import Home, Settings
from swarm.joining import PROTOCOL as JOIN
from swarm.log import SwarmLog
from swarm.store import Store
from tests.swarm.founding import make_founded
from tests.swarm.network import bare, eventually, poke, raw_stream

OURS = {
    "/lazaretto/sync/1",
    "/lazaretto/blob/1",
    "/lazaretto/alive/1",
    "/lazaretto/peers/1",
    "/lazaretto/relay/1",
    "/lazaretto/circuit/1",
}
GOSSIP = {"/meshsub/1.1.0"}
LIBRARY = {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"}


@asynccontextmanager
async def whole_node(tmp_path):
    """A governor's node with everything that it serves."""
    founded = make_founded()
    home = Home(tmp_path / "home")
    home.create()

    async def answer(peer: bytes, ip: str, request: bytes) -> bytes:
        return b"no"

    with Store(home.log, founded.swarm) as store:
        store.ingest(founded.wire)
        key = founded.feeds[0].key
        log = SwarmLog(store, key, lambda _: None)
        log.may_sign.set()
        settings = Settings("n", founded.swarm.hex(), "o")
        async with open_network(home, settings, key, log, answer) as network:
            yield network


async def test_nothing_is_served_but_what_is_listed_here(tmp_path):
    async with whole_node(tmp_path) as network:
        served = set(map(str, network.transport._host.multiselect.handlers))
        assert served - {"None"} == OURS | GOSSIP | LIBRARY | {JOIN}


@pytest.mark.parametrize("protocol", sorted(OURS | GOSSIP))
async def test_a_stranger_gets_not_one_byte_of_what_is_for_members(protocol, tmp_path):
    async with whole_node(tmp_path) as network, bare("stranger") as stranger:
        await stranger.dial(network.transport.addresses[0])
        for data in (b"", bytes(4), b"\x00\x00\x00\x01?", bytes(200)):
            stream = await poke(stranger, network.transport.key, protocol, data)
            if stream is None:
                continue
            got = b""
            with trio.move_on_after(1.0):
                try:
                    got = await stream.read(100)
                except Exception:
                    got = b""
            assert not got
        assert not network.transport.peers()
        assert not network.transport.penalties.points(stranger.key)


async def test_a_stranger_may_ask_to_join_and_is_sent_away_later(tmp_path):
    async with whole_node(tmp_path) as network, bare("stranger") as stranger:
        await stranger.dial(network.transport.addresses[0])
        stranger.forget(network.transport.key)
        answer = await stranger.request(network.transport.key, JOIN, b"?", max_response=100)
        assert answer == b"no"
        await raw_stream(stranger, network.transport.key, "/ipfs/ping/1.0.0")
        object.__setattr__(network.transport.settings, "unadmitted_s", 0.5)
        await eventually(lambda: not network.transport.connected(stranger.key))

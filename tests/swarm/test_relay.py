"""Members meet over a third one; nobody else does, and no circuit outgrows its bounds."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import trio
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from swarm import relay as relay_module
from swarm.addressbook import AddressBook
from swarm.blobs import Blobs, BlobStore, Throttle
from swarm.circuits import connect_over
from swarm.discovery import Discovery
from swarm.relay import CIRCUIT, NO, NOT_CONNECTED, RELAY, YES, Relay
from swarm.safe_libp2p import peer_id_of
from swarm.streams import FramedStream, NetworkError
from tests.swarm.network import Members, author, bare, eventually, node, raw_stream

ECHO = "/test/echo/1"


async def echo(_peer, stream):
    while True:
        await stream.write_frame(await stream.read_frame(1 << 20))


@asynccontextmanager
async def relaying(name, *, admission=None, **options):
    async with bare(name, admission=admission) as transport:
        transport.set_handler(ECHO, echo)
        yield SimpleNamespace(
            transport=transport,
            key=transport.key,
            relay=Relay(transport, Throttle(), **options),
        )


@asynccontextmanager
async def three(**options):
    """a and b, each connected to the middle and not to one another."""
    async with relaying("mid", **options) as mid, relaying("a") as a, relaying("b") as b:
        for end in (a, b):
            end.transport.remember(mid.transport.addresses[0])
        await joined(mid, a, b)
        yield a, mid, b


async def joined(mid, *ends):
    keys = {end.key for end in ends}
    await eventually(
        lambda: (
            mid.transport.peers() == keys and all(mid.key in end.transport.peers() for end in ends)
        )
    )


async def say(one, other, data: bytes) -> bytes:
    return await one.transport.request(other.key, ECHO, data, max_response=1 << 20)


async def heard(one, other, data: bytes) -> bytes:
    """The same; empty if nothing comes back."""
    try:
        return await say(one, other, data)
    except NetworkError:
        return b""


async def test_two_that_cannot_reach_one_another_talk_over_a_third():
    async with three() as (a, mid, b):
        assert await a.relay.reach(b.key)
        assert await say(a, b, b"x" * 500_000) == b"x" * 500_000
        await eventually(lambda: a.key in b.transport.peers())
        assert await say(b, a, b"back") == b"back"
        assert mid.relay.carrying == 1
        assert a.transport.ip_of(b.key) == b.transport.ip_of(a.key) == ""
        assert a.transport.ip_of(mid.key) == "127.0.0.1"
        await a.transport.disconnect(b.key)
        await eventually(lambda: mid.relay.carrying == 0 and not b.transport.connected(a.key))
        assert await b.relay.reach(a.key)  # the other way round, and again
        assert await say(b, a, b"again") == b"again"


async def test_a_relay_that_ends_takes_its_circuits_with_it():
    async with relaying("a") as a, relaying("b") as b:
        async with relaying("mid") as mid:
            for end in (a, b):
                end.transport.remember(mid.transport.addresses[0])
            await joined(mid, a, b)
            assert await a.relay.reach(b.key)
        await eventually(lambda: not a.transport.peers() and not b.transport.peers())


async def test_who_is_connected_to_nobody_else_or_to_one_that_carries_nothing_is_not_reached():
    async with three(carries=False) as (a, _, b):
        assert not await a.relay.reach(b.key)
        assert not await a.relay.reach(author("nobody"))


async def test_only_members_are_carried_asked_for_and_let_in():
    members = Members()
    async with (
        relaying("mid", admission=members) as mid,
        relaying("a") as a,
        relaying("b") as b,
    ):
        members.keys = {a.key}
        for end in (a, b):
            end.transport.remember(mid.transport.addresses[0])
        await eventually(lambda: a.key in mid.transport.peers())
        assert not await a.relay.reach(b.key)  # b is none
        assert not await b.relay.reach(a.key)  # nor may it ask
    picky = Members()
    async with relaying("mid") as mid, relaying("a") as a, relaying("b", admission=picky) as b:
        picky.keys = {mid.key}
        for end in (a, b):
            end.transport.remember(mid.transport.addresses[0])
        await joined(mid, a, b)
        assert not await a.relay.reach(b.key)  # to b it is none


async def answer(one, peer, protocol, key) -> bytes:
    async with one.transport.stream(peer, protocol) as stream:
        await stream.write_frame(key)
        return await stream.read_frame(1)


async def test_no_circuit_leads_over_a_circuit():
    async with three() as (a, mid, b):
        assert await a.relay.reach(b.key)
        await eventually(lambda: a.key in b.transport.peers())
        # Both streams below run over the circuit: b is asked to carry, and a to take one from b.
        assert await answer(a, b.key, RELAY, mid.key) == NO
        assert await answer(b, a.key, CIRCUIT, mid.key) == NO
        # Nor if there is a connection over a socket as well.
        async with relaying("c") as c:
            c.transport.remember(b.transport.addresses[0])
            a.transport.remember(b.transport.addresses[0])
            assert await a.transport._contacts.reach(b.key)
            await eventually(lambda: c.key in b.transport.peers() and b.transport.ip_of(a.key))
            over = [
                connection
                for connection in a.transport._network.get_connections(peer_id_of(b.key))
                if connection.muxed_conn.get_remote_address() is None
            ]
            raw = await over[0].new_stream()
            client = a.transport._host.multiselect_client
            await client.select_one_of([RELAY], MultiselectCommunicator(raw), 5)
            stream = FramedStream(raw)
            await stream.write_frame(c.key)
            assert await stream.read_frame(1) == NO


async def test_who_is_seen_over_a_circuit_only_is_not_reached_further():
    async with three() as (a, _, b), relaying("c") as c:
        assert await a.relay.reach(b.key)
        c.transport.remember(b.transport.addresses[0])
        await eventually(lambda: {a.key, c.key} <= b.transport.peers())
        await eventually(lambda: b.key in c.transport.peers())
        assert await answer(c, b.key, RELAY, a.key) == NOT_CONNECTED


async def test_circuits_that_were_closed_leave_nothing_behind():
    """Each that was not taken down whole would leave two tasks or more."""

    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    async with three() as (a, mid, b):
        before, rounds = tasks(), 4
        for _ in range(rounds):
            assert await a.relay.reach(b.key)
            await eventually(lambda: b.transport.connected(a.key))
            await a.transport.disconnect(b.key)
            await eventually(lambda: not mid.relay.carrying and not b.transport.connected(a.key))
        await eventually(lambda: tasks() < before + rounds)


async def test_one_member_takes_few_of_the_places_for_circuits():
    async with three() as (a, mid, b):
        for _ in range(relay_module.PER_ASKER):
            stream = await raw_stream(mid.transport, b.key, CIRCUIT)
            await stream.write((32).to_bytes(4, "big") + a.key)
        await eventually(lambda: b.relay._accepted[a.key] == relay_module.PER_ASKER)
        assert await answer(mid, b.key, CIRCUIT, a.key) == NO
        assert await answer(mid, b.key, CIRCUIT, author("another")) == YES


async def test_a_node_that_lends_little_carries_few_circuits():
    async with three() as (a, mid, b):
        mid.relay._throttle.rate = 2 * relay_module.LEAST_RATE
        mid.relay.carrying = 2
        assert await answer(a, mid.key, RELAY, b.key) == NO
        mid.relay.carrying = 1
        assert await answer(a, mid.key, RELAY, b.key) == YES


async def test_a_relay_that_names_somebody_else_brings_nobody_in():
    """The key in the relay's request is a claim; the handshake is the proof."""
    async with three() as (a, mid, b):
        async with mid.transport.stream(b.key, CIRCUIT) as stream:
            await stream.write_frame(a.key)
            assert await stream.read_frame(1) == YES
            try:
                await connect_over(mid.transport._network, stream, b.key, initiator=True)
            except NetworkError:
                pass
            await trio.sleep(0.3)
        assert not b.transport.connected(a.key)
        assert b.transport.connected(mid.key)
        assert await say(b, mid, b"well") == b"well"


class Meddling:
    """A stream from which one bit comes wrong, in anything long."""

    def __init__(self, stream):
        self.reset, self.write_some, self._stream = stream.reset, stream.write_some, stream

    async def read_some(self, most):
        data = await self._stream.read_some(most)
        return data[:-1] + bytes([data[-1] ^ 1]) if len(data) > 500 else data


async def test_a_relay_that_changes_a_bit_ends_its_circuit_and_nothing_else(monkeypatch):
    async with three() as (a, mid, b):
        honest = mid.relay._copy_both
        monkeypatch.setattr(
            mid.relay, "_copy_both", lambda one, other: honest(Meddling(one), Meddling(other))
        )
        assert await a.relay.reach(b.key)
        assert await say(a, b, b"short") == b"short"
        assert await heard(a, b, b"y" * 1000) == b""
        await eventually(lambda: not a.transport.connected(b.key) and not mid.relay.carrying)
        monkeypatch.undo()
        assert await a.relay.reach(b.key)
        assert await say(a, b, b"z" * 1000) == b"z" * 1000


async def test_a_circuit_carries_so_many_bytes_and_lasts_so_long():
    async with three(circuit_bytes=300_000) as (a, mid, b):
        assert await a.relay.reach(b.key)
        assert await heard(a, b, b"x" * 400_000) == b""
        await eventually(lambda: not a.transport.connected(b.key) and not mid.relay.carrying)
    async with three(circuit_s=3.0) as (a, mid, b):
        assert await a.relay.reach(b.key)
        await eventually(lambda: not a.transport.connected(b.key) and not mid.relay.carrying)


async def test_a_member_has_so_many_circuits_and_asks_so_often():
    async with three() as (a, mid, b):
        streams = []
        for _ in range(relay_module.PER_MEMBER):
            stream = await raw_stream(a.transport, mid.key, RELAY)
            await stream.write((32).to_bytes(4, "big") + b.key)
            streams.append(stream)
        await eventually(lambda: mid.relay.carrying == relay_module.PER_MEMBER)
        assert not await a.relay.reach(b.key)  # what came first is still open, and says nothing
        for stream in streams:
            await stream.reset()
        await eventually(lambda: not mid.relay.carrying)
        assert await a.relay.reach(b.key)
        await a.transport.disconnect(b.key)
        for _ in range(40):
            try:
                if await answer(a, mid.key, RELAY, author("nobody")) == NO:
                    break
            except NetworkError:
                continue
        else:
            raise AssertionError("a member may ask for ever")


async def test_what_is_not_a_key_costs_its_sender():
    async with three() as (a, mid, b):
        for protocol in (RELAY, CIRCUIT):
            for request in (b"", b"x", b"x" * 31):
                try:
                    await answer(a, mid.key, protocol, request)
                except NetworkError:
                    continue
                raise AssertionError("it was answered")
        await eventually(lambda: mid.transport.refuses(a.key))
        assert await say(b, mid, b"on") == b"on"


async def test_a_blob_that_only_the_other_end_holds_comes_over_the_relay(tmp_path):
    stores = {name: BlobStore(tmp_path / name, max_total=1 << 30) for name in "ab"}
    content = bytes(range(256)) * 12_000
    digest = stores["b"].put(content)
    async with three() as (a, _, b):
        blobs = Blobs(a.transport, stores["a"])
        Blobs(b.transport, stores["b"])
        assert await a.relay.reach(b.key)
        path = await blobs.fetch(digest, 1 << 24)
        assert path.read_bytes() == content


async def test_gossip_and_addresses_over_a_circuit():
    async with node("a") as a, node("b") as b, node("mid") as mid:
        relays = [Relay(one.transport, Throttle()) for one in (a, mid, b)]
        book = AddressBook()
        Discovery(b.transport, book)
        discovery = Discovery(a.transport, AddressBook())
        for end in (a, b):
            end.transport.remember(mid.address)
        await joined(mid, a, b)
        assert await relays[0].reach(b.key)
        await eventually(lambda: a.transport.hears(b.key) and b.transport.hears(a.key))
        await discovery.ask(b.key)
        assert not book.addresses(a.key)  # b cannot know where a is reached, only that it is there
        item = await a.say(0)
        await b.log.until(lambda log: item in log.records())

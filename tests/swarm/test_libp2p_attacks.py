"""What a hostile peer can send, as real bytes, to a node that has to stay alive and hear others.

Every attack ends with ``still_works``: an honest pair exchanges a record by gossip, both ways,
through the attacked node.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_varint_prefixed

from swarm import entrance, safe_libp2p, safe_pubsub, safe_yamux
from swarm.keys import KeyPair
from swarm.safe_libp2p import peer_id_of
from swarm.safe_yamux import SafeYamux
from swarm.sync import PROTOCOL as SYNC
from swarm.transport import TransportSettings
from tests.swarm.network import (
    FAST,
    TOPIC,
    Members,
    bare,
    eventually,
    meshed,
    node,
    poke,
    raw_stream,
    record,
)

MESHSUB = "/meshsub/1.1.0"


async def still_works(victim, honest):
    """Both say something and hear each other."""
    await meshed(victim, honest)
    for one, other in ((victim, honest), (honest, victim)):
        seq = len(one.log.feeds.get(one.key, []))
        item = await one.say(seq)
        await other.log.until(lambda log, item=item: item in log.records())


def signed(transport, data: bytes, **changes):
    """A pubsub message as the library would sign it, with some fields changed afterwards."""
    fields = {
        "data": data,
        "topicIDs": [TOPIC],
        "from_id": transport._host.get_id().to_bytes(),
        "seqno": os.urandom(8),
    }
    message = rpc_pb2.Message(**fields)
    payload = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = transport._host.get_private_key().sign(payload)
    message.key = transport._host.get_public_key().serialize()
    for name, value in changes.items():
        if name == "topicIDs":
            del message.topicIDs[:]
            message.topicIDs.extend(value)
        else:
            setattr(message, name, value)
    return message


def rpc(*messages, **fields) -> bytes:
    return encode_varint_prefixed(rpc_pb2.RPC(publish=messages, **fields).SerializeToString())


def control(**fields) -> bytes:
    return rpc(control=rpc_pb2.ControlMessage(**fields))


MALFORMED = {
    "not a protobuf": lambda t: encode_varint_prefixed(b"\xff" * 100),
    "truncated protobuf": lambda t: encode_varint_prefixed(rpc(signed(t, b"x" * 90))[2:-5]),
    "invalid utf-8 in a topic": lambda t: encode_varint_prefixed(
        b"\x12" + bytes((len(b) + 0,)) + b if (b := b"\x22\x02\xff\xfe") else b""
    ),
    "bad public key": lambda t: rpc(signed(t, b"x", from_id=b"\x12\x20" + bytes(32), key=b"\xff")),
    "empty sender": lambda t: rpc(signed(t, b"x", from_id=b"")),
    "sender that is no multihash": lambda t: rpc(signed(t, b"x", from_id=b"\xff" * 38)),
    "low-order key": lambda t: rpc(signed(t, b"x", from_id=peer_id_of(bytes(32)).to_bytes())),
    "somebody else's name": lambda t: rpc(
        signed(t, b"x", from_id=peer_id_of(os.urandom(32)).to_bytes())
    ),
    "no signature": lambda t: rpc(signed(t, b"x", signature=b"")),
    "wrong signature": lambda t: rpc(signed(t, b"x", signature=bytes(64))),
    "short signature": lambda t: rpc(signed(t, b"x", signature=b"short")),
    "no seqno": lambda t: rpc(signed(t, b"x", seqno=b"")),
    "long seqno": lambda t: rpc(signed(t, b"x", seqno=bytes(10_000))),
    "another topic": lambda t: rpc(signed(t, b"x", topicIDs=["other"])),
    "no topic": lambda t: rpc(signed(t, b"x", topicIDs=[])),
    "topic twice": lambda t: rpc(signed(t, b"x", topicIDs=[TOPIC, TOPIC])),
    "a thousand messages": lambda t: rpc(*[signed(t, b"x")] * 1000),
    "a thousand subscriptions": lambda t: rpc(
        subscriptions=[
            rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"topic {n}") for n in range(1000)
        ]
    ),
    "a frame of 4 GiB": lambda t: b"\xff\xff\xff\xff\x0f",
    "an endless varint": lambda t: b"\xff" * 64,
}

HARMLESS = {
    "empty": lambda t: b"\x00",
    "control for other topics": lambda t: control(
        graft=[rpc_pb2.ControlGraft(topicID=f"t{n}") for n in range(500)],
        prune=[rpc_pb2.ControlPrune(topicID=f"t{n}", backoff=2**40) for n in range(500)],
        ihave=[rpc_pb2.ControlIHave(topicID="t", messageIDs=[b"zz"]) for n in range(500)],
    ),
    "prune with peers to dial": lambda t: control(
        prune=[
            rpc_pb2.ControlPrune(
                topicID=TOPIC,
                peers=[rpc_pb2.PeerInfo(peerID=os.urandom(38), signedPeerRecord=b"\xff" * 50)],
            )
        ]
    ),
    "wants what nobody has": lambda t: control(
        iwant=[rpc_pb2.ControlIWant(messageIDs=[os.urandom(40)] * 200) for n in range(50)]
    ),
    "a bad sender record": lambda t: rpc(senderRecord=b"\xff" * 100),
}


async def test_malformed_gossip_costs_its_sender_and_nothing_else():
    async with node("victim") as victim, node("honest") as honest:
        await honest.transport.dial(victim.address)
        for name, make in MALFORMED.items():
            async with node(f"evil: {name}") as evil:
                await evil.transport.dial(victim.address)
                await meshed(victim, evil)
                stream = await poke(evil.transport, victim.key, MESHSUB, make(evil.transport))
                assert stream is not None, name
                await stream.close()
                await costs(victim, evil, name)
                await still_works(victim, honest)
        assert victim.transport.penalties.points(honest.key) == 0


async def costs(victim, evil, name):
    with trio.move_on_after(20) as scope:
        await eventually(lambda: victim.transport.penalties.points(evil.key) > 0)
    assert not scope.cancelled_caught, f"unpunished: {name}"


async def test_odd_gossip_does_nothing():
    async with (
        node("victim") as victim,
        node("honest") as honest,
        node("evil") as evil,
    ):
        await honest.transport.dial(victim.address)
        await evil.transport.dial(victim.address)
        await meshed(victim, honest, evil)
        before = victim.transport._network.get_total_connections()
        for make in HARMLESS.values():
            await poke(evil.transport, victim.key, MESHSUB, make(evil.transport) * 3)
            await trio.sleep(0.1)
            await still_works(victim, honest)
        router = victim.transport._pubsub.router
        assert set(router.mesh) == {TOPIC}
        assert set(router.back_off) <= {TOPIC}
        assert victim.transport._network.get_total_connections() <= before
        assert victim.transport.penalties.points(evil.key) == 0


def answers_to(victim, peer, monkeypatch) -> list:
    """The RPCs with messages that ``victim`` sends to ``peer`` from now on."""
    router, sent = victim.transport._pubsub.router, []
    send = router.send_rpc

    def counted(peer_id, rpc, priority=False):
        if rpc.publish and peer_id == peer_id_of(peer):
            sent.append(rpc)
        send(peer_id, rpc, priority)

    monkeypatch.setattr(router, "send_rpc", counted)
    return sent


@asynccontextmanager
async def a_large_record_heard():
    """Three nodes, and a record of the victim, still in its cache, that the evil one has."""
    async with node("victim") as victim, node("honest") as honest, node("evil") as evil:
        await honest.transport.dial(victim.address)
        await evil.transport.dial(victim.address)
        await meshed(victim, honest, evil)
        item = await victim.say(0, 60_000)
        await evil.log.until(lambda log: item in log.records())
        yield victim, honest, evil, item


@pytest.mark.parametrize("spelt", ["as it is", "in hex", "in two ways"])
async def test_one_request_repeated_does_not_send_a_record_without_end(monkeypatch, spelt):
    async with a_large_record_heard() as (victim, honest, evil, item):
        (mid,) = victim.transport._pubsub.router.mcache.msgs
        one, other = {
            "as it is": (mid, mid),
            "in hex": (mid.hex().encode(), mid.hex().encode()),
            "in two ways": (mid, mid.hex().encode()),
        }[spelt]
        sent = answers_to(victim, evil.key, monkeypatch)
        ask = control(iwant=[rpc_pb2.ControlIWant(messageIDs=[one, other] * 128)] * 4)
        await poke(evil.transport, victim.key, MESHSUB, ask * 5)
        await costs(victim, evil, "repeated ids")
        await still_works(victim, honest)
        copies = sum(message.data == item for rpc in sent for message in rpc.publish)
        assert 1 <= copies <= 3


async def test_who_subscribes_again_and_again_is_not_sent_everything_each_time(monkeypatch):
    async with a_large_record_heard() as (victim, honest, evil, item):
        copies = []
        write = victim.transport._pubsub.write_msg

        async def written(stream, rpc):
            if stream.muxed_conn.peer_id == peer_id_of(evil.key):
                copies.extend(message for message in rpc.publish if message.data == item)
            return await write(stream, rpc)

        monkeypatch.setattr(victim.transport._pubsub, "write_msg", written)
        turns = [rpc_pb2.RPC.SubOpts(subscribe=on, topicid=TOPIC) for on in (False, True)]
        toggle = rpc(subscriptions=turns[:1]) + rpc(subscriptions=turns[1:])
        await poke(evil.transport, victim.key, MESHSUB, toggle * 20 + rpc(subscriptions=turns * 8))
        await trio.sleep(1.0)
        await still_works(victim, honest)
        assert 1 <= len(copies) <= 3


async def test_what_is_asked_for_comes_in_an_rpc_that_an_honest_peer_takes(monkeypatch):
    async with node("a") as a, node("b") as b:
        await a.transport.dial(b.address)
        await meshed(a, b)
        for size, count in ((200, 200), (60_000, 20)):
            messages = [signed(a.transport, record(a.key, 0, size)) for _ in range(count)]
            router = a.transport._pubsub.router
            for message in messages:
                router.mcache.put(message)
            sent = answers_to(a, b.key, monkeypatch)
            ids = [message.from_id + message.seqno for message in messages]
            await router.handle_iwant(rpc_pb2.ControlIWant(messageIDs=ids), peer_id_of(b.key))
            (rpc,) = sent
            assert min(count, 64) == len(rpc.publish) or rpc.ByteSize() > 400_000
            assert len(rpc.publish) <= 64
            assert rpc.ByteSize() <= 512 * 1024
            assert len({message.seqno for message in rpc.publish}) == len(rpc.publish)
        await still_works(a, b)
        assert b.transport.penalties.points(a.key) == a.transport.penalties.points(b.key) == 0


async def test_who_asks_for_each_message_as_often_as_it_is_told_of_it_pays_nothing(monkeypatch):
    async with node("a") as a, node("b") as b:
        await a.transport.dial(b.address)
        await meshed(a, b)
        messages = [signed(a.transport, record(a.key, n)) for n in range(20)]
        router, ids = a.transport._pubsub.router, []
        for message in messages:
            router.mcache.put(message)
            ids.append(message.from_id + message.seqno)
        sent = answers_to(a, b.key, monkeypatch)
        for _ in range(3):
            await router.handle_iwant(rpc_pb2.ControlIWant(messageIDs=ids), peer_id_of(b.key))
        assert [len(rpc.publish) for rpc in sent] == [20, 20, 20]
        assert a.transport.penalties.points(b.key) == 0


async def test_many_gossip_streams_of_one_peer_are_refused():
    async with node("victim") as victim, node("honest") as honest, node("evil") as evil:
        await honest.transport.dial(victim.address)
        await evil.transport.dial(victim.address)
        await meshed(victim, honest, evil)
        for _ in range(20):
            await poke(evil.transport, victim.key, MESHSUB, b"\x80")  # half a length, for ever
        readers = victim.transport._pubsub._readers
        assert max(readers.values()) <= 4
        await still_works(victim, honest)


async def test_exceptions_in_our_own_callbacks_do_not_kill_the_node(monkeypatch):
    async with node("victim") as victim, node("honest") as honest:
        await honest.transport.dial(victim.address)
        await meshed(victim, honest)

        async def explode(*args):
            raise ExceptionGroup("several", [KeyError("a bug"), RuntimeError("another")])

        with monkeypatch.context() as patch:
            patch.setattr(victim.transport, "_accept", explode)
            await honest.say(0)
            await trio.sleep(0.3)
        victim.transport.set_handler("/test/explode/1", explode)
        await poke(honest.transport, victim.key, "/test/explode/1", b"x")
        await trio.sleep(0.2)
        victim.log.feeds[honest.key] = list(honest.log.feeds[honest.key])
        await still_works(victim, honest)


async def test_a_failing_task_of_the_library_is_contained(monkeypatch):
    """The heartbeat raises once; it runs again and the mesh still forms."""
    async with node("victim") as victim, node("honest") as honest:
        router = victim.transport._pubsub.router
        real = router.mesh_heartbeat
        calls = 0

        def fail_once():
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ValueError("a bug in the heartbeat")
            return real()

        monkeypatch.setattr(router, "mesh_heartbeat", fail_once)
        victim.transport._pubsub.manager.run_task(_raise)
        victim.transport._network.manager.run_task(_raise)
        await eventually(lambda: calls >= 3)
        await honest.transport.dial(victim.address)
        await still_works(victim, honest)


async def _raise() -> None:
    raise RuntimeError("a bug in the library")


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x13/multistream/1.0.0\n\x07/noise\n", os.urandom(500), b""],
    ids=["http", "noise without keys", "noise", "nothing"],
)
async def test_garbage_instead_of_a_handshake(data):
    async with node("victim") as victim, node("honest") as honest:
        port = int(victim.address.split("/")[4])
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(5)]
        for stream in streams:
            await stream.send_all(data)
        await honest.transport.dial(victim.address)
        await still_works(victim, honest)
        for stream in streams:
            await stream.aclose()


async def test_half_open_handshakes_are_bounded(monkeypatch):
    monkeypatch.setattr(entrance, "MAX_UNPROVEN", 3)
    monkeypatch.setattr(entrance, "MAX_UNPROVEN_KNOWN", 1)
    monkeypatch.setattr(entrance, "LINGER_S", 0.1)
    async with node("victim") as victim, node("honest") as honest:
        port = int(victim.address.split("/")[4])
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(6)]
        closed = 0
        for stream in streams:
            with trio.move_on_after(0.3):
                while await stream.receive_some(1000):
                    pass
                closed += 1
        assert closed == 3
        await honest.transport.dial(victim.address)  # though all places are held
        await still_works(victim, honest)
        for stream in streams:
            await stream.aclose()


def yamux(kind: int, flags: int, stream: int, length: int) -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream, length)


async def muxed(transport, peer):
    """The yamux connection of ``transport`` to ``peer``."""
    return transport._network.get_connections(peer_id_of(peer))[0].muxed_conn


async def test_streams_without_end_are_reset():
    async with node("victim") as victim, node("honest") as honest, bare("evil") as evil:
        await honest.transport.dial(victim.address)
        await evil.dial(victim.address)
        connection = await muxed(evil, victim.key)
        for number in range(300):
            await connection._write_frame(yamux(1, 1, 1001 + 2 * number, 0))
        await eventually(lambda: len(victim.transport._host._in_work) > 0)
        await trio.sleep(0.3)
        assert max(victim.transport._host._in_work.values()) == safe_libp2p.MAX_INBOUND_STREAMS
        await still_works(victim, honest)


async def test_data_beyond_the_window_ends_the_connection(caplog):
    async with node("victim") as victim, node("honest") as honest, bare("evil") as evil:
        await honest.transport.dial(victim.address)
        await evil.dial(victim.address)
        evil.forget(victim.key)

        async def never_reads(peer, stream):
            await trio.sleep_forever()

        victim.transport.set_handler("/test/never/1", never_reads)
        stream = await raw_stream(evil, victim.key, "/test/never/1")
        number = stream.muxed_stream.stream_id
        connection = await muxed(evil, victim.key)
        with trio.move_on_after(10):
            while victim.transport.connected(evil.key):
                try:
                    await connection._write_frame(yamux(0, 0, number, 65000) + bytes(65000))
                except Exception:
                    break
        await eventually(lambda: not victim.transport.connected(evil.key))
        assert "beyond its window" in caplog.text
        await still_works(victim, honest)


async def test_a_broken_connection_ends_at_once_whatever_it_had_sent(caplog):
    async with node("victim") as victim, node("honest") as honest, bare("evil") as evil:
        await honest.transport.dial(victim.address)
        await evil.dial(victim.address)
        evil.forget(victim.key)
        connection = await muxed(evil, victim.key)
        streams = b"".join(yamux(1, 1, 1001 + 2 * number, 0) for number in range(2000))
        await connection.secured_conn.write(streams)
        reset = struct.pack("ii", 1, 0)
        for dialled in evil._network._tcp._dialled:
            dialled.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        evil._network.drop_sockets()
        await eventually(lambda: not victim.transport.connected(evil.key))
        await still_works(victim, honest)
        assert caplog.text.count("Error in handle_incoming") <= 1


ODD_FRAMES = {
    "4 GiB of data": yamux(0, 0, 1, 0xFFFFFFFF),
    "4 GiB with syn": yamux(0, 1, 77, 0xFFFFFFFF),
    "unknown type": yamux(9, 0xFFFF, 1, 5),
    "go away": yamux(3, 0, 0, 99),
    "huge window": yamux(1, 0, 1, 0xFFFFFFFF),
    "stray pong": yamux(2, 2, 0, 12345),
    "fin of nothing": yamux(0, 4, 4242, 0),
    "syn and rst": yamux(1, 9, 4243, 0),
    "ones": b"\xff" * 12,
}


async def test_odd_frames_of_the_multiplexer():
    async with node("victim") as victim, node("honest") as honest:
        await honest.transport.dial(victim.address)
        for name, frame in ODD_FRAMES.items():
            async with bare(f"evil: {name}") as evil:
                await evil.dial(victim.address)
                connection = await muxed(evil, victim.key)
                for _ in range(20):
                    try:
                        await connection.secured_conn.write(frame)
                    except Exception:
                        break
                await trio.sleep(0.1)
                await still_works(victim, honest)


async def test_ended_streams_leave_nothing_behind():
    async with bare("a") as a, bare("b") as b:

        async def echo(peer: bytes, request: bytes) -> bytes:
            return request

        a.set_responder("/test/echo/1", echo, max_request=10)
        await b.dial(a.addresses[0])
        for _ in range(50):
            await b.request(a.key, "/test/echo/1", b"x", max_response=10)
        ends = [await muxed(a, b.key), await muxed(b, a.key)]
        for end in ends:
            await eventually(lambda end=end: len(end.streams) <= 2)
            assert len(end.stream_events) <= 2
            assert len(end.stream_buffers) <= 2


async def test_responders_that_never_close_are_reset_in_the_end():
    async with bare("a") as a, bare("evil") as evil:

        async def echo(peer: bytes, request: bytes) -> bytes:
            return request

        a.set_responder("/test/echo/1", echo, max_request=10)
        await evil.dial(a.addresses[0])
        for _ in range(4):
            stream = await raw_stream(evil, a.key, "/test/echo/1")
            await stream.write(b"\0\0\0\1x")  # and never closed
        end = await muxed(a, evil.key)
        await eventually(lambda: len(end.streams) <= 1)


@pytest.mark.parametrize("protocol", [SYNC, "/lazaretto/alive/1", "/ipfs/id/1.0.0"])
async def test_garbage_to_every_protocol(protocol):
    async with node("victim") as victim, node("honest") as honest, bare("evil") as evil:
        await honest.transport.dial(victim.address)
        await evil.dial(victim.address)
        for data in (b"", b"\xff" * 4, bytes(3), os.urandom(1000), b"\0\0\0\0" * 100):
            stream = await poke(evil, victim.key, protocol, data)
            if stream is not None:
                await stream.close()
            await eventually(lambda: evil.connected(victim.key))
        await still_works(victim, honest)


async def test_a_refused_attacker_cannot_come_back_at_once():
    settings = TransportSettings(
        alive_s=FAST.alive_s, penalty_limit=20.0, refuse_s=600.0, dial_s=FAST.dial_s
    )
    async with (
        node("victim", settings=settings) as victim,
        node("honest") as honest,
        node("evil") as evil,
    ):
        await honest.transport.dial(victim.address)
        await evil.transport.dial(victim.address)
        await meshed(victim, honest, evil)
        for _ in range(3):
            garbage = encode_varint_prefixed(b"\xff" * 100)
            await poke(evil.transport, victim.key, MESHSUB, garbage)
            await trio.sleep(0.1)
        await eventually(lambda: not victim.transport.connected(evil.key))
        await trio.sleep(1.5)  # it dials again and again
        assert not victim.transport.connected(evil.key)
        await still_works(victim, honest)


async def test_a_flood_of_valid_messages_does_not_deafen_the_node():
    members = Members()
    async with (
        node("victim", admission=members) as victim,
        node("honest", admission=members) as honest,
        node("evil") as evil,
    ):
        members.keys |= {victim.key, honest.key, evil.key}
        await honest.transport.dial(victim.address)
        await evil.transport.dial(victim.address)
        await meshed(victim, honest, evil)
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                stream = await raw_stream(evil.transport, victim.key, MESHSUB)
                while True:
                    item = record(evil.key, 0, 1000)
                    try:
                        await stream.write(rpc(signed(evil.transport, item)))
                    except Exception:
                        return

            nursery.start_soon(flood)
            await trio.sleep(0.5)
            await still_works(victim, honest)
            nursery.cancel_scope.cancel()


async def test_what_is_read_in_crumbs_is_not_answered_crumb_by_crumb(monkeypatch):
    updates = []
    send = SafeYamux._send

    async def counted(connection, frames):
        if len(frames) == 12 and frames[1] == 1 and not frames[2] | frames[3]:
            updates.append(int.from_bytes(frames[8:12], "big"))
        await send(connection, frames)

    async def crumbs(peer, stream):
        left = size
        while left:
            left -= len(await stream._raw.read(min(left, 500)))
        await stream.write_frame(b"all")

    size = 1 << 20
    async with bare("a") as a, bare("b") as b:
        a.set_handler("/test/crumbs/1", crumbs)
        await b.dial(a.addresses[0])
        monkeypatch.setattr(SafeYamux, "_send", counted)
        async with b.stream(a.key, "/test/crumbs/1") as stream:
            await stream._raw.write(bytes(size))  # four times the window
            assert await stream.read_frame(3) == b"all"
        assert 3 <= len(updates) <= 100  # one for each crumb were two thousand
        assert min(updates) >= safe_yamux.MAX_HELD_CREDIT


def from_outside(transport) -> bytes:
    """64 messages that are well signed, by keys of nobody here."""
    messages = []
    for number in range(64):
        pair = KeyPair.from_seed(number.to_bytes(32, "big"))
        fields = {
            "data": os.urandom(50),
            "topicIDs": [TOPIC],
            "from_id": peer_id_of(pair.public).to_bytes(),
            "seqno": os.urandom(8),
        }
        message = rpc_pb2.Message(**fields)
        payload = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        message.signature = pair.private.sign(payload)
        messages.append(message)
    return rpc(*messages)


STORMS = {
    "records of who is no member": from_outside,
    "one record without end": lambda t: rpc(*[signed(t, record(t.key, 0))] * 64),
    "announcements": lambda t: control(
        ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[os.urandom(40)] * 200)]
    ),
    "requests": lambda t: control(iwant=[rpc_pb2.ControlIWant(messageIDs=[os.urandom(40)])]),
    "grafts": lambda t: control(graft=[rpc_pb2.ControlGraft(topicID=TOPIC)]),
    "prunes": lambda t: control(prune=[rpc_pb2.ControlPrune(topicID=TOPIC, backoff=1)]),
    "subscriptions": lambda t: rpc(
        subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)]
    ),
}


async def test_storms_of_gossip_cost_their_sender():
    settings = TransportSettings(refuse_s=600.0, dial_s=FAST.dial_s)
    members = Members()
    async with (
        node("victim", admission=members, settings=settings) as victim,
        node("honest", admission=members, settings=settings) as honest,
    ):
        members.keys |= {victim.key, honest.key}
        await honest.transport.dial(victim.address)
        for name, make in STORMS.items():
            async with bare(f"evil: {name}") as evil:
                members.keys.add(evil.key)
                await evil.dial(victim.address)
                stream = await raw_stream(evil, victim.key, MESHSUB)
                data = make(evil)
                with trio.move_on_after(20), suppress(Exception):
                    while not victim.transport.refuses(evil.key):
                        await stream.write(data)
                assert victim.transport.refuses(evil.key), name
                members.keys.discard(evil.key)
        await still_works(victim, honest)
        assert victim.transport.penalties.points(honest.key) == 0


async def test_what_is_of_no_member_is_dropped_before_its_signature_is_looked_at(monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        safe_pubsub, "signature_validator", lambda message: looked_at.append(message)
    )
    members = Members()
    async with node("victim", admission=members) as victim, bare("evil") as evil:
        members.keys |= {victim.key, evil.key}
        await evil.dial(victim.address)
        await poke(evil, victim.key, MESHSUB, from_outside(evil))
        await eventually(lambda: victim.transport.penalties.points(evil.key) > 0)
        assert not looked_at

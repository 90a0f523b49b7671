"""Real hosts on 127.0.0.1: connections, streams, limits, and coming back."""

from __future__ import annotations

import socket
import time
from contextlib import AsyncExitStack

import pytest
import trio

from swarm import liveness
from swarm.addresses import AddressError, parse_address
from swarm.keys import peer_id
from swarm.peers import Everybody
from swarm.streams import Misbehaviour, NetworkError, PeerGone, PeerSilent
from swarm.subnets import subnet_of
from swarm.transport import Transport, TransportSettings
from tests.swarm.network import FAST, LOCAL, Members, bare, eventually, meshed, node, seed

ECHO = "/test/echo/1"


async def ask_anew(asker: Transport, address: str) -> bytes:
    """Dial and ask at once. A refused connection may be seen as open for a moment."""
    key = await asker.dial(address)
    return await asker.request(key, ECHO, b"x", max_response=100)


def serve_echo(transport: Transport) -> None:
    async def echo(peer: bytes, request: bytes) -> bytes:
        return peer + request

    transport.set_responder(ECHO, echo, max_request=1000)


async def test_peers_are_keys_and_ports_are_real():
    async with bare("a") as a, bare("b") as b:
        address = parse_address(a.addresses[0])
        assert address.key == a.key
        assert address.port > 0
        assert await b.dial(a.addresses[0]) == a.key
        await eventually(lambda: a.peers() == {b.key})
        assert b.peers() == {a.key}


async def test_request_and_response_and_an_orderly_end():
    a = Transport(seed("a"), LOCAL, admission=Everybody(), topic="t")
    b = Transport(seed("b"), LOCAL, admission=Everybody(), topic="t")
    serve_echo(a)
    async with a, b:
        await b.dial(a.addresses[0])
        assert await b.request(a.key, ECHO, b"hello", max_response=100) == b.key + b"hello"


async def test_a_response_above_the_cap_is_not_read_and_costs_the_peer():
    async with bare("a") as a, bare("b") as b:
        serve_echo(a)
        await b.dial(a.addresses[0])
        with pytest.raises(Misbehaviour):
            await b.request(a.key, ECHO, b"hello", max_response=10)
        assert b.penalties.points(a.key) > 0


async def test_a_request_above_the_cap_is_reset_and_costs_the_peer():
    async with bare("a") as a, bare("b") as b:
        serve_echo(a)
        await b.dial(a.addresses[0])
        with pytest.raises(PeerGone):
            await b.request(a.key, ECHO, bytes(1001), max_response=2000)
        await eventually(lambda: a.penalties.points(b.key) > 0)
        assert await b.request(a.key, ECHO, b"x", max_response=100) == b.key + b"x"


async def test_a_protocol_that_nobody_serves():
    async with bare("a") as a, bare("b") as b:
        await b.dial(a.addresses[0])
        with pytest.raises(PeerGone):
            await b.request(a.key, "/test/unknown/1", b"", max_response=10)
        with pytest.raises(PeerGone, match="not connected"):
            await b.request(bytes(32), ECHO, b"", max_response=10)


async def test_a_handler_that_raises_or_hangs_ends_only_its_stream():
    async def bad(peer: bytes, request: bytes) -> bytes:
        if request == b"raise":
            raise RuntimeError("a bug")
        if request == b"group":
            raise ExceptionGroup("bugs", [ValueError("a bug")])
        await trio.sleep_forever()
        raise AssertionError

    async with bare("a") as a, bare("b") as b:
        serve_echo(a)
        a.set_responder("/test/bad/1", bad, max_request=10, timeout=0.3)
        await b.dial(a.addresses[0])
        for request in (b"raise", b"group", b"hang"):
            with pytest.raises(PeerGone):
                await b.request(a.key, "/test/bad/1", request, max_response=10)
        assert await b.request(a.key, ECHO, b"x", max_response=100) == b.key + b"x"


async def test_a_peer_gets_a_few_streams_of_a_protocol_at_a_time():
    release = trio.Event()
    inside = 0

    async def slow(peer: bytes, request: bytes) -> bytes:
        nonlocal inside
        inside += 1
        await release.wait()
        return b"done"

    answers: list[bytes | None] = []

    async def ask(b: Transport, a: Transport) -> None:
        try:
            answers.append(await b.request(a.key, "/test/slow/1", b"", max_response=10))
        except PeerGone:
            answers.append(None)

    async with bare("a") as a, bare("b") as b:
        a.set_responder("/test/slow/1", slow, max_request=10, per_peer=2)
        await b.dial(a.addresses[0])
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, b, a)
            await eventually(lambda: len(answers) == 3)
            release.set()
        assert sorted(answers, key=str) == [None, None, None, b"done", b"done"]
        assert inside == 2


async def test_silence_is_told_from_a_reset():
    async def silent(peer: bytes, request: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with bare("a") as a, bare("b") as b:
        a.set_responder("/test/silent/1", silent, max_request=10)
        await b.dial(a.addresses[0])
        with pytest.raises(PeerSilent):
            await b.request(a.key, "/test/silent/1", b"", max_response=10, seconds=0.3)


async def test_who_falls_silent_is_asked_at_once_whether_it_is_there():
    asked = trio.Event()

    async def silent(peer: bytes, request: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def alive(peer: bytes, request: bytes) -> bytes:
        asked.set()
        return b"\x01" + bytes(8)

    rarely = TransportSettings(alive_s=600.0)
    async with bare("a") as a, bare("b", settings=rarely) as b:
        a.set_responder("/test/silent/1", silent, max_request=10)
        a.set_responder(liveness.PROTOCOL, alive, max_request=16)
        await b.dial(a.addresses[0])
        await trio.sleep(1.0)  # its first check is set for ten minutes from now
        assert not asked.is_set()
        with pytest.raises(PeerSilent):
            await b.request(a.key, "/test/silent/1", b"", max_response=10, seconds=0.3)
        with trio.fail_after(30):
            await asked.wait()


async def test_one_exchange_tells_both_that_they_hear_one_another():
    rarely = TransportSettings(alive_s=600.0)
    async with bare("a", settings=rarely) as a, bare("b", settings=rarely) as b:
        await b.dial(a.addresses[0])
        await eventually(lambda: b.key in a._liveness._due)
        first = a._liveness._due[b.key]
        for nothing_said in (b"?", b"\x00" + bytes(8)):
            await b.request(a.key, liveness.PROTOCOL, nothing_said, max_response=16)
            assert a._liveness._due[b.key] == first
        answer = await b.request(a.key, liveness.PROTOCOL, b"\x01" + bytes(8), max_response=16)
        assert answer[:1] == b"\x01"
        assert a._liveness._due[b.key] > first + 100  # a need not ask for a while


async def test_dialling_somebody_else_fails():
    async with bare("a") as a, bare("b") as b, bare("c") as c:
        wrong = a.addresses[0].rsplit("/", 1)[0] + "/" + peer_id(c.key)
        with pytest.raises(PeerGone):
            await b.dial(wrong)
        assert not b.peers()
        with pytest.raises(AddressError):
            await b.dial("/ip4/127.0.0.1/udp/1/quic-v1")


async def test_a_used_port_and_a_bad_address_are_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}"
        transport = Transport(seed("a"), [taken], admission=Everybody())
        with pytest.raises(NetworkError) as raised:
            async with transport:
                pass
        assert raised.value.cure
    for bad in (
        "/ip4/127.0.0.1",
        "/ip4/999.0.0.1/tcp/1",
        "127.0.0.1:80",
        "/ip4/127.0.0.1/tcp/1/ws",
    ):
        with pytest.raises((AddressError, NetworkError)):
            Transport(seed("a"), [bad], admission=Everybody())


async def test_a_lost_peer_is_dialled_again():
    async with bare("a") as a, bare("b") as b:
        serve_echo(a)
        await b.dial(a.addresses[0])
        for closer, other in ((a, b), (b, a)):
            await eventually(lambda: a.connected(b.key) and b.connected(a.key))
            await closer.disconnect(other.key)
        await eventually(lambda: a.connected(b.key) and b.connected(a.key))
        await trio.sleep(0.5)
        await eventually(lambda: a.connected(b.key) and b.connected(a.key))
        assert await b.request(a.key, ECHO, b"x", max_response=100)


async def test_a_restarted_node_is_back_and_heard_at_once():
    async with node("b") as b:
        async with node("a") as a:
            await b.transport.dial(a.address)
            await meshed(a, b)
            first = await a.say(0)
            await b.log.until(lambda log: first in log.records())
            port = [a.address.split("/p2p/")[0]]
            log = a.log
        await eventually(lambda: not b.transport.peers())
        await trio.sleep(1.0)
        async with node("a", listen=port, log=log) as a:
            await eventually(lambda: b.transport.peers() == {a.key}, 10.0)
            await meshed(a, b)
            before = len(b.log.batches)
            second = await a.say(1)
            await b.log.until(lambda log: second in log.records())
            assert len(b.log.batches) > before
            third = await b.say(0)
            await a.log.until(lambda log: third in log.records())


async def test_places_of_ended_connections_are_free_again():
    settings = TransportSettings(max_connections=3, max_unadmitted=3)
    async with bare("a", settings=settings) as a:
        for turn in range(7):
            async with bare(f"guest {turn}") as guest:
                await guest.dial(a.addresses[0])
                await eventually(lambda guest=guest: a.peers() == {guest.key})
            await eventually(lambda: not a.peers())


async def test_no_more_connections_than_allowed():
    settings = TransportSettings(max_connections=2)
    async with bare("a", settings=settings) as a, bare("b") as b, bare("c") as c, bare("d") as d:
        serve_echo(a)
        await b.dial(a.addresses[0])
        await c.dial(a.addresses[0])
        await eventually(lambda: len(a.peers()) == 2)
        with pytest.raises(PeerGone):
            await ask_anew(d, a.addresses[0])
        assert await b.request(a.key, ECHO, b"x", max_response=100)


async def test_one_subnet_cannot_take_all_places():
    settings = TransportSettings(max_per_subnet=2)
    async with bare("a", settings=settings) as a, bare("b") as b, bare("c") as c, bare("d") as d:
        a.subnets._subnet = lambda host: "one customer" if host == "127.0.0.1" else None
        serve_echo(a)
        await b.dial(a.addresses[0])
        await c.dial(a.addresses[0])
        with pytest.raises(PeerGone):
            await ask_anew(d, a.addresses[0])
        await b.disconnect(a.key)
        b.forget(a.key)
        await eventually(lambda: not a.connected(b.key))
        assert await ask_anew(d, a.addresses[0])


async def test_a_quarter_of_the_places_is_for_peers_that_we_dial():
    settings = TransportSettings(max_connections=4, max_unadmitted=9)
    async with bare("a", settings=settings) as a, bare("known") as known:
        async with AsyncExitStack() as stack:
            guests = [await stack.enter_async_context(bare(f"guest {n}")) for n in range(4)]
            for guest in guests[:3]:
                await guest.dial(a.addresses[0])
            with pytest.raises(PeerGone):
                await guests[3].dial(a.addresses[0])
            await a.dial(known.addresses[0])
            assert a.connected(known.key)


@pytest.mark.parametrize(
    ("host", "subnet"),
    [
        ("8.8.4.9", "8.8.4.0/24"),
        ("::ffff:8.8.4.9", "8.8.4.0/24"),
        ("2a00:1450:4001:8ff::1", "2a00:1450:4001:800::/56"),
        ("127.0.0.1", None),
        ("192.168.1.7", None),
        ("fe80::1%eth0", None),
        ("", None),
        ("x", None),
    ],
)
def test_what_counts_as_one_subnet(host, subnet):
    assert subnet_of(host) == subnet


async def test_an_unadmitted_peer_gets_nothing_and_is_dropped():
    members = Members()
    async with bare("a", admission=members) as a, bare("b") as b:
        serve_echo(a)
        await b.dial(a.addresses[0])
        b.forget(a.key)
        with pytest.raises(PeerGone):
            await b.request(a.key, ECHO, b"x", max_response=100)
        assert a.peers() == set()
        await eventually(lambda: not b.connected(a.key))
        assert a.penalties.points(b.key) == 0


async def test_admission_takes_effect_while_connected():
    members = Members()
    greeted: list[bytes] = []
    async with bare("a", admission=members) as a, bare("b") as b:
        a.on_connect(greeted.append)
        serve_echo(a)
        await b.dial(a.addresses[0])
        await eventually(lambda: a.connected(b.key))
        assert greeted == []
        members.keys.add(b.key)
        assert await b.request(a.key, ECHO, b"x", max_response=100)
        await eventually(lambda: greeted == [b.key])


async def test_strangers_cannot_take_all_places():
    settings = TransportSettings(max_unadmitted=1, unadmitted_s=60.0)
    async with bare("m") as m, bare("b") as b, bare("c") as c:
        async with bare("a", admission=Members(m.key), settings=settings) as a:
            serve_echo(a)
            await b.dial(a.addresses[0])
            await eventually(lambda: a.connected(b.key))
            b.forget(a.key)
            await c.dial(a.addresses[0])  # the newest stays
            await eventually(lambda: a.connected(c.key) and not a.connected(b.key))
            await m.dial(a.addresses[0])
            assert await m.request(a.key, ECHO, b"x", max_response=100)


async def test_a_peer_over_the_limit_is_refused_for_a_while():
    async with bare("a") as a, bare("b") as b:
        serve_echo(a)
        await b.dial(a.addresses[0])
        await eventually(lambda: a.connected(b.key))
        a.penalise(b.key, "test", FAST.penalty_limit - 1)
        assert a.connected(b.key)
        a.penalise(b.key, "test", 2)
        await eventually(lambda: not a.connected(b.key))
        with pytest.raises(PeerGone):
            await b.request(a.key, ECHO, b"x", max_response=100)
        await eventually(lambda: a.connected(b.key) and b.connected(a.key))  # after refuse_s
        assert await b.request(a.key, ECHO, b"x", max_response=100)


async def test_reset_gossip_streams_are_opened_again():
    async with node("a") as a, node("b") as b:
        await b.transport.dial(a.address)
        await meshed(a, b)
        for one in (a, b):
            for stream in list(one.transport._pubsub.peers.values()):
                await stream.reset()
        await trio.sleep(0.5)
        await meshed(a, b)
        for one, other in ((a, b), (b, a)):
            said = await one.say(0)
            await other.log.until(lambda log, said=said: said in log.records())


async def test_a_deaf_peer_is_connected_anew(monkeypatch):
    async with node("a") as a, node("b") as b:
        await b.transport.dial(a.address)
        await meshed(a, b)
        since = a.transport._since[b.key]
        real = a.transport._pubsub.hears
        monkeypatch.setattr(
            a.transport._pubsub,
            "hears",
            lambda peer: a.transport._since.get(b.key, since) != since and real(peer),
        )
        await eventually(lambda: a.transport._since.get(b.key, since) != since)
        await meshed(a, b)


async def test_a_wrong_clock_is_reported_and_changes_nothing():
    async with node("a") as a, node("b") as b, node("c") as c:
        c.transport._liveness._clock = lambda: time.time() + 3 * 86_400
        for one in (b, c):
            await one.transport.dial(a.address)
        await meshed(a, b, c)
        told = await c.say(0)
        await a.log.until(lambda log: told in log.records())
        for one, ahead in ((c, -3 * 86_400), (b, 0)):
            measured = one.transport.clock_ahead
            await eventually(lambda m=measured, s=ahead: abs((m() or 1e6) - s) < 60)
        assert all(one.transport.peers() for one in (a, b, c))


async def test_a_transport_without_a_topic_does_not_gossip():
    async with bare("a") as a:
        with pytest.raises(NetworkError):
            await a.publish(b"x")


async def test_the_body_of_the_block_may_fail():
    with pytest.raises(ValueError, match="mine"):
        async with Transport(seed("a"), LOCAL, admission=Everybody(), topic="t"):
            raise ValueError("mine")

"""A peer that reads nothing, announces too much, or comes in crowds: no wait on it is endless."""

from __future__ import annotations

import gc
import os
import tracemalloc
from contextlib import suppress
from functools import partial

import pytest
import trio
from libp2p.utils import encode_delim

from swarm import entrance, safe_yamux, sockets
from swarm.keys import KeyPair
from swarm.safe_libp2p import key_of, peer_id_of
from swarm.transport import TransportSettings
from tests.swarm.hostile import (
    ACK,
    FIN,
    GIB,
    GO_AWAY,
    HELLO,
    OPENED,
    PING,
    RST,
    SYN,
    WINDOW,
    fill_the_pipe,
    frame,
    said,
    secured,
    tcp,
)
from tests.swarm.network import Members, bare, eventually, meshed, node, seed


@pytest.fixture(autouse=True)
async def tidied():
    yield
    while OPENED:
        await OPENED.pop().aclose()


PATIENT = TransportSettings(unadmitted_s=60.0, penalty_limit=1e9)


def held_by(transport, key: bytes) -> int:
    """Places that connections of ``key`` hold."""
    return sum(guest.key == key for guest in transport._network._entrance._proven)


def key_from(name: str) -> bytes:
    return KeyPair.from_seed(seed(name)).public


async def pongs(session) -> None:
    """Wait for the answer to a ping with number 7."""
    got = b""
    with trio.fail_after(10):
        while frame(PING, ACK, 0, 7) not in got:
            got += await session.read(12)


async def test_closing_does_not_wait_for_a_peer_that_reads_nothing():
    async with bare("victim") as victim:
        key = key_from("deaf")
        session = await secured(victim.addresses[0], seed("deaf"), deaf=True)
        await fill_the_pipe(session)
        assert victim.connected(key)
        with trio.fail_after(5):
            await victim.disconnect(key)
        assert not victim.connected(key)
        await eventually(lambda: not held_by(victim, key))


async def test_a_newcomer_takes_the_place_of_who_reads_nothing():
    settings = TransportSettings(unadmitted_s=60.0, max_unadmitted=3)
    async with bare("victim", admission=Members(), settings=settings) as victim:
        await secured(victim.addresses[0], seed("first"))
        session = await secured(victim.addresses[0], seed("deaf"), deaf=True)
        await secured(victim.addresses[0], seed("last"))
        await fill_the_pipe(session, 0.5)
        (socket,) = [
            guest for guest in victim._network._entrance._proven if guest.key == key_from("deaf")
        ]
        await eventually(socket.takes_nothing)
        await secured(victim.addresses[0], seed("newcomer"))
        await eventually(lambda: not victim.connected(key_from("deaf")))
        for name in ("first", "last", "newcomer"):
            await eventually(lambda name=name: victim.connected(key_from(name)))


async def test_who_takes_nothing_is_given_up_by_itself(monkeypatch):
    monkeypatch.setattr(sockets, "WRITE_S", 0.5)
    async with bare("victim", admission=Members(), settings=PATIENT) as victim:
        session = await secured(victim.addresses[0], seed("deaf"), deaf=True)
        await fill_the_pipe(session)
        await eventually(lambda: not victim.connected(key_from("deaf")))
        await eventually(lambda: not held_by(victim, key_from("deaf")))


async def test_a_reader_that_waits_to_write_ends_with_the_connection():
    """Its frame waits behind one that fails."""
    async with bare("victim") as victim:
        session = await secured(victim.addresses[0], seed("gone"))
        await eventually(lambda: victim.connected(key_from("gone")))
        (peer,) = victim._network.get_connections(peer_id_of(key_from("gone")))
        sent = trio.Event()

        async def fails(data: bytes) -> None:
            sent.set()
            await trio.sleep(0.3)
            raise OSError

        peer.muxed_conn._send = fails
        await session.write(frame(PING, SYN, 0, 1))
        await sent.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.write, frame(PING, SYN, 0, 2))

            async def another() -> None:
                with suppress(Exception):
                    await peer.muxed_conn._write_frame(frame(PING, SYN, 0, 3))

            nursery.start_soon(another)
        await eventually(lambda: not victim.connected(key_from("gone")), 10.0)


async def test_the_newest_connections_of_a_key_stay_and_it_has_no_more():
    async with bare("victim") as victim:
        sessions = []
        for _ in range(6):
            session = await secured(victim.addresses[0], seed("many"), deaf=True)
            await fill_the_pipe(session, 0.1)
            sessions.append(session)
        key = key_from("many")
        assert held_by(victim, key) == entrance.MAX_PER_KEY
        await eventually(lambda: len(victim._network._accepted) == entrance.MAX_PER_KEY)
        last = await secured(victim.addresses[0], seed("many"))
        await last.write(frame(PING, SYN, 0, 7))
        await pongs(last)


async def test_a_key_has_no_more_places_before_it_speaks_yamux():
    async with bare("victim") as victim:
        for _ in range(5):
            await secured(victim.addresses[0], seed("many"), muxed=False)
        await eventually(lambda: len(victim._network._accepted) == entrance.MAX_PER_KEY, 5.0)
        assert held_by(victim, key_from("many")) == entrance.MAX_PER_KEY


async def test_a_cancelled_write_leaves_the_connection_whole():
    """A frame is written whole or not at all, so others can still be."""
    async with bare("a") as a, bare("b") as b:

        async def echo(peer: bytes, request: bytes) -> bytes:
            return request

        a.set_responder("/test/echo/1", echo, max_request=10)
        await b.dial(a.addresses[0])
        connection = b._network.get_connections(peer_id_of(a.key))[0].muxed_conn
        for _ in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await connection._write_frame(frame(PING, SYN, 0, 1))
        assert await b.request(a.key, "/test/echo/1", b"x", max_response=10) == b"x"


# -- memory ------------------------------------------------------------------------------------


async def pour(session, beginning: bytes, most: int) -> int:
    """Send ``beginning`` and zeros until they are not taken any more; return how many were."""
    sent, zeros = 0, bytes(64 * 1024)
    with trio.move_on_after(5), suppress(Exception):
        await session(beginning)
        while sent < most:
            with trio.fail_after(1):
                await session(zeros)
            sent += len(zeros)
    return sent


MOST = 24 * 2**20


async def test_no_reader_believes_a_length_before_a_key_is_proved():
    async with bare("victim") as victim:
        where = victim.addresses[0]
        for beginning in (GIB, HELLO + GIB, b"\xff" * 9 + b"\x01", HELLO + b"\xff" * 9 + b"\x01"):
            stream = await tcp(where)
            assert await pour(stream.send_all, beginning, MOST) < MOST, beginning
            await stream.aclose()


async def test_no_reader_believes_a_length_before_streams():
    async with bare("victim") as victim:
        for beginning in (GIB, HELLO + GIB):
            session = await secured(victim.addresses[0], seed("long"), muxed=False)
            assert await pour(session.write, beginning, MOST) < MOST, beginning
            await session.tcp.aclose()


@pytest.mark.parametrize("admitted", [True, False], ids=["member", "stranger"])
async def test_no_reader_of_a_stream_holds_what_it_is_told_is_coming(admitted):
    """Every protocol that is served, with a length of 1 GiB before and after it was agreed on."""
    key = key_from("long")
    async with node("victim", admission=Members(*[key] * admitted), settings=PATIENT) as victim:
        served = [str(p).encode() for p in victim.transport._host.multiselect.handlers if p]
        assert len(served) > 4
        for length in (GIB, b"\x40\0\0\0"):
            for protocol in (None, *served):
                begin = HELLO + (encode_delim(protocol) if protocol else b"") + length
                session = await secured(victim.address, seed("long"))

                async def write(data: bytes, session=session) -> None:
                    if data[:1] != b"\0":
                        await session.write(frame(WINDOW, SYN, 1, 0))
                    await session.write(said(1, data[:60_000]))

                gc.collect()
                tracemalloc.start()
                await pour(write, begin, 2**20)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < 4 * 2**20, (protocol, length)
                await session.tcp.aclose()


async def test_one_connection_and_all_strangers_hold_so_much_and_no_more(monkeypatch):
    monkeypatch.setattr(safe_yamux, "MAX_HELD_STRANGER", 600_000)
    monkeypatch.setattr(safe_yamux, "MAX_HELD_STRANGERS", 1_000_000)
    members = Members()
    async with bare("victim", admission=members) as victim:

        async def never_reads(peer, stream):
            await trio.sleep_forever()

        victim.set_handler("/test/never/1", never_reads, members_only=False, per_peer=64)
        agreed = HELLO + encode_delim(b"/test/never/1")

        async def fill(name: str, streams: int) -> None:
            session = await secured(victim.addresses[0], seed(name))
            with suppress(Exception):
                for number in range(1, 2 * streams, 2):
                    await session.write(frame(WINDOW, SYN, number, 0) + said(number, agreed))
                    for _ in range(4):
                        await session.write(said(number, bytes(60_000)))
            sessions.append(session)

        sessions: list[object] = []
        account = victim._network._memory

        def held(name: str | None = None) -> int:
            return sum(
                one.held()
                for one in account._connections
                if name is None or key_of(one.peer_id) == key_from(name)
            )

        await fill("greedy", 3)
        await eventually(lambda: not victim.connected(key_from("greedy")))
        for name in ("one", "two", "three"):
            await fill(name, 2)
        await eventually(lambda: held() > 900_000)
        await fill("four", 1)
        assert held() <= 1_000_000 + safe_yamux.ALWAYS_HELD
        members.keys.add(key_from("member"))
        await fill("member", 8)
        await eventually(lambda: held("member") > 1_500_000)


# -- frames ------------------------------------------------------------------------------------

BROKEN = {
    "another version": b"\x01" + bytes(11),
    "our own numbers": frame(WINDOW, SYN, 2, 0),
    "number nought": frame(WINDOW, SYN, 0, 0),
    "a window and a byte": frame(WINDOW, SYN, 1, 0) + said(1, bytes(2 * safe_yamux.MAX_WINDOW + 1)),
    "a window and a byte, bit by bit": frame(WINDOW, SYN, 1, 0) + said(1, bytes(60_000)) * 40,
    "going away": frame(GO_AWAY, 0, 0, 0),
}


@pytest.mark.parametrize("frames", BROKEN.values(), ids=BROKEN.keys())
async def test_who_breaks_the_rules_of_yamux_is_closed(frames):
    async with bare("victim", admission=Members(key_from("evil")), settings=PATIENT) as victim:

        async def never_reads(peer, stream):
            await trio.sleep_forever()

        victim._host.set_stream_handler("/test/never/1", partial(never_reads, None))
        session = await secured(victim.addresses[0], seed("evil"))
        agreed = said(1, HELLO + encode_delim(b"/test/never/1"))
        at = 12 if frames[:12] == frame(WINDOW, SYN, 1, 0) else 0
        with suppress(Exception):
            await session.write(frames[:at] + agreed * bool(at))
            await trio.sleep(0.1 * bool(at))
            await session.write(frames[at:])
        await eventually(lambda: not victim.connected(key_from("evil")), 10.0)


async def test_data_for_streams_that_ended_is_thrown_away():
    async with bare("victim") as victim:
        session = await secured(victim.addresses[0], seed("late"))
        await session.write(said(99, bytes(60_000)) * 10)
        await session.write(frame(WINDOW, SYN, 1, 0) + frame(WINDOW, RST, 1, 0) + said(1, b"late"))
        await session.write(frame(WINDOW, SYN | FIN, 3, 0) + said(3, b"late" * 1000))
        await session.write(frame(WINDOW, 0, 5, 2**32 - 1) * 3 + frame(PING, SYN, 0, 7))
        await pongs(session)
        (account,) = victim._network._memory._connections
        assert account.held() == 0


# -- crowds ------------------------------------------------------------------------------------


async def test_an_honest_pair_hears_each_other_in_a_crowd_that_proves_nothing():
    async with node("victim") as victim:
        crowd = [await tcp(victim.address) for _ in range(150)]
        for stream in crowd[::2]:
            await stream.send_all(HELLO + os.urandom(2))
        async with node("honest") as honest:
            await honest.transport.dial(victim.address)
            await meshed(victim, honest)
        for stream in crowd:
            await stream.aclose()


async def test_a_flood_is_read_no_faster_than_its_sender_may_use_cpu():
    """Without the pauses it uses all that there is."""
    async with bare("victim", admission=Members(), settings=PATIENT) as victim:
        session = await secured(victim.addresses[0], seed("flood"))
        share = victim._network.share_of(peer_id_of(key_from("flood")))
        start, frames = trio.current_time(), frame(WINDOW, 0, 99, 0) * 5000
        with trio.move_on_after(2.5), suppress(Exception):
            while True:
                await session.write(frames)
        assert 0 < share.used < share.rate * (trio.current_time() - start) + 0.4

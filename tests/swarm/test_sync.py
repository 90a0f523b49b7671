"""Repair by pulling: frames, convergence, and peers that do not play by the rules."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import repeat

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from swarm import sync as module
from swarm.streams import FramedStream, Misbehaviour, NetworkError, PeerGone
from swarm.sync import (
    FIRST,
    LAST,
    MAX_BATCH_RECORDS,
    MAX_ENTRIES,
    MAX_RECORDS,
    PROTOCOL,
    MarksRequest,
    Sync,
    decode_batch,
    encode_batch,
    marks_within,
)
from tests.swarm.network import (
    Members,
    MemoryLog,
    author,
    bare,
    eventually,
    node,
    raw_stream,
    record,
)

keys = st.binary(min_size=32, max_size=32)


marks = st.sets(st.tuples(st.integers(0, 2**63 - 1), keys), min_size=1, max_size=4)


@given(st.dictionaries(keys, marks.map(lambda found: tuple(sorted(found))), max_size=20))
def test_requests_survive_the_wire(found):
    request = MarksRequest(FIRST, LAST, dict(sorted(found.items())))
    assert MarksRequest.decode(request.encode()) == request


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_misbehaviour(data):
    try:
        request = MarksRequest.decode(data)
    except Misbehaviour:
        return
    assert request.encode() == data


@given(st.binary(max_size=400))
def test_any_bytes_are_a_batch_or_misbehaviour(data):
    try:
        records = decode_batch(data)
    except Misbehaviour:
        return
    assert encode_batch(records) == data


def test_requests_out_of_order_are_refused():
    one, two = author("1"), author("2")
    low, high = sorted((one, two))
    entry = [key + bytes(40) for key in (low, high)]
    head = FIRST + LAST + b"\0\2"
    assert MarksRequest.decode(head + entry[0] + entry[1]).marks == {
        low: ((0, bytes(32)),),
        high: ((0, bytes(32)),),
    }
    for body in (entry[1] + entry[0], entry[0] + entry[0]):
        with pytest.raises(Misbehaviour):
            MarksRequest.decode(head + body)
    with pytest.raises(Misbehaviour):
        MarksRequest.decode(low + low + b"\0\1" + entry[1])
    with pytest.raises(Misbehaviour):
        MarksRequest.decode(LAST + FIRST + b"\0\0")


def test_many_marks_are_asked_for_in_ranges():
    held = {author(str(number)): ((number, bytes(32)),) for number in range(MAX_ENTRIES + 10)}
    request = marks_within(held, FIRST, LAST)
    assert len(request.marks) == MAX_ENTRIES
    assert request.last == max(request.marks)
    rest = marks_within(held, max(request.marks), LAST)
    assert set(request.marks) | set(rest.marks) == set(held)
    assert rest.last == LAST


async def test_any_two_different_subsets_converge():
    async with node("a") as a, node("b") as b:
        for number in range(30):
            who = author(f"feed {number}")
            a.log.add(who, number % 7)
            b.log.add(who, (number * 5) % 11)
        await b.transport.dial(a.address)
        everything = a.log.records() | b.log.records()
        await a.log.until(lambda log: log.records() == everything)
        await b.log.until(lambda log: log.records() == everything)
        assert await a.sync.pull(b.key) == 0


async def test_long_feeds_and_large_records_come_in_pages():
    async with bare("a") as a, node("b") as b:
        log = MemoryLog()
        Sync(a, log)
        await b.transport.dial(a.addresses[0])
        await trio.sleep(0.3)  # the pull on connecting finds nothing yet
        log.add(author("long"), 2 * MAX_RECORDS + 100, 50)
        log.add(author("large"), 100, 64 * 1024)
        assert await b.sync.pull(a.key) == 2 * MAX_RECORDS + 200
        assert b.log.records() == log.records()
        assert max(count for count, _ in b.log.batches) <= MAX_BATCH_RECORDS


async def test_a_feed_that_cannot_be_placed_does_not_hide_the_others():
    """The response is full of it, page after page; the pull goes on behind it."""
    who = sorted(author(str(number)) for number in range(3))
    log = MemoryLog(strangers=frozenset({who[0]}))
    async with node("a") as a, node("b", log=log) as b:
        a.log.add(who[0], 2 * MAX_RECORDS, 60)
        a.log.add(who[1], 5)
        a.log.add(who[2], 5)
        await b.transport.dial(a.address)
        await b.log.until(lambda log: len(log.records()) == 10)
        with trio.fail_after(20):
            assert await b.sync.pull(a.key) == 0
        assert b.transport.penalties.points(a.key) == 0


async def test_news_are_found_periodically_without_gossip():
    async with node("a", interval=0.2) as a, node("b", interval=0.2) as b:
        await b.transport.dial(a.address)
        await eventually(lambda: bool(a.transport.peers()))
        await trio.sleep(0.3)
        a.log.add(author("late"), 3)
        await b.log.until(lambda log: len(log.records()) == 3)


async def test_one_author_can_be_fetched_alone():
    async with node("a") as a, node("b") as b:
        b.sync._want = lambda peer, author: None  # it pulls nothing by itself
        await b.transport.dial(a.address)
        await eventually(lambda: b.transport.connected(a.key))
        a.log.add(author("x"), 3)
        a.log.add(author("y"), 3)
        assert await b.sync.pull(a.key, author("x")) == 3
        assert set(b.log.feeds) == {author("x")}


async def test_non_members_get_no_records():
    members = Members()
    async with node("a", admission=members) as a, node("b") as b:
        a.log.add(author("x"), 3)
        await b.transport.dial(a.address)
        with pytest.raises(PeerGone):
            await b.sync.pull(a.key)
        assert not b.log.records()


@pytest.mark.parametrize(
    "frame",
    [b"", b"x", bytes(65), FIRST + LAST + b"\xff\xff", bytes(66) + bytes(73)],
    ids=["empty", "one byte", "short", "announces entries", "odd length"],
)
async def test_a_broken_request_costs_the_asker_and_nothing_else(frame):
    async with node("a") as a, bare("b") as b, node("c") as c:
        a.log.add(author("x"), 3)
        await b.dial(a.address)
        with pytest.raises(PeerGone):
            await b.request(a.key, PROTOCOL, frame, max_response=1000)
        await eventually(lambda: a.transport.penalties.points(b.key) > 0)
        await c.transport.dial(a.address)
        await c.log.until(lambda log: len(log.records()) == 3)


async def serve_frames(transport, *frames):
    async def serve(peer: bytes, stream: FramedStream) -> None:
        await stream.read_frame(1 << 20)
        for frame in frames:
            await stream.write_frame(frame)

    transport.set_handler(PROTOCOL, serve)


@pytest.mark.parametrize(
    "frames",
    [
        (b"",),
        (b"\x09",),
        (b"\x02\x00",),
        (b"\x01\x00\x00",),
        (b"\x01\x00\x02" + (5).to_bytes(4, "big") + b"short",),
        (b"\x03" + LAST[:31],),
        (encode_batch([bytes(200)]),),
        (encode_batch([record(author("x"), n, 60) for n in range(256)]),) * 10,
    ],
    ids=["empty", "unknown", "odd end", "no records", "one of two", "half a key", "bad", "flood"],
)
async def test_a_broken_response_costs_the_answerer(frames):
    async with bare("liar") as liar, node("b") as b:
        await serve_frames(liar, *frames)
        await liar.dial(b.address)
        await eventually(lambda: b.transport.penalties.points(liar.key) > 0)
        with pytest.raises(NetworkError):
            await b.sync.pull(liar.key)


async def test_a_peer_that_says_full_for_ever_does_not_hold_the_puller():
    async with bare("liar") as liar, node("b") as b:
        await serve_frames(liar, b"\x03" + FIRST)
        await b.transport.dial(liar.addresses[0])
        with trio.fail_after(20), pytest.raises(Misbehaviour):
            await b.sync.pull(liar.key)


async def test_a_silent_server_ends_the_pull(monkeypatch):
    async with bare("silent") as silent, node("b") as b:

        async def serve(peer: bytes, stream: FramedStream) -> None:
            await trio.sleep_forever()

        silent.set_handler(PROTOCOL, serve)
        await b.transport.dial(silent.addresses[0])
        monkeypatch.setattr(FramedStream, "read_frame", _impatient(FramedStream.read_frame))
        with pytest.raises(PeerGone):
            await b.sync.pull(silent.key)


def _impatient(read):
    async def read_frame(self, max_size):
        self._timeout = 0.3
        return await read(self, max_size)

    return read_frame


async def test_half_a_request_holds_nobody_up():
    async with node("a") as a, bare("b") as b, node("c") as c:
        a.log.add(author("x"), 3)
        await b.dial(a.address)
        for _ in range(2):  # as many as one peer may have
            stream = await raw_stream(b, a.key, PROTOCOL)
            await stream.write((1000).to_bytes(4, "big") + b"only this")
        await c.transport.dial(a.address)
        await c.log.until(lambda log: len(log.records()) == 3)


async def drip(transport, records, pause):
    """Serve sync with one record at a time, never to the end."""

    async def serve(peer: bytes, stream: FramedStream) -> None:
        await stream.read_frame(1 << 20)
        for item in records():
            await stream.write_frame(encode_batch([item]))
            await trio.sleep(pause)

    transport.set_handler(PROTOCOL, serve)


async def test_peers_that_drip_what_is_known_do_not_keep_repair_from_others(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 2.0)
    known = record(author("known"), 0)
    async with node("a") as a, node("b") as b, AsyncExitStack() as stack:
        b.log.add(author("known"), 1)
        a.log.add(author("news"), 3)
        for number in range(4):  # as many as are pulled from at a time
            dripping = await stack.enter_async_context(node(f"dripping {number}"))
            await drip(dripping.transport, lambda: repeat(known), 0.2)
            await dripping.transport.dial(b.address)
        await eventually(lambda: len(b.sync._pulling) == 4)
        await a.transport.dial(b.address)
        await b.log.until(lambda log: author("news") in log.feeds)


@pytest.mark.parametrize(("size", "whole"), [(60, False), (2000, True)])
async def test_a_pull_lasts_as_long_as_it_brings_enough_news(monkeypatch, size, whole):
    """Crumbs keep no place; what is slow and goes on is taken to its end."""
    monkeypatch.setattr(module, "PATIENCE_S", 1.5)
    news = [record(author("news"), number, size) for number in range(30)]
    async with node("slow") as slow, node("b") as b:
        await drip(slow.transport, lambda: news, 0.1)
        await slow.transport.dial(b.address)
        await eventually(lambda: b.sync._pulling == {slow.key})
        await eventually(lambda: not b.sync._pulling)
        assert (len(b.log.records()) == len(news)) is whole
        assert b.transport.penalties.points(slow.key) == 0


async def test_a_slow_log_of_ones_own_does_not_end_a_pull(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 1.5)

    class SlowLog(MemoryLog):
        async def ingest(self, records, sender):
            await trio.sleep(2.5)
            return await super().ingest(records, sender)

    async with node("a") as a, node("b", log=SlowLog()) as b:
        a.log.add(author("x"), 2 * MAX_BATCH_RECORDS, 60)
        await b.transport.dial(a.address)
        await b.log.until(lambda log: len(log.records()) == 2 * MAX_BATCH_RECORDS)

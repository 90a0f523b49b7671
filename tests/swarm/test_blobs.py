"""The local blob store, and fetching between real hosts, some of which lie."""

from __future__ import annotations

import hashlib
import os
import resource
import time

import pytest
import trio

from swarm import blobs as module
from swarm.blobs import CHUNK, FOLLOWS, NOT_HELD, PROTOCOL, TOO_LARGE, BlobError, Blobs, BlobStore
from swarm.download import PIECE
from swarm.streams import FramedStream, PeerGone
from tests.swarm.network import Members, bare, eventually, raw_stream

DATA = os.urandom(3 * CHUNK + 17)
DIGEST = hashlib.sha256(DATA).digest()


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "store")


def files(store: BlobStore) -> list[str]:
    return [path.name for path in store._folder.rglob("*") if path.is_file()]


def test_put_and_get(store):
    assert not store.has(DIGEST)
    assert store.put(DATA) == DIGEST
    assert store.put(DATA) == DIGEST
    assert store.has(DIGEST)
    assert store.size(DIGEST) == len(DATA)
    assert store.get(DIGEST) == DATA
    with store.open(DIGEST) as file:
        assert file.read() == DATA
    assert files(store) == [DIGEST.hex()]


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_files_of_any_size(store, tmp_path, size):
    source = tmp_path / "source"
    source.write_bytes(DATA[:size])
    digest = store.put_file(source)
    assert digest == hashlib.sha256(DATA[:size]).digest()
    assert store.put_file(source) == digest
    assert store.get(digest) == DATA[:size]
    store.remove(digest)
    store.remove(digest)
    assert not store.has(digest)
    assert files(store) == []


def test_what_is_not_held_says_so(store):
    for look in (store.get, store.open, store.size):
        with pytest.raises(BlobError) as raised:
            look(bytes(32))
        assert raised.value.cure
    with pytest.raises(BlobError):
        store.has(b"short")


def test_wrong_content_never_becomes_visible(store):
    part = store.part(DIGEST)
    part.write(DATA[:-1])
    with pytest.raises(BlobError):
        part.commit()
    part.close()
    assert not store.has(DIGEST)
    assert files(store) == []


def test_a_part_goes_on_where_it_was_left(store):
    part = store.part(DIGEST)
    part.write(DATA[:1000])
    part.close()
    again = BlobStore(store._folder).part(DIGEST)
    assert again.offset == 1000
    again.write(DATA[1000:])
    again.commit()
    again.close()
    assert store.get(DIGEST) == DATA


def write_crumbs(part):
    for start in range(0, len(DATA), 1000):
        part.write(DATA[start : start + 1000])


def test_a_disk_that_refuses_is_said_and_the_part_goes_on_later(store):
    part, limit = store.part(DIGEST), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK + 1000, limit[1]))
    try:
        with pytest.raises(BlobError, match="the disk refuses"):
            write_crumbs(part)
        part.close()  # what is left to be written is refused again
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not store.has(DIGEST)
    again = store.part(DIGEST)
    assert 0 < again.offset <= CHUNK + 1000
    again.write(DATA[again.offset :])
    again.commit()
    again.close()
    assert store.get(DIGEST) == DATA


def test_two_writers_of_one_blob_do_not_mix(store):
    first = store.part(DIGEST)
    second = BlobStore(store._folder).part(DIGEST)
    first.write(bytes(1000))
    second.write(DATA)
    first.write(DATA[1000:])
    with pytest.raises(BlobError):
        first.commit()
    second.commit()
    first.close()
    second.close()
    assert store.get(DIGEST) == DATA
    assert files(store) == [DIGEST.hex()]


def test_what_a_killed_process_left_is_removed(store):
    (store._parts / "0123456789abcdef.tmp").write_bytes(b"x" * 100)
    working = store.part(DIGEST, fresh=True)
    again = BlobStore(store._folder)
    assert len(files(again)) == 1
    working.write(DATA)
    working.commit()
    working.close()
    assert files(again) == [DIGEST.hex()]


def test_damage_on_disk_is_found_and_removed(store):
    store.put(DATA)
    path = store.path(DIGEST)
    path.write_bytes(b"?" + DATA[1:])
    with pytest.raises(BlobError, match="damaged"):
        store.get(DIGEST)
    assert not store.has(DIGEST)


def test_the_store_has_a_limit_that_survives_a_restart(tmp_path):
    store = BlobStore(tmp_path, max_total=2000)
    store.put(bytes(1500))
    with pytest.raises(BlobError, match="full"):
        store.put(bytes(600))
    with pytest.raises(BlobError, match="full"):
        BlobStore(tmp_path, max_total=2000).put(bytes(600))
    with pytest.raises(BlobError):
        store.get(hashlib.sha256(bytes(1500)).digest(), max_size=1000)
    assert len(files(store)) == 1


def test_collecting_drops_the_oldest_that_nothing_needs(store):
    digests = [store.put(bytes([number]) * 1000) for number in range(6)]
    for number, digest in enumerate(digests[:5]):
        os.utime(store.path(digest), (1e9 + number, 1e9 + number))
    left = store._parts / f"{bytes(32).hex()}.part"
    left.write_bytes(b"old")
    os.utime(left, (1e9, 1e9))
    keep = {digests[0], digests[3]}
    assert store.collect(keep, 10_000) == 3  # the part alone: there is room
    assert store.collect(keep, 4000) == 2000
    assert [store.has(digest) for digest in digests] == [True, False, False, True, True, True]
    assert store.collect(keep, 0) == 1000  # the last is too young, its record may not be signed
    assert [store.has(digest) for digest in digests] == [True, False, False, True, False, True]
    assert store.total() == 3000


async def test_a_blob_is_fetched_and_verified(tmp_path):
    async with bare("a") as a, bare("b") as b:
        source, target = BlobStore(tmp_path / "a"), BlobStore(tmp_path / "b")
        Blobs(a, source)
        blobs = Blobs(b, target)
        source.put(DATA)
        source.put(b"")
        await b.dial(a.addresses[0])
        path = await blobs.fetch(DIGEST, 1 << 30)
        assert path.read_bytes() == DATA
        assert await blobs.fetch(DIGEST, 1 << 30) == path
        empty = await blobs.fetch(hashlib.sha256(b"").digest(), 10)
        assert empty.read_bytes() == b""


@pytest.mark.parametrize("slow", ["who serves", "who fetches"])
async def test_traffic_keeps_to_the_rate_that_was_lent(tmp_path, slow):
    """Measured: DATA is one second's worth, of which the first CHUNK comes at once."""
    source, rate = BlobStore(tmp_path / "a"), len(DATA)
    source.put(DATA)
    async with bare("a") as a, bare("b") as b:
        await b.dial(a.addresses[0])
        Blobs(a, source, rate if slow == "who serves" else 0)
        blobs = Blobs(b, BlobStore(tmp_path / "b"), rate if slow == "who fetches" else 0)
        for _ in range(2):
            before = time.monotonic()
            path = await blobs.fetch(DIGEST, 2 * len(DATA))
            assert path.read_bytes() == DATA
            path.unlink()
        assert time.monotonic() - before > 0.5  # the burst was had by the first
        assert blobs.throttle.total == 2 * len(DATA)


async def test_two_fetches_of_one_blob_share_the_work(tmp_path):
    async with bare("a") as a, bare("b") as b:
        source = BlobStore(tmp_path / "a")
        Blobs(a, source)
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        source.put(DATA)
        await b.dial(a.addresses[0])
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(blobs.fetch, DIGEST, 1 << 30)
        assert blobs._store.get(DIGEST) == DATA
        assert not blobs._fetching


async def test_the_one_of_three_peers_that_has_it_is_found(tmp_path):
    async with bare("a") as a, bare("b") as b, bare("c") as c:
        stores = [BlobStore(tmp_path / name) for name in "abc"]
        Blobs(a, stores[0])
        Blobs(b, stores[1])
        blobs = Blobs(c, stores[2])
        stores[1].put(DATA)
        await c.dial(a.addresses[0])
        await c.dial(b.addresses[0])
        await blobs.fetch(DIGEST, 1 << 30, [a.key, b.key])
        assert stores[2].get(DIGEST) == DATA
        with pytest.raises(BlobError, match="no connected peer"):
            await blobs.fetch(bytes(32), 1 << 30)


async def test_nothing_larger_than_wanted_is_taken(tmp_path):
    async with bare("a") as a, bare("b") as b:
        source = BlobStore(tmp_path / "a")
        Blobs(a, source)
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        source.put(DATA)
        await b.dial(a.addresses[0])
        with pytest.raises(BlobError):
            await blobs.fetch(DIGEST, len(DATA) - 1)
        assert b.penalties.points(a.key) == 0
        await blobs.fetch(DIGEST, len(DATA))


def lie(transport, answer):
    async def serve(peer: bytes, stream: FramedStream) -> None:
        request = await stream.read_frame(100)
        _, offset, _ = module._REQUEST.unpack(request[:48])
        await answer(stream, offset)

    transport.set_handler(PROTOCOL, serve)


def header(status: int, size: int) -> bytes:
    return module._RESPONSE.pack(status, size)


async def wrong_content(stream, offset):
    await stream.write_frame(header(FOLLOWS, len(DATA)))
    for at in range(offset, len(DATA), CHUNK):
        await stream.write_frame(bytes(min(CHUNK, len(DATA) - at)))


async def too_much(stream, offset):
    await stream.write_frame(header(FOLLOWS, 1000))
    await stream.write_frame(bytes(1001))


async def huge_frame(stream, offset):
    await stream.write_frame(header(FOLLOWS, len(DATA)))
    await stream.write_frame(bytes(CHUNK + 1))


async def empty_frames(stream, offset):
    await stream.write_frame(header(FOLLOWS, len(DATA)))
    for _ in range(10):
        await stream.write_frame(b"")


async def huge_size(stream, offset):
    await stream.write_frame(header(FOLLOWS, 1 << 60))


async def garbage(stream, offset):
    await stream.write_frame(b"garbage!")


@pytest.mark.parametrize(
    "answer", [wrong_content, too_much, huge_frame, empty_frames, huge_size, garbage]
)
async def test_a_liar_is_penalised_and_the_next_peer_is_asked(tmp_path, answer):
    async with bare("liar") as liar, bare("honest") as honest, bare("b") as b:
        source = BlobStore(tmp_path / "honest")
        source.put(DATA)
        Blobs(honest, source)
        lie(liar, answer)
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        await b.dial(liar.addresses[0])
        await b.dial(honest.addresses[0])
        path = await blobs.fetch(DIGEST, 1 << 20, [liar.key, honest.key])
        assert path.read_bytes() == DATA
        assert b.penalties.points(liar.key) > 0
        assert b.penalties.points(honest.key) == 0


@pytest.mark.parametrize("status", [NOT_HELD, TOO_LARGE, 77])
async def test_a_peer_that_declines_is_passed_over(tmp_path, status):
    async def answer(stream, offset):
        await stream.write_frame(header(status, 0))

    async with bare("a") as a, bare("b") as b:
        lie(a, answer)
        await b.dial(a.addresses[0])
        with pytest.raises(BlobError):
            await Blobs(b, BlobStore(tmp_path / "b")).fetch(DIGEST, 1 << 20)
        assert b.penalties.points(a.key) == 0


async def test_an_interrupted_fetch_goes_on_with_the_next_peer(tmp_path):
    offsets: list[int] = []

    async def breaks_off(stream, offset):
        await stream.write_frame(header(FOLLOWS, len(DATA)))
        await stream.write_frame(DATA[offset : offset + CHUNK])

    async def goes_on(stream, offset):
        offsets.append(offset)
        await stream.write_frame(header(FOLLOWS, len(DATA)))
        for at in range(offset, len(DATA), CHUNK):
            await stream.write_frame(DATA[at : at + CHUNK])

    async with bare("a") as a, bare("c") as c, bare("b") as b:
        lie(a, breaks_off)
        lie(c, goes_on)
        await b.dial(a.addresses[0])
        await b.dial(c.addresses[0])
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        await blobs.fetch(DIGEST, 1 << 20, [a.key, c.key])
        assert offsets[-1] == CHUNK
        assert blobs._store.get(DIGEST) == DATA


async def test_a_poisoned_beginning_does_not_fall_on_the_honest_peer(tmp_path):
    """The first peer sends wrong bytes and breaks off; the second completes, then starts anew."""

    async def poisons(stream, offset):
        await stream.write_frame(header(FOLLOWS, len(DATA)))
        await stream.write_frame(bytes(CHUNK))

    async with bare("a") as a, bare("c") as c, bare("b") as b:
        source = BlobStore(tmp_path / "c")
        source.put(DATA)
        Blobs(c, source)
        lie(a, poisons)
        await b.dial(a.addresses[0])
        await b.dial(c.addresses[0])
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        await blobs.fetch(DIGEST, 1 << 20, [a.key, c.key])
        assert blobs._store.get(DIGEST) == DATA
        assert b.penalties.points(c.key) == 0


async def test_non_members_get_no_blobs(tmp_path):
    async with bare("a", admission=Members()) as a, bare("b") as b:
        source = BlobStore(tmp_path / "a")
        source.put(DATA)
        Blobs(a, source)
        await b.dial(a.addresses[0])
        with pytest.raises(BlobError):
            await Blobs(b, BlobStore(tmp_path / "b")).fetch(DIGEST, 1 << 20)


@pytest.mark.parametrize("frame", [b"", bytes(47), DIGEST], ids=["empty", "short", "a digest"])
async def test_a_broken_request_costs_the_asker(tmp_path, frame):
    async with bare("a") as a, bare("b") as b:
        Blobs(a, BlobStore(tmp_path / "a"))
        await b.dial(a.addresses[0])
        with pytest.raises(PeerGone):
            await b.request(a.key, PROTOCOL, frame, max_response=100)
        await eventually(lambda: a.penalties.points(b.key) > 0)


async def test_readers_that_do_not_read_hold_nobody_up(tmp_path):
    big = os.urandom(8 << 20)
    async with bare("a") as a, bare("slow") as slow, bare("b") as b:
        source = BlobStore(tmp_path / "a")
        digest = source.put(big)
        Blobs(a, source)
        await slow.dial(a.addresses[0])
        for _ in range(2):
            stream = await raw_stream(slow, a.key, PROTOCOL)
            request = module._REQUEST.pack(digest, 0, 1 << 30)
            await stream.write(len(request).to_bytes(4, "big") + request)
        await b.dial(a.addresses[0])
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        await blobs.fetch(digest, 1 << 30)
        assert blobs._store.get(digest) == big


BIG = os.urandom(5 * PIECE + 12_345)
BIG_DIGEST = hashlib.sha256(BIG).digest()


def counting(transport, store, served):
    """Serve blobs, and count what each request asks for."""
    blobs = Blobs(transport, store)

    async def serve(peer: bytes, stream: FramedStream) -> None:
        served.append(transport.key)
        await blobs._serve(peer, stream)

    transport.set_handler(PROTOCOL, serve)


async def test_a_large_blob_comes_from_several_peers_at_once(tmp_path):
    served: list[bytes] = []
    async with bare("a") as a, bare("c") as c, bare("none") as none, bare("b") as b:
        for name, peer in (("a", a), ("c", c), ("none", none)):
            source = BlobStore(tmp_path / name)
            if peer is not none:
                source.put(BIG)
            counting(peer, source, served)
            await b.dial(peer.addresses[0])
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        assert (await blobs.fetch(BIG_DIGEST, 1 << 30)).read_bytes() == BIG
        assert served.count(a.key) > 2
        assert served.count(c.key) > 2
        assert served.count(none.key) == 1


async def test_a_wrong_piece_is_found_and_traced_to_its_sender(tmp_path):
    async with bare("a") as a, bare("c") as c, bare("liar") as liar, bare("b") as b:
        for name, peer in (("a", a), ("c", c)):
            source = BlobStore(tmp_path / name)
            source.put(BIG)
            Blobs(peer, source)

        async def lies_now_and_then(peer: bytes, stream: FramedStream) -> None:
            request = await stream.read_frame(100)
            _, offset, _, length = module._RANGE.unpack(request)
            await stream.write_frame(header(FOLLOWS, len(BIG)))
            for at in range(offset, offset + length, CHUNK):
                data = BIG[at : min(at + CHUNK, offset + length)]
                await stream.write_frame(data[:-1] + b"!" if at == offset else data)

        liar.set_handler(PROTOCOL, lies_now_and_then)
        for peer in (a, c, liar):
            await b.dial(peer.addresses[0])
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        path = await blobs.fetch(BIG_DIGEST, 1 << 30, [a.key, liar.key, c.key])
        assert path.read_bytes() == BIG
        assert b.penalties.points(liar.key) > 0
        assert b.penalties.points(a.key) == b.penalties.points(c.key) == 0


async def test_a_peer_that_stalls_does_not_hold_a_download_up(tmp_path, monkeypatch):
    monkeypatch.setattr("swarm.download.PATIENCE_S", 0.3)
    async with bare("a") as a, bare("slow") as slow, bare("b") as b:
        source = BlobStore(tmp_path / "a")
        source.put(BIG)
        Blobs(a, source)

        async def stalls(peer: bytes, stream: FramedStream) -> None:
            request = await stream.read_frame(100)
            await stream.write_frame(header(FOLLOWS, len(BIG)))
            if module._RANGE.unpack(request)[3]:
                await trio.sleep_forever()

        slow.set_handler(PROTOCOL, stalls)
        for peer in (a, slow):
            await b.dial(peer.addresses[0])
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        with trio.fail_after(8):  # a read that waits for the slow one takes ten seconds
            await blobs.fetch(BIG_DIGEST, 1 << 30, [slow.key, a.key])
        assert blobs._store.get(BIG_DIGEST) == BIG


async def test_a_download_goes_on_where_its_peers_left_it(tmp_path):
    """All holders vanish in the middle; what they gave is kept, and the rest comes from another."""
    async with bare("a") as a, bare("c") as c, bare("late") as late, bare("b") as b:

        def leaves_after(count: int):
            async def serve(peer: bytes, stream: FramedStream) -> None:
                nonlocal count
                request = await stream.read_frame(100)
                _, offset, _, length = module._RANGE.unpack(request)
                if length:
                    count -= 1
                if count < 0:
                    return
                await stream.write_frame(header(FOLLOWS, len(BIG)))
                for at in range(offset, offset + length, CHUNK):
                    await stream.write_frame(BIG[at : min(at + CHUNK, offset + length)])

            return serve

        a.set_handler(PROTOCOL, leaves_after(2))
        c.set_handler(PROTOCOL, leaves_after(2))
        for peer in (a, c):
            await b.dial(peer.addresses[0])
        blobs = Blobs(b, BlobStore(tmp_path / "b"))
        with pytest.raises(BlobError):
            await blobs.fetch(BIG_DIGEST, 1 << 30)
        (part,) = (tmp_path / "b" / "parts").iterdir()
        held = part.stat().st_size
        assert held >= PIECE
        source = BlobStore(tmp_path / "late")
        source.put(BIG)
        Blobs(late, source)
        await b.dial(late.addresses[0])
        await blobs.fetch(BIG_DIGEST, 1 << 30, [late.key])
        assert blobs._store.get(BIG_DIGEST) == BIG

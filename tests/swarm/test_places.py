"""Places where more ask than are served at a time: few members, or slow ones, keep nobody out."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass

import pytest
import trio

from swarm import blobs as blob_module
from swarm import places as module
from swarm.blobs import Blobs, BlobStore
from swarm.places import GRACE_S, SLOW, Places
from swarm.streams import PeerGone
from tests.swarm.network import bare, eventually, raw_stream

SLOWLY = "/test/slowly/1"


@dataclass
class Stream:
    """What a place knows of its stream."""

    moved: int = 0
    seconds: float = 0.0

    def waited(self) -> float:
        return self.seconds


async def test_places_are_given_while_there_are_any():
    places = Places(per_peer=2, in_all=3)
    first = places.take(b"a", Stream())
    assert first
    assert places.take(b"a", Stream())
    assert not places.take(b"a", Stream())
    places.leave(first)
    places.leave(first)
    assert places.take(b"a", Stream())
    assert places.take(b"b", Stream())


async def test_who_has_none_gets_a_place_of_somebody_who_has_several():
    places = Places(per_peer=3, in_all=4)
    quick, slower = places.take(b"a", Stream(9000, 1)), places.take(b"a", Stream(10, 1))
    others = [places.take(b"b", Stream()), places.take(b"c", Stream())]
    assert not places.take(b"b", Stream()), "it has one"
    assert places.take(b"d", Stream())
    assert slower.scope.cancel_called
    places.leave(slower)  # as its task does, when it ends
    assert not any(one.scope.cancel_called for one in (quick, *others))
    assert not places.take(b"e", Stream()), "everybody has one, and nobody is slow"


async def test_who_has_none_gets_a_place_of_somebody_who_is_slow():
    places = Places(per_peer=3, in_all=2)
    ours = places.take(b"a", Stream(100, 1))  # it waits for us
    stream = Stream(int(SLOW * GRACE_S), GRACE_S)
    fair = places.take(b"b", stream)
    assert not places.take(b"c", Stream())
    stream.moved -= 1
    assert places.take(b"c", Stream())
    assert fair.scope.cancel_called
    assert not ours.scope.cancel_called


async def test_eight_members_that_read_slowly_do_not_keep_a_ninth_from_blobs(tmp_path):
    big = os.urandom(4 << 20)
    async with bare("a") as a, bare("joiner") as joiner, AsyncExitStack() as stack:
        source = BlobStore(tmp_path / "a")
        digest = source.put(big)
        Blobs(a, source)
        request = blob_module._REQUEST.pack(digest, 0, 1 << 30)
        streams = []
        for number in range(8):
            slow = await stack.enter_async_context(bare(f"slow {number}"))
            await slow.dial(a.addresses[0])
            for _ in range(3):
                stream = await raw_stream(slow, a.key, blob_module.PROTOCOL)
                await stream.write(len(request).to_bytes(4, "big") + request)
                assert await stream.read(13)
                streams.append(stream)
        await joiner.dial(a.addresses[0])
        blobs = Blobs(joiner, BlobStore(tmp_path / "joiner"))
        await blobs.fetch(digest, 1 << 30, [a.key])
        assert blobs._store.get(digest) == big
        assert not any(a.penalties.points(key) for key in a.peers())


@pytest.mark.parametrize("who_waits", ["the peer", "this node"])
async def test_only_a_peer_that_keeps_us_waiting_makes_room(monkeypatch, who_waits):
    monkeypatch.setattr(module, "GRACE_S", 1.0)
    served: list[bytes] = []
    ended: list[bytes] = []

    async def serve(peer, stream):
        served.append(peer)
        try:
            while True:
                await stream.read_frame(10)
                if who_waits == "this node":
                    await trio.sleep(5)
        finally:
            ended.append(peer)

    async with bare("a") as a, bare("first") as first, bare("second") as second:
        a.set_handler(SLOWLY, serve, per_peer=1, in_all=1)
        await first.dial(a.addresses[0])
        await second.dial(a.addresses[0])
        async with first.stream(a.key, SLOWLY) as stream:
            await stream.write_frame(b"x")
            await eventually(lambda: served == [first.key])
            for _ in range(4):
                await trio.sleep(0.5)
                if who_waits == "the peer":
                    await stream.write_frame(b"x")
            with pytest.raises(PeerGone) if who_waits == "this node" else nullcontext():
                async with second.stream(a.key, SLOWLY) as other:
                    await other.write_frame(b"x")
                    await eventually(lambda: second.key in served, 2.0)
                    assert first.key in ended

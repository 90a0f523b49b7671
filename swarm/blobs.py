"""Blobs by hash from peers: ``/lazaretto/blob/1``, in front of a ``BlobStore``.

    request  = sha256 (32) | offset (u64) | largest size wanted (u64) [ | length (u64) ]
    response = status (u8: 0 follows, 1 not held, 2 larger than wanted) | size (u64), then if 0
               frames of data from the offset, each of at most 256 KiB: to the end of the blob, or
               as many bytes as ``length`` says

A large blob comes in pieces from all who hold it (``swarm.download``), any other, and one of which
a piece was wrong, from one peer after the other.

This module does not import libp2p.
"""

from __future__ import annotations

import logging
import os
import random
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from swarm.blobstore import CHUNK, BlobError, BlobStore, Part
from swarm.download import PIECE, Download
from swarm.penalties import TokenBucket
from swarm.streams import FramedStream, Misbehaviour, NetworkError, PeerGone

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from swarm.transport import Transport

__all__ = ["BlobError", "BlobStore", "Blobs"]

log = logging.getLogger(__name__)

PROTOCOL = "/lazaretto/blob/1"
FOLLOWS, NOT_HELD, TOO_LARGE = 0, 1, 2
MAX_ASKED = 8
"""Peers asked at the same time whether they have a blob, and then for pieces of it."""

_REQUEST = struct.Struct("!32sQQ")
_RANGE = struct.Struct("!32sQQQ")
_RESPONSE = struct.Struct("!BQ")


class Throttle:
    """At most ``rate`` bytes a second in both directions together, 0 for no limit.

    A frame is sent whole, so frames are at most a quarter of what a second may have: with a limit,
    and all streams in use, each peer still hears something before it gives up.
    """

    LEAST = 64 * 1024

    def __init__(self, rate: int = 0) -> None:
        self.total = 0
        self.rate = max(rate, self.LEAST) if rate else 0
        self.frame = min(CHUNK, self.rate // 4) if rate else CHUNK
        self._bucket = TokenBucket(self.rate, max(self.rate, CHUNK)) if rate else None

    async def spend(self, amount: int) -> None:
        """Wait until ``amount`` bytes fit."""
        self.total += amount
        while True:
            if self._bucket is None or self._bucket.take(b"", amount):
                return
            await trio.sleep(self._bucket.delay(b"", amount))


class Blobs:
    """Serves blobs to members and fetches them.

    Args:
        transport: the node's transport; the protocol's handler is set here.
        store: where blobs are.
        rate: bytes a second that may be sent and fetched, 0 for no limit.
    """

    def __init__(self, transport: Transport, store: BlobStore, rate: int = 0) -> None:
        self.throttle = Throttle(rate)
        self._transport = transport
        self._store = store
        self._rate = TokenBucket(rate=40.0, burst=200.0)
        self._fetching: dict[bytes, trio.Lock] = {}
        transport.set_handler(PROTOCOL, self._serve, timeout=3600.0, per_peer=3, in_all=24)

    async def _serve(self, peer: bytes, stream: FramedStream) -> None:
        request = await stream.read_frame(_RANGE.size)
        length = None
        if len(request) == _RANGE.size:
            digest, offset, wanted, length = _RANGE.unpack(request)
        elif len(request) == _REQUEST.size:
            digest, offset, wanted = _REQUEST.unpack(request)
        else:
            raise Misbehaviour("a blob request of a wrong length")
        await trio.sleep(self._rate.delay(peer))
        self._rate.take(peer)
        if not self._store.has(digest):
            await stream.write_frame(_RESPONSE.pack(NOT_HELD, 0))
            return
        with self._store.open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size > wanted or offset > size:
                await stream.write_frame(_RESPONSE.pack(TOO_LARGE, size))
                return
            await stream.write_frame(_RESPONSE.pack(FOLLOWS, size))
            file.seek(offset)
            left = size - offset if length is None else min(length, size - offset)
            # from the page cache mostly
            while left and (chunk := file.read(min(self.throttle.frame, left))):
                await self.throttle.spend(len(chunk))
                await stream.write_frame(chunk)
                left -= len(chunk)

    async def fetch(
        self, digest: bytes, max_size: int, peers: Iterable[bytes] | None = None
    ) -> Path:
        """Fetch a blob unless it is held, and return where it is.

        ``peers`` are asked in their order, or all members in a random one. Who sends something else
        than the blob is penalised. Two fetches of one blob wait for one another.

        Raises:
            BlobError: nobody who is connected has it (in that size), or there is no room.
        """
        lock = self._fetching.setdefault(digest, trio.Lock())
        async with lock:
            try:
                if not self._store.has(digest):
                    await self._fetch(digest, max_size, peers)
            finally:
                if not lock.statistics().tasks_waiting:
                    self._fetching.pop(digest, None)
        return self._store.path(digest)

    async def _fetch(self, digest: bytes, max_size: int, peers: Iterable[bytes] | None) -> None:
        order = list(peers) if peers is not None else list(self._transport.peers())
        if peers is None:
            random.shuffle(order)
        part = await trio.to_thread.run_sync(self._store.part, digest)
        download = None
        try:
            if not self.throttle.rate:  # slowly is done from one peer at a time
                download = await self._fetch_in_pieces(order, part, digest, max_size)
            if part.offset and part.right():
                await trio.to_thread.run_sync(part.commit)
                return
            if download is not None and download.complete:
                part.empty()  # a piece is wrong: find out whose
            for peer in order:
                for _ in range(2):  # once more from the start if an earlier peer's bytes are wrong
                    alone = part.offset == 0
                    if not await self._fetch_from(peer, part, digest, max_size):
                        break
                    if part.right():
                        await trio.to_thread.run_sync(part.commit)
                        await self._blame(download, digest)
                        return
                    part.empty()
                    if alone:
                        self._transport.penalise(peer, "blob: other content than its hash", 10.0)
                        break
        finally:
            part.close()
        raise BlobError(
            f"no connected peer gave blob {digest.hex()[:12]}",
            cure="wait for a member that holds it to be online",
        )

    async def _fetch_in_pieces(
        self, peers: list[bytes], part: Part, digest: bytes, max_size: int
    ) -> Download | None:
        """Fetch from several peers at once, if several have it and it is worth it."""
        sizes: dict[int, list[bytes]] = {}

        async def ask(peer: bytes) -> None:
            with suppress(NetworkError):
                size = await self._size_at(peer, digest, max_size)
                if size is not None:
                    sizes.setdefault(size, []).append(peer)

        for at in range(0, len(peers) if len(peers) > 1 else 0, MAX_ASKED):
            async with trio.open_nursery() as nursery:
                for peer in peers[at : at + MAX_ASKED]:
                    nursery.start_soon(ask, peer)
            if any(len(holders) > 1 for holders in sizes.values()):
                break
        size, holders = max(sizes.items(), key=lambda item: len(item[1]), default=(0, []))
        if len(holders) < 2 or size - part.offset < 2 * PIECE:
            return None

        async def fetch(peer: bytes, offset: int, length: int, size: int) -> bytes:
            return await self._range(peer, digest, offset, length, size)

        download = Download(part, size, fetch)
        await download.run(holders)
        return download

    async def _size_at(self, peer: bytes, digest: bytes, max_size: int) -> int | None:
        request = _RANGE.pack(digest, 0, max_size, 0)
        answer = await self._transport.request(
            peer, PROTOCOL, request, max_response=_RESPONSE.size, seconds=3.0
        )
        if len(answer) != _RESPONSE.size:
            return None
        status, size = _RESPONSE.unpack(answer)
        return size if status == FOLLOWS and size <= max_size else None

    async def _range(
        self, peer: bytes, digest: bytes, offset: int, length: int, size: int
    ) -> bytes:
        """Exactly these bytes of a blob of ``size`` bytes, from one peer.

        Raises:
            NetworkError: they did not come.
        """
        async with self._transport.stream(peer, PROTOCOL) as stream:
            await stream.write_frame(_RANGE.pack(digest, offset, size, length))
            if await stream.read_frame(_RESPONSE.size) != _RESPONSE.pack(FOLLOWS, size):
                raise PeerGone("the peer has the blob no longer")
            chunks: list[bytes] = []
            left = length
            while left:
                chunk = await stream.read_frame(CHUNK)
                if not chunk or len(chunk) > left:
                    raise Misbehaviour("a blob response that does not add up")
                await self.throttle.spend(len(chunk))
                chunks.append(chunk)
                left -= len(chunk)
        return b"".join(chunks)

    async def _blame(self, download: Download | None, digest: bytes) -> None:
        """Now that the right content is known: who had sent another piece than that?"""
        if download is not None:
            path = self._store.path(digest)
            for liar in await trio.to_thread.run_sync(download.liars, path):
                self._transport.penalise(liar, "blob: a piece of other content", 10.0)

    async def _fetch_from(self, peer: bytes, part: Part, digest: bytes, max_size: int) -> bool:
        """Append what ``peer`` has. Return whether it sent all that it announced."""
        if part.offset > max_size:
            part.empty()
        try:
            async with self._transport.stream(peer, PROTOCOL) as stream:
                await stream.write_frame(_REQUEST.pack(digest, part.offset, max_size))
                answer = await stream.read_frame(_RESPONSE.size)
                if len(answer) != _RESPONSE.size:
                    raise Misbehaviour("a blob response of a wrong length")
                status, size = _RESPONSE.unpack(answer)
                if status != FOLLOWS:
                    return False
                if not part.offset <= size <= max_size:
                    raise Misbehaviour("a blob response of a size that was not asked for")
                while part.offset < size:
                    chunk = await stream.read_frame(CHUNK)
                    if not chunk or part.offset + len(chunk) > size:
                        raise Misbehaviour("a blob response that does not add up")
                    await self.throttle.spend(len(chunk))
                    part.write(chunk)
            return True
        except (PeerGone, Misbehaviour) as error:
            log.debug("fetching blob %s failed: %s", digest.hex()[:12], error)
            return False
        except NetworkError:
            return False

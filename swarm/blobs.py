"""Blobs by hash from peers: ``/lazaretto/blob/1``, in front of a ``BlobStore``.

    request  = sha256 (32) | offset (u64) | largest size wanted (u64)
    response = status (u8: 0 follows, 1 not held, 2 larger than wanted) | size (u64), then if 0
               frames of data from the offset to the end, each of at most 256 KiB

This module does not import libp2p.
"""

from __future__ import annotations

import logging
import os
import random
import struct
from typing import TYPE_CHECKING

import trio

from swarm.blobstore import CHUNK, BlobError, BlobStore, Part
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

_REQUEST = struct.Struct("!32sQQ")
_RESPONSE = struct.Struct("!BQ")


class Blobs:
    """Serves blobs to members and fetches them.

    Args:
        transport: the node's transport; the protocol's handler is set here.
        store: where blobs are.
    """

    def __init__(self, transport: Transport, store: BlobStore) -> None:
        self._transport = transport
        self._store = store
        self._rate = TokenBucket(rate=5.0, burst=50.0)
        self._fetching: dict[bytes, trio.Lock] = {}
        transport.set_handler(PROTOCOL, self._serve, timeout=3600.0, per_peer=2, in_all=16)

    async def _serve(self, peer: bytes, stream: FramedStream) -> None:
        request = await stream.read_frame(_REQUEST.size)
        if len(request) != _REQUEST.size:
            raise Misbehaviour("a blob request of a wrong length")
        digest, offset, wanted = _REQUEST.unpack(request)
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
            while chunk := file.read(CHUNK):  # from the page cache mostly: 256 KiB take 0.1 ms
                await stream.write_frame(chunk)

    async def fetch(
        self, digest: bytes, max_size: int, peers: Iterable[bytes] | None = None
    ) -> Path:
        """Fetch a blob unless it is held, and return where it is.

        Peers are asked one after the other, ``peers`` in their order or all members in a random
        one. Who sends something else than the blob is penalised. Two fetches of one blob wait for
        one another.

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
        try:
            for peer in order:
                for _ in range(2):  # once more from the start if an earlier peer's bytes are wrong
                    alone = part.offset == 0
                    if not await self._fetch_from(peer, part, digest, max_size):
                        break
                    if part.right():
                        await trio.to_thread.run_sync(part.commit)
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
                    part.write(chunk)
            return True
        except (PeerGone, Misbehaviour) as error:
            log.debug("fetching blob %s failed: %s", digest.hex()[:12], error)
            return False
        except NetworkError:
            return False

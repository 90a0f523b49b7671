"""One blob in pieces from several peers at a time, written in order as the pieces arrive.

The hash covers the whole only, so a wrong piece shows at the end. Then the blob is fetched from one
peer after the other, and :meth:`Download.liars` compares what each had sent with the right content.
A piece that takes long is asked of a second peer, so that a slow one holds nobody up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from swarm.streams import NetworkError

if TYPE_CHECKING:
    from pathlib import Path

    from swarm.blobstore import Part

log = logging.getLogger(__name__)

PIECE = 4 * 1024 * 1024
WINDOW = 8
"""Pieces beyond the first missing one that may be under way: at most 32 MiB are held."""
WORKERS_PER_PEER = 2
PATIENCE_S = 3.0

FetchRange = Callable[[bytes, int, int, int], Awaitable[bytes]]
"""(peer, offset, length, size of the blob) -> exactly those bytes; raises ``NetworkError``."""


@dataclass(slots=True)
class _Piece:
    offset: int
    length: int
    asked: dict[bytes, float] = field(default_factory=dict)
    data: bytes | None = None


class Download:
    """Fetches what is missing of a blob into a part.

    Args:
        part: where it goes on.
        size: bytes of the whole blob, as the peers say.
        fetch: fetches a range from one peer.
    """

    def __init__(self, part: Part, size: int, fetch: FetchRange) -> None:
        self._part = part
        self._size = size
        self._fetch = fetch
        self._pieces = [
            _Piece(offset, min(PIECE, size - offset)) for offset in range(part.offset, size, PIECE)
        ]
        self._took: deque[float] = deque(maxlen=16)
        self._written = 0
        self._writing = trio.Lock()
        self._changed = trio.Event()
        self._sent: list[tuple[bytes, int, int, int]] = []  # peer, offset, length, keyed hash

    @property
    def complete(self) -> bool:
        """Whether every piece has been written."""
        return self._written == len(self._pieces)

    async def run(self, peers: list[bytes]) -> None:
        """Fetch until all pieces are written, or no peer is left that gives any.

        Raises:
            BlobError: no room, or the disk refuses.
        """
        try:
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    for _ in range(WORKERS_PER_PEER):
                        nursery.start_soon(self._work, peer, nursery.cancel_scope)
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _work(self, peer: bytes, done: trio.CancelScope) -> None:
        while not self.complete:
            piece = self._next(peer)
            if piece is None:
                with trio.move_on_after(PATIENCE_S / 3):
                    await self._changed.wait()
                continue
            piece.asked[peer] = trio.current_time()
            try:
                data = await self._fetch(peer, piece.offset, piece.length, self._size)
            except NetworkError as error:
                log.debug("a piece of a blob did not come: %s", error)
                piece.asked.pop(peer, None)
                self._tell()
                return
            self._took.append(trio.current_time() - piece.asked[peer])
            if piece.data is None and piece.offset >= self._part.offset:
                piece.data = data
                await self._write(peer, piece)
        done.cancel()

    def _next(self, peer: bytes) -> _Piece | None:
        """The first piece nobody was asked for; else one that others are slow to give."""
        window = self._pieces[self._written : self._written + WINDOW]
        missing = [piece for piece in window if piece.data is None and peer not in piece.asked]
        for piece in missing:
            if not piece.asked:
                return piece
        usual = sum(self._took) / len(self._took) if self._took else 0.0
        late = trio.current_time() - max(PATIENCE_S, 4 * usual)
        slow = (piece for piece in missing if max(piece.asked.values()) < late)
        return next(slow, None)

    async def _write(self, peer: bytes, piece: _Piece) -> None:
        assert piece.data is not None
        # Python's own hash is keyed with a secret of this process: quick, and nobody can aim at it.
        self._sent.append((peer, piece.offset, piece.length, hash(piece.data)))
        async with self._writing:
            while not self.complete:
                first = self._pieces[self._written]
                if first.data is None:
                    break
                await trio.to_thread.run_sync(self._part.write, first.data)
                first.data = b""
                self._written += 1
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def liars(self, right: Path) -> set[bytes]:
        """The peers of whose pieces one differs from the blob as it is at ``right``."""
        found = set()
        with right.open("rb") as file:
            for peer, offset, length, digest in self._sent:
                file.seek(offset)
                if hash(file.read(length)) != digest:
                    found.add(peer)
        return found


def _first(group: BaseExceptionGroup) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error

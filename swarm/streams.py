"""Frames on a libp2p stream: a big-endian u32 length, then that many bytes. Everything is bounded.

Owned by whoever opened or accepted the stream. Every wait has a time-out, every size a cap, and
the errors say whether the peer went away (``PeerGone``) or broke the protocol (``Misbehaviour``).
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from swarm.errors import SwarmError

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_CHUNK = 256 * 1024
"""Bytes asked of the multiplexer at once. Large: each read costs one window update."""

_LENGTH = struct.Struct("!I")


class NetworkError(SwarmError):
    """Something on the way to or from a peer did not work."""


class PeerGone(NetworkError):
    """The peer closed or reset the stream, or cannot be reached."""


class PeerSilent(PeerGone):
    """The peer is connected, as far as is known, and did not answer in time."""


class Misbehaviour(NetworkError):
    """The peer sent what no honest peer sends. Costs it penalty points."""


class RawStream(Protocol):
    """The part of a libp2p stream that is used here."""

    async def read(self, n: int | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    async def close(self) -> None: ...
    async def reset(self) -> None: ...


class FramedStream:
    """Frames over one stream. Not for use by two tasks at once, except one reader and one writer.

    Args:
        raw: the libp2p stream.
        timeout: seconds that one read or one write may take.
        host: the IP address that the stream comes from; empty for none, and over a relay.
    """

    def __init__(self, raw: RawStream, timeout: float = 10.0, *, host: str = "") -> None:
        self._raw = raw
        self.host = host
        self._timeout = timeout
        self._buffer = bytearray()
        self._reset = False
        self.moved = 0
        """Bytes of the frames that were read and written."""
        self._waited = 0.0
        self._waits_since: float | None = None

    def waited(self) -> float:
        """Seconds that the peer has kept this side waiting, for a frame or for room for one."""
        since = self._waits_since
        return self._waited + (0.0 if since is None else trio.current_time() - since)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        began = self._waits_since = trio.current_time()
        try:
            with trio.fail_after(self._timeout):
                yield
        finally:
            self._waits_since = None
            self._waited += trio.current_time() - began

    async def read_frame(self, max_size: int) -> bytes:
        """Read one frame of at most ``max_size`` bytes.

        Raises:
            PeerGone: the stream ended (``PeerSilent``: no whole frame came in time).
            Misbehaviour: the frame announces more than ``max_size`` bytes.
        """
        try:
            with self._in_time():
                (size,) = _LENGTH.unpack(await self._read_exactly(_LENGTH.size))
                if size > max_size:
                    raise Misbehaviour(f"a frame of {size} bytes where {max_size} are allowed")
                frame = await self._read_exactly(size)
        except trio.TooSlowError:
            raise PeerSilent("the peer fell silent in the middle of an exchange") from None
        self.moved += size
        return frame

    async def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._fill()
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return data

    async def _fill(self) -> None:
        try:
            chunk = await self._raw.read(READ_CHUNK)
        except Exception as error:  # the library's errors have no common root
            raise PeerGone("the peer closed the stream") from error
        if not chunk:
            raise PeerGone("the peer closed the stream")
        self._buffer += chunk

    async def read_some(self, most: int) -> bytes:
        """Read what is there, 1 to ``most`` bytes, outside any frame. Waits without end.

        Raises:
            PeerGone: the stream ended.
        """
        if not self._buffer:
            await self._fill()
        data = bytes(memoryview(self._buffer)[:most])
        del self._buffer[:most]
        return data

    async def write_some(self, data: bytes) -> None:
        """Write bytes outside any frame, however long that takes.

        Raises:
            PeerGone: the peer is gone, or gave the multiplexer no room for 5 s.
        """
        try:
            await self._raw.write(data)
        except Exception as error:
            raise PeerGone("the peer closed the stream") from error

    async def write_frame(self, *parts: bytes) -> None:
        """Write one frame made of ``parts``.

        Raises:
            PeerGone: the peer does not take it in time, or is gone.
        """
        size = sum(len(part) for part in parts)
        try:
            with self._in_time():
                await self._raw.write(b"".join((_LENGTH.pack(size), *parts)))
        except trio.TooSlowError:
            raise PeerSilent("the peer reads too slowly") from None
        except Exception as error:
            raise PeerGone("the peer closed the stream") from error
        self.moved += size

    async def finish(self) -> None:
        """Close in both directions: say that no more comes, then wait shortly for the other side.

        A peer that does not close its side is reset: its half-open streams would pile up here.
        """
        ended = False
        try:
            with trio.move_on_after(min(self._timeout, 3.0)):
                ended = await self._close_and_wait()
        finally:
            if not ended:
                await self.reset()

    async def _close_and_wait(self) -> bool:
        try:
            await self._raw.close()
        except Exception:
            return False  # already gone; the reset tidies up
        try:
            return not await self._raw.read(1)
        except Exception:
            return True  # the end of a stream arrives as an exception, as a reset does

    async def reset(self) -> None:
        """Tear the stream down at once. Never raises; safe to call twice."""
        if self._reset:
            return
        self._reset = True
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            try:
                await self._raw.reset()
            except Exception:  # already gone: that is what was wanted
                return

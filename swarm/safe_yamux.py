"""Yamux of py-libp2p, whose reader and writer are replaced: a peer is held to what it was told.

What was wrong in py-libp2p 0.8.1, each found by a test that hit it:

- a pong was written by the reader, and closing waited for whoever wrote: a peer that reads nothing
  could be neither heard nor closed. One task writes now, each write has an end
  (``swarm.sockets``), and closing begins with the socket;
- a write that was cancelled left half a frame behind, or a nonce that the peer did not expect: the
  whole connection was lost with it. A frame is written whole or not at all;
- the window was not held against the peer, only logged, and grew to 16 MiB a stream;
- a body was read whole before anybody looked whether there was room for it;
- bookkeeping of ended streams was kept; a window update answered each read, of a single byte too.
"""

from __future__ import annotations

import logging
import struct
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import libp2p.stream_muxer.yamux.yamux as _yamux
import trio
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.utils import read_exactly
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_ACK,
    FLAG_FIN,
    FLAG_RST,
    FLAG_SYN,
    GO_AWAY_NORMAL,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarm.shares import Share

log = logging.getLogger(__name__)

MAX_WINDOW = 1024 * 1024
"""To what the window of one stream may grow; at 100 ms of round trip that is 10 MB/s."""
_yamux.MAX_WINDOW_SIZE = MAX_WINDOW
MAX_SEND_WINDOW = 2**32 - 1
MAX_HELD = 16 * 1024 * 1024
"""Unread bytes of all streams of one connection of a member."""
MAX_HELD_STRANGER, MAX_HELD_STRANGERS = 1024 * 1024, 8 * 1024 * 1024
"""The same of one that is no member, and of all who are none together."""
ALWAYS_HELD = 256 * 1024
"""What any connection may hold without a look at the others."""
MAX_HELD_IN_ALL = 128 * 1024 * 1024
"""Unread bytes of all connections; beyond that the one that holds most is closed."""
MAX_STREAMS = 512
"""Open streams of one connection, of both sides; the peer's next one is reset."""
MAX_HELD_CREDIT = DEFAULT_WINDOW_SIZE // 4
"""Bytes read from a stream of which its sender is not told yet. Its window stays above the rest."""
MAX_OUTBOX = 8 * 1024 * 1024
BODY_S = 60.0
PIECE = 64 * 1024
MAX_PLAINTEXT = 65535 - 16
"""What one message of noise carries."""


class Memory:
    """What the peers of one node make it hold: one account, of every connection and in all.

    Args:
        is_member: of a peer id.
    """

    def __init__(self, is_member: Callable[[Any], bool]) -> None:
        self._is_member = is_member
        self._connections: weakref.WeakSet[SafeYamux] = weakref.WeakSet()

    def open(self, connection: SafeYamux) -> None:
        self._connections.add(connection)

    def has_room(self, connection: SafeYamux, more: int) -> bool:
        """Say whether ``connection`` may hold so many bytes more; make room if need be."""
        mine = connection.held() + more
        if mine <= ALWAYS_HELD:
            return True
        held = {one: one.held() for one in self._connections}
        if not self._is_member(connection.peer_id):
            of_strangers = sum(
                size for one, size in held.items() if size and not self._is_member(one.peer_id)
            )
            if mine > MAX_HELD_STRANGER or of_strangers + more > MAX_HELD_STRANGERS:
                return False
        if mine > MAX_HELD:
            return False
        if sum(held.values()) + more > MAX_HELD_IN_ALL:
            largest = max(held, key=lambda one: held[one])
            if largest is connection:
                return False
            largest.cut()
        return True


class _OpenOnly(dict[int, Any]):
    """Events by stream id that forget ended streams: the library's reader puts them back."""

    def __init__(self, streams: dict[int, Any]) -> None:
        super().__init__()
        self._streams = streams

    def __setitem__(self, stream_id: int, event: Any) -> None:
        if stream_id in self._streams:
            super().__setitem__(stream_id, event)


@dataclass(eq=False, slots=True)
class _Outgoing:
    data: bytes
    done: trio.Event = field(default_factory=trio.Event)
    written: bool = False


class _Violation(Exception):
    """What no honest peer sends."""


class SafeYamux(Yamux):  # type: ignore[misc]
    """Yamux that bounds what a peer can make it hold, wait for and work at.

    ``share`` and ``memory`` are the accounts of this peer, set before it starts.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream_events = _OpenOnly(self.streams)
        self.share: Share | None = None
        self.memory: Memory | None = None
        self._held_credit: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._outbox: deque[_Outgoing] = deque()
        self._outbox_bytes = 0
        self._to_write = trio.Event()

    def held(self) -> int:
        """Bytes that came and were not read."""
        return sum(map(len, self.stream_buffers.values()))

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read and write until either side closes. Never raises but for a cancellation."""
        if self.event_started.is_set():
            return
        if self.memory is not None:
            self.memory.open(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._measure_rtt_loop)
                nursery.start_soon(self._stale_stream_sweeper)
                nursery.start_soon(self._keep_writing)
                self._established = True
                self.event_started.set()
                await self.handle_incoming()
                nursery.cancel_scope.cancel()
        except Exception as error:
            log.warning("a connection failed and was closed: %.300r", error)
        finally:
            self.event_started.set()
            self.cut()
            await self._cleanup_on_error()

    def cut(self) -> None:
        """Close the socket at once, if there is one; all that waits for it ends by itself."""
        self.event_shutting_down.set()
        cut = getattr(_socket_of(self.secured_conn), "cut", None)
        if cut is not None:
            cut()
        while self._outbox:  # the reader may be among those who wait
            self._outbox.popleft().done.set()

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Close; the socket goes first, and nothing waits for the peer."""
        self.cut()
        await self._cleanup_on_error()

    async def _cleanup_on_error(self) -> None:
        self.event_shutting_down.set()
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            try:
                await self.secured_conn.close()  # a circuit ends here
            except Exception as error:
                log.debug("closing a connection failed: %.200r", error)
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        self.new_stream_send_channel.close()
        for stream in self.streams.values():
            stream.closed = stream.send_closed = stream.recv_closed = True
            stream.reset_received = True
        for waiting in list(self.stream_events.values()):
            waiting.set()
        self.streams.clear()
        self.stream_buffers.clear()
        self.stream_events.clear()
        if self.on_close is not None:
            await self.on_close()

    # -- writing -------------------------------------------------------------------------------

    async def _write_frame(self, data: bytes) -> None:
        """Have a frame written. Cancelled, it may be written still, and never by half.

        Raises:
            ConnectionClosedError: the connection is closed, or the peer takes nothing.
        """
        if len(data) == HEADER_SIZE:
            version, kind, flags, stream_id, credit = struct.unpack(YAMUX_HEADER_FORMAT, data)
            if kind == TYPE_WINDOW_UPDATE and not flags:
                credit = self._credit_due(stream_id, credit)
                if not credit:
                    return
                data = struct.pack(YAMUX_HEADER_FORMAT, version, kind, flags, stream_id, credit)
        if self.event_shutting_down.is_set() or self._outbox_bytes > MAX_OUTBOX:
            raise ConnectionClosedError("the connection is closed")
        frame = _Outgoing(data)
        self._outbox.append(frame)
        self._outbox_bytes += len(data)
        self._to_write.set()
        await frame.done.wait()
        if not frame.written:
            raise ConnectionClosedError("the connection was closed")

    def _credit_due(self, stream_id: int, credit: int) -> int:
        """Add to what the sender of a stream may send; return what it must be told of now."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        credit += self._held_credit.pop(stream, 0)
        if credit >= MAX_HELD_CREDIT:
            return credit
        self._held_credit[stream] = credit
        return 0

    async def _keep_writing(self) -> None:
        while not self.event_shutting_down.is_set():
            if not self._outbox:
                self._to_write = trio.Event()
                await self._to_write.wait()
            batch: list[_Outgoing] = []
            size = 0
            while self._outbox and (not batch or size + len(self._outbox[0].data) <= MAX_PLAINTEXT):
                batch.append(self._outbox.popleft())
                size += len(batch[-1].data)
            self._outbox_bytes -= size
            try:
                await self._send(b"".join(frame.data for frame in batch))
                for frame in batch:
                    frame.written = True
            except (IOException, RawConnError, OSError) as error:
                log.debug("a connection cannot be written to: %.200r", error)
                self.cut()
            finally:
                for frame in batch:
                    frame.done.set()

    async def _send(self, data: bytes) -> None:
        await self.secured_conn.write(data)

    async def _say(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        await self._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, length))

    # -- reading -------------------------------------------------------------------------------

    async def handle_incoming(self) -> None:
        """Read frames until the connection ends. A peer that breaks the rules is closed."""
        try:
            while not self.event_shutting_down.is_set():
                if self.share is not None:
                    await self.share.pause()
                await trio.lowlevel.checkpoint()  # many frames may lie in one message
                header = await read_exactly(self.secured_conn, HEADER_SIZE)
                if not await self._take(*struct.unpack(YAMUX_HEADER_FORMAT, header)):
                    return
        except _Violation as error:
            log.warning("a peer %s; closing the connection", error)
        except (IOException, RawConnError, OSError, trio.TooSlowError) as error:
            log.debug("a connection ended: %.200r", error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it was closed while a stream was handed over

    async def _take(self, version: int, kind: int, flags: int, number: int, length: int) -> bool:
        """Deal with one frame; returns whether there may be another."""
        if version:
            raise _Violation("speaks another version")
        if kind == TYPE_PING:
            await self._pinged(flags, length)
        elif kind == TYPE_DATA or kind == TYPE_WINDOW_UPDATE:
            fresh = bool(flags & FLAG_SYN) and await self._opened(number)
            stream = self.streams.get(number)
            if kind == TYPE_DATA:
                await self._read_body(stream, number, length)
                stream = self.streams.get(number)
            elif stream is not None:
                stream.send_window = min(MAX_SEND_WINDOW, stream.send_window + length)
            if stream is not None:
                self._ended(stream, flags)
            if fresh and stream is not None:
                if not flags & FLAG_RST:
                    await self._say(TYPE_WINDOW_UPDATE, FLAG_ACK, number, 0)
                await self.new_stream_send_channel.send(stream)
        else:
            return False  # it goes away, or speaks of what is unknown
        return True

    async def _pinged(self, flags: int, length: int) -> None:
        if flags & FLAG_SYN:
            await self._say(TYPE_PING, FLAG_ACK, 0, length)
        elif flags & FLAG_ACK:
            rtt = trio.current_time() - self._ping_sent_time
            self._rtt: float = (self._rtt + rtt) / 2 if self._rtt else rtt
            self._ping_event.set()

    async def _opened(self, number: int) -> bool:
        """Note a stream of the peer; returns whether it is a new one that is taken."""
        if not number or number % 2 == self.is_initiator_value:
            raise _Violation("opens streams with our numbers")
        if number in self.streams or len(self.streams) >= MAX_STREAMS:
            await self._say(TYPE_WINDOW_UPDATE, FLAG_RST, number, 0)
            return False
        self.streams[number] = YamuxStream(number, self, False)
        self.stream_buffers[number] = bytearray()
        self.stream_events[number] = trio.Event()
        return True

    async def _read_body(self, stream: Any, number: int, length: int) -> None:
        """Read what a frame announces, piece by piece, for a stream or to be thrown away."""
        if length > MAX_WINDOW * 2:
            raise _Violation(f"announces {length} bytes at once")
        if stream is not None:
            if length > stream.recv_window:
                raise _Violation("sends beyond its window")
            stream.recv_window -= length
        with trio.fail_after(BODY_S):
            while length:
                piece = min(length, PIECE)
                buffer = self.stream_buffers.get(number)
                kept = buffer is not None and stream is not None and not stream.recv_closed
                if kept and self.memory is not None and not self.memory.has_room(self, piece):
                    raise _Violation("makes this node hold too much")
                data = await read_exactly(self.secured_conn, piece)
                length -= piece
                if kept and number in self.stream_buffers:
                    self.stream_buffers[number].extend(data)
                    self.stream_events[number].set()

    def _ended(self, stream: Any, flags: int) -> None:
        if flags & FLAG_FIN:
            stream.recv_closed = True
            stream.closed = stream.closed or stream.send_closed
        if flags & FLAG_RST:
            stream.closed = stream.reset_received = True
        if flags & (FLAG_FIN | FLAG_RST) and stream.stream_id in self.stream_events:
            self.stream_events[stream.stream_id].set()
        if stream.closed:
            self._finalize_stream_locked(stream, fully_closed=True)


def _socket_of(secured: Any) -> Any:
    """What is at the bottom of a secured connection: a ``BoundedStream``, or a circuit's wire."""
    packets = getattr(getattr(secured, "conn", None), "read_writer", None)
    return getattr(getattr(packets, "read_write_closer", None), "stream", None)


class SafeMuxer(MuxerMultistream):  # type: ignore[misc]
    """Builds ``SafeYamux``: the library's builds its own class whatever it was given."""

    async def new_conn(self, conn: Any, peer_id: Any) -> Any:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = SafeYamux(conn, peer_id, is_initiator=conn.is_initiator)
        return self._annotate_connection(muxed, conn, protocol)

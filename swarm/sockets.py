"""TCP as py-libp2p uses it, with an end to each wait on a peer.

- A write that the peer does not take in time closes the socket: what was half written cannot be
  taken back, and nothing could follow it. The library waits for ever.
- Closing is closing the descriptor. It waits for nobody, and ends every read and write on it.
- A read waits until the peer has CPU time left (``swarm.shares``).
"""

from __future__ import annotations

import fcntl
import sys
import termios
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.transport.tcp.tcp import TCP

if TYPE_CHECKING:
    from swarm.shares import Share

WRITE_S = 15.0
"""Seconds in which a peer has to take one write, of 64 KiB at most."""
MAX_READ = 64 * 1024
MAX_UNTAKEN = 4 * 1024


class BoundedStream(TrioTCPStream):  # type: ignore[misc]
    """One TCP connection. ``share`` is whose CPU time it uses; None for nobody's."""

    def __init__(self, stream: trio.SocketStream, share: Share | None = None) -> None:
        super().__init__(stream)
        self.share = share

    async def write(self, data: bytes) -> None:
        """Write all, or close the socket and raise ``ConnectionClosedError``."""
        whole = False
        try:
            with trio.move_on_after(WRITE_S):
                await self.stream.send_all(data)
                whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error
        finally:
            if not whole:
                self.cut()
        if not whole:
            raise ConnectionClosedError("the peer takes nothing", transport="tcp")

    async def read(self, n: int | None = None) -> bytes:
        if self.share is not None:
            await self.share.pause()
        data: bytes = await super().read(MAX_READ if n is None else min(n, MAX_READ))
        return data

    def takes_nothing(self) -> bool:
        """Say whether more waits to be taken than is ever said to a stranger at once."""
        left = bytearray(4)
        with suppress(OSError):  # closed, or a system that does not tell
            fcntl.ioctl(self.stream.socket.fileno(), termios.TIOCOUTQ, left)
        return int.from_bytes(left, sys.byteorder) > MAX_UNTAKEN

    def cut(self) -> None:
        """Close the descriptor, now. Whoever reads or writes on it is told."""
        self.stream.socket.close()

    async def close(self) -> None:
        self.cut()
        await trio.lowlevel.checkpoint()


class BoundedTCP(TCP):  # type: ignore[misc]
    """TCP whose dialled connections are bounded too, and can be cut all at once."""

    def __init__(self) -> None:
        super().__init__()
        self._dialled: weakref.WeakSet[BoundedStream] = weakref.WeakSet()

    async def _dial_resolved(self, maddr: Any, source: Any = None) -> Any:
        connection = await super()._dial_resolved(maddr, source)
        connection.stream = BoundedStream(connection.stream.stream)
        self._dialled.add(connection.stream)
        return connection

    def drop_sockets(self) -> None:
        """Close every dialled socket that is still open."""
        for stream in self._dialled:
            stream.cut()

"""A libp2p connection over a stream instead of a socket: the ends of a circuit (``swarm.relay``).

The handshake is that of any connection, so both ends prove their keys, and who carries the stream
sees ciphertext. Such a connection has no address of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException

from swarm.safe_libp2p import NEGOTIATE_S, peer_id_of
from swarm.streams import READ_CHUNK, FramedStream, NetworkError

if TYPE_CHECKING:
    from swarm.safe_libp2p import SafeSwarm


class _Wire:
    """The stream in the shape that the library wants of a socket.

    The library wakes no reader of a stream that is reset from this side, nor one whose writer has
    failed; closing does.
    """

    def __init__(self, stream: FramedStream) -> None:
        self._stream = stream
        self._reading = trio.CancelScope()
        self._closed = False

    async def read(self, n: int | None = None) -> bytes:
        if not self._closed:
            with trio.CancelScope() as self._reading:
                try:
                    return await self._stream.read_some(READ_CHUNK if n is None else n)
                except NetworkError as error:
                    raise ConnectionClosedError(str(error)) from error
        raise ConnectionClosedError("the circuit was closed")

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write_some(data)
        except NetworkError as error:
            await self.close()
            raise ConnectionClosedError(str(error)) from error

    async def close(self) -> None:
        self._closed = True
        self._reading.cancel()
        await self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


async def connect_over(
    network: SafeSwarm, stream: FramedStream, key: bytes, *, initiator: bool
) -> Any:
    """Make a connection with the peer ``key`` over a stream; returns it with its multiplexer up.

    The stream belongs to the connection from now on, and is reset if none comes about.

    Raises:
        NetworkError: no handshake in time, another key than expected, or one that is refused.
    """
    wire, peer_id = _Wire(stream), peer_id_of(key)
    raw = RawConnection(wire, initiator, ConnectionType.RELAYED, addresses=[])
    try:
        with trio.fail_after(NEGOTIATE_S):
            upgrader = network.upgrader
            secured = await upgrader.upgrade_security(
                raw, initiator, peer_id if initiator else None
            )
            if secured.get_remote_peer() != peer_id:
                raise SwarmException("another key than the relay said")
            muxed = await upgrader.upgrade_connection(secured, peer_id)
            await network.add_conn(muxed, "outbound" if initiator else "inbound")
    except BaseException as error:
        await wire.close()
        if isinstance(error, Exception):  # the library's errors have no common root
            raise NetworkError(f"no connection over a relay: {error!r:.200}") from error
        raise
    return muxed

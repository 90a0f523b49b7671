"""What a hostile peer needs: plain sockets, noise, and frames of yamux written by hand."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils import encode_delim, encode_uvarint

from swarm.addresses import parse_address
from swarm.safe_libp2p import peer_id_of

if TYPE_CHECKING:
    from swarm.addresses import PeerAddress

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
HELLO = encode_delim(b"/multistream/1.0.0")
OPENED: list[trio.SocketStream] = []
"""Every connection of these; who opens them closes them."""
GIB = encode_uvarint(1 << 30)


def frame(kind: int, flags: int, stream: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream, length) + data


def said(stream: int, data: bytes, flags: int = 0) -> bytes:
    """A frame of data."""
    return frame(DATA, flags, stream, len(data), data)


async def tcp(address: str | PeerAddress, *, deaf: bool = False) -> trio.SocketStream:
    """A plain connection; ``deaf`` makes its pipe short, for who will not read."""
    where = parse_address(address) if isinstance(address, str) else address
    stream = await trio.open_tcp_stream(where.host, where.port)
    OPENED.append(stream)
    if deaf:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    return stream


async def secured(address: str, seed: bytes, *, muxed: bool = True, deaf: bool = False) -> Any:
    """A connection that has proved the key of ``seed``, and agreed on yamux if asked to.

    Its ``tcp`` is the plain connection beneath.
    """
    where = parse_address(address)
    stream = await tcp(where, deaf=deaf)
    noise = Noise(create_new_key_pair(seed), noise_privkey=create_noise_key_pair().private_key)
    upgrader = TransportUpgrader({NOISE_ID: noise}, {YAMUX_ID: Yamux})
    raw = RawConnection(TrioTCPStream(stream), True)
    session = await upgrader.upgrade_security(raw, True, peer_id_of(where.key))
    if muxed:
        talk = MultiselectCommunicator(session)
        await MultiselectClient().select_one_of([YAMUX_ID], talk, 10)
    session.tcp = stream
    return session


async def fill_the_pipe(session: Any, seconds: float = 1.0) -> None:
    """Ask for pongs, and read none, until the peer takes nothing more."""
    pings = b"".join(frame(PING, SYN, 0, number) for number in range(2000))
    with trio.move_on_after(seconds), suppress(Exception):  # it may be closed
        while True:
            await session.write(pings)

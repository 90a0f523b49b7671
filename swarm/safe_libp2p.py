"""py-libp2p with its remote crashes and leaks closed. Nothing of this swarm is known here.

What is covered (each was found in py-libp2p 0.8.1, most of them by a test that hit it):

- an exception in any task of the library used to collapse the whole node: ``ContainedManager``
  logs it and goes on, and starts endless tasks again;
- an exception in a stream handler or in protocol negotiation: ``SafeHost``;
- an accepted connection kept its place until shutdown, so that a node went deaf after
  ``max_connections`` of them: ``SafeSwarm`` gives the place back when the connection ends;
- a peer could send beyond its flow-control window, open any number of streams, and keep a broken
  connection busy with what it had sent before; and each read, of a single byte too, was answered
  with a window update, half of all frames: ``SafeYamux``;
- identify wrote whatever a peer said into the address book: ``SafeHost`` answers identify, and
  asks nobody.

What is not covered: floods below the level of a connection (SYN floods, bandwidth).
"""

from __future__ import annotations

import logging
import struct
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import libp2p.network.connection.swarm_connection as _swarm_connection
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    HEADER_SIZE,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
)
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader

from swarm.addresses import PEER_ID_PREFIX
from swarm.penalties import TokenBucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from libp2p.abc import INetStream

    from swarm.subnets import SubnetLimit

log = logging.getLogger(__name__)

# The library logs through the root logger in one module, which would install a handler on it,
# and prints warnings about every closed connection. Both go to a logger of their own.
_swarm_connection.logging = logging.getLogger("libp2p.swarm_connection")
logging.getLogger("libp2p").addHandler(logging.NullHandler())

MAX_BUFFERED_PER_CONNECTION = 48 * 1024 * 1024
"""Unread bytes of all streams of one connection. Yamux windows grow to 16 MiB per stream."""
MAX_INBOUND_STREAMS = 64
"""Streams that one peer may have in work here at the same time."""
MAX_HELD_CREDIT = DEFAULT_WINDOW_SIZE // 4
"""Bytes read from a stream of which its sender is not told yet. Its window stays above the rest."""
NEGOTIATE_S = 10
MAX_HANDSHAKES = 32
"""Inbound connections that have not proved a key yet."""


def key_of(peer_id: Any) -> bytes | None:
    """Return the Ed25519 key (32 bytes) in a libp2p peer id, or None for other kinds of key."""
    raw: bytes = peer_id.to_bytes()
    if len(raw) == 38 and raw.startswith(PEER_ID_PREFIX):
        return raw[6:]
    return None


def peer_id_of(key: bytes) -> Any:
    """Return the libp2p peer id object of an Ed25519 key."""
    return ID(PEER_ID_PREFIX + key)


class ContainedManager(TrioManager):  # type: ignore[misc]
    """Runs a service of py-libp2p; a task that fails is logged and ends alone."""

    def run_task(
        self,
        async_fn: Callable[..., Awaitable[Any]],
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        async def contained() -> None:
            while True:
                try:
                    await async_fn(*args)
                except Exception as error:
                    log.warning("a libp2p task failed and was contained: %.300r", error)
                if not daemon:
                    return
                await trio.sleep(1.0)  # an endless task (the heartbeat) ended: start it again

        if _internal:
            super().run_task(async_fn, *args, daemon=daemon, name=name, _internal=True)
        elif self.is_running and not self.is_cancelled:
            super().run_task(contained, daemon=daemon, name=name or str(async_fn))


@asynccontextmanager
async def contained_service(service: Any) -> AsyncIterator[None]:
    """Run a service of py-libp2p for the length of the block, under a ``ContainedManager``."""
    async with trio.open_nursery() as nursery:
        manager = ContainedManager(service)
        service._manager = manager
        nursery.start_soon(manager.run)
        await manager.wait_started()
        try:
            yield
        finally:
            await manager.stop()


class _OpenOnly(dict[int, Any]):
    """Events by stream id that forget ended streams: the library's reader puts them back."""

    def __init__(self, streams: dict[int, Any]) -> None:
        super().__init__()
        self._streams = streams

    def __setitem__(self, stream_id: int, event: Any) -> None:
        if stream_id in self._streams:
            super().__setitem__(stream_id, event)


class SafeYamux(Yamux):  # type: ignore[misc]
    """Yamux that bounds what a peer can make it hold."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream_events = _OpenOnly(self.streams)
        self._held_credit: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    async def _read_data_body(self, length: int) -> bytes:
        held = sum(len(buffer) for buffer in self.stream_buffers.values())
        if held + length > MAX_BUFFERED_PER_CONNECTION:
            log.warning("a peer sends beyond its window; closing the connection")
            raise trio.TooSlowError  # the one error on which the library closes the connection
        body: bytes = await super()._read_data_body(length)
        return body

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

    async def _write_frame(self, data: bytes) -> None:
        if len(data) == HEADER_SIZE:
            version, kind, flags, stream_id, credit = struct.unpack(YAMUX_HEADER_FORMAT, data)
            if kind == TYPE_WINDOW_UPDATE and not flags:
                credit = self._credit_due(stream_id, credit)
                if not credit:
                    return
                data = struct.pack(YAMUX_HEADER_FORMAT, version, kind, flags, stream_id, credit)
        try:
            await super()._write_frame(data)
        except ConnectionClosedError:
            self.event_shutting_down.set()  # or it goes on with each frame that is still buffered
            raise

    async def start(self) -> None:
        try:
            await super().start()
        except Exception as error:
            log.warning("a connection failed and was closed: %.300r", error)
            self.event_started.set()
            await self._cleanup_on_error()


class _SafeMuxer(MuxerMultistream):  # type: ignore[misc]
    """Builds ``SafeYamux``: the library's builds its own class whatever it was given."""

    async def new_conn(self, conn: Any, peer_id: Any) -> Any:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = SafeYamux(conn, peer_id, is_initiator=conn.is_initiator)
        return self._annotate_connection(muxed, conn, protocol)


class _TrackingTCP(TCP):  # type: ignore[misc]
    """TCP that can close what it dialled at once, when a cancellation cuts all else short."""

    def __init__(self) -> None:
        super().__init__()
        self._dialled: weakref.WeakSet[Any] = weakref.WeakSet()

    async def _dial_resolved(self, maddr: Any, source: Any = None) -> Any:
        connection = await super()._dial_resolved(maddr, source)
        self._dialled.add(connection.stream.stream)
        return connection

    def drop_sockets(self) -> None:
        for stream in self._dialled:
            stream.socket.close()


class _NoAutoConnector:
    """Takes the place of the library's, which dials every address it has heard of."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def run_background_task(self, nursery: trio.Nursery) -> None: ...
    async def maybe_connect(self) -> None: ...
    def record_disconnect(self, peer_id: Any) -> None: ...


class SafeSwarm(Swarm):  # type: ignore[misc]
    """A libp2p swarm that asks ``gate`` about every key and forgets ended connections.

    Args (beyond those of the library):
        gate: called with the peer id of each new connection; False closes it.
        subnets: how many inbound connections one subnet may have.
    """

    def __init__(
        self, *args: Any, gate: Callable[[Any], bool], subnets: SubnetLimit, **kwargs: Any
    ) -> None:
        self._tcp = _TrackingTCP()
        super().__init__(*args, transports=[self._tcp], **kwargs)
        self._gate = gate
        self._subnets = subnets
        self.auto_connector = _NoAutoConnector()
        self._handshakes = trio.CapacityLimiter(MAX_HANDSHAKES)

    def drop_sockets(self) -> None:
        """Close every dialled socket that is still open. For the very end."""
        self._tcp.drop_sockets()

    async def add_conn(self, muxed_conn: Any, direction: str = "unknown") -> Any:
        if not self._gate(muxed_conn.peer_id):
            await muxed_conn.close()
            raise SwarmException("this peer is refused")
        return await super().add_conn(muxed_conn, direction=direction)

    async def _do_handle_inbound_connection(
        self, read_write_closer: Any, maddr: Any, failure_event: Any
    ) -> None:
        host = (read_write_closer.get_remote_address() or ("",))[0]
        if not self._subnets.enter(host):
            log.info("too many connections from the subnet of %.60s", host)
            return  # the listener closes the socket
        try:
            await self._handle_within_subnet(read_write_closer, maddr)
        finally:
            self._subnets.leave(host)

    async def _handle_within_subnet(self, read_write_closer: Any, maddr: Any) -> None:
        borrower = object()
        try:
            self._handshakes.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            return  # the listener closes the socket
        connection = RawConnection(read_write_closer, False)
        try:
            try:
                muxed = await self.upgrade_inbound_raw_conn(connection, maddr)
            finally:
                self._handshakes.release_on_behalf_of(borrower)
            await muxed.event_closed.wait()
        except Exception as error:
            log.debug("an inbound connection ended: %.300r", error)


class SafeHost(BasicHost):  # type: ignore[misc]
    """A libp2p host whose stream handlers cannot fail it, and which identifies nobody."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._in_work: dict[Any, int] = {}
        self._opened = TokenBucket(rate=50.0, burst=500.0)
        super().__init__(*args, **kwargs)
        self.remove_stream_handler(ID_PUSH)

    def _schedule_identify(self, peer_id: Any, *, reason: str) -> None:
        """Do nothing: keys are in peer ids, protocols are fixed, addresses come from members."""

    async def _push_identify_to_all_peers(self) -> None:
        """Do nothing, for the same reason."""

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        peer_id = net_stream.muxed_conn.peer_id
        count = self._in_work.get(peer_id, 0)
        if count >= MAX_INBOUND_STREAMS or not self._opened.take(peer_id.to_bytes()):
            await net_stream.reset()
            return
        self._in_work[peer_id] = count + 1
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:
            log.info("a stream from %s failed: %.300r", peer_id, error)
            await net_stream.reset()
        finally:
            left = self._in_work[peer_id] - 1
            if left:
                self._in_work[peer_id] = left
            else:
                del self._in_work[peer_id]


def build_host(
    seed: bytes, *, max_connections: int, gate: Callable[[Any], bool], subnets: SubnetLimit
) -> tuple[SafeHost, SafeSwarm]:
    """Build a host for an Ed25519 seed (32 bytes): TCP, noise and yamux, and nothing else.

    A quarter of the connections is left to those that we dial ourselves: whoever fills the others
    cannot keep us from the peers that we know.
    """
    keys = create_new_key_pair(seed)
    store = PeerStore()
    peer_id = ID.from_pubkey(keys.public_key)
    store.add_key_pair(peer_id, keys)
    upgrader = TransportUpgrader(
        secure_transports_by_protocol={
            NOISE_ID: Noise(keys, noise_privkey=create_noise_key_pair().private_key)
        },
        muxer_transports_by_protocol={YAMUX_ID: SafeYamux},
    )
    upgrader.muxer_multistream = _SafeMuxer({YAMUX_ID: SafeYamux}, NEGOTIATE_S)
    network = SafeSwarm(
        peer_id,
        store,
        upgrader,
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=max_connections,
            min_connections=max_connections // 4,
            low_watermark=max_connections // 4,
            high_watermark=max_connections,
            max_connections_per_peer=2,
        ),
        gate=gate,
        subnets=subnets,
    )
    return SafeHost(network, disable_identify_address_discovery=True), network

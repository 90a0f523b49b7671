"""py-libp2p with its remote crashes and leaks closed. Nothing of this swarm is known here.

What is covered (each was found in py-libp2p 0.8.1, most of them by a test that hit it):

- an exception in any task of the library used to collapse the whole node: ``ContainedManager``
  logs it and goes on, and starts endless tasks again;
- an exception in a stream handler or in protocol negotiation: ``SafeHost``;
- an accepted connection kept its place until shutdown, a peer could hold all of them, and one more
  of a key was closed after 20 s at the earliest: ``SafeSwarm`` and ``swarm.entrance``;
- no wait on a peer had an end: ``swarm.sockets``; closing waited too, windows were not held
  against anybody: ``swarm.safe_yamux``;
- the length of a message of multistream was believed, up to 2^64: ``_read_short``;
- identify wrote whatever a peer said into the address book: ``SafeHost`` answers identify, and
  asks nobody.

What is not covered: floods below the level of a connection (SYN floods, bandwidth).
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import libp2p.network.connection.swarm_connection as _swarm_connection
import libp2p.protocol_muxer.multiselect_communicator as _communicator
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.exceptions import MessageTooLarge
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from swarm.addresses import PEER_ID_PREFIX
from swarm.entrance import MAX_PER_KEY, Entrance, Guest
from swarm.penalties import TokenBucket
from swarm.safe_yamux import Memory, SafeMuxer, SafeYamux
from swarm.shares import Share, working_for
from swarm.sockets import BoundedStream, BoundedTCP
from swarm.streams import READ_CHUNK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from libp2p.abc import INetStream

    from swarm.subnets import SubnetLimit

log = logging.getLogger(__name__)

# The library logs through the root logger in one module, which would install a handler on it,
# and prints warnings about every closed connection. Both go to a logger of their own.
_swarm_connection.logging = logging.getLogger("libp2p.swarm_connection")
logging.getLogger("libp2p").addHandler(logging.NullHandler())

MAX_INBOUND_STREAMS = 64
"""Streams that one peer may have in work here at the same time."""
NEGOTIATE_S = 10
DRAIN_S = 5
"""Seconds for a peer to stop writing on a stream whose handler has returned."""
SECURE_S = 6.0
"""Seconds in which a connection has to prove a key."""
MAX_MULTISTREAM = 1024
"""Bytes of one message of multistream: a name of a protocol."""
MEMBER_CPU, STRANGER_CPU = 0.7, 0.1
"""Cores that one peer may use of this node, by what it sends and asks."""
STRANGERS_CPU, ACQUAINTED_CPU = 0.3, 0.2
"""Cores for all who are no members together, and for handshakes from hosts of members."""
MAX_SHARES = 1024


async def _read_short(reader: Any) -> bytes:
    """One message of multistream, of at most ``MAX_MULTISTREAM`` bytes.

    Takes the place of the library's, everywhere: it believed any length, and kept what came.
    """
    try:
        message: bytes = await read_varint_prefixed_bytes_limited(reader, MAX_MULTISTREAM)
        message.decode()
    except (MessageTooLarge, UnicodeDecodeError) as error:
        raise ParseError("not a message of multistream") from error
    if not message.endswith(b"\n"):
        raise ParseError("a message of multistream without an end")
    return message[:-1]


_communicator.read_delim = _read_short


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
        admits: whether a peer id is a member's.
        entrance: the places for connections that others open.
        subnets: how many inbound connections one subnet may have.
    """

    def __init__(
        self,
        *args: Any,
        gate: Callable[[Any], bool],
        admits: Callable[[Any], bool],
        entrance: Entrance,
        subnets: SubnetLimit,
        **kwargs: Any,
    ) -> None:
        self._tcp = BoundedTCP()
        super().__init__(*args, transports=[self._tcp], **kwargs)
        self._gate = gate
        self._admits = admits
        self._entrance = entrance
        self._subnets = subnets
        self._memory = Memory(admits)
        self._strangers = Share(STRANGERS_CPU, STRANGERS_CPU)
        self._acquainted = Share(ACQUAINTED_CPU, ACQUAINTED_CPU)
        self._shares: OrderedDict[Any, Share] = OrderedDict()
        self._arrivals = TokenBucket(rate=0.5, burst=20.0)
        self._accepted: set[BoundedStream] = set()
        self.auto_connector = _NoAutoConnector()

    def drop_sockets(self) -> None:
        """Close every socket that is still open. For the very end."""
        self._tcp.drop_sockets()
        for stream in list(self._accepted):
            stream.cut()

    def share_of(self, peer_id: Any) -> Share:
        """The CPU time of one peer, of all its connections."""
        member = self._admits(peer_id)
        share = self._shares.get(peer_id)
        if share is None or (share.within is None) != member:
            rate = MEMBER_CPU if member else STRANGER_CPU
            share = Share(rate, rate, None if member else self._strangers)
            self._shares[peer_id] = share
        self._shares.move_to_end(peer_id)
        while len(self._shares) > MAX_SHARES:
            self._shares.popitem(last=False)
        return share

    async def add_conn(self, muxed_conn: Any, direction: str = "unknown") -> Any:
        if not self._gate(muxed_conn.peer_id):
            await muxed_conn.close()
            raise SwarmException("this peer is refused")
        muxed_conn.share = self.share_of(muxed_conn.peer_id)
        muxed_conn.memory = self._memory
        with working_for(muxed_conn.share):
            return await super().add_conn(muxed_conn, direction=direction)

    def _trim_connections(self, peer_id: Any) -> None:
        """The newest connections of a key stay. The library kept all that were young."""
        *older, _ = self.connections[peer_id]
        self.connections[peer_id] = self.connections[peer_id][-MAX_PER_KEY:]
        for connection in older[: 1 - MAX_PER_KEY]:
            connection.muxed_conn.cut()
            self.manager.run_task(self._close_connection_async, connection)

    async def _handle_inbound_connection(self, read_write_closer: Any, maddr: Any) -> None:
        """Take in what the listener accepted, for as long as it lasts. Never raises."""
        host = (read_write_closer.get_remote_address() or ("",))[0]
        stream = BoundedStream(read_write_closer.stream)
        if not self._subnets.enter(host):
            log.info("too many connections from the subnet of %.60s", host)
            return  # the listener closes the socket
        self._accepted.add(stream)
        guest = self._entrance.arrive(host, stream.cut)
        guest.takes_nothing = stream.takes_nothing
        stream.share = self._acquainted if self._entrance.is_known(host) else self._strangers
        try:
            with guest.stop, working_for(stream.share):
                await self._receive(guest, stream)
            if guest.gone and guest.key is None:
                await self._entrance.linger(guest)
        except Exception as error:
            log.debug("an inbound connection ended: %.300r", error)
        finally:
            stream.cut()
            self._accepted.discard(stream)
            self._entrance.leave(guest)
            self._subnets.leave(host)

    async def _receive(self, guest: Guest, stream: BoundedStream) -> None:
        with trio.fail_after(SECURE_S):
            secured = await self.upgrader.upgrade_security(RawConnection(stream, False), False)
        peer_id = secured.get_remote_peer()
        key = key_of(peer_id)
        if key is None or not self._arrivals.take(key) or not self._gate(peer_id):
            raise SwarmException("this peer is refused")
        if not self._entrance.proved(guest, key):
            raise SwarmException("there is no place")
        stream.share = self.share_of(peer_id)
        with working_for(stream.share):
            with trio.fail_after(NEGOTIATE_S):
                muxed = await self.upgrader.upgrade_connection(secured, peer_id)
            await self.add_conn(muxed, direction="inbound")
            await muxed.event_closed.wait()


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
            await _let_go(net_stream)
        except Exception as error:
            log.info("a stream from %s failed: %.300r", peer_id, error)
            await net_stream.reset()
        finally:
            left = self._in_work[peer_id] - 1
            if left:
                self._in_work[peer_id] = left
            else:
                del self._in_work[peer_id]


async def _let_go(net_stream: INetStream) -> None:
    """End a stream whose handler has returned, where the peer may still be writing.

    The library closes its own half only (identify does): whoever writes on would wait for ever for
    a window that nobody opens. What comes is thrown away for a while, so that an answer is heard to
    its end, and then the stream is reset.
    """
    stream: Any = net_stream.muxed_stream
    with trio.move_on_after(DRAIN_S), contextlib.suppress(Exception):
        while not stream.closed and await stream.read(READ_CHUNK):
            pass
    if not stream.closed:
        await net_stream.reset()


def build_host(
    seed: bytes,
    *,
    max_connections: int,
    gate: Callable[[Any], bool],
    admits: Callable[[Any], bool],
    entrance: Entrance,
    subnets: SubnetLimit,
) -> tuple[SafeHost, SafeSwarm]:
    """Build a host for an Ed25519 seed (32 bytes): TCP, noise and yamux, and nothing else.

    ``entrance`` has fewer places than ``max_connections``: whoever fills it cannot keep us from the
    peers that we dial.
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
    upgrader.muxer_multistream = SafeMuxer({YAMUX_ID: SafeYamux}, NEGOTIATE_S)
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
            max_connections_per_peer=MAX_PER_KEY,
        ),
        gate=gate,
        admits=admits,
        entrance=entrance,
        subnets=subnets,
    )
    return SafeHost(network, disable_identify_address_discovery=True), network

"""One libp2p host of this swarm: connections, streams and one gossip topic, made safe.

Owns the host and every connection. Peers are Ed25519 public keys (32 bytes) everywhere above this
module. Unadmitted peers may connect, for ``unadmitted_s`` seconds and a few at a time, and reach
only the protocols that are open to them. What a peer can do wrong costs it penalty points; over
the limit it is disconnected and refused for a while.
Known peers that are lost are dialled again (``swarm.contacts``).
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import INotifee
from multiaddr import Multiaddr

from swarm.circuits import connect_over
from swarm.contacts import Contacts
from swarm.dialling import Dials
from swarm.entrance import Entrance
from swarm.errors import SwarmError
from swarm.exchanges import Exchanges
from swarm.keys import peer_id, short
from swarm.listening import cannot_listen, check_port_is_free, parse_listen_address
from swarm.liveness import Liveness
from swarm.penalties import Penalties
from swarm.safe_libp2p import build_host, contained_service, key_of, peer_id_of
from swarm.safe_pubsub import Accept, SafePubsub, build_router
from swarm.shares import metered
from swarm.streams import NetworkError, PeerGone
from swarm.subnets import SubnetLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from swarm.addresses import PeerAddress
    from swarm.peers import Admission
    from swarm.streams import FramedStream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Limits and times of a transport; times in seconds.

    Attributes:
        max_connections: connections in all, both directions.
        max_per_subnet: inbound connections from one /24 (IPv6: /56) of the internet.
        max_unadmitted: inbound connections of keys that are not members; one more takes the place
            of another of them.
        unadmitted_s: how long such a connection may stay.
        dial_s: time for one dial, handshake included.
        alive_s: pause between two liveness checks of a peer.
        strikes: failed liveness checks in a row after which a peer is disconnected.
        penalty_limit: points at which a peer is disconnected and refused.
        refuse_s: how long it is refused.
    """

    max_connections: int = 128
    max_per_subnet: int = 16
    max_unadmitted: int = 32
    unadmitted_s: float = 30.0
    dial_s: float = 8.0
    alive_s: float = 10.0
    strikes: int = 2
    penalty_limit: float = 20.0
    refuse_s: float = 60.0


class Transport(Exchanges):
    """A node's place on the network. ``async with Transport(...) as transport``.

    Args:
        seed: Ed25519 seed, 32 bytes; the key is the node's identity.
        listen: libp2p addresses to listen on, such as ``/ip4/127.0.0.1/tcp/0``.
        admission: who is a member.
        topic: name of the gossip topic; empty for none.
        settings: limits and times.

    Raises ``AddressError`` for a listen address that is none, and ``NetworkError`` on entering if
    it cannot be listened on. Set handlers and the gossip callback before entering the block: peers
    call at once.
    """

    def __init__(
        self,
        seed: bytes,
        listen: list[str],
        *,
        admission: Admission,
        topic: str = "",
        settings: TransportSettings | None = None,
    ) -> None:
        self.settings = settings or TransportSettings()
        self.penalties = Penalties(
            limit=self.settings.penalty_limit, refuse_s=self.settings.refuse_s
        )
        self._admission = admission
        self._listen = [parse_listen_address(address) for address in listen]
        self._topic = topic
        self.subnets = SubnetLimit(self.settings.max_per_subnet)
        total = self.settings.max_connections
        self._answering: Counter[bytes] = Counter()
        self._host, self._network = build_host(
            seed,
            max_connections=total,
            gate=self._gate,
            admits=lambda peer_id: self.admits(key_of(peer_id) or b""),
            entrance=Entrance(
                max(1, total - total // 4),
                self.settings.max_unadmitted,
                self._is_welcome,
                lambda key: self._answering[key] > 0,
            ),
            subnets=self.subnets,
        )
        key = key_of(self._host.get_id())
        assert key is not None
        self.key: bytes = key
        self.dials = Dials()
        self._contacts = Contacts(key, self._dial_contact, self._needs_no_dial)
        self._since: dict[bytes, float] = {}
        self._greeted: set[bytes] = set()
        self._connect_hooks: list[Callable[[bytes], None]] = []
        self._closing = False
        self._pubsub: SafePubsub | None = None
        self._accept: Accept | None = None
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None
        self._liveness = Liveness(self, self.settings.alive_s, self.settings.strikes)

    # -- life ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Transport:
        await self._stack.__aenter__()
        try:
            self._stack.enter_context(metered())
            self._stack.callback(self._network.drop_sockets)
            await self._stack.enter_async_context(contained_service(self._network))
            self._stack.push_async_callback(self._close_host)
            self._network.register_notifee(_Notifee(self))
            if self._topic:
                await self._start_pubsub()
            await self._start_listening()
            nursery = await self._stack.enter_async_context(trio.open_nursery())
            self._stack.callback(nursery.cancel_scope.cancel)
            self._nursery = nursery
            nursery.start_soon(self._contacts.keep_dialling)
            nursery.start_soon(self._liveness.run)
            nursery.start_soon(self._look_after)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start_listening(self) -> None:
        for address in self._listen:
            check_port_is_free(address)
        await self._network.listen(*self._listen)
        if len(self._network.listeners) < len(set(map(str, self._listen))):
            raise cannot_listen(", ".join(map(str, self._listen)))

    async def _start_pubsub(self) -> None:
        async def accept(forwarder: bytes, origin: bytes, data: bytes) -> bool:
            return self._accept is not None and await self._accept(forwarder, origin, data)

        router = build_router()
        pubsub = SafePubsub(
            self._host,
            router,
            topic=self._topic,
            admits=self.admits,
            accept=accept,
            blame=self.penalise,
        )
        self._pubsub = pubsub
        self._stack.callback(pubsub.seen_messages.stop)
        await self._stack.enter_async_context(contained_service(pubsub))
        await self._stack.enter_async_context(contained_service(router))
        await pubsub.wait_until_ready()
        await pubsub.subscribe(self._topic)

    async def __aexit__(self, *_exception: object) -> None:
        # The nurseries inside do not see an exception of the block: they would wrap it in a group.
        self._nursery = None
        await self._stack.__aexit__(None, None, None)

    async def _close_host(self) -> None:
        self._closing = True
        with trio.CancelScope(shield=True), trio.move_on_after(5.0):
            async with trio.open_nursery() as nursery:  # the library closes one after the other
                for peer_id in list(self._network.connections):
                    nursery.start_soon(self._close_peer, peer_id)
            await self._host.close()

    async def _close_peer(self, peer_id: Any) -> None:
        # Not the library's close_peer: it forgets connections that were made in the meantime.
        for connection in list(self._network.get_connections(peer_id)):
            try:
                await connection.close()
            except Exception as error:
                log.debug("closing a connection failed: %.200r", error)

    # -- peers ---------------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """The addresses this host really listens on, with its peer id."""
        return [
            f"{address}/p2p/{peer_id(self.key)}" for address in self._host.get_transport_addrs()
        ]

    def peers(self) -> set[bytes]:
        """Return the keys of the connected members."""
        return {key for key in self._since if self.admits(key)}

    def connected(self, key: bytes) -> bool:
        """Say whether there is a connection to ``key``, member or not."""
        return key in self._since

    def ip_of(self, key: bytes) -> str:
        """The IP address that a peer is connected from; empty for none, and over a relay alone."""
        for connection in self._network.get_connections(peer_id_of(key)):
            try:
                seen = connection.muxed_conn.get_remote_address()
            except Exception as error:  # it is just closing
                log.debug("a connection without an address: %.200r", error)
                continue
            if seen:
                return str(seen[0])
        return ""

    def admits(self, key: bytes) -> bool:
        """Say whether the key is a member's."""
        return self._admission.may_connect(key)

    def refuses(self, key: bytes) -> bool:
        """Say whether the peer is refused for what it did a short while ago."""
        return self.penalties.refused(key)

    def suspect(self, key: bytes) -> None:
        self._liveness.suspect(key)

    def _libp2p_host(self) -> Any:
        return self._host

    def on_connect(self, hook: Callable[[bytes], None]) -> None:
        """Call ``hook`` with the key of each member, once per connection. It must not raise."""
        self._connect_hooks.append(hook)

    async def dial(self, address: str) -> bytes:
        """Connect to an address, and keep the connection up from now on. Return the peer's key.

        Raises:
            AddressError: not an address.
            NetworkError: no answer there, or somebody else's; it is tried again in the background.
        """
        target = self.remember(address)
        if not self.connected(target.key):
            await self._contacts.reach(target.key)
        if not self.connected(target.key):
            raise PeerGone(
                f"no answer from {target.transport_text}",
                cure="check the address and that the peer runs; it is tried again by itself",
            )
        return target.key

    def remember(self, address: str) -> PeerAddress:
        """Keep a connection to this address up, starting soon. Return it parsed.

        Raises:
            AddressError: not an address.
        """
        return self._contacts.remember(address)

    def forget(self, key: bytes) -> None:
        """Do not dial this peer again. Its connection stays as it is."""
        self._contacts.forget(key)

    async def _dial_contact(self, address: PeerAddress) -> bool:
        return await self.dial_once(address, named_by_owner=True)

    async def dial_once(self, address: PeerAddress, *, named_by_owner: bool = False) -> bool:
        """Try one address, if it may be dialled now; return whether its key is connected then.

        Never raises. For ``named_by_owner`` see ``Dials.ready``.
        """
        if not self.dials.ready(address, named_by_owner=named_by_owner):
            return self.connected(address.key)
        self.dials.began(address)
        with trio.move_on_after(self.settings.dial_s):
            try:
                await self._network.dial_addr(
                    Multiaddr(address.transport_text), peer_id_of(address.key)
                )
                self.dials.answered(address)
            except Exception as error:  # whatever it was, there is no connection
                log.debug("dialling %s failed: %.200r", address, error)
        return self.connected(address.key)

    async def connect_over(self, stream: FramedStream, key: bytes, *, initiator: bool) -> Any:
        """Make a connection with ``key`` over a stream, see ``swarm.circuits``."""
        return await connect_over(self._network, stream, key, initiator=initiator)

    def _needs_no_dial(self, key: bytes) -> bool:
        return self.connected(key) or self.refuses(key)

    def hears(self, key: bytes) -> bool:
        """Say whether the peer's gossip can be heard here (always, if there is no topic)."""
        return self._pubsub is None or self._pubsub.hears(peer_id_of(key))

    async def disconnect(self, key: bytes) -> None:
        """Close all connections to a peer. A known peer is dialled again."""
        await self._close_peer(peer_id_of(key))

    def penalise(self, key: bytes, reason: str, points: float = 1.0) -> None:
        """Count something that the peer did wrong; over the limit, disconnect and refuse it."""
        if key == self.key:
            return
        log.info("peer %s: %.200r (%s points)", short(key), reason, points)
        if self.penalties.add(key, reason, points):
            log.warning("peer %s is refused for a while: %.200r", short(key), reason)
            self.spawn(self.disconnect, key)

    def spawn(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a task for as long as it takes and the transport is up. Its errors are logged."""
        if self._nursery is not None:
            self._nursery.start_soon(self._contained, function, *args)

    async def _contained(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await function(*args)
        except SwarmError as error:
            log.info("%.200s", error)
        except Exception:
            log.exception("a background task of the transport failed")

    def _gate(self, peer_id: Any) -> bool:
        key = key_of(peer_id)
        return not (self._closing or key is None or key == self.key or self.refuses(key))

    def _is_welcome(self, key: bytes) -> bool:
        return self.admits(key) or key in self._contacts

    @contextmanager
    def answering(self, key: bytes) -> Iterator[None]:
        """Note that a peer is being answered: no stranger is sent away while it is."""
        self._answering[key] += 1
        try:
            yield
        finally:
            self._answering[key] -= 1
            if not self._answering[key]:
                del self._answering[key]

    def _connected(self, peer_id: Any) -> None:
        key = key_of(peer_id)
        if key is None:
            return
        self._since.setdefault(key, trio.current_time())
        self._greet(key)

    def _greet(self, key: bytes) -> None:
        if key not in self._greeted and self.admits(key):
            self._greeted.add(key)
            for hook in self._connect_hooks:
                hook(key)

    def _disconnected(self, peer_id: Any) -> None:
        key = key_of(peer_id)
        if key is None or self._network.get_connections(peer_id):
            return
        self._since.pop(key, None)
        self._greeted.discard(key)
        self._contacts.lost(key)

    async def _look_after(self) -> None:
        while True:
            await trio.sleep(0.5)
            now = trio.current_time()
            for key, since in list(self._since.items()):
                if self.admits(key):
                    self._greet(key)
                    if self._pubsub is not None:
                        self._pubsub.wants(peer_id_of(key))
                elif now - since > self.settings.unadmitted_s:
                    self.spawn(self.disconnect, key)

    def clock_ahead(self) -> float | None:
        """Seconds by which peers' clocks are ahead of ours, in the median; None without peers."""
        return self._liveness.clock_ahead()

    # -- gossip --------------------------------------------------------------------------------

    def on_message(self, accept: Accept) -> None:
        """Let ``accept`` decide about every gossip message. One callback; the last one counts."""
        self._accept = accept

    async def publish(self, data: bytes) -> None:
        """Gossip ``data``. Best effort: nobody may be listening; sync repairs.

        Raises:
            NetworkError: there is no topic.
        """
        if self._pubsub is None:
            raise NetworkError("this transport has no gossip topic")
        await self._pubsub.have_room()
        await self._pubsub.publish(self._topic, data)


class _Notifee(INotifee):  # type: ignore[misc]
    """Tells the transport about connections."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def connected(self, network: Any, conn: Any) -> None:
        self._transport._connected(conn.muxed_conn.peer_id)

    async def disconnected(self, network: Any, conn: Any) -> None:
        self._transport._disconnected(conn.muxed_conn.peer_id)

    async def opened_stream(self, network: Any, stream: Any) -> None: ...
    async def closed_stream(self, network: Any, stream: Any) -> None: ...
    async def listen(self, network: Any, multiaddr: Any) -> None: ...
    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...

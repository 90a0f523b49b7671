"""One libp2p host of this swarm: connections, streams and one gossip topic, made safe.

Owns the host and every connection. Peers are Ed25519 public keys (32 bytes) everywhere above this
module. Unadmitted peers may connect, for ``unadmitted_s`` seconds and a few at a time, and reach
only the protocols that are open to them. What a peer can do wrong costs it penalty points; over
the limit it is disconnected and refused for a while.

A known peer that is lost is dialled again: after it has been away for t seconds it is found again
within about t/10, at the earliest after 0.3 s and at the latest after 30 s.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p.abc import INotifee
from multiaddr import Multiaddr

from swarm.addresses import PeerAddress, parse_address
from swarm.errors import SwarmError
from swarm.keys import peer_id, short
from swarm.peers import Admission
from swarm.penalties import Penalties
from swarm.safe_libp2p import build_host, contained_service, key_of, peer_id_of
from swarm.safe_pubsub import Accept, SafePubsub, build_router
from swarm.streams import FramedStream, Misbehaviour, NetworkError, PeerGone

log = logging.getLogger(__name__)

ALIVE = "/lazaretto/alive/1"
PING = "/ipfs/ping/1.0.0"
MAX_KNOWN = 512

Handler = Callable[[bytes, FramedStream], Awaitable[None]]
"""(peer key, stream) -> None. The stream is closed or reset by the transport afterwards."""
Responder = Callable[[bytes, bytes], Awaitable[bytes]]
"""(peer key, request) -> response."""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Limits and times of a transport; times in seconds.

    Attributes:
        max_connections: connections in all, both directions.
        max_unadmitted: connections of keys that are not members.
        unadmitted_s: how long such a connection may stay.
        dial_s: time for one dial, handshake included.
        alive_s: pause between two liveness checks of a peer.
        strikes: failed liveness checks in a row after which a peer is disconnected.
        penalty_limit: points at which a peer is disconnected and refused.
        refuse_s: how long it is refused.
    """

    max_connections: int = 128
    max_unadmitted: int = 16
    unadmitted_s: float = 30.0
    dial_s: float = 8.0
    alive_s: float = 5.0
    strikes: int = 2
    penalty_limit: float = 20.0
    refuse_s: float = 60.0


@dataclass(slots=True)
class _Known:
    addresses: list[PeerAddress] = field(default_factory=list)
    lost_at: float = 0.0
    next_dial: float = 0.0
    dialling: bool = False


class Transport:
    """A node's place on the network. ``async with Transport(...) as transport``.

    Args:
        seed: Ed25519 seed, 32 bytes; the key is the node's identity.
        listen: libp2p addresses to listen on, such as ``/ip4/127.0.0.1/tcp/0``.
        admission: who is a member.
        topic: name of the gossip topic; empty for none.
        settings: limits and times.

    Set handlers and the gossip callback before entering the block: peers call at once.
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
        self._listen = [Multiaddr(address) for address in listen]
        self._topic = topic
        self._host, self._network = build_host(
            seed, max_connections=self.settings.max_connections, gate=self._gate
        )
        key = key_of(self._host.get_id())
        assert key is not None
        self.key: bytes = key
        self._known: dict[bytes, _Known] = {}
        self._since: dict[bytes, float] = {}
        self._strikes: dict[bytes, int] = {}
        self._checking: set[bytes] = set()
        self._connect_hooks: list[Callable[[bytes], None]] = []
        self._pubsub: SafePubsub | None = None
        self._accept: Accept | None = None
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None
        self.set_responder(ALIVE, self._answer_alive, max_request=16)

    # -- life ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Transport:
        await self._stack.__aenter__()
        try:
            await self._stack.enter_async_context(contained_service(self._network))
            self._stack.push_async_callback(self._close_host)
            self._network.register_notifee(_Notifee(self))
            if self._topic:
                await self._start_pubsub()
            if self._listen and not await self._network.listen(*self._listen):
                raise NetworkError(
                    "cannot listen on " + ", ".join(map(str, self._listen)),
                    cure="choose another address or port, or stop what is using it",
                )
            nursery = await self._stack.enter_async_context(trio.open_nursery())
            self._stack.callback(nursery.cancel_scope.cancel)
            self._nursery = nursery
            nursery.start_soon(self._keep_dialling)
            nursery.start_soon(self._keep_checking)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._stack.aclose()
            raise
        return self

    async def _start_pubsub(self) -> None:
        async def accept(forwarder: bytes, origin: bytes, data: bytes) -> bool:
            return self._accept is not None and await self._accept(forwarder, origin, data)

        router = build_router()
        pubsub = SafePubsub(
            self._host,
            router,
            topic=self._topic,
            admits=self._admission.may_connect,
            accept=accept,
            blame=self.penalise,
        )
        self._pubsub = pubsub
        self._stack.callback(pubsub.seen_messages.stop)
        await self._stack.enter_async_context(contained_service(pubsub))
        await self._stack.enter_async_context(contained_service(router))
        await pubsub.wait_until_ready()
        await pubsub.subscribe(self._topic)

    async def __aexit__(self, *exc: Any) -> bool | None:
        self._nursery = None
        return await self._stack.__aexit__(*exc)

    async def _close_host(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(5.0):
            async with trio.open_nursery() as nursery:  # the library closes one after the other
                for peer_id in list(self._network.connections):
                    nursery.start_soon(self._close_peer, peer_id)
            await self._host.close()

    async def _close_peer(self, peer_id: Any) -> None:
        try:
            await self._network.close_peer(peer_id)
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
        return {key for key in self._since if self._admission.may_connect(key)}

    def connected(self, key: bytes) -> bool:
        """Say whether there is a connection to ``key``, member or not."""
        return key in self._since

    def on_connect(self, hook: Callable[[bytes], None]) -> None:
        """Call ``hook`` with the key of each member that connects. It must not block or raise."""
        self._connect_hooks.append(hook)

    async def dial(self, address: str) -> bytes:
        """Connect to an address, and keep the connection up from now on. Return the peer's key.

        Raises:
            AddressError: not an address.
            NetworkError: no answer there, or somebody else's; it is tried again in the background.
        """
        target = self.remember(address)
        if not self.connected(target.key):
            await self._dial_once(target.key)
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
        target = parse_address(address)
        if target.key != self.key and (target.key in self._known or len(self._known) < MAX_KNOWN):
            known = self._known.setdefault(target.key, _Known(lost_at=trio.current_time()))
            if target in known.addresses:
                known.addresses.remove(target)
            known.addresses.insert(0, target)
            del known.addresses[4:]
        return target

    def forget(self, key: bytes) -> None:
        """Do not dial this peer again. Its connection stays as it is."""
        self._known.pop(key, None)

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
            self._spawn(self.disconnect, key)

    def _spawn(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
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
        if key is None or key == self.key or self.penalties.refused(key):
            return False
        if self._admission.may_connect(key) or key in self._known:
            return True
        strangers = sum(1 for k in self._since if not self._admission.may_connect(k))
        return strangers < self.settings.max_unadmitted

    def _connected(self, peer_id: Any) -> None:
        key = key_of(peer_id)
        if key is None:
            return
        fresh = key not in self._since
        self._since.setdefault(key, trio.current_time())
        if fresh and self._admission.may_connect(key):
            for hook in self._connect_hooks:
                hook(key)

    def _disconnected(self, peer_id: Any) -> None:
        key = key_of(peer_id)
        if key is None or self._network.get_connections(peer_id):
            return
        self._since.pop(key, None)
        self._strikes.pop(key, None)
        known = self._known.get(key)
        if known is not None:
            known.lost_at = trio.current_time()
            known.next_dial = known.lost_at + random.uniform(0.1, 0.3)

    # -- keeping connections -------------------------------------------------------------------

    async def _keep_dialling(self) -> None:
        while True:
            now = trio.current_time()
            dialling = sum(known.dialling for known in self._known.values())
            for key, known in list(self._known.items()):
                if dialling >= 16:
                    break
                if not known.dialling and now >= known.next_dial and not self.connected(key):
                    dialling += 1
                    self._spawn(self._dial_once, key)
                    known.dialling = True
            await trio.sleep(0.1)

    async def _dial_once(self, key: bytes) -> None:
        known = self._known.get(key)
        if known is None or self.penalties.refused(key):
            return
        known.dialling = True
        try:
            for address in list(known.addresses):
                with trio.move_on_after(self.settings.dial_s):
                    try:
                        await self._network.dial_addr(
                            Multiaddr(address.transport_text), peer_id_of(key)
                        )
                        return
                    except Exception as error:
                        log.debug("dialling %s failed: %.200r", address, error)
        finally:
            known.dialling = False
            now = trio.current_time()
            pause = min(30.0, max(0.3, (now - known.lost_at) / 10))
            known.next_dial = now + pause * random.uniform(0.8, 1.2)

    async def _keep_checking(self) -> None:
        checked: dict[bytes, float] = {}
        while True:
            await trio.sleep(min(0.5, self.settings.alive_s / 2))
            now = trio.current_time()
            checked = {key: at for key, at in checked.items() if key in self._since}
            for key, since in list(self._since.items()):
                if not self._admission.may_connect(key):
                    if now - since > self.settings.unadmitted_s:
                        self._spawn(self.disconnect, key)
                    continue
                if self._pubsub is not None:
                    self._pubsub.wants(peer_id_of(key))
                due = checked.get(key, since) + self.settings.alive_s
                if now >= due and key not in self._checking:
                    checked[key] = now + random.uniform(0, self.settings.alive_s / 4)
                    self._spawn(self._check, key)
            if self._pubsub is not None:
                await self._pubsub.tidy()

    async def _check(self, key: bytes) -> None:
        """Ask a peer whether it hears us, and see whether we hear it."""
        self._checking.add(key)
        try:
            answer = await self.request(key, ALIVE, b"?", max_response=16, seconds=5.0)
            good = self._pubsub is None or (answer == b"\x01" and self._hears(key))
        except PeerGone as error:
            # A reset is an answer of a living peer that does not admit us (yet).
            good = not isinstance(error.__cause__, trio.TooSlowError)
        finally:
            self._checking.discard(key)
        if not self.connected(key) or good:
            self._strikes.pop(key, None)
            return
        self._strikes[key] = self._strikes.get(key, 0) + 1
        if self._strikes[key] >= self.settings.strikes:
            log.info("peer %s is connected but deaf; connecting anew", short(key))
            self._strikes.pop(key, None)
            await self.disconnect(key)

    def _hears(self, key: bytes) -> bool:
        return self._pubsub is None or self._pubsub.hears(peer_id_of(key))

    async def _answer_alive(self, peer: bytes, _request: bytes) -> bytes:
        return b"\x01" if self._hears(peer) else b"\x00"

    # -- streams -------------------------------------------------------------------------------

    def set_handler(
        self,
        protocol: str,
        handler: Handler,
        *,
        members_only: bool = True,
        timeout: float = 60.0,
        per_peer: int = 4,
        in_all: int = 64,
    ) -> None:
        """Serve a protocol.

        ``handler`` gets at most ``timeout`` seconds per stream, ``per_peer`` streams at a time
        from one peer and ``in_all`` from all; more are reset. Its exceptions are logged and the
        stream is reset; ``Misbehaviour`` costs the peer 5 points.
        """
        busy: dict[bytes, int] = {}

        async def serve(raw: Any) -> None:
            key = key_of(raw.muxed_conn.peer_id)
            if (
                key is None
                or (members_only and not self._admission.may_connect(key))
                or self.penalties.refused(key)
                or busy.get(key, 0) >= per_peer
                or sum(busy.values()) >= in_all
            ):
                await raw.reset()
                return
            stream = FramedStream(raw)
            busy[key] = busy.get(key, 0) + 1
            try:
                with trio.fail_after(timeout):
                    await handler(key, stream)
            except Misbehaviour as error:
                await stream.reset()
                self.penalise(key, f"{protocol}: {error}", 5.0)
            except (PeerGone, trio.TooSlowError) as error:
                log.debug("%s with %s ended: %r", protocol, short(key), error)
                await stream.reset()
            except Exception:
                log.exception("the handler of %s failed", protocol)
                await stream.reset()
            else:
                await stream.finish()
            finally:
                busy[key] -= 1
                if not busy[key]:
                    del busy[key]

        self._host.set_stream_handler(protocol, serve)

    def set_responder(
        self,
        protocol: str,
        respond: Responder,
        *,
        max_request: int,
        members_only: bool = True,
        timeout: float = 20.0,
        per_peer: int = 4,
    ) -> None:
        """Serve a protocol of one request frame and one response frame."""

        async def handle(peer: bytes, stream: FramedStream) -> None:
            request = await stream.read_frame(max_request)
            await stream.write_frame(await respond(peer, request))

        self.set_handler(
            protocol, handle, members_only=members_only, timeout=timeout, per_peer=per_peer
        )

    @asynccontextmanager
    async def stream(
        self, peer: bytes, protocol: str, seconds: float = 10.0
    ) -> AsyncIterator[FramedStream]:
        """Open a stream to a connected peer; closed at the end of the block, reset on an error.

        Raises:
            PeerGone: not connected, or the peer does not take the protocol.
        """
        if not self.connected(peer):
            raise PeerGone(f"not connected to {short(peer)}")
        try:
            with trio.fail_after(seconds):
                raw = await self._host.new_stream(peer_id_of(peer), [protocol])
        except Exception as error:
            raise PeerGone(f"{short(peer)} does not take {protocol}") from error
        stream = FramedStream(raw, seconds)
        try:
            yield stream
        except BaseException as error:
            await stream.reset()
            if isinstance(error, Misbehaviour):
                self.penalise(peer, f"{protocol}: {error}", 5.0)
            raise
        await stream.finish()

    async def request(
        self,
        peer: bytes,
        protocol: str,
        payload: bytes,
        *,
        max_response: int,
        seconds: float = 10.0,
    ) -> bytes:
        """Send one frame, return the one that comes back.

        Raises:
            PeerGone: not connected, or no answer within ``seconds``.
            Misbehaviour: the answer is larger than ``max_response`` bytes.
        """
        try:
            with trio.fail_after(seconds):
                async with self.stream(peer, protocol, seconds) as stream:
                    await stream.write_frame(payload)
                    return await stream.read_frame(max_response)
        except trio.TooSlowError as error:
            raise PeerGone(f"{short(peer)} did not answer in time") from error

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

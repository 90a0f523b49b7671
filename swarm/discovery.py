"""Finding members beyond those of the invitation: ``/lazaretto/peers/1``, and dialling a few.

Each asks a member whom it has met where others are, and says where it listens itself.

    request  = list of up to 4 addresses at which the asker listens
    response = list of up to 32 addresses of members

Both canonical MessagePack. An address in a request must be the asker's own. One that names no host
(0.0.0.0, ::) means the host that the asker is seen at. A node dials until it is connected to
``wanted`` members; more than that is for others to ask for.
"""

from __future__ import annotations

import ipaddress
import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from swarm import wire
from swarm.addresses import AddressError, PeerAddress, parse_address
from swarm.errors import WireError
from swarm.penalties import TokenBucket
from swarm.streams import Misbehaviour, NetworkError

if TYPE_CHECKING:
    from swarm.addressbook import AddressBook
    from swarm.transport import Transport

log = logging.getLogger(__name__)

PROTOCOL = "/lazaretto/peers/1"
MAX_OWN, MAX_TOLD = 4, 32
MAX_REQUEST, MAX_RESPONSE = 2048, 16 * 1024
DIALS_AT_ONCE = 3


class Discovery:
    """Exchanges addresses with members, and dials. Run ``run()`` as long as the transport is up.

    Args:
        transport: the node's transport; the protocol's handler is set here.
        book: what is known.
        wanted: connected members above which nobody more is dialled.
        interval: seconds between two questions, to a random member each.
    """

    def __init__(
        self, transport: Transport, book: AddressBook, *, wanted: int = 8, interval: float = 30.0
    ) -> None:
        self._transport = transport
        self._book = book
        self._wanted = wanted
        self._interval = interval
        self._rate = TokenBucket(rate=0.5, burst=20.0)
        self._met: set[bytes] = set()
        self._wake = trio.Event()
        transport.set_responder(
            PROTOCOL, self._answer, max_request=MAX_REQUEST, timeout=10.0, per_peer=1
        )
        transport.on_connect(self._meet)

    def _meet(self, peer: bytes) -> None:
        if len(self._met) < 256:
            self._met.add(peer)
            self._wake.set()

    async def run(self) -> None:
        """Ask and dial until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_asking)
                while True:
                    await self._dial_some()
                    if self._book.changed:
                        await trio.to_thread.run_sync(self._book.save)
                    await trio.sleep(random.uniform(0.5, 1.5) * min(2.0, self._interval))
        finally:
            self._book.save()

    async def _keep_asking(self) -> None:
        while True:
            with trio.move_on_after(self._interval * random.uniform(0.7, 1.3)):
                await self._wake.wait()
            self._wake = trio.Event()
            met, self._met = self._met, set()
            peers = sorted(self._transport.peers())
            for peer in met or random.sample(peers, min(1, len(peers))):
                try:
                    await self.ask(peer)
                except NetworkError as error:
                    log.debug("asking for addresses failed: %s", error)

    async def ask(self, peer: bytes) -> int:
        """Tell a member where we listen and note what it knows. Return how many that were.

        Raises:
            PeerGone: no answer.
            Misbehaviour: an answer that no honest peer gives.
        """
        own = [text for text in self._transport.addresses if len(text) <= 400][:MAX_OWN]
        request = wire.encode(own)
        answer = await self._transport.request(peer, PROTOCOL, request, max_response=MAX_RESPONSE)
        try:
            told = addresses_in(answer, MAX_TOLD)
        except Misbehaviour as error:
            self._transport.penalise(peer, f"{PROTOCOL}: {error}", 5.0)
            raise
        for address in told:
            if address.key != self._transport.key and self._transport.admits(address.key):
                self._book.hear(address)
        return len(told)

    async def _answer(self, peer: bytes, request: bytes) -> bytes:
        told = addresses_in(request, MAX_OWN)
        if any(address.key != peer for address in told):
            raise Misbehaviour("an address of somebody else as one's own")
        if not self._rate.take(peer):
            raise NetworkError("questions for addresses come too often")
        for address in told:
            seen = self._transport.ip_of(peer)
            reachable = as_seen(address, seen)
            if reachable is None:
                continue
            if same_host(reachable, seen) or self._transport.dials.is_proven(reachable):
                self._book.reached(reachable)
            else:  # it may be anybody's
                self._book.hear(reachable)
        found = self._book.to_tell(
            MAX_TOLD, lambda key: key != peer and self._transport.admits(key)
        )
        return wire.encode([str(address) for address in found])

    async def _dial_some(self) -> None:
        missing = self._wanted - len(self._transport.peers())
        if missing <= 0:
            return
        due = self._book.due(self._transport.dials.ready, self._needs_no_dial)
        async with trio.open_nursery() as nursery:
            for key in due[: min(missing, DIALS_AT_ONCE)]:
                nursery.start_soon(self._dial, key)

    def _needs_no_dial(self, key: bytes) -> bool:
        transport = self._transport
        return (
            key == transport.key
            or transport.connected(key)
            or transport.refuses(key)
            or not transport.admits(key)
        )

    async def reach(self, key: bytes) -> bool:
        """Connect to one member, beyond ``wanted`` if need be, where its address is known; returns
        whether it is connected now.
        """
        if not self._needs_no_dial(key):
            await self._dial(key)
        return self._transport.connected(key)

    async def _dial(self, key: bytes) -> None:
        for address in self._book.addresses(key):
            if await self._transport.dial_once(address):
                self._book.reached(address)
                return


def addresses_in(data: bytes, most: int) -> list[PeerAddress]:
    """Parse a list of up to ``most`` addresses from a peer.

    Raises:
        Misbehaviour: anything else.
    """
    try:
        listed: Any = wire.decode(data, max_size=MAX_RESPONSE)
        if not isinstance(listed, list) or len(listed) > most:
            raise Misbehaviour("not a list of addresses")
        if not all(isinstance(text, str) for text in listed):
            raise Misbehaviour("an address that is not text")
        return [parse_address(text) for text in listed]
    except (WireError, AddressError) as error:
        raise Misbehaviour(f"not a list of addresses: {error}") from None


def same_host(address: PeerAddress, host: str) -> bool:
    """Say whether an address is at the IP address ``host``."""
    return bool(host) and address == as_seen(replace(address, kind="ip4", host="0.0.0.0"), host)


def as_seen(address: PeerAddress, host: str) -> PeerAddress | None:
    """The address of a peer that is seen at ``host``; None for one that others cannot reach.

    ``host`` takes the place of an unspecified one, and is empty for a peer that is connected over a
    relay alone. Loopback is of use on one machine only.
    """
    if address.kind not in ("ip4", "ip6"):
        return address
    named = ipaddress.ip_address(address.host)
    if not named.is_unspecified:
        near = host and ipaddress.ip_address(host.partition("%")[0]).is_loopback
        return None if named.is_loopback and not near else address
    if not host:
        return None
    seen = ipaddress.ip_address(host.partition("%")[0])
    seen = getattr(seen, "ipv4_mapped", None) or seen
    return replace(address, kind="ip4" if seen.version == 4 else "ip6", host=str(seen))

"""Everything of one node that talks to peers, opened and closed together."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from swarm.addressbook import AddressBook
from swarm.blobs import BlobError, Blobs, BlobStore
from swarm.discovery import Discovery
from swarm.gossip import Gossip, topic_of
from swarm.joining import JoinHandler, Joining
from swarm.relay import Relay
from swarm.sync import Sync
from swarm.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from node.settings import Home, Settings
    from swarm.keys import KeyPair
    from swarm.log import SwarmLog


DIRECT_S = 10.0
"""A member is dialled for so long before others are asked to relay."""
RELAYED_S = 30.0


@dataclass(frozen=True, slots=True)
class Network:
    """The open network of a node."""

    transport: Transport
    blobs: Blobs
    sync: Sync
    discovery: Discovery
    relay: Relay

    async def fetch(self, digest: bytes, max_size: int, likely: bytes) -> Path:
        """Fetch a blob (see ``Blobs.fetch``) from whoever is connected and holds it; else from the
        member ``likely``, which should, and is connected to for that if it can be."""
        try:
            return await self.blobs.fetch(digest, max_size)
        except BlobError:
            if likely == self.transport.key or self.transport.connected(likely):
                raise
        with trio.move_on_after(DIRECT_S):
            await self.discovery.reach(likely)
        if not self.transport.connected(likely):
            with trio.move_on_after(RELAYED_S):
                await self.relay.reach(likely)
        return await self.blobs.fetch(digest, max_size)


@asynccontextmanager
async def open_network(
    home: Home,
    settings: Settings,
    key: KeyPair,
    log: SwarmLog,
    join_handler: JoinHandler | None = None,
) -> AsyncIterator[Network]:
    """Listen, gossip, sync, serve blobs and (for governors) join requests, until left.

    Bootstrap peers are dialled in the background, again and again: a node may start alone. Other
    members are found through them, and remembered in the home.
    """
    listen = list(_same_port(home, settings.listen))
    transport = Transport(
        key.seed, listen, admission=log, topic=topic_of(settings.swarm_id)
    )  # fmt: skip
    sync = Sync(transport, log)
    gossip = Gossip(transport, log, sync)
    store = BlobStore(home.blobs, max_total=settings.limits.blob_gib * 1024**3)
    blobs = Blobs(transport, store, settings.limits.net_kib_s * 1024)
    relay = Relay(transport, blobs.throttle, carries=settings.relay)
    book = AddressBook(home.path / "peers")
    discovery = Discovery(transport, book)
    if join_handler is not None:
        Joining(transport, join_handler)
    async with transport, trio.open_nursery() as nursery:
        log.announce = gossip.publish
        _remember_port(home, transport.addresses)
        for address in settings.bootstrap:
            transport.remember(address)
        nursery.start_soon(sync.run)
        nursery.start_soon(discovery.run)
        if settings.mdns:
            nursery.start_soon(_look_around, settings, transport, book)
        try:
            yield Network(transport, blobs, sync, discovery, relay)
        finally:
            log.announce = None
            nursery.cancel_scope.cancel()


async def _look_around(settings: Settings, transport: Transport, book: AddressBook) -> None:
    from swarm.lan import on_the_lan

    async with on_the_lan(settings.swarm_id, transport.addresses, book.hear):
        await trio.sleep_forever()


def _same_port(home: Home, listen: tuple[str, ...]) -> tuple[str, ...]:
    """Ask for the port of the last start where the settings leave it to the system and it is free,

    so that peers who knew this node find it again after a restart.
    """
    try:
        port = int((home.path / "port").read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, OverflowError):
        return listen
    return tuple(
        address[: -len("/tcp/0")] + f"/tcp/{port}" if address.endswith("/tcp/0") else address
        for address in listen
    )


def _remember_port(home: Home, addresses: list[str]) -> None:
    parts = addresses[0].split("/") if addresses else []
    if "tcp" in parts:
        (home.path / "port").write_text(parts[parts.index("tcp") + 1])

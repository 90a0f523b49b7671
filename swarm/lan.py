"""Members on the same network, found by multicast DNS (zeroconf). Off unless the settings ask.

A node announces its addresses and a digest of its swarm's id as a ``_lazaretto._udp`` service, and
notes what others announce in its address book: hearsay, which leads to a dial only for keys that
are members', and to a connection only with who has the key. Everybody on the network learns which
key listens where; that is why it is off at first.

The library reads datagrams in a thread of its own. Nothing of it reaches the event loop but parsed
addresses, a bounded number of them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from swarm.addresses import AddressError, PeerAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

log = logging.getLogger(__name__)

SERVICE = "_lazaretto._udp.local."
MAX_ADDRESSES = 4
MAX_PENDING = 64
LOOK_MS = 1000


class _Listener(ServiceListener):
    """Runs in the library's thread; hands over what names our swarm."""

    def __init__(self, tag: bytes, found: Callable[[list[PeerAddress]], None]) -> None:
        self._tag = tag
        self._found = found

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        try:
            info = zc.get_service_info(type_, name, timeout=LOOK_MS)
            if info is not None:
                self._found(announced(info.properties, self._tag))
        except Exception as error:  # whatever a datagram made the library do
            log.debug("an announcement could not be read: %.200r", error)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Do nothing: the address book forgets by itself."""


def announced(properties: Mapping[Any, Any], tag: bytes) -> list[PeerAddress]:
    """The addresses in an announcement's text, none if it is of another swarm."""
    if properties.get(b"swarm") != tag:
        return []
    found = []
    for number in range(MAX_ADDRESSES):
        value = properties.get(b"dnsaddr%d" % number)
        if isinstance(value, bytes):
            with suppress(AddressError, UnicodeDecodeError):
                found.append(parse_address(value.decode("ascii")))
    return found


def tag_of(swarm: bytes) -> bytes:
    """What announcements say of a swarm: enough to tell it from others, not its id."""
    return hashlib.sha256(b"lazaretto/lan/1" + swarm).hexdigest()[:16].encode()


def _reachable(text: str) -> str | None:
    """An address as others on the network can dial it."""
    try:
        address = parse_address(text)
    except AddressError:
        return None
    if address.host != "0.0.0.0":
        return text
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
        try:
            probe.connect(("224.0.0.251", 5353))
        except OSError:
            return None
        return str(replace(address, host=probe.getsockname()[0]))


@asynccontextmanager
async def on_the_lan(
    swarm: bytes,
    addresses: list[str],
    found: Callable[[PeerAddress], None],
    interfaces: list[str] | None = None,
) -> AsyncIterator[None]:
    """Announce ``addresses`` and call ``found`` with those of others, for the length of the block.

    Without a network, or without permission to use it, nothing happens but a line in the log.
    """
    token = trio.lowlevel.current_trio_token()
    pending = 0

    def arrived(listed: list[PeerAddress]) -> None:
        nonlocal pending
        pending -= 1
        for address in listed:
            found(address)

    def hand_over(listed: list[PeerAddress]) -> None:
        nonlocal pending
        if pending < MAX_PENDING:
            pending += 1
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(arrived, listed)

    def start() -> Zeroconf | None:
        told = [text for text in map(_reachable, addresses) if text][:MAX_ADDRESSES]
        text: dict[bytes, bytes] = {b"swarm": tag_of(swarm)}
        text.update((b"dnsaddr%d" % n, told[n].encode()) for n in range(len(told)))
        if not told:
            log.warning("this node listens nowhere that others on its network could reach")
            return None
        try:
            zeroconf = Zeroconf(interfaces=interfaces or ["0.0.0.0"], ip_version=IPVersion.V4Only)
        except OSError as error:
            log.warning("members on this network cannot be looked for: %s", error.strerror)
            return None
        name = f"{os.urandom(8).hex()}.{SERVICE}"
        hosts = [parse_address(one).host for one in told]  # without one it is no answer to anybody
        info = ServiceInfo(
            SERVICE,
            name,
            port=parse_address(told[0]).port,
            properties=text,
            server=f"{name[:16]}.local.",
            parsed_addresses=hosts[:1],
        )
        ServiceBrowser(zeroconf, SERVICE, listener=_Listener(tag_of(swarm), hand_over))
        zeroconf.register_service(info)
        return zeroconf

    zeroconf = await trio.to_thread.run_sync(start)
    try:
        yield
    finally:
        if zeroconf is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(5.0):
                await trio.to_thread.run_sync(zeroconf.close)

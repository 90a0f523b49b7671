"""Addresses of peers as text, without libp2p: ``/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...``.

Only what this swarm speaks can be written: TCP to an IP address or a name, and an Ed25519 key.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.keys import peer_id, public_from_peer_id

PEER_ID_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash (0x00), 36 bytes, protobuf: key type Ed25519 (08 01), 32 key bytes (12 20)."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
KINDS = ("ip4", "ip6", "dns4", "dns6", "dns")


class AddressError(SwarmError):
    """Text is not the address of a peer."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer listens, and who it must turn out to be.

    Attributes:
        kind: "ip4", "ip6", "dns", "dns4" or "dns6".
        host: the IP address or name.
        port: TCP port, 1-65535.
        key: Ed25519 public key, 32 bytes.
    """

    kind: str
    host: str
    port: int
    key: bytes

    @property
    def transport_text(self) -> str:
        """The address without the peer id."""
        return f"/{self.kind}/{self.host}/tcp/{self.port}"

    def __str__(self) -> str:
        return f"{self.transport_text}/p2p/{peer_id(self.key)}"


def parse_address(text: str) -> PeerAddress:
    """Parse ``/ip4/../tcp/../p2p/..``, strictly: what it returns formats to the same text.

    Raises:
        AddressError: anything else.
    """
    cure = "write it as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW..."
    parts = text.split("/") if len(text) <= 400 else []
    if len(parts) != 7 or parts[0] or parts[3] != "tcp" or parts[5] != "p2p":
        raise AddressError("not an address of a peer", cure=cure)
    kind, host, port = parts[1], parts[2], parts[4]
    if kind not in KINDS:
        raise AddressError("only ip4, ip6, dns, dns4 and dns6 addresses are spoken", cure=cure)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5) or str(int(port)) != port:
        raise AddressError("the port is not a number", cure=cure)
    if not 1 <= int(port) <= 65535:
        raise AddressError("the port is not between 1 and 65535", cure=cure)
    if kind in ("ip4", "ip6"):
        try:
            number = (ipaddress.IPv4Address if kind == "ip4" else ipaddress.IPv6Address)(host)
        except ValueError:
            raise AddressError("not an IP address", cure=cure) from None
        if str(number) != host:
            raise AddressError("the IP address is not in its usual form", cure=cure)
    elif not _NAME.match(host):
        raise AddressError("not a host name (lower case)", cure=cure)
    try:
        key = public_from_peer_id(parts[6])
    except SwarmError as error:
        raise AddressError(str(error), cure=cure) from None
    return PeerAddress(kind, host, int(port), key)

"""How somebody who is not a member yet reaches a swarm: an invitation, and ``/lazaretto/join/1``.

The protocol carries one request and one response, both opaque here; the node decides what they
mean. It is the only one of ours that is open to non-members, so it is narrow: small requests, few
at a time, a few a minute per key.

An invitation is one printable string::

    laz1 + base32( version (1) | length (u16) | swarm id (32) | token (16)
                   | role: length (u8), text | n (u8) | n addresses: length (u16), text
                   | nothing, or the anchor (32) | checksum (4) )

in lower case, with the alphabet of RFC 4648 (no 0, 1, 8, 9) and no padding. The length is that of
the bytes before the checksum, so that a string that was cut off can be told from a mistyped one;
the checksum is the start of sha256 over them. Addresses of peers are packed: see ``_pack``.

This module does not import libp2p.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.addresses import KINDS, AddressError, PeerAddress, parse_address
from swarm.errors import SwarmError
from swarm.penalties import TokenBucket
from swarm.streams import NetworkError
from swarm.subnets import subnet_of

if TYPE_CHECKING:
    from swarm.transport import Transport

PROTOCOL = "/lazaretto/join/1"
MAX_REQUEST = 64 * 1024
MAX_RESPONSE = 1024 * 1024
PREFIX = "laz1"
MAX_ADDRESSES = 8
TOKEN_SIZE = 16

_ROLE = re.compile(r"[a-z][a-z,-]{0,63}\Z")
_HOW = "copy the whole line that starts with laz1, or ask for a new invitation"

JoinHandler = Callable[[bytes, str, bytes], Awaitable[bytes]]
"""(key of the asking peer, its IP address, request) -> response. The last two opaque here."""


class InvitationError(SwarmError):
    """Text is not an invitation, or not a whole one."""


class Joining:
    """Serves the join protocol to anybody.

    Args:
        transport: the node's transport.
        answer: the node's decision. It gets 20 seconds.
    """

    def __init__(self, transport: Transport, answer: JoinHandler) -> None:
        self._answer = answer
        self._transport = transport
        self._each = TokenBucket(rate=0.2, burst=10.0)
        self._subnets = TokenBucket(rate=1.0, burst=20.0)
        self._all = TokenBucket(rate=40.0, burst=100.0)  # more than strangers have CPU time for
        transport.set_responder(
            PROTOCOL,
            self._respond,
            max_request=MAX_REQUEST,
            members_only=False,
            per_peer=1,
        )

    async def _respond(self, peer: bytes, request: bytes) -> bytes:
        ip = self._transport.ip_of(peer)
        subnet = subnet_of(ip)
        fair = subnet is None or self._subnets.take(subnet.encode())
        if not (fair and self._each.take(peer) and self._all.take(b"")):
            raise NetworkError("join requests come too often")
        with self._transport.answering(peer):
            response = await self._answer(peer, ip, request)
        if len(response) > MAX_RESPONSE:
            raise NetworkError("the response to a join request is too large")
        return response


async def ask_to_join(
    transport: Transport, peer: bytes, request: bytes, *, seconds: float = 20.0
) -> bytes:
    """Send a join request to a connected peer and return its response.

    Raises:
        PeerGone: no answer: the peer is busy, or takes no requests of ours at the moment.
        Misbehaviour: the response is larger than ``MAX_RESPONSE``.
        NetworkError: the request is larger than ``MAX_REQUEST``.
    """
    if len(request) > MAX_REQUEST:
        raise NetworkError(f"a join request has at most {MAX_REQUEST} bytes")
    return await transport.request(
        peer, PROTOCOL, request, max_response=MAX_RESPONSE, seconds=seconds
    )


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a newcomer needs to find a swarm and be let in.

    Attributes:
        swarm: the swarm id, 32 bytes; it pins the charter.
        token: a secret that the inviter recognises, 16 bytes. Whoever has it can use it.
        role: the role it invites to, for example ``researcher`` or ``researcher,verifier``.
        addresses: 1 to 8 addresses of members to dial.
        anchor: the id of an epoch that is final for the inviter, or None: no history without it is
            the swarm's (``swarm.finality``).
    """

    swarm: bytes
    token: bytes
    role: str
    addresses: tuple[PeerAddress, ...]
    anchor: bytes | None = None

    def __post_init__(self) -> None:
        if len(self.swarm) != 32 or len(self.token) != TOKEN_SIZE:
            raise InvitationError("a swarm id has 32 bytes and a token 16")
        if self.anchor is not None and len(self.anchor) != 32:
            raise InvitationError("the id of an epoch has 32 bytes")
        if not _ROLE.match(self.role):
            raise InvitationError("a role is a short lower-case word")
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            raise InvitationError(f"an invitation has 1 to {MAX_ADDRESSES} addresses")

    def __repr__(self) -> str:
        return f"Invitation(swarm={self.swarm.hex()[:12]}, role={self.role}, token=...)"

    def __str__(self) -> str:
        """The string to hand over. It holds the secret token."""
        role = self.role.encode()
        body = self.swarm + self.token + bytes((len(role),)) + role
        body += bytes((len(self.addresses),)) + b"".join(map(_pack, self.addresses))
        body += self.anchor or b""
        head = b"\x01" + (3 + len(body)).to_bytes(2, "big")
        data = head + body
        data += hashlib.sha256(data).digest()[:4]
        return PREFIX + base64.b32encode(data).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Read an invitation; white space around it is ignored, nothing else.

        Raises:
            InvitationError: says whether the string is cut off, mistyped or something else.
        """
        text = text.strip()
        if not text.startswith(PREFIX):
            raise InvitationError(
                "this is not an invitation: it does not start with laz1", cure=_HOW
            )
        if len(text) > 4000:
            raise InvitationError("not an invitation: it is too long", cure=_HOW)
        code = text[len(PREFIX) :]
        for place, char in enumerate(code, len(PREFIX) + 1):
            if char not in "abcdefghijklmnopqrstuvwxyz234567":
                raise InvitationError(
                    f"character {place} of the invitation ({char!a}) cannot occur in one", cure=_HOW
                )
        data = _unbase32(code)
        if len(data) >= 3 and data[0] != 1:
            raise InvitationError(
                "the invitation is of a version that is not known here, or mistyped",
                cure="update this program, or ask for a new invitation",
            )
        size = int.from_bytes(data[1:3], "big") + 4 if len(data) >= 3 else 1 << 16
        if len(data) < size:
            raise InvitationError("the invitation is cut off at the end", cure=_HOW)
        if (
            len(data) > size
            or hashlib.sha256(data[:-4]).digest()[:4] != data[-4:]
            or base64.b32encode(data).decode().rstrip("=").lower() != code
        ):
            raise InvitationError("the invitation is mistyped: its checksum is wrong", cure=_HOW)
        try:
            invitation = cls._from_body(data[3:-4])
        except (IndexError, UnicodeDecodeError, ValueError, AddressError):
            raise InvitationError("the invitation is not in a known form", cure=_HOW) from None
        if str(invitation) != text:
            raise InvitationError("the invitation is not in its usual form", cure=_HOW)
        return invitation

    @classmethod
    def _from_body(cls, body: bytes) -> Invitation:
        swarm, token, rest = body[:32], body[32:48], body[48:]
        role, rest = rest[1 : 1 + rest[0]].decode("ascii"), rest[1 + rest[0] :]
        addresses = []
        count, rest = rest[0], rest[1:]
        for _ in range(count):
            address, rest = _unpack(rest)
            addresses.append(address)
        if len(rest) not in (0, 32):
            raise ValueError("something behind the last address")
        return cls(swarm, token, role, tuple(addresses), rest or None)


def _unbase32(code: str) -> bytes:
    try:
        return base64.b32decode(code.upper() + "=" * (-len(code) % 8))
    except ValueError:  # a length that base32 cannot have: the end is missing
        return base64.b32decode(code[: len(code) // 8 * 8].upper())


def _pack(address: PeerAddress) -> bytes:
    """kind (u8: its place in ``KINDS``) | host (4 bytes, 16 bytes, or u8 length and text) |
    port (u16) | key (32)."""
    kind = KINDS.index(address.kind)
    if address.kind in ("ip4", "ip6"):
        host = ipaddress.ip_address(address.host).packed
    else:
        host = bytes((len(address.host),)) + address.host.encode("ascii")
    return bytes((kind,)) + host + address.port.to_bytes(2, "big") + address.key


def _unpack(data: bytes) -> tuple[PeerAddress, bytes]:
    kind = KINDS[data[0]]
    if kind in ("ip4", "ip6"):
        size = 4 if kind == "ip4" else 16
        host, rest = str(ipaddress.ip_address(data[1 : 1 + size])), data[1 + size :]
    else:
        size = data[1]
        host, rest = data[2 : 2 + size].decode("ascii"), data[2 + size :]
    address = PeerAddress(kind, host, int.from_bytes(rest[:2], "big"), rest[2:34])
    return parse_address(str(address)), rest[34:]

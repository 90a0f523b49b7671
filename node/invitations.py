"""Invitations that this node has given out, one small file for each; the token itself is not kept.

An invitation admits one key or a few, until it expires by the clock of this node or is revoked.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from node.errors import UsageError
from node.settings import ROLES, is_name, write_atomic
from node.state import read_state
from node.times import seconds_of
from swarm.addresses import parse_address
from swarm.joining import MAX_ADDRESSES, TOKEN_SIZE, Invitation
from swarm.keys import KeyPair
from swarm.roster import OPEN_OPERATOR
from swarm.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from node.settings import Home

MAX_USES = 100
DEFAULT_EXPIRY = "7d"


@dataclass(frozen=True, slots=True)
class Given:
    """One invitation: whom it lets in, how often, until when (seconds since 1970).

    ``id`` is the start of the sha256 of its token; ``used_by``: public keys as hex digits.
    """

    id: str
    operator: str
    roles: tuple[str, ...]
    made: int
    expires: int
    uses: int = 1
    used_by: tuple[str, ...] = ()
    revoked: bool = False

    def refusal(self, key: bytes, now: float) -> str:
        """Why it does not let ``key`` in; empty when it does. A key that used it may come again."""
        if self.revoked:
            return "this invitation was withdrawn"
        if key.hex() in self.used_by:
            return ""
        if now >= self.expires:
            return "this invitation has expired"
        if len(self.used_by) < self.uses:
            return ""
        return f"this invitation was used by {'another node' if self.uses == 1 else 'others'}"


class Invitations:
    """The invitations of one home."""

    def __init__(self, home: Home) -> None:
        self._folder = home.invitations
        self._using = threading.Lock()  # a door answers several at a time

    def give(self, operator: str, roles: tuple[str, ...], expires: str, uses: int) -> bytes:
        """Write down a new invitation and return its token.

        Raises:
            UsageError: not a time, or too many uses.
        """
        if not 1 <= uses <= MAX_USES:
            raise UsageError(f"--uses is 1 to {MAX_USES}", cure="lazaretto invite --uses 1")
        token, now = os.urandom(TOKEN_SIZE), int(time.time())
        name = hashlib.sha256(token).hexdigest()
        self._folder.mkdir(exist_ok=True, mode=0o700)
        self._write(
            self._folder / f"{name}.json",
            Given(name[:12], operator, roles, now, now + seconds_of(expires), uses),
        )
        return token

    def use(self, token: bytes, key: bytes) -> Given | str:
        """Let ``key`` in by ``token``: the invitation, marked as used before it is returned, or why
        not.
        """
        path = self._folder / f"{hashlib.sha256(token).hexdigest()}.json"
        with self._using:
            given = _read(path)
            if given is None:
                return "this invitation is unknown here"
            refusal = given.refusal(key, time.time())
            if refusal:
                return refusal
            if key.hex() not in given.used_by:
                given = replace(given, used_by=(*given.used_by, key.hex()))
                self._write(path, given)
            return given

    def listed(self) -> list[Given]:
        """All of them, oldest first."""
        found = [_read(path) for path in self._folder.glob("*.json")]
        return sorted((one for one in found if one), key=lambda one: (one.made, one.id))

    def revoke(self, name: str) -> Given:
        """Withdraw the invitation whose id begins with ``name``; who used it stays a member.

        Raises:
            UsageError: none or several fit.
        """
        fitting = [p for p in self._folder.glob("*.json") if name and p.name.startswith(name)]
        given = _read(fitting[0]) if len(fitting) == 1 else None
        if given is None:
            raise UsageError(
                f"{len(fitting)} invitations have the id {name}", cure="lazaretto invite --list"
            )
        fitting[0].with_suffix(".revoked").touch()  # a file of its own: a node may be writing now
        return replace(given, revoked=True)

    def _write(self, path: Path, given: Given) -> None:
        write_atomic(path, msgspec.json.encode(given))


def _read(path: Path) -> Given | None:
    try:
        given = msgspec.json.decode(path.read_bytes(), type=Given)
        return replace(given, revoked=path.with_suffix(".revoked").exists())
    except (OSError, msgspec.MsgspecError):
        return None  # unknown, or damaged: it lets nobody in


# --- the string to hand over ----------------------------------------------------------------------


def reachable(addresses: tuple[str, ...], host: str | None) -> tuple[str, ...]:
    """Addresses as others dial them: ``host`` in place of "all interfaces".

    Raises:
        UsageError: the node listens on all interfaces and ``host`` is missing, or no IP address.
    """
    wild = {"/ip4/0.0.0.0/": 4, "/ip6/::/": 6}
    listens_everywhere = any(address.startswith(tuple(wild)) for address in addresses)
    if host is None:
        if listens_everywhere:
            raise UsageError(
                "this node listens on all interfaces; say at which address others reach it",
                cure="lazaretto invite --operator NAME --host IP",
            )
        return addresses
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        raise UsageError(f"{host!r} is not an IP address", cure="for example 192.0.2.7") from None
    found = tuple(
        f"/ip{version}/{host}/{address.removeprefix(prefix)}"
        for address in addresses
        for prefix, family in wild.items()
        if address.startswith(prefix) and family == version
    )
    if not found:
        raise UsageError(
            f"this node does not listen on {host}", cure="leave --host away, or listen on 0.0.0.0"
        )
    return found


def make_invitation(
    home: Home,
    *,
    operator: str | None,
    roles: tuple[str, ...] | None,
    host: str | None = None,
    expires: str = DEFAULT_EXPIRY,
    uses: int = 1,
) -> str:
    """One string with which a node can join; this node must be running.

    A governor invites anybody; any other member vouches for researchers under its own operator.

    Raises:
        UsageError: unknown roles or names, no right to invite, no address that others can reach.
        NotRunning: nobody could answer the newcomer.
    """
    unknown = sorted(set(roles or ()) - set(ROLES))
    if unknown:
        raise UsageError(f"unknown role {unknown}", cure=f"choose from {', '.join(ROLES)}")
    settings, key = home.load(), KeyPair.load(home.key).public
    with Store(home.log, settings.swarm_id, read_only=True) as store:
        rules, anchor = store.stand, store.anchor
    line = rules.current.roster.get(key) if rules and rules.current else None
    governs = rules is not None and key in rules.governors
    if not governs:
        if line is None or operator not in (None, line.operator):
            raise UsageError(
                "only a governor's node invites other operators",
                cure="ask the founder of the swarm",
            )
        if set(roles or ()) - {"researcher"}:
            raise UsageError(
                "a member vouches for researchers only", cure="ask a governor to invite verifiers"
            )
        operator, roles = line.operator, ("researcher",)
    roles = tuple(role for role in ROLES if role in (roles or ("researcher", "verifier")))
    if operator is None or not is_name(operator) or operator == OPEN_OPERATOR:
        raise UsageError(
            "say who will run the node: a short name of its own, in lower case",
            cure="lazaretto invite --operator NAME",
        )
    listed = reachable(read_state(home).addresses, host)
    addresses = tuple(parse_address(address) for address in listed[:MAX_ADDRESSES])
    token = Invitations(home).give(operator, roles, expires, uses)
    return str(Invitation(settings.swarm_id, token, ",".join(roles), addresses, anchor))

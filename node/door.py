"""The door of a node: what it answers to those who are not members yet.

A request shows an invitation (``token``), asks without one (``ask``), or brings the record in which
a member's old key handed over to the key that asks (``handover``). The channel has authenticated
the key; everything else is a stranger's word. What the answer promises is a signed record already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from node.convicts import STORIES
from node.epochs import admit
from node.errors import NodeError
from node.governing import new_member
from node.invitations import Invitations
from node.requests import Requests
from swarm import wire
from swarm.envelope import parse
from swarm.errors import SwarmError, WireError
from swarm.keys import is_valid_public
from swarm.penalties import TokenBucket
from swarm.records import Rotation
from swarm.roster import OPEN_OPERATOR
from swarm.subnets import subnet_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.settings import Home
    from swarm.charter import Rules
    from swarm.log import SwarmLog

MAX_HANDOVER = 60 * 1024
MAX_OPEN_MEMBERS = 32
"""Strangers that an open swarm lets in; they share the claims of one operator."""

ADMITTED, WAITING, REFUSED = "admitted", "waiting", "refused"


class Door:
    """Answers join requests. A governor's door decides; a member's lets in whom it vouches for.

    Args:
        home, log: of this node.
        ready: says whether an epoch for newcomers will be opened at once.
    """

    def __init__(self, home: Home, log: SwarmLog, ready: Callable[[], bool]) -> None:
        self._log = log
        self._invitations = Invitations(home)
        self._requests = Requests(home)
        self._ready = ready
        self._open_subnets = TokenBucket(rate=1 / 3600, burst=4.0)

    async def answer(self, peer: bytes, ip: str, request: bytes) -> bytes:
        """Decide on a request of the key ``peer`` at ``ip``. Never raises for what is in it."""
        await self._log.may_sign.wait()
        rules = self._log.store.stand
        if rules is None or not rules.is_member(self._log.key.public):
            return _say(REFUSED, "this node is no member itself")
        try:
            asked = wire.decode(request)
        except WireError:
            asked = None
        if not isinstance(asked, dict) or not is_valid_public(peer):
            return _say(REFUSED, "the request is malformed")
        state, reason = await self._decide(rules, peer, ip, asked)
        if state != ADMITTED:  # a stranger hears nothing of the swarm that it did not bring
            return _say(state, reason)
        return _say(state, reason, swarm=rules.swarm, name=rules.charter.name, soon=self._ready())

    async def _decide(
        self, rules: Rules, peer: bytes, ip: str, asked: dict[str, Any]
    ) -> tuple[str, str]:
        token, ask, handover = (asked.get(name) for name in ("token", "ask", "handover"))
        if peer in rules.known:
            if rules.is_member(peer):
                return ADMITTED, ""
            return REFUSED, "this key was removed or handed over; a new one can be admitted"
        if peer in self._log.convicted:
            return REFUSED, f"this key {STORIES}; a new one can be admitted"
        try:
            if isinstance(token, bytes):
                return await self._by_invitation(peer, token)
            if isinstance(handover, list) and all(isinstance(one, bytes) for one in handover):
                return await self._by_handover(peer, handover)
            if isinstance(ask, dict):
                return await self._by_asking(rules, peer, ip, ask)
        except NodeError as error:
            return REFUSED, str(error)
        return REFUSED, "the request is malformed"

    async def _by_invitation(self, peer: bytes, token: bytes) -> tuple[str, str]:
        given = await trio.to_thread.run_sync(self._invitations.use, token, peer)
        if isinstance(given, str):
            return REFUSED, given
        await self._admit(peer, given.operator, given.roles)
        return ADMITTED, ""

    async def _by_handover(self, peer: bytes, records: list[bytes]) -> tuple[str, str]:
        if not records or sum(map(len, records)) > MAX_HANDOVER:
            return REFUSED, "the handover is too large"
        try:
            last = parse(records[-1])
        except SwarmError:
            return REFUSED, "the handover is no signed record"
        if not isinstance(last.payload, Rotation) or last.payload.new != peer:
            return REFUSED, "the record hands over to another key"
        await self._log.ingest(records, peer)
        rules = self._log.store.stand
        if rules is not None and rules.is_member(peer):
            return ADMITTED, ""
        return REFUSED, "the handover does not follow what is held here of the old key's records"

    async def _by_asking(
        self, rules: Rules, peer: bytes, ip: str, ask: dict[str, Any]
    ) -> tuple[str, str]:
        if self._log.key.public not in rules.governors:
            return REFUSED, "this node admits nobody without an invitation; ask a governor's node"
        if rules.charter.admission == "open" and ask.get("roles") == ["researcher"]:
            strangers = [
                key
                for key, line in rules.admissions.items()
                if line.operator == OPEN_OPERATOR and rules.is_member(key)
            ]
            subnet = subnet_of(ip)
            fair = subnet is None or self._open_subnets.take(subnet.encode())
            if fair and len(strangers) < MAX_OPEN_MEMBERS:
                await self._admit(peer, OPEN_OPERATOR, ("researcher",))
                return ADMITTED, ""
        refusal = await trio.to_thread.run_sync(self._requests.ask, peer, ip, ask)
        return (REFUSED, refusal) if refusal else (WAITING, "")

    async def _admit(self, peer: bytes, operator: str, roles: tuple[str, ...]) -> None:
        store, key = self._log.store, self._log.key
        tiers = [tier.name for tier in store.stand.charter.tiers] if store.stand else []
        member = new_member(peer, operator, roles, key.public, tiers)
        await self._log.append_by(lambda: admit(store, key, member))


def _say(state: str, reason: str, **more: object) -> bytes:
    return wire.encode({"state": state, "reason": reason[:300], **more})

"""Founding a swarm here, inviting to it, and joining one from a single string.

A join: the newcomer dials an address of the invitation, shows the token over a channel that
authenticates its key, and a governor's node signs its admission and an epoch with it on the roster.
Then it pulls charter and records (the charter is pinned by the swarm id in the invitation) and the
data by hash. Every step can be repeated: ``join`` again goes on where it was cut off.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

import trio

from node.errors import NetworkError, NodeError, UsageError
from node.settings import Home, Limits, Settings, check_corpus, write_atomic
from node.state import read_state
from swarm import wire
from swarm.envelope import parse
from swarm.errors import SwarmError, WireError
from swarm.keys import KeyPair, short

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from node.progress import Stage
    from swarm.charter import Rules
    from swarm.log import SwarmLog

ROLES = ("researcher", "verifier", "archivist")
JOIN_SECONDS = 60.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


def _check_name(what: str, text: str) -> str:
    if not _NAME.match(text):
        raise UsageError(
            f"{what} {text!r} is not a short name",
            cure="use lower-case letters, digits, dots and hyphens",
        )
    return text


def _check_listen(address: str) -> None:
    """An address to listen on: ``/ip4/.../tcp/PORT`` or ``/ip6/.../tcp/PORT``."""
    if not re.fullmatch(r"/ip[46]/[0-9a-fA-F.:]+/tcp/[0-9]{1,5}", address):
        raise UsageError(
            f"{address!r} is not an address to listen on", cure="for example /ip4/0.0.0.0/tcp/4001"
        )


def _new_key(home: Home) -> KeyPair:
    """Make the directories and the key, or take the key that is there."""
    home.create()
    if home.key.exists():
        return KeyPair.load(home.key)
    key = KeyPair.generate()
    key.save(home.key)
    return key


def found_here(
    home: Home,
    *,
    name: str,
    plan_file: Path | None,
    corpus: str | None,
    operator: str,
    listen: str,
    progress: Callable[[str], None],
    others: Callable[[bytes], list[Any]] | None = None,
    roles: tuple[str, ...] = ("researcher", "verifier", "governor"),
    stage: Stage | None = None,
) -> str:
    """Found a swarm whose founder, governor and first member is this node; return the swarm id.

    ``progress`` is told what is done, ``stage`` how much of it (None: lines to ``progress``).
    ``others`` gives further members of epoch 1 from the founder's key (the demo has some).

    Raises:
        UsageError: a node lives here already, or the charter file is wrong.
        CharterError, TrainingError: the charter cannot keep its promise, or too little text.
    """
    from dataclasses import replace

    from node import governing
    from node.data import needed
    from node.progress import lines
    from swarm.blobs import BlobStore

    _check_name("the swarm's name", name)
    _check_name("operator", operator)
    _check_listen(listen)
    check_corpus(corpus)
    if home.settings.exists():
        raise UsageError(
            f"a node lives in {home.path} already", cure="choose another place with --home DIR"
        )
    plan = replace(governing.load_plan(plan_file), name=name)
    key = _new_key(home)
    scratch = home.path / "corpus"  # kept until all is done: a cut-off init goes on
    challenge = governing.build_challenge(plan, scratch, corpus, progress, stage or lines(progress))
    blobs = BlobStore(home.blobs)
    for file in needed(challenge):
        blobs.put_file(scratch / file.sha256.hex())
    charter = governing.make_charter(plan, key.public, challenge)
    tiers = [tier.name for tier in plan.tiers]
    founder = governing.new_member(key.public, operator, roles, key.public, tiers)
    members = [founder, *(others(key.public) if others else ())]
    home.log.unlink(missing_ok=True)
    with governing.found(home.log, key, charter, members) as store:
        swarm = store.swarm.hex()
    # Last: only a home with settings counts as one, so a cut-off init can simply be run again.
    home.save(
        Settings(
            name=name, swarm=swarm, operator=operator, listen=(listen,), roles=roles, tier=tiers[0]
        )
    )
    shutil.rmtree(scratch)
    return swarm


# --- inviting ------------------------------------------------------------------------------------


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
    home: Home, *, operator: str, roles: tuple[str, ...], host: str | None = None
) -> str:
    """One string with which one key can join; this node must be running and a governor's.

    Raises:
        UsageError: not a governor, unknown roles, or no address that others can reach.
        NotRunning: nobody could answer the newcomer.
    """
    from swarm.addresses import parse_address
    from swarm.joining import TOKEN_SIZE, Invitation

    settings = home.load()
    _check_name("operator", operator)
    unknown = sorted(set(roles) - set(ROLES))
    if unknown or not roles:
        raise UsageError(f"unknown role {unknown}", cure=f"choose from {', '.join(ROLES)}")
    if "governor" not in settings.roles:
        raise UsageError("only a governor's node can invite", cure="ask the founder of the swarm")
    listed = reachable(read_state(home).addresses, host)
    token = os.urandom(TOKEN_SIZE)
    home.invitations.mkdir(exist_ok=True, mode=0o700)
    entry = {"operator": operator, "roles": sorted(set(roles)), "made": int(time.time())}
    write_atomic(_invitation_file(home, token), json.dumps(entry).encode())
    addresses = tuple(parse_address(address) for address in listed[:8])
    return str(Invitation(settings.swarm_id, token, ",".join(sorted(set(roles))), addresses))


def _invitation_file(home: Home, token: bytes) -> Path:
    return home.invitations / f"{hashlib.sha256(token).hexdigest()}.json"


class Doorkeeper:
    """Answers join requests on a governor's node. One invitation admits one key."""

    def __init__(self, home: Home, log: SwarmLog) -> None:
        self._home = home
        self._log = log
        self._one = trio.Lock()

    async def answer(self, peer: bytes, request: bytes) -> bytes:
        """Decide on a request of the key ``peer``, which the channel has authenticated."""
        await self._log.may_sign.wait()
        store, own = self._log.store, self._log.key.public
        async with self._one:
            before = store.heads()[own].seq
            reason = await trio.to_thread.run_sync(self._admit, peer, request)
            said = store.records_after(own, before, 16, 2**20)
        await self._log.tell([parse(data, check_signature=False) for data in said])
        return wire.encode({"admitted": not reason, "reason": reason})

    def _admit(self, peer: bytes, request: bytes) -> str:
        from node.governing import admit, new_member
        from swarm.keys import is_valid_public

        try:
            asked = wire.decode(request, max_size=4096)
            token = asked["token"] if isinstance(asked, dict) else None
        except (WireError, KeyError):
            token = None
        if not isinstance(token, bytes) or not is_valid_public(peer):
            return "the request is malformed"
        file = _invitation_file(self._home, token)
        try:
            entry = json.loads(file.read_text())
        except (OSError, ValueError):
            return "this invitation is unknown here, or was withdrawn"
        if entry.get("used_by") not in (None, peer.hex()):
            return "this invitation was used by another node"
        write_atomic(file, json.dumps({**entry, "used_by": peer.hex()}).encode())
        rules = self._log.store.rules
        assert rules is not None
        tiers = [tier.name for tier in rules.charter.tiers]
        operator, roles = entry["operator"], entry["roles"]
        member = new_member(peer, operator, roles, self._log.key.public, tiers)
        admit(self._log.store, self._log.key, member)
        return ""


# --- joining -------------------------------------------------------------------------------------


def join_here(
    home: Home,
    invitation: str,
    *,
    name: str,
    cpu_only: bool,
    listen: str,
    progress: Callable[[str], None],
) -> str:
    """Join with ``invitation`` and bring home charter, records and data; return the swarm id.

    Raises:
        UsageError: the string is not an invitation, or this home belongs to another swarm.
        NetworkError: nobody answered; run it again.
        NodeError: the invitation was refused.
    """
    from swarm.joining import Invitation

    try:
        parsed = Invitation.parse(invitation)
    except SwarmError as error:
        raise UsageError(str(error), cure=error.cure) from None
    _check_listen(listen)
    settings = Settings(
        name=_check_name("name", name),
        swarm=parsed.swarm.hex(),
        operator="",
        listen=(listen,),
        bootstrap=tuple(str(address) for address in parsed.addresses),
        token=parsed.token.hex(),
        roles=tuple(parsed.role.split(",")),
        limits=Limits(nice_verify=19, nice_research=19) if cpu_only else Limits(),
    )
    if home.settings.exists():
        if (home.load().swarm, home.load().token) != (settings.swarm, settings.token):
            raise UsageError(
                f"a node lives in {home.path} already", cure="choose another place with --home DIR"
            )
        settings = home.load()  # the same invitation again: go on where it was cut off
    key = _new_key(home)
    home.save(settings)
    trio.run(_join, home, settings, key, progress)
    return settings.swarm


async def _join(
    home: Home, settings: Settings, key: KeyPair, progress: Callable[[str], None]
) -> None:
    from node.data import describe, obtain
    from node.network import open_network
    from swarm.blobs import BlobStore
    from swarm.log import SwarmLog
    from swarm.store import Store

    with Store(home.log, settings.swarm_id) as store:
        log = SwarmLog(store, key, lambda _records: None)
        async with open_network(home, settings, key, log) as network:
            rules = store.rules
            if rules is None or not _on_roster(rules, key.public):
                progress("asking to be admitted")
                await _ask(network.transport, settings)
            progress("fetching charter and records")
            with trio.move_on_after(JOIN_SECONDS):
                while not (store.rules and _on_roster(store.rules, key.public)):  # noqa: ASYNC110
                    await trio.sleep(0.1)
            if not (store.rules and _on_roster(store.rules, key.public)):
                raise NetworkError(
                    "admitted, but the records did not arrive in time; what came is kept",
                    cure="lazaretto join INVITE   (again, with the same string)",
                )
            challenge = describe(store.rules.charter)
            progress("fetching the data by hash")
            with trio.move_on_after(10 * JOIN_SECONDS) as scope:
                await obtain(network, BlobStore(home.blobs), challenge)
            if scope.cancelled_caught:
                raise NetworkError(
                    "the data did not arrive in time; what came is kept",
                    cure="lazaretto join INVITE   (again, with the same string)",
                )


def _on_roster(rules: Rules, key: bytes) -> bool:
    return rules.current is not None and key in rules.current.roster


async def _ask(transport: Any, settings: Settings) -> None:
    """Show the token to the inviters, one after the other, until one of them decides."""
    from swarm.joining import ask_to_join

    request = wire.encode({"token": bytes.fromhex(settings.token)})
    problem = "nobody answered"
    for address in settings.bootstrap:
        try:
            peer = await transport.dial(address)
            answer = wire.decode(await ask_to_join(transport, peer, request))
        except SwarmError as error:
            problem = str(error)
            continue
        if isinstance(answer, dict) and answer.get("admitted") is True:
            return
        reason = str(answer.get("reason", ""))[:200] if isinstance(answer, dict) else ""
        plain = "".join(char if char.isascii() and char.isprintable() else "?" for char in reason)
        raise NodeError(f"{short(peer)} refused: {plain}", cure="ask for a new invitation")
    raise NetworkError(
        f"could not reach the inviting node: {problem}",
        cure="check that it runs (lazaretto status there), then run the same command again",
    )

"""Founding a swarm here, and joining one from a single string or by asking.

A join: the newcomer dials an address of the invitation, shows the token over a channel that
authenticates its key, and the inviting node signs its admission. Then it pulls charter and records
(the charter is pinned by the swarm id in the invitation) and the data by hash. The next epoch has
it on its roster. Every step can be repeated: ``join`` again goes on where it was cut off.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from node.errors import NetworkError, NodeError, UsageError
from node.settings import Home, Limits, Settings, check_corpus, is_name, modest
from swarm.joining import Invitation
from swarm.keys import KeyPair, short

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from node.knocking import Answer
    from node.network import Network
    from node.progress import Stage
    from swarm.charter import Rules
    from swarm.store import Store

JOIN_SECONDS = 60.0
EPOCH_SECONDS = 20.0


def _check_name(what: str, text: str) -> str:
    if not is_name(text):
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
    admission: str | None = None,
) -> str:
    """Found a swarm whose founder, governor and first member is this node; return the swarm id.

    ``progress`` is told what is done, ``stage`` how much of it (None: lines to ``progress``).
    ``admission`` (``invite`` or ``open``) takes the place of the charter file's.
    ``others`` gives further members of epoch 1 from the founder's key (the demo has some).

    Raises:
        UsageError: a node lives here already, or the charter file is wrong.
        CharterError, TrainingError: the charter cannot keep its promise, or too little text.
    """
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
    plan = replace(plan, admission=admission or plan.admission)
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


# --- joining -------------------------------------------------------------------------------------


def join_here(
    home: Home,
    way: Invitation | Asking,
    *,
    name: str,
    cpu_only: bool,
    listen: str,
    progress: Callable[[str], None],
    paused: bool = False,
    calibrate: bool = True,
) -> Joined:
    """Join by an invitation or by asking; bring home charter, records and data, all checked.

    Every step can be repeated: the same call goes on where the last one was cut off. Asking without
    an invitation ends with ``waiting``; the request stays with the governor.

    Raises:
        UsageError: this home belongs to another swarm, or a name or address is wrong.
        NetworkError: nobody answered; run it again.
        NodeError: the invitation or the request was refused.
    """
    _check_listen(listen)
    settings = Settings(
        name=_check_name("name", name),
        swarm=way.swarm.hex() if isinstance(way, Invitation) else "",
        operator="" if isinstance(way, Invitation) else _check_name("operator", way.operator),
        listen=(listen,),
        bootstrap=tuple(map(str, way.addresses)),
        token=way.token.hex() if isinstance(way, Invitation) else "",
        asked=isinstance(way, Asking),
        start="paused" if paused else "running",
        calibrate=calibrate,
        roles=tuple(way.role.split(",")) if isinstance(way, Invitation) else way.roles,
        limits=modest() if cpu_only else Limits(),
    )
    if home.settings.exists():
        held = home.load()
        same = (
            held.bootstrap == settings.bootstrap if settings.asked else held.swarm == settings.swarm
        )
        if not same or (held.token, held.asked) != (settings.token, settings.asked):
            raise UsageError(
                f"a node lives in {home.path} already", cure="choose another place with --home DIR"
            )
        settings = held  # the same again: go on where it was cut off
    key = _new_key(home)
    note = "" if isinstance(way, Invitation) else way.note
    if not settings.swarm:
        home.save(settings)
        settings = trio.run(_first_contact, settings, key, note, progress)
        if not settings.swarm:
            progress("the request is there; a governor decides about it")
            return Joined("", waiting=True)
    home.save(settings)
    if isinstance(way, Invitation) and way.anchor is not None:
        from swarm.store import Store

        with Store(home.log, settings.swarm_id) as store:
            store.anchor_at(way.anchor)
    return trio.run(_join, home, settings, key, note, progress)


@dataclass(frozen=True, slots=True)
class Asking:
    """To be let in without an invitation: whom to ask, as whom, for which roles, and why."""

    addresses: tuple[str, ...]
    operator: str
    roles: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """How far a join came. ``waiting``: a governor has to decide about the request first; until
    then the swarm is not known (empty), unless an earlier answer told.
    """

    swarm: str
    waiting: bool


class _Nobody:
    """Admits nobody: a node that does not know its swarm yet trusts no peer with anything."""

    def may_connect(self, key: bytes) -> bool:
        return False


async def _first_contact(
    settings: Settings, key: KeyPair, note: str, progress: Callable[[str], None]
) -> Settings:
    """Learn the swarm's id from the node that is asked; its address names the key that says so.

    It says so to those whom it lets in.
    """
    from node.knocking import knock, request_of
    from swarm.transport import Transport

    request = request_of(settings, key.public, None, note)
    assert request is not None
    async with Transport(key.seed, ["/ip4/127.0.0.1/tcp/0"], admission=_Nobody()) as transport:
        answer = await knock(transport, settings.bootstrap, request, progress)
    if answer.state == "waiting":
        return settings
    if answer.state == "refused" or not answer.swarm:
        _refused(answer)
    progress(f"it is of the swarm {answer.name or '?'} ({answer.swarm.hex()[:16]})")
    return replace(settings, swarm=answer.swarm.hex())


def _refused(answer: Answer) -> NoReturn:
    raise NodeError(
        f"{short(answer.peer)} refused: {answer.reason or 'no reason given'}",
        cure="ask for a new invitation",
    )


async def _join(
    home: Home, settings: Settings, key: KeyPair, note: str, progress: Callable[[str], None]
) -> Joined:
    from node.knocking import knock, request_of
    from node.network import open_network
    from swarm.log import SwarmLog
    from swarm.store import Store

    with Store(home.log, settings.swarm_id) as store:
        log = SwarmLog(store, key, lambda _records: None)
        async with open_network(home, settings, key, log) as network:
            soon = False
            if store.rules is None or not store.rules.is_member(key.public):
                request = request_of(settings, key.public, store, note)
                assert request is not None
                answer = await knock(network.transport, settings.bootstrap, request, progress)
                if answer.state == "waiting":
                    progress("the request is there; a governor decides about it")
                    return Joined(settings.swarm, waiting=True)
                if answer.state == "refused":
                    _refused(answer)
                progress(f"admitted by {short(answer.peer)}; the key of this node is known there")
                soon = answer.soon
            await _fetch_rules(store, key.public, soon, progress)
            home.save(_as_admitted(settings, store.rules, key.public))
            await _fetch_data(home, store, network, progress)
    return Joined(settings.swarm, waiting=False)


async def _fetch_rules(
    store: Store, key: bytes, soon: bool, progress: Callable[[str], None]
) -> None:
    """Wait for charter, admission and a beacon; if ``soon``, for the epoch that has us as well."""
    progress("fetching charter and records; the invitation pins the charter by its hash")
    with trio.move_on_after(JOIN_SECONDS):
        while not (store.rules and store.rules.is_member(key) and store.rules.current):  # noqa: ASYNC110
            await trio.sleep(0.1)
    rules = store.rules
    if rules is None or not rules.is_member(key) or rules.current is None:
        raise NetworkError(
            "admitted, but the records did not arrive in time; what came is kept",
            cure="lazaretto join INVITE   (again, with the same string)",
        )
    if soon:
        with trio.move_on_after(EPOCH_SECONDS):
            while not _on_roster(store.rules, key):  # noqa: ASYNC110
                await trio.sleep(0.1)
    epoch = store.rules.current if store.rules else None
    assert epoch is not None
    if _on_roster(store.rules, key):
        progress(f"on the roster of epoch {epoch.number}, with {len(epoch.roster) - 1} others")
    else:
        progress(
            f"a member; epoch {epoch.number} runs without this node, the next one has a place for "
            "it (a governor opens it: lazaretto epoch open)"
        )


def _as_admitted(settings: Settings, rules: Rules | None, key: bytes) -> Settings:
    """Settings with the operator and the roles that were granted."""
    line = rules.admissions.get(key) if rules else None
    return replace(settings, operator=line.operator, roles=line.roles) if line else settings


async def _fetch_data(
    home: Home, store: Store, network: Network, progress: Callable[[str], None]
) -> None:
    from node.data import describe, obtain
    from swarm.blobs import BlobStore

    assert store.rules is not None
    challenge = describe(store.rules.charter)
    progress("fetching the data by hash")
    with trio.move_on_after(10 * JOIN_SECONDS) as scope:
        await obtain(network, BlobStore(home.blobs), challenge)
    if scope.cancelled_caught:
        raise NetworkError(
            "the data did not arrive in time; what came is kept",
            cure="lazaretto join INVITE   (again, with the same string)",
        )


def _on_roster(rules: Rules | None, key: bytes) -> bool:
    return rules is not None and rules.current is not None and key in rules.current.roster

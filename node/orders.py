"""What a person tells the node of this home to do: sign something, admit somebody, pause.

Only one process writes a log. If a node runs in the home, an order is left in ``HOME/orders`` as
``NAME.json``, the node carries it out and answers in ``NAME.done``; otherwise this process opens
the log and carries it out itself. The directory belongs to the owner of the home alone.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from node import epochs
from node.convicts import staying
from node.errors import NetworkError, NodeError, NotRunning, UsageError
from node.governing import new_member
from node.requests import Request, Requests
from node.retracting import contradict_order
from node.settings import ROLES, write_atomic
from node.state import read_state
from node.times import MOST_SECONDS
from swarm.errors import SwarmError
from swarm.keys import KeyPair, peer_id
from swarm.records import Draft, Epoch
from swarm.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.settings import Home
    from swarm.charter import Rules

WAIT_SECONDS = 30.0
Answer = dict[str, Any]


def submit(home: Home, order: dict[str, Any]) -> Answer:
    """Have ``order`` carried out, by the running node or here; returns what came of it.

    Raises:
        NodeError: what the order itself raised, with its cure and exit code.
        NetworkError: a node runs, and did not answer in time; the order was taken back.
    """
    settings, key = home.load(), KeyPair.load(home.key)
    try:
        read_state(home)
    except NotRunning:
        if order.get("do") == "finish":
            raise
        if order.get("do") in ("pause", "resume"):
            return turn(home, order)
        with Store(home.log, settings.swarm_id) as store:
            return carry_out(home, store, key, order)
    folder = home.path / "orders"
    folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"{time.time_ns():020}-{os.urandom(4).hex()}.json"
    done = path.with_suffix(".done")
    write_atomic(path, msgspec.json.encode(order))
    deadline = time.monotonic() + WAIT_SECONDS
    while not done.exists():
        if time.monotonic() > deadline:
            path.unlink(missing_ok=True)
            raise NetworkError("the running node did not answer", cure="lazaretto status")
        time.sleep(0.05)
    answer: Answer = msgspec.json.decode(done.read_bytes())
    done.unlink()
    if "error" in answer:
        error = NodeError(answer["error"], cure=answer["cure"])
        error.exit_code = answer["exit_code"]  # type: ignore[misc]
        raise error
    return answer


def turn(home: Home, order: dict[str, Any]) -> Answer:
    """Carry out ``pause`` or ``resume`` in the settings, so that it outlives a restart.

    ``seconds``: how long to pause, 0 until ``resume``. Tells ``until`` when, in seconds since 1970.
    """
    paused, seconds = order["do"] == "pause", order.get("seconds") or 0
    if type(seconds) is not int or not 0 <= seconds <= MOST_SECONDS:
        raise UsageError("a pause of an impossible length", cure="lazaretto pause --for 2h")
    until = int(time.time()) + seconds if paused and seconds else 0
    start: Literal["paused", "running"] = "paused" if paused else "running"
    home.save(replace(home.load(), start=start, paused_until=until))
    return {"paused": paused, "until": until}


def answer_all(home: Home, work: Callable[[dict[str, Any]], Answer]) -> int:
    """Carry out with ``work`` every order that lies there, oldest first; returns how many."""
    folder = home.path / "orders"
    try:
        waiting = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError:
        return 0
    for path in waiting:
        if path.name.startswith("."):
            continue
        try:
            answer = work(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]))
        except (NodeError, SwarmError) as error:
            code = getattr(error, "exit_code", 1)
            answer = {"error": str(error), "cure": error.cure, "exit_code": code}
        except (OSError, TypeError, ValueError) as error:
            answer = {"error": f"the order cannot be read: {error}", "cure": "", "exit_code": 1}
        write_atomic(path.with_suffix(".done"), msgspec.json.encode(answer), durable=False)
        path.unlink(missing_ok=True)
    return len(waiting)


def carry_out(home: Home, store: Store, key: KeyPair, order: dict[str, Any]) -> Answer:
    """Carry out an order that signs: the process that writes the log calls this.

    Raises:
        NodeError, SwarmError: it could not be done; what was signed before stays signed.
    """
    verbs: dict[str, Callable[..., Answer]] = {
        "accept": _accept,
        "ignore": _ignore,
        "dismiss": _dismiss,
        "open_epoch": _open_epoch,
        "sign_draft": _sign_draft,
        "contradict": contradict_order,
    }
    arguments = dict(order)
    verb = verbs.get(arguments.pop("do", ""))
    if verb is None:
        raise UsageError("an unknown order", cure="lazaretto --help")
    return verb(home, store, key, **arguments)


def _accept(
    home: Home, store: Store, key: KeyPair, who: str, operator: str | None, roles: list[str] | None
) -> Answer:
    rules = epochs.rules_of(store)
    if key.public not in rules.governors:
        raise NodeError("only a governor accepts requests", cure="lazaretto invite")
    request = _request(home, who)
    name = operator or request.operator
    newest = rules.newest
    lines = [*(newest.roster.values() if newest else ()), *rules.admissions.values()]
    if operator is None and any(line.operator == name for line in lines):
        raise UsageError(
            f"there is an operator {name} already; is this node theirs?",
            cure=f"lazaretto accept {who} --operator {name}   (or another name)",
        )
    granted = tuple(role for role in ROLES if role in (roles or request.roles))
    if not granted or set(roles or ()) - set(ROLES):
        raise UsageError("unknown role", cure=f"choose from {', '.join(ROLES)}")
    tiers = [tier.name for tier in rules.charter.tiers]
    asked = bytes.fromhex(request.key)
    epochs.admit(store, key, new_member(asked, name, granted, key.public, tiers))
    Requests(home).forget(request.key)
    return {"accepted": peer_id(asked), "operator": name, "roles": list(granted)}


def _ignore(home: Home, store: Store, key: KeyPair, who: str) -> Answer:
    request = _request(home, who)
    Requests(home).ignore(request.key)
    return {"ignored": peer_id(bytes.fromhex(request.key))}


def _dismiss(home: Home, store: Store, key: KeyPair, who: str) -> Answer:
    if who == "all":
        waiting = [one for one in Requests(home).listed() if one.state == "waiting"]
    else:
        waiting = [_request(home, who)]
    for one in waiting:
        Requests(home).forget(one.key)
    return {"dismissed": [peer_id(bytes.fromhex(one.key)) for one in waiting]}


def _open_epoch(
    home: Home,
    store: Store,
    key: KeyPair,
    remove: list[str],
    reason: str,
    governors: list[str],
    no_governors: list[str],
    retired: list[int],
    instead: bool,
) -> Answer:
    rules = epochs.rules_of(store)
    if remove and not reason.strip():
        raise UsageError("a removal has a reason", cure="--reason 'why'")
    changes = epochs.Changes(
        removed=tuple((_member(rules, who), reason[:120]) for who in remove),
        governors=tuple(_member(rules, who) for who in governors),
        no_governors=tuple(_member(rules, who) for who in no_governors),
        retired=tuple(retired),
    )
    record = epochs.open_epoch(store, key, changes=changes, instead=instead)
    rules = epochs.rules_of(store)
    opened = record.payload.epoch if isinstance(record.payload, Draft) else record.payload
    assert isinstance(opened, Epoch)
    gone = {one.key: one.reason for one in opened.removed}
    people = {
        "removed": [{"id": peer_id(one), "reason": why} for one, why in gone.items()],
        "convicted_stay": [peer_id(one) for one in staying(store) if one not in gone],
    }
    if isinstance(record.payload, Draft):
        wanted = rules.quorum - 1
        return {
            "draft": record.id.hex(),
            "number": opened.number,
            "signatures_missing": wanted,
            **people,
        }
    newest = rules.newest
    assert newest is not None
    return {"epoch": newest.number, "id": newest.id.hex(), "members": len(newest.roster), **people}


def _sign_draft(home: Home, store: Store, key: KeyPair, draft: str, instead: bool) -> Answer:
    fitting = [one for one, _ in epochs.drafts(store) if one.id.hex().startswith(draft)]
    if not draft or len(fitting) != 1:
        raise UsageError(f"{len(fitting)} drafts have the id {draft}", cure="lazaretto epoch list")
    record = epochs.sign_draft(store, key, fitting[0].id, instead=instead)
    return {"signed": fitting[0].id.hex(), "consent": record.id.hex()}


# --- naming somebody ------------------------------------------------------------------------------


def named(keys: dict[bytes, str], who: str) -> bytes:
    """The one of ``keys`` (key -> operator) that ``who`` means: peer id, its end, key or operator.

    Raises:
        UsageError: none or several fit.
    """
    wanted = who.strip()
    fitting = {
        key
        for key, operator in keys.items()
        if wanted in (operator, key.hex(), peer_id(key))
        or (len(wanted) >= 6 and peer_id(key).endswith(wanted))
    }
    if len(fitting) != 1:
        raise UsageError(
            f"{len(fitting)} fit {who!r}; say the peer id, or the last 8 of it",
            cure="lazaretto members",
        )
    return fitting.pop()


def _member(rules: Rules, who: str) -> bytes:
    newest = rules.newest
    lines = {**rules.admissions, **(newest.roster if newest else {})}
    keys = {key: line.operator for key, line in lines.items()} | dict.fromkeys(rules.governors, "")
    heirs = {rules.heir(key): name for key, name in keys.items()}
    return named({key: name for key, name in heirs.items() if rules.is_member(key)}, who)


def _request(home: Home, who: str) -> Request:
    listed = {bytes.fromhex(one.key): one for one in Requests(home).listed()}
    return listed[named({key: one.operator for key, one in listed.items()}, who)]

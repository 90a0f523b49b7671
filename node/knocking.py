"""How this node asks to be let in: with an invitation, without one, or with its old key's handover.

Asking again is always safe: the answer is what stands by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node.errors import NetworkError
from node.escaping import escaped
from swarm import wire
from swarm.addressbook import AddressBook
from swarm.errors import SwarmError
from swarm.joining import ask_to_join
from swarm.keys import short
from swarm.records import Rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from node.settings import Home, Settings
    from swarm.store import Store
    from swarm.transport import Transport

MAX_DOORS = 8
MAX_HANDOVER = 56 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a door said: ``state`` is admitted, waiting or refused; ``peer`` said it.

    ``soon``: an epoch with this node on its roster is about to be opened.
    """

    peer: bytes
    state: str
    reason: str
    swarm: bytes
    name: str
    soon: bool


def request_of(settings: Settings, key: bytes, store: Store | None, note: str = "") -> bytes | None:
    """What ``key`` has to show at a door; None if nothing."""
    handover = _handover(store, key) if store is not None else []
    if handover:
        return wire.encode({"handover": handover})
    if settings.token:
        return wire.encode({"token": bytes.fromhex(settings.token)})
    if settings.asked:
        roles = [role for role in settings.roles if role != "governor"]
        asked = {"operator": settings.operator, "roles": roles, "note": note}
        return wire.encode({"ask": asked})
    return None


def doors(home: Home, settings: Settings, key: bytes) -> list[str]:
    """Where ``key`` can ask: addresses in its settings, then some at which members were met."""
    met = AddressBook(home.path / "peers").to_tell(MAX_DOORS, lambda other: other != key)
    return list(dict.fromkeys([*settings.bootstrap, *map(str, met)]))


def _handover(store: Store, key: bytes) -> list[bytes]:
    """The ends of the feeds of our earlier keys, oldest first: a peer holds what is before."""
    before = {
        record.payload.new: record.author
        for record in store.of_kind(Rotation.KIND)
        if isinstance(record.payload, Rotation)
    }
    olds: list[bytes] = []
    while key in before and before[key] not in olds:
        key = before[key]
        olds.append(key)
    ends: list[bytes] = []
    heads = store.heads()
    for old in olds:
        tail: list[bytes] = []
        for data in reversed(store.records_after(old, heads[old].seq - 32, 32, 2**22)):
            if sum(map(len, (*ends, *tail, data))) > MAX_HANDOVER:
                break
            tail.insert(0, data)
        ends = tail + ends
    return ends


async def knock(
    transport: Transport,
    addresses: Iterable[str],
    request: bytes,
    say: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Ask at ``addresses``, one after the other, until one of them decides.

    Raises:
        NetworkError: nobody answered.
    """
    problem = "it knows no address"
    for address in addresses:
        say(f"dialling {address}")
        try:
            peer = await transport.dial(address)
            answer = wire.decode(await ask_to_join(transport, peer, request))
        except SwarmError as error:
            problem = str(error)
            continue
        parsed = _parse(peer, answer)
        if parsed is not None:
            return parsed
        problem = f"{short(peer)} gave no answer that is understood here"
    raise NetworkError(
        f"could not reach the inviting node: {problem}",
        cure="check that it runs (lazaretto status there), then run the same command again",
    )


def _parse(peer: bytes, answer: Any) -> Answer | None:
    """An answer as told by a peer, its text made harmless; None if it is none."""
    if not isinstance(answer, dict):
        return None
    state, reason, name = (answer.get(field, "") for field in ("state", "reason", "name"))
    swarm = answer.get("swarm", b"")
    if state not in ("admitted", "waiting", "refused") or not isinstance(reason, str):
        return None
    if not isinstance(swarm, bytes) or len(swarm) not in (0, 32) or not isinstance(name, str):
        return None
    soon = answer.get("soon") is True
    return Answer(peer, state, escaped(reason, 200), swarm, escaped(name, 64), soon)

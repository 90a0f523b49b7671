"""Requests of nodes that ask to join without an invitation: they wait here for a governor.

Everything in a request was written by a stranger: it is cut to short plain text before it is kept,
and there is room for a few of one subnet and for a bounded number in all. ``ignore`` is for good;
``dismiss`` forgets the request, so that the node may ask again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from node.escaping import escaped
from node.settings import ROLES, is_name, write_atomic
from swarm.subnets import subnet_of

if TYPE_CHECKING:
    from pathlib import Path

    from node.settings import Home

MAX_WAITING = 64
MAX_OF_A_SUBNET = 4
MAX_IGNORED = 1024
MAX_NOTE = 200
LOCAL = "local"
"""Networks at home and in a lab: nobody rents many of their addresses, so they are not counted."""


@dataclass(frozen=True, slots=True)
class Request:
    """One node that asks: key (hex), subnet, and what it says of itself, as harmless text."""

    key: str
    subnet: str
    operator: str
    roles: tuple[str, ...]
    note: str
    made: int
    state: Literal["waiting", "ignored"] = "waiting"


class Requests:
    """The requests of one home, a file each."""

    def __init__(self, home: Home) -> None:
        self._folder = home.path / "requests"
        self._asking = threading.Lock()  # a door answers several at a time

    def ask(self, key: bytes, ip: str, asked: dict[str, Any]) -> str:
        """Take in a request of the authenticated ``key``; returns why not, empty when it waits.

        A key has one request: asking again changes nothing, not even its words.
        """
        with self._asking:
            return self._take_in(key, ip, asked)

    def _take_in(self, key: bytes, ip: str, asked: dict[str, Any]) -> str:
        path = self._path(key.hex())
        known = _read(path)
        if known is not None:
            return "" if known.state == "waiting" else "a governor does not want to admit this node"
        operator, roles, note = (asked.get(name) for name in ("operator", "roles", "note"))
        if not isinstance(operator, str) or not is_name(operator):
            return "the request has no short operator name"
        if not isinstance(roles, list) or not roles or any(role not in ROLES for role in roles):
            return f"a request is for some of the roles {', '.join(ROLES)}"
        others = self.listed()
        waiting = [one for one in others if one.state == "waiting"]
        subnet = subnet_of(ip) or LOCAL
        if len(waiting) >= MAX_WAITING or len(others) >= MAX_WAITING + MAX_IGNORED:
            return "too many nodes wait already; ask again later, or ask for an invitation"
        if subnet != LOCAL and sum(one.subnet == subnet for one in waiting) >= MAX_OF_A_SUBNET:
            return "too many nodes of this subnet wait already"
        self._folder.mkdir(exist_ok=True, mode=0o700)
        ordered = tuple(role for role in ROLES if role in roles)
        text = escaped(note, MAX_NOTE) if isinstance(note, str) else ""
        request = Request(key.hex(), subnet, operator, ordered, text, int(time.time()))
        write_atomic(path, msgspec.json.encode(request))
        return ""

    def listed(self) -> list[Request]:
        """All that are kept, oldest first."""
        found = [_read(path) for path in self._folder.glob("*.json")]
        return sorted((one for one in found if one), key=lambda one: (one.made, one.key))

    def ignore(self, key: str) -> None:
        """Refuse this key for good: it is told so, and takes no place among those who wait."""
        request = _read(self._path(key))
        if request is not None:
            gone = replace(request, state="ignored", note="")
            write_atomic(self._path(key), msgspec.json.encode(gone))

    def forget(self, key: str) -> None:
        """Drop the request: it was granted, or the node may ask again."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _read(path: Path) -> Request | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Request)
    except (OSError, msgspec.MsgspecError):
        return None

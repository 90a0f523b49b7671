"""Where members were last reached, kept in a file so that a restart finds the swarm again.

First hand are addresses at which a member proved its key to us, and those at the host that it is
seen at, told by itself; only these are passed on. What others say is tried, as is what a member
says of other hosts, and replaces nothing that is first hand. An address is only a place to look:
who answers there must have the key, and how often anybody looks is for ``swarm.dialling``.
"""

from __future__ import annotations

import logging
import os
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swarm.addresses import AddressError, PeerAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_KEYS = 1024
MAX_FIRST_HAND = 4
MAX_HEARD = 2
MAX_AGE_S = 90 * 86_400.0


@dataclass(slots=True)
class _Entry:
    first_hand: dict[PeerAddress, float] = field(default_factory=dict)
    heard: list[PeerAddress] = field(default_factory=list)


class AddressBook:
    """Addresses of peers by key, at most ``MAX_KEYS`` keys with a few addresses each.

    Args:
        path: the file; read now, if it is there. What is damaged in it is left out.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}
        self.changed = False
        """Whether there is anything to save."""
        for line in _lines(path):
            seen, _, text = line.partition(" ")
            try:
                address, when = parse_address(text), float(int(seen))
            except (AddressError, ValueError):
                continue
            if clock() - MAX_AGE_S < when:
                self._entry(address.key).first_hand[address] = min(when, clock())

    def _entry(self, key: bytes) -> _Entry:
        if key not in self._entries and len(self._entries) >= MAX_KEYS:
            strange = [one for one, entry in self._entries.items() if not entry.first_hand]
            self._entries.pop(random.choice(strange or list(self._entries)))
        return self._entries.setdefault(key, _Entry())

    def __len__(self) -> int:
        return len(self._entries)

    def reached(self, address: PeerAddress) -> None:
        """Note an address at which its key was proved, or which its owner told us."""
        entry = self._entry(address.key)
        entry.first_hand.pop(address, None)
        entry.first_hand[address] = self._clock()
        while len(entry.first_hand) > MAX_FIRST_HAND:
            del entry.first_hand[next(iter(entry.first_hand))]
        self.changed = True

    def hear(self, address: PeerAddress) -> None:
        """Note what somebody else says of a peer."""
        entry = self._entry(address.key)
        if address not in entry.first_hand and address not in entry.heard:
            entry.heard.append(address)
            del entry.heard[:-MAX_HEARD]

    def due(
        self, ready: Callable[[PeerAddress], bool], busy: Callable[[bytes], bool]
    ) -> list[bytes]:
        """Keys of which an address is ready to be dialled, in a random order."""
        keys = [
            key
            for key in self._entries
            if not busy(key) and any(ready(address) for address in self.addresses(key))
        ]
        random.shuffle(keys)
        return keys

    def addresses(self, key: bytes) -> list[PeerAddress]:
        """All addresses of a key, the latest first-hand ones first."""
        entry = self._entries.get(key)
        return [*reversed(entry.first_hand), *entry.heard] if entry else []

    def to_tell(self, count: int, fits: Callable[[bytes], bool]) -> list[PeerAddress]:
        """The latest first-hand address of up to ``count`` random peers that ``fits`` lets pass."""
        known = [key for key, entry in self._entries.items() if entry.first_hand and fits(key)]
        chosen = random.sample(known, min(count, len(known)))
        return [next(reversed(self._entries[key].first_hand)) for key in chosen]

    def save(self) -> None:
        """Write the file if anything is new. A disk that refuses costs nothing but the file."""
        if self._path is None or not self.changed:
            return
        lines = [
            f"{int(when)} {address}\n"
            for entry in self._entries.values()
            for address, when in entry.first_hand.items()
        ]
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            temporary.write_text("".join(lines))
            os.replace(temporary, self._path)
            self.changed = False
        except OSError as error:
            log.info("addresses of peers could not be saved: %s", error.strerror)


def _lines(path: Path | None) -> Iterable[str]:
    if path is None:
        return []
    try:
        return path.read_bytes()[:1_000_000].decode("ascii", "replace").splitlines()
    except OSError:
        return []

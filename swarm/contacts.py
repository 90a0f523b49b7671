"""The peers whose addresses are known, and dialling them again until they answer.

A peer that has been away for t seconds is dialled about every t/10, at the earliest after 0.3 s
and at the latest after 30 s: a restart is noticed within a second or two, and a machine that is
gone for good costs two dials a minute.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from swarm.addresses import PeerAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

MAX_KNOWN = 512
MAX_ADDRESSES = 4
MAX_DIALLING = 16


@dataclass(slots=True)
class _Contact:
    addresses: list[PeerAddress] = field(default_factory=list)
    lost_at: float = 0.0
    next_dial: float = 0.0
    dialling: bool = False


class Contacts:
    """Known peers of one transport. Run ``keep_dialling`` as long as it is up.

    Args:
        own_key: never dialled.
        dial: tries one address once; returns whether there is a connection now. Must not raise.
        busy: says that a key needs no dial: it is connected, or refused.
    """

    def __init__(
        self,
        own_key: bytes,
        dial: Callable[[PeerAddress], Awaitable[bool]],
        busy: Callable[[bytes], bool],
    ) -> None:
        self._own_key = own_key
        self._dial = dial
        self._busy = busy
        self._contacts: dict[bytes, _Contact] = {}
        self._wake = trio.Event()

    def __contains__(self, key: bytes) -> bool:
        return key in self._contacts

    def remember(self, text: str) -> PeerAddress:
        """Keep a connection to this address up from now on. Return it parsed.

        At most ``MAX_KNOWN`` peers with ``MAX_ADDRESSES`` each, the latest first; a new peer
        beyond that is not remembered.

        Raises:
            AddressError: not an address.
        """
        address = parse_address(text)
        key = address.key
        if key != self._own_key and (key in self._contacts or len(self._contacts) < MAX_KNOWN):
            contact = self._contacts.setdefault(key, _Contact(lost_at=trio.current_time()))
            if address in contact.addresses:
                contact.addresses.remove(address)
            contact.addresses.insert(0, address)
            del contact.addresses[MAX_ADDRESSES:]
            self._wake.set()
        return address

    def forget(self, key: bytes) -> None:
        """Do not dial this peer any more."""
        self._contacts.pop(key, None)

    def lost(self, key: bytes) -> None:
        """Note that the last connection to ``key`` has ended."""
        contact = self._contacts.get(key)
        if contact is not None:
            contact.lost_at = trio.current_time()
            contact.next_dial = contact.lost_at + random.uniform(0.1, 0.3)
            self._wake.set()

    async def reach(self, key: bytes) -> bool:
        """Try the addresses of a known peer now, one after the other."""
        contact = self._contacts.get(key)
        if contact is None:
            return False
        contact.dialling = True
        try:
            for address in list(contact.addresses):
                if await self._dial(address):
                    return True
            return False
        finally:
            contact.dialling = False
            now = trio.current_time()
            pause = min(30.0, max(0.3, (now - contact.lost_at) / 10))
            contact.next_dial = now + pause * random.uniform(0.8, 1.2)

    async def keep_dialling(self) -> None:
        """Dial lost peers until cancelled, at most ``MAX_DIALLING`` at a time."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                dialling = sum(contact.dialling for contact in self._contacts.values())
                lost = [key for key in self._contacts if not self._busy(key)]
                for key in lost:
                    contact = self._contacts[key]
                    if dialling >= MAX_DIALLING:
                        break
                    if contact.dialling or now < contact.next_dial:
                        continue
                    dialling += 1
                    contact.dialling = True
                    nursery.start_soon(self.reach, key)
                if lost:
                    await trio.sleep(0.1)
                else:  # nobody but those who are refused, for a while
                    self._wake = trio.Event()
                    with trio.move_on_after(1.0):
                        await self._wake.wait()

"""Where may be dialled, and when: so that nobody can make this node dial a third party.

An address is only what somebody says until its key has answered there. So the pause after a failure
belongs to the address and not to whoever named it: coming back, or naming it under another key,
changes nothing, and only an answer from the right key ends it. Addresses that never answered share
a budget with all others of their subnet.
"""

from __future__ import annotations

import ipaddress
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from swarm.penalties import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarm.addresses import PeerAddress

FIRST_PAUSE_S, LAST_PAUSE_S = 5.0, 900.0
SUBNET_BURST, SUBNET_RATE = 6.0, 0.1
"""Dials of unproven addresses of one subnet that may fail at once, and then a second."""
MAX_PLACES = 4096


def neighbourhood(address: PeerAddress) -> str:
    """The /24 or /56 of an address, whatever network it is in. All names are one: whoever has a
    domain has any number of them, and they lead anywhere."""
    if address.kind not in ("ip4", "ip6"):
        return "names"
    ip = ipaddress.ip_address(address.host)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 56), strict=False))


@dataclass(slots=True)
class _Place:
    pause: float = FIRST_PAUSE_S
    next_try: float = 0.0
    answered: bytes = b""


class Dials:
    """What is known of places that were dialled, at most ``MAX_PLACES`` of them."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._places: OrderedDict[tuple[str, int], _Place] = OrderedDict()
        self._subnets = TokenBucket(SUBNET_RATE, SUBNET_BURST, clock)

    def is_proven(self, address: PeerAddress) -> bool:
        """Say whether the key of the address has answered there, since this node started."""
        place = self._places.get((address.host, address.port))
        return place is not None and place.answered == address.key

    def ready(self, address: PeerAddress, *, named_by_owner: bool = False) -> bool:
        """Say whether the address may be dialled now.

        ``named_by_owner``: it was given to this node by its owner, who waits for it: it has no
        pause of its own, but its share of what a subnet may have.
        """
        if self.is_proven(address) and named_by_owner:
            return True
        place = self._places.get((address.host, address.port))
        if place is not None and not named_by_owner and self._clock() < place.next_try:
            return False
        if self.is_proven(address):
            return True
        return self._subnets.delay(neighbourhood(address).encode()) <= 0

    def began(self, address: PeerAddress) -> None:
        """It is being dialled: until it answers, it counts as a failure."""
        place = self._place(address)
        if not self.is_proven(address):
            self._subnets.take(neighbourhood(address).encode())
        place.next_try = self._clock() + place.pause * random.uniform(0.7, 1.3)
        place.pause = min(LAST_PAUSE_S, 2 * place.pause)

    def answered(self, address: PeerAddress) -> None:
        """The key of the address was proved at the other end of a connection to it."""
        place = self._place(address)
        if place.answered != address.key:
            self._subnets.give(neighbourhood(address).encode())
        place.answered, place.pause, place.next_try = address.key, FIRST_PAUSE_S, 0.0

    def _place(self, address: PeerAddress) -> _Place:
        place = self._places.setdefault((address.host, address.port), _Place())
        self._places.move_to_end((address.host, address.port))
        while len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)
        return place

"""Who comes in: places for connections that others open, before and after they proved a key.

Nobody is turned away for silence of others. While keys are unproven, the oldest connection of the
most crowded address gives way to a newcomer; hosts from which a member proved its key before have
some places of their own. Of one key, the newest connections stay. A member takes the place of one
who is none; among those who are none, one that reads nothing goes first, then the oldest of the
most crowded address that is not being answered. Who gave way without a key is closed a little
later, so that coming back at once does not pay.

A place is held until ``leave``, and that is called when the descriptor is closed. Nothing of
libp2p is known here; ``cut`` closes a connection at once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from swarm.subnets import subnet_of

MAX_UNPROVEN = 96
"""Connections under way that have proved no key."""
MAX_UNPROVEN_KNOWN = 32
"""The same, beside those, from hosts where members proved their keys before."""
MAX_PER_KEY = 2
MAX_KNOWN = 512
LINGER_S, MAX_LINGERING = 2.0, 64


@dataclass(eq=False, slots=True)
class Guest:
    """One connection that somebody else opened."""

    host: str
    cut: Callable[[], None]
    key: bytes | None = None
    takes_nothing: Callable[[], bool] = lambda: False
    """Whether something has been waiting for a while for the other side to read it."""
    reserved: bool = False
    gone: bool = False
    stop: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def neighbourhood(self) -> str:
        """What counts as one address: a subnet of the internet, or a host elsewhere."""
        return subnet_of(self.host) or self.host


class Entrance:
    """The places of one node.

    Args:
        places: connections that have proved a key.
        strangers: those of them whose key is no member's.
        is_welcome: whether a key is a member's, or of a peer that this node dials itself.
        is_busy: whether a key is being answered just now: it is not sent away for another.
    """

    def __init__(
        self,
        places: int,
        strangers: int,
        is_welcome: Callable[[bytes], bool],
        is_busy: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self._places = places
        self._strangers = strangers
        self._is_welcome = is_welcome
        self._is_busy = is_busy
        self._unproven: dict[Guest, None] = {}
        self._proven: dict[Guest, None] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lingering: deque[Guest] = deque()

    def is_known(self, host: str) -> bool:
        """Say whether a member proved its key from this host before."""
        return host in self._known

    def arrive(self, host: str, cut: Callable[[], None]) -> Guest:
        """Take a connection in; somebody else's may have to go for it."""
        guest = Guest(host, cut)
        open_to_all = [one for one in self._unproven if not one.reserved]
        if len(open_to_all) >= MAX_UNPROVEN:
            kept = [one for one in self._unproven if one.reserved]
            guest.reserved = self.is_known(host)
            if not guest.reserved:
                self._give_way(open_to_all, guest)
            elif len(kept) >= MAX_UNPROVEN_KNOWN:
                self._give_way(kept, guest)
        self._unproven[guest] = None
        return guest

    def proved(self, guest: Guest, key: bytes) -> bool:
        """The guest has proved its key; say whether there is a place for it."""
        self._unproven.pop(guest, None)
        if guest.gone:
            return False
        guest.key = key
        welcome = self._is_welcome(key)
        if welcome:
            self._known[guest.host] = None
            self._known.move_to_end(guest.host)
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        same = [one for one in self._proven if one.key == key]
        for older in same[: len(same) - MAX_PER_KEY + 1]:
            self._send_away(older)
        strange = [one for one in self._proven if one.key and not self._is_welcome(one.key)]
        if not welcome and len(strange) >= self._strangers:
            if not self._give_way(strange, guest):
                return False
        elif len(self._proven) >= self._places:
            second = Counter(one.key for one in self._proven)
            others = strange or [one for one in self._proven if second[one.key] > 1]
            if not (welcome and self._give_way(others, guest)):
                return False
        self._proven[guest] = None
        return True

    def leave(self, guest: Guest) -> None:
        """The guest's connection is closed."""
        self._unproven.pop(guest, None)
        self._proven.pop(guest, None)

    def _give_way(self, candidates: list[Guest], newcomer: Guest) -> bool:
        """Send somebody away: who reads nothing, or else of the most crowded address; of several
        the oldest. False if nobody can be."""
        crowd = Counter(one.neighbourhood for one in candidates)
        crowd[newcomer.neighbourhood] += 1
        free = [one for one in candidates if one.key is None or not self._is_busy(one.key)]
        if not free:
            return False
        self._send_away(max(free, key=lambda one: (one.takes_nothing(), crowd[one.neighbourhood])))
        return True

    def _send_away(self, guest: Guest) -> None:
        self.leave(guest)
        guest.gone = True
        guest.stop.cancel()
        if guest.key is not None:
            guest.cut()

    async def linger(self, guest: Guest) -> None:
        """Keep what had to give way unread for a while: its peer should not come back at once."""
        self._lingering.append(guest)
        if len(self._lingering) > MAX_LINGERING:
            self._lingering.popleft().cut()
        try:
            await trio.sleep(LINGER_S)
        finally:
            if guest in self._lingering:
                self._lingering.remove(guest)

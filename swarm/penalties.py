"""Counting what peers do wrong, and how much of anything they may ask for.

A penalty is a number that drains with time. Whoever is above the limit is disconnected and
refused for a while. Nothing here is proof of bad faith: a broken disk looks the same, so a
refusal ends by itself.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_TRACKED = 4096


class TokenBucket:
    """A rate limit per key: ``rate`` per second, ``burst`` at once, at most 4096 keys remembered.

    The least recently used key is forgotten first, which only ever gives a burst back.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def take(self, key: bytes, amount: float = 1.0) -> bool:
        """Take ``amount`` from the bucket of ``key``; return False if there is too little."""
        wait = self.delay(key, amount)
        if wait > 0:
            return False
        level, now = self._level[key]
        self._level[key] = (level - amount, now)
        return True

    def give(self, key: bytes, amount: float = 1.0) -> None:
        """Give back what was taken."""
        self.delay(key)
        level, now = self._level[key]
        self._level[key] = (min(self._burst, level + amount), now)

    def delay(self, key: bytes, amount: float = 1.0) -> float:
        """Return after how many seconds ``amount`` could be taken (0.0: now)."""
        now = self._clock()
        level, then = self._level.get(key, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        self._level[key] = (level, now)
        self._level.move_to_end(key)
        while len(self._level) > _MAX_TRACKED:
            self._level.popitem(last=False)
        return max(0.0, (min(amount, self._burst) - level) / self._rate)


@dataclass(slots=True)
class _Mark:
    points: float = 0.0
    seen: float = 0.0
    refused_until: float = 0.0
    reason: str = ""


class Penalties:
    """Penalty points by peer key, draining at ``drain`` points per second.

    At ``limit`` points the peer is refused for ``refuse_s`` seconds.
    """

    def __init__(
        self,
        limit: float = 20.0,
        drain: float = 0.2,
        refuse_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._drain = drain
        self._refuse_s = refuse_s
        self._clock = clock
        self._marks: OrderedDict[bytes, _Mark] = OrderedDict()

    def add(self, key: bytes, reason: str, points: float = 1.0) -> bool:
        """Add points. Return True if the peer has just been put over the limit."""
        now = self._clock()
        mark = self._marks.setdefault(key, _Mark(seen=now))
        self._marks.move_to_end(key)
        while len(self._marks) > _MAX_TRACKED:
            self._marks.popitem(last=False)
        mark.points = max(0.0, mark.points - (now - mark.seen) * self._drain) + points
        mark.seen = now
        mark.reason = reason
        if mark.points < self._limit:
            return False
        mark.points = 0.0
        mark.refused_until = now + self._refuse_s
        return True

    def refused(self, key: bytes) -> bool:
        """Say whether the peer is to be refused at this moment."""
        mark = self._marks.get(key)
        return mark is not None and mark.refused_until > self._clock()

    def points(self, key: bytes) -> float:
        """Return the points of a peer, drained up to now."""
        mark = self._marks.get(key)
        if mark is None:
            return 0.0
        return max(0.0, mark.points - (self._clock() - mark.seen) * self._drain)

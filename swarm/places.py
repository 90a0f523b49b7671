"""Who is served where more ask than one node serves at a time: the places of one protocol.

Whoever asks gets a place while there is one. When all are taken, a peer that has none gets one of a
peer that has several, or of one that is slow: few members, or slow ones, keep nobody out. What
counts is how much a peer moves in the time that it keeps us waiting; while it waits for us, for the
disk or for the traffic that this node lends, nothing is held against it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import trio

from swarm.streams import FramedStream

SLOW = 32 * 1024
"""Bytes a second: half of the least that a node can lend, since it may do two things at a time."""
GRACE_S = 20.0
"""Seconds of waiting before which no peer counts as slow."""


@dataclass(eq=False, slots=True)
class Place:
    """One stream that is served. ``scope`` is cancelled when the place goes to somebody else."""

    peer: bytes
    stream: FramedStream
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def pace(self) -> float:
        """Bytes a second, of the time that the peer kept us waiting."""
        return self.stream.moved / max(1.0, self.stream.waited())

    def is_slow(self) -> bool:
        """Say whether the peer takes, or sends, too little for what its place is worth."""
        return self.stream.waited() >= GRACE_S and self.pace() < SLOW


class Places:
    """At most ``per_peer`` places for one peer and ``in_all`` for all."""

    def __init__(self, per_peer: int, in_all: int) -> None:
        self._per_peer = per_peer
        self._in_all = in_all
        self._taken: set[Place] = set()

    def take(self, peer: bytes, stream: FramedStream) -> Place | None:
        """Give a place to a peer, somebody else's if need be; None if there is none for it."""
        held = Counter(place.peer for place in self._taken)
        if held[peer] >= self._per_peer:
            return None
        if len(self._taken) >= self._in_all:
            others = [one for one in self._taken if held[one.peer] > 1 or one.is_slow()]
            if held[peer] or not others:
                return None
            slowest = min(others, key=Place.pace)
            self.leave(slowest)
            slowest.scope.cancel()
        place = Place(peer, stream)
        self._taken.add(place)
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, unless it was taken away."""
        self._taken.discard(place)

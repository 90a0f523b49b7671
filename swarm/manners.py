"""How much of each kind of gossip an honest neighbour sends, and what more of it costs.

The rates are several times what GossipSub v1.1 asks of a neighbour in a heartbeat of a second, with
room for what piles up while this node is busy. What goes beyond them is not looked at, and each RPC
with such costs its sender a point: it is refused for a while after some twenty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.penalties import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWED = {
    "messages": (200.0, 1000.0),
    "messages known already": (200.0, 1000.0),
    "messages of who is no member": (0.5, 50.0),
    "announcements": (10.0, 100.0),
    "announced messages": (500.0, 10_000.0),
    "requests": (10.0, 100.0),
    "grafts and prunes": (2.0, 30.0),
    "subscriptions": (1.0, 20.0),
}
"""A second, and at once, of one neighbour."""
POINTS = 1.0


class Manners:
    """Counts what neighbours send, by kind.

    Args:
        blame: called with (key, reason, points).
    """

    def __init__(self, blame: Callable[[bytes, str, float], None]) -> None:
        self._blame = blame
        self._buckets = {kind: TokenBucket(*allowed) for kind, allowed in ALLOWED.items()}

    def allow(self, key: bytes, kind: str, amount: float = 1.0) -> bool:
        """Count ``amount`` of a kind; False, and a point, if that is too much."""
        if not amount or self._buckets[kind].take(key, amount):
            return True
        self._blame(key, f"gossip: too many {kind}", POINTS)
        return False

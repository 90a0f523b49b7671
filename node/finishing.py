"""``lazaretto finish``: what a node still owes before it may end.

A seat on a bench is a promise: who took one and is not there has lost the pair, and the claim with
it. So a node that finishes takes no new seat and begins nothing of its own; it ends the experiment
or check at hand, and stays until no claim on whose bench it sits needs a pair of it any more, those
for the effect of an adopted one included. It does not wait for others without end: a claim that has
not moved for two patiences (``node.verifying.patience``) although nothing is asked of this node is
left. ``lazaretto down`` waits for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from node.verifying import patience
from verification.duty import OVER

if TYPE_CHECKING:
    from node.member import Node
    from verification.states import ClaimState, State

PATIENCES = 2


def sits(claim: ClaimState, key: bytes) -> bool:
    """Whether ``key`` took its seat on the bench of ``claim``, as far as that is known."""
    if claim.bench is None or claim.settlement is None:
        return False
    rank, seats = claim.bench.rank_of(key), claim.settlement.seats
    if rank is None:
        return False
    return seats.seen[rank] is not None if seats.taken is None else seats.taken[rank] is not None


def promised(state: State, key: bytes) -> list[ClaimState]:
    """The claims that may still need a pair of ``key``. Pure."""
    return [
        claim
        for claim in state.cases.values()
        if claim.stage not in OVER
        and sits(claim, key)
        and claim.settlement is not None
        and not claim.settlement.complete
    ]


class Promises:
    """Since when each promised claim has stood where it stands."""

    def __init__(self) -> None:
        self._since: dict[bytes, tuple[object, float]] = {}

    def kept_waiting(self, node: Node) -> list[ClaimState]:
        """The promised claims that are ours to do, or on which others are at work."""
        now, own = trio.current_time(), node.key.public
        waiting = []
        for claim in promised(node.state, own):
            assert claim.settlement is not None
            at = (claim.stage, claim.settlement.seats.said, claim.settlement.open)
            before, since = self._since.get(claim.id, (None, now))
            if before != at:
                self._since[claim.id] = (at, now)
                since = now
            ours = claim.turn is not None and claim.turn.seat.key == own
            if ours or now - since < PATIENCES * patience(node, claim.tier):
                waiting.append(claim)
        return waiting


def awaited(node: Node, promises: Promises) -> list[str]:
    """What a finishing node waits for, in words; empty when it may end."""
    waits = [f"the {what} at hand" for what in node.at_hand]
    if node.data is not None:
        for claim in promises.kept_waiting(node):
            turn = claim.turn
            ours = turn is not None and turn.seat.key == node.key.public
            what = "a pair of ours" if ours else "its other verifiers"
            waits.append(f"the bench of {claim.id.hex()[:8]} ({what})")
    return waits

"""How far what goes before a bench has come: from what its records settle to a stage, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from verification.effect import effect_of
from verification.retraction import CONTRADICTED_BEFORE
from verification.seating import SLOT_TAKEN
from verification.states import ClaimState, Stage, Turn
from verification.verdict import CONTRADICTION

if TYPE_CHECKING:
    from verification.settle import Settlement


def progressed(state: ClaimState, settlement: Settlement, f: int, *, approval: bool) -> ClaimState:
    """``state`` as far as its settlement goes.

    ``approval``: the charter asks for a governor's word, which is not counted yet.
    """
    decision, at = settlement.verdict, settlement.open
    turn = Turn(at.round, at.seat, at.seal, at.purpose) if at else None
    state = replace(
        state, settlement=settlement, verdict=decision, reason=decision.reason, turn=turn
    )
    if decision.outcome == "reject":
        if decision.reason == "no_level":  # no pairs could reach it, so that nobody sits for it
            return replace(state, stage=Stage.REFUSED, verdict=None)
        return replace(state, stage=Stage.REJECTED)
    if decision.outcome == "adopt":
        if state.kind == CONTRADICTION:
            return replace(state, stage=Stage.UPHELD)
        if approval:
            return replace(state, stage=Stage.APPROVAL, reason="approval_not_counted_yet")
        effect = effect_of(settlement.effects, f) if settlement.complete else None
        return replace(state, stage=Stage.ADOPTED, effect=effect)
    if settlement.ended == SLOT_TAKEN:
        why = CONTRADICTED_BEFORE if state.kind == CONTRADICTION else SLOT_TAKEN
        return replace(state, stage=Stage.VOID, reason=why, turn=None)
    if settlement.ended:
        return replace(state, stage=Stage.EXPIRED, reason=settlement.ended, turn=None)
    if settlement.reproductions:
        return replace(state, stage=Stage.REPRODUCING, reason="reproducing")
    if settlement.seats.taken is None:
        missing = None in settlement.seats.seen
        waits = "waiting_for_commits" if missing else "waiting_for_seatings"
        return replace(state, stage=Stage.ASSIGNED, reason=waits)
    return replace(state, stage=Stage.COMMITTED, reason="waiting_for_the_first_pair")

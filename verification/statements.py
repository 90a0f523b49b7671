"""What nodes sign of verdicts, held against what follows from the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.records import Adoption, Position, Retraction

if TYPE_CHECKING:
    from verification.states import ClaimState


def agrees(adoption: object, state: ClaimState) -> bool:
    """Whether an adoption states the verdict that follows from the records."""
    verdict, settlement = state.verdict, state.settlement
    if not isinstance(adoption, Adoption) or verdict is None or settlement is None:
        return False
    if verdict.outcome != "adopt" or verdict.crossing is None:
        return False
    return (
        adoption.rule_version == verdict.rule_version
        and adoption.positions_digest == verdict.positions_digest
        and adoption.crossing == Position(*verdict.crossing)
        and adoption.e_value == verdict.e_value
        and adoption.level_num * verdict.level.denominator
        == adoption.level_den * verdict.level.numerator
        and adoption.r_ids == state.r_ids
        and (adoption.n, adoption.f, adoption.g) == (verdict.n, verdict.f, verdict.g)
    )


def retracts(retraction: object, upheld: ClaimState) -> bool:
    """Whether a retraction states what follows from the records of a contradiction; what was frozen
    by it depends on what its author knew.
    """
    verdict = upheld.verdict
    return (
        isinstance(retraction, Retraction)
        and verdict is not None
        and retraction.contradiction == upheld.id
        and retraction.positions_digest == verdict.positions_digest
        and retraction.e_value == verdict.e_value
        and retraction.level_num * verdict.level.denominator
        == retraction.level_den * verdict.level.numerator
    )

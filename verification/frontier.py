"""What a tier builds on: the best leaf of its tree of adopted claims; and what could be merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.reproduce import digest
from verification.states import ClaimState, Stage, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from swarm.charter import Rules


def frontier(rules: Rules, states: Mapping[bytes, ClaimState]) -> dict[str, bytes | None]:
    """For each tier the adopted claim to build on, None for the challenge's own base.

    It is the leaf whose way from genesis is surely worth the most, summed over published effects;
    an effect that is not complete counts as nothing. Ties: the most adopted ancestors, then a hash
    of beacon and id, which nobody can choose.
    """
    best: dict[str, tuple[int, int, bytes, bytes]] = {}
    adopted = {id_: state for id_, state in states.items() if state.stage is Stage.ADOPTED}
    inner = {state.footing for state in adopted.values()}
    for state in adopted.values():
        if state.id in inner:
            continue
        effects = [adopted[id_].effect for id_ in ancestry(adopted, state.id)]
        worth = sum(effect.surely_nano for effect in effects if effect)
        beacon = rules.epochs[state.epoch].beacon or bytes(32)
        place = (-worth, -state.depth, digest("frontier", beacon, state.id), state.id)
        best[state.tier] = min(best.get(state.tier, place), place)
    return {
        tier.name: best[tier.name][-1] if tier.name in best else None
        for tier in rules.charter.tiers
    }


def ancestry(states: Mapping[bytes, ClaimState], claim: bytes | None) -> Iterator[bytes]:
    """A claim and what it stands on, down to genesis; over bridges, where a base was retracted."""
    while claim is not None:
        yield claim
        claim = states[claim].footing


def unmerged(state: State, tier: str) -> list[tuple[bytes, bytes | None]]:
    """Adopted claims that the frontier of ``tier`` does not stand on, and for each the claim at
    which its way parted from the frontier's (None: at genesis). The most surely worth comes first.
    """
    ours = set(ancestry(state.claims, state.frontier.get(tier)))
    found: list[tuple[int, bytes, bytes | None]] = []
    for claim in state.claims.values():
        if claim.tier != tier or claim.stage is not Stage.ADOPTED or claim.id in ours:
            continue
        common = next((id_ for id_ in ancestry(state.claims, claim.id) if id_ in ours), None)
        worth = claim.effect.surely_nano if claim.effect else 0
        found.append((-worth, claim.id, common))
    return [(claim, common) for _, claim, common in sorted(found, key=lambda item: item[:2])]


def elsewhere(state: State, tier: str) -> list[ClaimState]:
    """Adopted claims of other tiers, in the order in which they build on one another."""
    found = [c for c in state.claims.values() if c.stage is Stage.ADOPTED and c.tier != tier]
    return sorted(found, key=lambda claim: (claim.depth, claim.id))

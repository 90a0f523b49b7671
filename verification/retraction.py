"""Taking a discovery back: contradictions, what they retract, and what is frozen by it.

A *contradiction* of an adopted claim is a test with the hypothesis turned round: "it is worth at
least half of what it was adopted for" is the null, and a pair is evidence by how much it stays
below that half (``margin_of``). Everything else is as for a claim: a bench, seats, positions,
seals, folds, blocks, attestations, futility. The bench is fresh: drawn with the beacon of the
contradiction's epoch, without the operators of the claimant, of the first bench and of who
contradicts.

Guarantee: a discovery that is worth at least half of what it was adopted for is retracted with a
chance of at most ``alpha_retract``, however often and by whom it is contradicted, with at most f
liars on each bench. A contradiction is judged at alpha_retract * share / (k (k + 1)), with its
author's share for life and k the author's contradictions of this target, this one included
(``verification.budget``). The shares add up to at most 1, and so do 1 / (k (k + 1)): epochs that go
by take nothing away, and give nothing.
f liars on the *adopting* bench cannot raise the margin: the f members who report the most are left
out of it. Silence is a lost pair of the contradiction: nobody retracts by vanishing.

Not covered: benches with more than f liars, as for claims.

A contradiction that is upheld *retracts* its target, for good. What stands on a retracted claim is
*frozen*: nothing is built on it. It stands again once a claim with the very code that it was
measured against is adopted on ground that stands: a *bridge*, which shows that code to be better
than what is left without the retracted one. So one bridge restores all that was built on it.

Pure, and the same for the same records in any order. Verdicts and levels do not move: the levels of
claims count adopted ancestors whether they were retracted later or not.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from swarm.records import Contradiction
from verification.admit import place_of, policy_of
from verification.effect import modest_mean
from verification.evidence import level
from verification.reproduce import draw_bench
from verification.states import CLOSED, FAILED, ClaimState, Stage
from verification.verdict import CONTRADICTION, shift_nano

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from swarm.charter import EpochView, Rules
    from swarm.envelope import Record
    from swarm.records import TierPolicy
    from verification.budget import Budget
    from verification.reproduce import Bench

    States = Mapping[bytes, ClaimState]


MOST_FROZEN: Final = 512
"""What a retraction record can name."""


CONTRADICTED_BEFORE: Final = "contradicted_before_in_this_epoch"
"""Why a contradiction is void whose bench sat down for another one of its author and target."""


def contradiction_of(record: Record) -> Contradiction:
    """The payload of a record that is known to be a contradiction."""
    assert isinstance(record.payload, Contradiction)
    return record.payload


def opens_a_test(said: Contradiction) -> bool:
    """Whether a contradiction is of a claim; those in slot 0 are of blocks that were scored again
    (``verification.rechecks``).
    """
    return said.slot > 0


def margin_of(target: ClaimState, policy: TierPolicy) -> int:
    """What a contradiction says that its target stays below, in nano-bits per byte.

    Half of the gain that an improvement was adopted for. Claims of other kinds promised to be no
    worse than the tolerance, and that is their margin.
    """
    assert target.settlement is not None
    if target.kind != "improvement":
        return shift_nano(policy, target.kind)
    return modest_mean(target.settlement.reproductions, policy.f) // 2


# --- who may contradict what ---------------------------------------------------------------------


def admitted(
    rules: Rules,
    record: Record,
    target: ClaimState | None,
    holder: bytes | None,
    budget: Budget,
) -> ClaimState:
    """A contradiction, ``screened`` where it goes before a bench; else with what it waits for, or
    the rule that it breaks for good. ``holder``: the rival that its bench sat down for.
    """
    said = contradiction_of(record)
    state = ClaimState(
        id=record.id,
        author=record.author,
        epoch=record.envelope.epoch,
        tier=target.tier if target else "",
        kind=CONTRADICTION,
        slot=said.slot,
        base=target.base if target else None,
        code=target.code if target else b"",
        place=place_of(record),
        seq=record.envelope.seq,
        target=said.target,
    )
    epoch = rules.names(record)
    if epoch is None:
        return replace(state, reason="epoch_unknown")
    if target is None:
        return replace(state, reason="target_unknown")
    if target.stage is not Stage.ADOPTED:
        if target.stage in FAILED:
            return replace(state, stage=Stage.VOID, reason="target_not_adopted")
        return replace(state, reason="target_undecided")
    fault = _fault(rules, record, epoch, target)
    if not fault and holder not in (None, record.id):
        fault = CONTRADICTED_BEFORE
    if fault:
        return replace(state, stage=Stage.VOID, reason=fault)
    number = budget.number(record.id, state.author, target.id)
    if number is None:
        return replace(state, reason="part_of_its_feed_is_missing")
    at_level = level_of(rules, epoch, state.author, number, budget)
    return replace(state, stage=Stage.SCREENED, number=number, level=at_level)


def _fault(rules: Rules, record: Record, epoch: EpochView, target: ClaimState) -> str:
    said, author = contradiction_of(record), epoch.roster.get(record.author)
    if author is None:
        return "author_not_on_the_roster"
    if record.author in epoch.removed:
        return "author_removed"
    if target.tier not in author.tiers:
        return "author_not_in_this_tier"
    if said.slot > author.slots:
        return "slot_beyond_the_allowance"
    if epoch.number < target.epoch:
        return "target_of_a_later_epoch"
    if rules.charter.alpha_retract_milli == 0:
        return "the_charter_retracts_nothing"
    policy = policy_of(rules, target.tier)
    if policy is None or said.margin_nano != margin_of(target, policy):
        return "margin_is_not_half_of_what_was_adopted"
    return ""


def level_of(
    rules: Rules, epoch: EpochView, author: bytes, number: int, budget: Budget
) -> Fraction:
    """The level of the ``number``-th contradiction that ``author`` makes of a target."""
    alpha = Fraction(rules.charter.alpha_retract_milli, 1000)
    return level(alpha, budget.weight_against(epoch, author, number), 1, 0)


def fresh_bench(rules: Rules, epoch: EpochView, author: bytes, target: ClaimState, n: int) -> Bench:
    """The bench of a contradiction: nobody of the claimant's operator, nor of the first bench's.

    Drawn by the target and not by the slot: an author has one draw for it in an epoch.
    """
    assert target.bench is not None
    line = rules.epochs[target.epoch].roster[target.author]
    keys = {target.author, *(seat.key for seat in target.bench.seats)}
    without = {line.operator, *(seat.operator for seat in target.bench.seats)}
    without |= {epoch.roster[key].operator for key in keys if key in epoch.roster}
    domain = f"{CONTRADICTION}/{target.id.hex()}"
    return draw_bench(epoch, author, 0, target.tier, n, domain=domain, without=frozenset(without))


# --- what follows --------------------------------------------------------------------------------


def overlaid(
    states: States, contradictions: States
) -> tuple[dict[bytes, ClaimState], dict[bytes, ClaimState]]:
    """Claims and contradictions, each judged for itself before, with what is retracted and frozen.

    A contradiction that is under way is frozen while its target does not stand.
    """
    upheld: dict[bytes, bytes] = {}
    for one in sorted(contradictions.values(), key=lambda one: one.id):
        if one.stage is Stage.UPHELD and one.target is not None:
            upheld.setdefault(one.target, one.id)
    if not upheld:
        return dict(states), dict(contradictions)
    stands, by_code = _standing(states, upheld.keys())
    claims = {
        claim.id: replace(claim, stage=Stage.RETRACTED, reason="contradicted", turn=None,
                          retracted_by=upheld[claim.id])
        if claim.id in upheld
        else _on_ground(claim, states, stands, by_code)
        for claim in states.values()
    }  # fmt: skip
    cases = {
        one.id: replace(one, stage=Stage.FROZEN, reason="target_does_not_stand", turn=None)
        if one.stage not in CLOSED and one.target in states and one.target not in stands
        else one
        for one in contradictions.values()
    }
    return claims, cases


def _on_ground(
    claim: ClaimState,
    states: States,
    stands: Mapping[bytes, bytes | None],
    by_code: Mapping[tuple[str, bytes], bytes],
) -> ClaimState:
    """A claim that was not retracted itself: as it was, on a bridge, or frozen."""
    if claim.base is None or claim.stage in FAILED:
        return claim
    base = states.get(claim.base)
    if base is None or base.stage is not Stage.ADOPTED:
        return claim  # it waits for its base anyway
    if claim.id in stands:
        ground = stands[claim.id]
    elif claim.stage is not Stage.ADOPTED:
        ground = claim.base if claim.base in stands else by_code.get((claim.tier, base.code))
    else:
        ground = None
    if ground is None:
        return replace(claim, stage=Stage.FROZEN, reason="base_retracted", turn=None)
    return claim if ground == claim.base else replace(claim, bridge=ground)


def _standing(
    states: States, retracted: Set[bytes]
) -> tuple[dict[bytes, bytes | None], dict[tuple[str, bytes], bytes]]:
    """The adopted claims that stand, with what each stands on; and a standing claim for each code.

    The least set for which it holds, found in rounds from genesis, so that no two claims hold each
    other up. What stands on its own base by then does; else on the standing claim with that code
    of the earliest round, the smallest id among several.
    """
    able = [
        claim
        for claim in states.values()
        if claim.stage is Stage.ADOPTED and claim.id not in retracted
    ]
    stands: dict[bytes, bytes | None] = {}
    by_code: dict[tuple[str, bytes], bytes] = {}
    while True:
        found: dict[bytes, bytes | None] = {}
        left = []
        for claim in able:
            if claim.base is None or claim.base in stands:
                found[claim.id] = claim.base
            elif ground := by_code.get((claim.tier, states[claim.base].code)):
                found[claim.id] = ground
            else:
                left.append(claim)
        if not found:
            return stands, by_code
        stands |= found
        for id_ in sorted(found):
            by_code.setdefault((states[id_].tier, states[id_].code), id_)
        able = left


def frozen_by(claims: States, retracted: bytes) -> tuple[bytes, ...]:
    """The claims that stand, or stood, on a retracted one, and are frozen: by id, 512 at most."""
    found = []
    for claim in claims.values():
        below = claim.base
        while below is not None and below != retracted:
            below = claims[below].base if below in claims else None
        if below is not None and claim.stage is Stage.FROZEN:
            found.append(claim.id)
    return tuple(sorted(found)[:MOST_FROZEN])


def doubt(target: ClaimState, policy: TierPolicy, invented: Set[bytes]) -> str:
    """Why a standing discovery should be contradicted; empty when nothing speaks against it.

    Either what pairs after its adoption found lies below half of what it was adopted for, with all
    of its 95 % interval; or a block behind its verdict is contradicted by somebody who scored it
    again (``invented``: the ids of such blocks).
    """
    if target.settlement is None:
        return ""
    if target.effect is not None and target.effect.high_nano < margin_of(target, policy):
        return "pairs after the adoption show less than half of what it was adopted for"
    if any(item.block in invented for item in target.settlement.reproductions):
        return "a block behind the verdict does not say what its weights do"
    return ""

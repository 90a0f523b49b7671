"""Which claims may be judged at all: slots, roles, tiers, code. Rules that nothing later can mend.

Every rule reads the claim and the epoch that it names, never what is current: a claim lives by the
rules of its epoch to the end.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from swarm.records import Claim
from training.source import compressed_diff_bytes
from verification.errors import ProfileError
from verification.evidence import RULE_VERSION
from verification.reproduce import MOST_ROUNDS, rounds_of
from verification.screen import screen
from verification.verdict import check_profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from swarm.charter import EpochView, Rules
    from swarm.envelope import Record
    from swarm.records import Member, TierPolicy
    from verification.states import ClaimState

MOST_ANCESTORS: Final = 512
"""What an adoption record can name."""


def claim_of(record: Record) -> Claim:
    """The payload of a record that is known to be a claim."""
    assert isinstance(record.payload, Claim)
    return record.payload


def slot_holders(claims: Iterable[Record]) -> dict[tuple[bytes, int, int], bytes]:
    """The claim that holds each (author, epoch, slot): the first of its author's feed."""
    holders: dict[tuple[bytes, int, int], tuple[int, bytes]] = {}
    for record in claims:
        key = (record.author, record.envelope.epoch, claim_of(record).slot)
        place = (record.envelope.seq, record.id)
        holders[key] = min(holders.get(key, place), place)
    return {key: place[1] for key, place in holders.items()}


def inadmissible(
    rules: Rules,
    record: Record,
    epoch: EpochView,
    member: Member | None,
    policy: TierPolicy | None,
) -> str:
    """A rule that the claim breaks for good; empty when it breaks none."""
    claim = claim_of(record)
    if member is None:
        return "author_not_on_the_roster"
    if record.author in epoch.removed:
        return "author_removed"
    if "researcher" not in member.roles:
        return "author_is_no_researcher"
    if policy is None:
        return "unknown_tier"
    if claim.tier not in member.tiers:
        return "author_not_in_this_tier"
    if claim.slot >= member.slots:
        return "slot_beyond_the_allowance"
    if len(claim.code) > rules.charter.max_code_bytes:
        return "code_too_large"
    if hashlib.sha256(claim.code).digest() != claim.code_hash:
        return "code_does_not_match_its_hash"
    return ""


def cost_cap(rules: Rules, tier: str) -> int | None:
    """``max_cost_ratio_milli`` of the challenge's tier."""
    tiers = rules.charter.challenge.get("tiers")
    for item in tiers if isinstance(tiers, list | tuple) else ():
        if isinstance(item, dict) and item.get("name") == tier:
            cap = item.get("max_cost_ratio_milli")
            return cap if type(cap) is int and cap > 0 else None
    return None


def policy_of(rules: Rules, tier: str) -> TierPolicy | None:
    """The deciding half of a tier, None where the charter has none of this name."""
    return next((policy for policy in rules.charter.tiers if policy.name == tier), None)


def unsupported(rules: Rules, policy: TierPolicy) -> str:
    """Why no verdict can be given in a tier by this version; empty when it can."""
    try:
        check_profile(policy.n, policy.f, policy.g)
    except ProfileError:
        return "profile_not_supported"
    if rounds_of(policy) > MOST_ROUNDS:
        return "profile_not_supported"
    if rules.charter.rule_version != RULE_VERSION:
        return "rules_of_another_version"
    return "" if cost_cap(rules, policy.name) else "tier_not_measured_by_the_challenge"


def family_ancestors(state: ClaimState, states: Mapping[bytes, ClaimState]) -> tuple[bytes, ...]:
    """The base and what it stands on, as far as adopted in the same tier and kind, in any epoch.

    The nearest ``MOST_ANCESTORS``. Retracted later or not: a level never moves.
    """
    ancestor = state.base
    found: list[bytes] = []
    while ancestor is not None and len(found) < MOST_ANCESTORS:
        below = states[ancestor]
        if (below.tier, below.kind) == (state.tier, state.kind):
            found += [ancestor, *below.r_ids]
            break
        ancestor = below.base
    return tuple(found[:MOST_ANCESTORS])


def tolerances(state: ClaimState, states: Mapping[bytes, ClaimState]) -> int:
    """How often the tolerance was used since the last improvement, by this claim as well."""
    spent, claim = 0, state
    while claim.kind != "improvement":
        spent += 1
        if claim.base is None:
            break
        claim = states[claim.base]
    return spent


def scope(base: bytes, code: bytes, rules: Mapping[str, object]) -> tuple[str, ...]:
    """Why the screen refuses a diff; none when it is within scope. Raises VerificationError."""
    return screen(base, code, rules).reasons


def drift(genesis: bytes, code: bytes) -> int:
    """Compressed size of the whole diff since genesis: what could carry the holdout in, by bits.

    Bounded over the chain, not per claim; a charter fixes the bound by the size of its holdout.
    """
    return compressed_diff_bytes(genesis, code)

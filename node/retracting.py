"""Contradicting an adopted discovery: on a person's word, or when what is published speaks for it.

A contradiction puts the discovery before a fresh bench (:mod:`verification.retraction`); it decides
nothing by itself, and costs its author one of its slots. ``lazaretto contradict CLAIM`` opens one.
A node with slots does so by itself when pairs after the adoption show less than half of what was
adopted, or when a block behind the verdict is known to be invented: this node found it so itself,
or more than f members, and two at least, say it. Members take turns by hash, a patience apart, so
that one opens it and not all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from node.auditing import digits_of, pick
from node.errors import UsageError
from node.verifying import patience
from swarm.errors import SwarmError
from swarm.records import Contradiction, Retraction
from verification import retraction
from verification.quarantine import Quarantine
from verification.rechecks import disputes
from verification.reproduce import digest
from verification.states import CLOSED, ClaimState, Stage, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from node.member import Node
    from node.settings import Home
    from swarm.charter import EpochView
    from swarm.envelope import Record
    from swarm.keys import KeyPair
    from swarm.store import Store

LOOK_SECONDS: Final = 30.0
"""How often a node asks itself whether a discovery should be contradicted."""
MOST_REASON: Final = 200


# --- one contradiction ---------------------------------------------------------------------------


def contradiction(state: State, key: bytes, claim: bytes, reason: str) -> Contradiction:
    """The contradiction that the member ``key`` can sign now of ``claim``.

    Raises:
        UsageError: it would not count, and why; nothing was signed.
    """
    target = state.claims.get(claim)
    rules = state.rules
    epoch = rules.current if rules else None
    if rules is None or epoch is None or target is None:
        raise UsageError(f"no claim {claim.hex()[:12]} can be contradicted here yet")
    if target.stage is not Stage.ADOPTED:
        raise UsageError(
            f"claim {claim.hex()[:12]} is {target.stage}: only an adopted one can be contradicted",
            cure="lazaretto discoveries   lists them",
        )
    if rules.charter.alpha_retract_milli == 0:
        raise UsageError("the charter of this swarm retracts nothing (alpha_retract_milli = 0)")
    own = [one for one in state.contradictions.values() if one.author == key]
    if any(one.target == claim and one.epoch == epoch.number for one in own):
        raise UsageError(
            "this node has contradicted it in this epoch before",
            cure="lazaretto audit shows what came of it; the next epoch gives another chance",
        )
    slot = _free_slot(epoch, key, [one.slot for one in own if one.epoch == epoch.number])
    if slot is None:
        raise UsageError(
            "this node has no slot left for a contradiction in this epoch",
            cure="members with the role researcher have slots; the next epoch brings new ones",
        )
    policy = next(tier for tier in rules.charter.tiers if tier.name == target.tier)
    bench = retraction.fresh_bench(rules, epoch, key, target, policy.n)
    if bench.waiting:
        raise UsageError(
            f"no fresh bench can be drawn: {bench.waiting.replace('_', ' ')}; the first bench, the "
            "claimant and this node's operator have no seat on it",
            cure="more verifiers of other operators, from the next epoch on",
        )
    return Contradiction(
        claim, slot, retraction.margin_of(target, policy), reason[:MOST_REASON].strip()
    )


def _free_slot(epoch: EpochView, key: bytes, used: Iterable[int]) -> int | None:
    member, taken = epoch.roster.get(key), set(used)
    slots = member.slots if member and member.gamma_num else 0
    return next((slot for slot in range(1, slots + 1) if slot not in taken), None)


def contradict_order(
    home: Home, store: Store, key: KeyPair, claim: str, reason: str
) -> dict[str, Any]:
    """``lazaretto contradict``: sign a contradiction of the claim whose id begins with ``claim``.

    Raises:
        UsageError: it would not count; nothing was signed.
        EvidenceIncomplete: no such claim is held here.
    """
    quarantine = Quarantine(store.swarm, log=store.get, anchor=lambda: store.anchor)
    for _, record in store.records():
        quarantine.add(record)
    state = quarantine.state()
    chosen = pick(home, state.claims, digits_of(home, claim))
    said = contradiction(state, key.public, chosen, reason)
    record = store.append(key, said, refs=(chosen,))
    return {
        "contradiction": record.id.hex(),
        "claim": chosen.hex(),
        "margin_bpb": said.margin_nano / 1e9,
    }


# --- what a running node does --------------------------------------------------------------------


async def contradict_forever(node: Node) -> None:
    """Contradict what is doubtful, when it is our turn; runs as long as the node works."""
    since: dict[bytes, float] = {}
    while True:
        state = await node.caught_up()
        said = await trio.to_thread.run_sync(node.log.store.of_kind, Contradiction.KIND)
        now = trio.current_time()
        found = doubtful(state, node.key.public, said)
        since = {claim: since.get(claim, now) for claim in found}
        for claim, (reason, turn) in found.items():
            if now - since[claim] < turn * patience(node, state.claims[claim].tier):
                continue
            try:
                payload = contradiction(state, node.key.public, claim, reason)
            except UsageError:
                continue  # others have slots, or will have
            record = await node.log.append(payload, refs=(claim,))
            node.journal.write(
                "contradicting", claim=claim.hex(), id=record.id.hex(), reason=reason
            )
            break  # one at a time; the state is another one now
        await trio.sleep(LOOK_SECONDS)


def doubtful(state: State, key: bytes, said: Iterable[Record]) -> dict[bytes, tuple[str, int]]:
    """Standing discoveries that should be contradicted: why, and how many members come before us.

    ``said``: contradiction records. Those on which a contradiction is under way are left out.
    """
    rules = state.rules
    epoch = rules.current if rules else None
    if rules is None or epoch is None:
        return {}
    accusers: dict[bytes, set[bytes]] = {}
    for one in disputes(state, said):
        accusers.setdefault(one.block, set()).add(one.by)
    pending = {one.target for one in state.contradictions.values() if one.stage not in CLOSED}
    found: dict[bytes, tuple[str, int]] = {}
    for claim in state.claims.values():
        if claim.stage is not Stage.ADOPTED or claim.id in pending:
            continue
        policy = next(tier for tier in rules.charter.tiers if tier.name == claim.tier)
        invented = {
            block
            for block, by in accusers.items()
            if key in by or len({_operator(epoch, one) for one in by}) >= max(2, policy.f + 1)
        }
        if reason := retraction.doubt(claim, policy, invented):
            found[claim.id] = (reason, _turn(epoch, claim, key))
    return found


def _operator(epoch: EpochView, key: bytes) -> str:
    line = epoch.roster.get(key)
    return line.operator if line else key.hex()


def _turn(epoch: EpochView, claim: ClaimState, key: bytes) -> int:
    able = sorted(
        digest("contradict", claim.id, one)
        for one, line in epoch.roster.items()
        if line.slots and line.gamma_num and claim.tier in line.tiers
    )
    own = digest("contradict", claim.id, key)
    return sum(one < own for one in able)


async def sign_retraction(node: Node, claim: ClaimState) -> bool:
    """Sign that ``claim`` is retracted, once; False when it could not be done now."""
    assert claim.retracted_by is not None
    if any(
        isinstance(record.payload, Retraction) and record.payload.target == claim.id
        for record in node.own_records()
    ):
        return True
    decision = node.state.contradictions[claim.retracted_by].verdict
    assert decision is not None
    said = Retraction(
        target=claim.id,
        contradiction=claim.retracted_by,
        positions_digest=decision.positions_digest,
        e_value=decision.e_value[:80],
        level_num=decision.level.numerator,
        level_den=decision.level.denominator,
        frozen=retraction.frozen_by(node.state.claims, claim.id),
    )
    try:
        await node.log.append(said, refs=(claim.id, claim.retracted_by))
    except SwarmError as error:
        node.trouble("retraction", error)
        return False
    return True

"""``lazaretto contribution``: claims that this node confirmed or overturned, each with a receipt.

A receipt is the id of a signed block of this node that a bench settled: anybody with the log can
check it. Hours, runs and points are not counted; only verdicts that the node had a part in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node.report import Held
from node.tables import table
from swarm.keys import short
from verification.states import CLOSED, Stage

if TYPE_CHECKING:
    from node.settings import Home
    from verification.states import ClaimState, State


@dataclass(frozen=True, slots=True)
class Receipt:
    """One claim that a member measured pairs of: ``blocks`` are its own, settled; ``part`` is
    confirmed (adopted), overturned (rejected, retracted) or open (expired ones too); ``agreed``:
    its mean pointed the same way.
    """

    claim: bytes
    author: bytes
    part: str
    agreed: bool
    pairs: int
    blocks: tuple[bytes, ...]


def receipts(state: State, member: bytes) -> list[Receipt]:
    """What ``member`` has contributed, in a stable order. Pure."""
    found = [_receipt(claim, member) for claim in state.claims.values()]
    kept = [receipt for receipt in found if receipt is not None]
    return sorted(kept, key=lambda one: (one.part, one.claim))


def _receipt(claim: ClaimState, member: bytes) -> Receipt | None:
    settlement = claim.settlement
    positions = (*settlement.reproductions, *settlement.effects) if settlement else ()
    own = [one for one in positions if one.member == member and one.block and one.pair]
    if not own:
        return None
    part = "open"
    if claim.stage in CLOSED and claim.stage is not Stage.EXPIRED:
        part = "confirmed" if claim.stage is Stage.ADOPTED else "overturned"
    gains = [one.pair.d_nano for one in own if one.pair and one.pair.status == "ok"]
    positive = bool(gains) and sum(gains) > 0
    agreed = positive == (claim.stage is Stage.ADOPTED)
    blocks = tuple(one.block for one in own if one.block)
    return Receipt(claim.id, claim.author, part, agreed, len(own), blocks)


def show_contribution(home: Home, *, as_json: bool) -> int:
    """``lazaretto contribution``. Raises UsageError and StoreError."""
    held = Held(home)
    found = receipts(held.state, held.key)
    counts = {part: sum(one.part == part for one in found) for part in ("confirmed", "overturned")}
    if as_json:
        facts: dict[str, Any] = {
            "schema": "lazaretto.contribution/1",
            **counts,
            "pairs": sum(one.pairs for one in found),
            "receipts": [
                {
                    "claim": one.claim.hex(),
                    "part": one.part,
                    "agreed": one.agreed,
                    "blocks": [block.hex() for block in one.blocks],
                }
                for one in found
            ],
        }
        print(json.dumps(facts))
        return 0
    pairs = sum(one.pairs for one in found)
    print(
        f"{counts['confirmed']} claims confirmed, {counts['overturned']} overturned, in {pairs} "
        "pairs of your own that benches settled"
    )
    if found:
        rows = [
            (
                one.part,
                one.claim.hex()[:12],
                short(one.author),
                str(one.pairs),
                "yes" if one.agreed else "no",
                one.blocks[0].hex()[:12],
            )
            for one in found
        ]
        table(("", "claim", "by", "your pairs", "your mean agreed", "receipt"), rows)
    return 0

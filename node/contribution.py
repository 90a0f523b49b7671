"""``lazaretto contribution``: what this node did for the swarm, each piece with a signed receipt.

For a claim that it confirmed or overturned a receipt is the id of a signed block of this node that
a bench settled: anybody with the log can check it. Work on what others measured (blocks scored
again, discoveries audited, weights kept, numbers contradicted) is in signed ``upkeep`` and
``contradiction`` records, and is its author's word. Hours, runs and points are not counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from node.report import Held
from node.tables import table
from swarm.keys import short
from swarm.records import Contradiction, Upkeep
from verification.states import CLOSED, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from node.settings import Home
    from swarm.envelope import Record
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


@dataclass(frozen=True, slots=True)
class Cared:
    """Upkeep of one member: the things it says it did, each with the record that says so."""

    rescored: dict[bytes, bytes]
    audited: dict[bytes, bytes]
    stored: dict[bytes, bytes]
    contradicted: dict[bytes, bytes]


def cared(records: Iterable[Record], member: bytes) -> Cared:
    """What ``member`` did for others' work, each thing once: what, to the first record. Pure."""
    found = Cared({}, {}, {}, {})
    for record in records:
        said = record.payload
        if record.author != member:
            continue
        if isinstance(said, Contradiction):
            found.contradicted.setdefault(said.target, record.id)
        elif isinstance(said, Upkeep):
            for kind in ("rescored", "audited", "stored"):
                for thing in getattr(said, kind):
                    getattr(found, kind).setdefault(thing, record.id)
    return found


def show_contribution(home: Home, *, as_json: bool) -> int:
    """``lazaretto contribution``. Raises UsageError and StoreError."""
    held = Held(home)
    found = receipts(held.state, held.key)
    upkeep = asdict(cared(held.records, held.key))
    counts = {part: sum(one.part == part for one in found) for part in ("confirmed", "overturned")}
    if as_json:
        facts: dict[str, Any] = {
            "schema": "lazaretto.contribution/1",
            **counts,
            "pairs": sum(one.pairs for one in found),
            "upkeep": {
                kind: {thing.hex(): record.hex() for thing, record in things.items()}
                for kind, things in upkeep.items()
            },
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
    if any(upkeep.values()):
        words = ("{} blocks of others scored again", "{} discoveries audited",
                 "weights of {} blocks kept", "{} numbers contradicted")  # fmt: skip
        told = zip(words, upkeep.values(), strict=True)
        print(", ".join(word.format(len(things)) for word, things in told if things))
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

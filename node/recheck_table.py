"""``lazaretto recheck CLAIM``: score the sealed weights behind a claim's blocks again, now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from node.auditing import digits_of, pick
from node.data import Data, describe, missing
from node.errors import EvidenceIncomplete, EvidenceInvalid, UsageError
from node.rechecking import contradict, rescore
from node.service import opened
from node.tables import table
from swarm.errors import SwarmError
from swarm.keys import short
from training import kinds
from verification.rechecks import Finding, Found, Recheck, recheck_of, settled_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.member import Node
    from node.progress import Stage
    from node.settings import Home

LIMITS: Final = (
    "Shown by this: whether the numbers are those of the sealed weights. Not shown: how these "
    "were trained, and what it cost. A contradiction changes no verdict."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One block and what became of it; ``signed``: a contradiction was signed just now."""

    item: Recheck
    finding: Finding
    found: Found | None
    signed: bool = False


def recheck_here(
    home: Home, claim: str, *, as_json: bool, say: Callable[[str], None], stage: Stage
) -> int:
    """Returns 0 where all blocks agree, 4 with a contradiction, 5 where one could not be told.

    Raises:
        UsageError: a node runs here, the data is not here, or the id is none.
        EvidenceIncomplete: no such claim, or no settled block of it, is held here.
        SandboxUnavailable: there is no sandbox here, so no weights were opened.
    """
    from training.sandbox import require

    digits = digits_of(home, claim)
    settings = home.load()
    kinds.choose(settings.sandbox)
    require()
    rows = trio.run(_recheck, home, digits, say, stage)
    if as_json:
        print(json.dumps({"schema": "lazaretto.recheck/1", "blocks": [_plain(r) for r in rows]}))
    else:
        _show(rows)
        say(LIMITS)
    verdicts = {row.finding.verdict for row in rows}
    if "contradicts" in verdicts:
        return EvidenceInvalid.exit_code
    return EvidenceIncomplete.exit_code if "unsure" in verdicts else 0


async def _recheck(home: Home, digits: str, say: Callable[[str], None], stage: Stage) -> list[Row]:
    async with opened(home, "recheck") as (node, _):
        _find_data(home, node)
        chosen = pick(home, node.state.claims, digits)
        state = node.state.claims[chosen]
        items = [
            found
            for position in settled_blocks(state)
            if (found := recheck_of(node.state, state, position, node.log.store.get))
        ]
        if not items:
            raise EvidenceIncomplete(
                f"no settled block of claim {chosen.hex()[:12]} is held here",
                cure=f"lazaretto inbox --home {home.path}   shows how far it is",
            )
        rows = []
        for done, item in enumerate(items):
            stage("scoring again", done, len(items))
            rows.append(await _row(node, item, say))
        stage("scoring again", len(items), len(items))
        return rows


def _find_data(home: Home, node: Node) -> None:
    rules = node.log.store.rules
    challenge = describe(rules.charter) if rules else None
    if challenge is None or missing(challenge, node.blobs):
        raise UsageError(
            "the data of this swarm is not all here yet",
            cure=f"lazaretto up --home {home.path}   fetches it",
        )
    node.data = Data(challenge, node.blobs)


async def _row(node: Node, item: Recheck, say: Callable[[str], None]) -> Row:
    try:
        finding, found = await rescore(node, item)
    except (SwarmError, OSError) as error:
        return Row(item, Finding("unsure", 0, f"could not be done: {error}"), None)
    signed = False
    if finding.verdict == "contradicts" and item.member != node.key.public:
        try:
            signed = await contradict(node, item, finding)
        except SwarmError as error:
            say(f"the contradiction could not be signed: {error}")
    return Row(item, finding, found, signed)


def _plain(row: Row) -> dict[str, Any]:
    item, found = row.item, row.found
    return {
        "block": item.block.hex(),
        "claim": item.claim.hex(),
        "round": item.round,
        "rank": item.rank,
        "purpose": item.purpose,
        "member": item.member.hex(),
        "said": {
            "status": item.said.status,
            "base_nano": item.said.base_nano,
            "candidate_nano": item.said.candidate_nano,
        },
        "found": {
            "status": found.status,
            "base_nano": found.base_nano,
            "candidate_nano": found.candidate_nano,
        }
        if found
        else None,
        "margin_nano": row.finding.margin_nano,
        "verdict": row.finding.verdict,
        "reason": row.finding.reason,
        "signed": row.signed,
    }


def _show(rows: Sequence[Row]) -> None:
    cells = []
    for row in rows:
        said, found = row.item.said, row.found
        ok = found is not None and found.status == "ok"
        gain = (found.base_nano - found.candidate_nano) / 1e9 if found and ok else None
        cells.append(
            (
                f"{row.item.round}.{row.item.rank}",
                short(row.item.member),
                f"{said.d_nano / 1e9:+.6f}" if said.status == "ok" else said.status,
                f"{gain:+.6f}" if gain is not None else found.status if found else "-",
                f"{row.finding.margin_nano / 1e9:+.6f}",
                row.finding.verdict + (" (signed)" if row.signed else ""),
                row.finding.reason if row.finding.verdict == "unsure" else "",
            )
        )
    heads = ("position", "member", "said", "found", "difference", "verdict", "why")
    table(heads, cells)

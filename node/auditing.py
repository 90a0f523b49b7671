"""``lazaretto audit``: check a discovery again from the stored signed bytes of this home.

Needs no running node, no network, no torch; nothing that the log says of itself is believed.
"""

from __future__ import annotations

import json
import string
import sys
from typing import TYPE_CHECKING

from node.errors import EvidenceIncomplete, UsageError
from swarm.records import Claim
from swarm.store import Stored, read_raw
from verification.audit import audit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.settings import Home

MIN_DIGITS = 6


def audit_here(home: Home, claim: str, *, as_json: bool) -> int:
    """Audit the claim whose id begins with ``claim``; returns 0, 4 (invalid) or 5 (incomplete).

    Raises:
        UsageError: not an id, or one that fits several claims.
        EvidenceIncomplete: no such claim is held here.
    """
    settings = home.load()
    stored = read_raw(home.log)
    chosen = _find(stored, claim.lower().strip())
    report = audit(settings.swarm_id, chosen, [row.data for row in stored])
    if as_json:
        print(json.dumps(report.to_json()))
        return report.exit_code
    print(report.to_text())
    if report.exit_code == EvidenceIncomplete.exit_code:
        print("next: lazaretto up   (records that are missing come from peers)", file=sys.stderr)
    elif report.exit_code:
        print("next: do not build on this; compare with another member's audit", file=sys.stderr)
    return report.exit_code


def _find(stored: Sequence[Stored], digits: str) -> bytes:
    if len(digits) < MIN_DIGITS or set(digits) - set(string.hexdigits):
        raise UsageError(
            f"an id is {MIN_DIGITS} to 64 hex digits", cure="lazaretto discoveries   lists them"
        )
    # By the name it was stored under: a claim whose bytes were changed is found all the same.
    claims = (row.id for row in stored if row.kind == Claim.KIND)
    fitting = {name for name in claims if name.hex().startswith(digits)}
    if not fitting:
        raise EvidenceIncomplete(
            f"no claim {digits[:16]} is held here", cure="lazaretto discoveries   lists them"
        )
    if len(fitting) > 1:
        raise UsageError(f"{digits} fits {len(fitting)} claims", cure="give more digits")
    return fitting.pop()

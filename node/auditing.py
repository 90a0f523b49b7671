"""``lazaretto audit``: check a discovery again from the stored signed bytes of this home.

Needs no running node, no network, no torch; nothing that the log says of itself is believed.
"""

from __future__ import annotations

import json
import string
import sys
from typing import TYPE_CHECKING

from node.errors import EvidenceIncomplete, EvidenceInvalid, UsageError
from swarm.database import Stored, read_raw
from swarm.envelope import parse
from swarm.errors import StoreError, SwarmError
from swarm.records import Claim
from verification.audit import audit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from node.settings import Home
    from swarm.envelope import Record

MIN_DIGITS = 6


def audit_here(home: Home, claim: str, *, as_json: bool) -> int:
    """Audit the claim whose id begins with ``claim``; returns 0, 4 (invalid) or 5 (incomplete).

    Raises:
        UsageError: not an id, or one that fits several claims.
        EvidenceIncomplete: no such claim is held here.
    """
    settings = home.load()
    digits = digits_of(home, claim)
    stored = _read(home)
    chosen = _find(home, stored, digits)
    report = audit(settings.swarm_id, chosen, [row.data for row in stored])
    if as_json:
        print(json.dumps(report.to_json()))
        return report.exit_code
    print(report.to_text())
    where = f"--home {home.path}"
    if report.exit_code == EvidenceIncomplete.exit_code:
        print(f"next: lazaretto inbox {where}   shows what it waits for", file=sys.stderr)
    elif report.exit_code:
        print("next: do not build on this; compare with another member's audit", file=sys.stderr)
    return report.exit_code


def digits_of(home: Home, claim: str) -> str:
    """The first digits of an id, as somebody typed them. Raises UsageError."""
    digits = claim.lower().strip()
    if len(digits) < MIN_DIGITS or set(digits) - set(string.hexdigits):
        raise UsageError(
            f"an id is {MIN_DIGITS} to 64 hex digits",
            cure=f"lazaretto discoveries --home {home.path}   lists them",
        )
    return digits


def _read(home: Home) -> list[Stored]:
    if not home.log.exists():
        raise EvidenceIncomplete(
            f"there is no log in {home.path}", cure="lazaretto join INVITE fetches one"
        )
    try:
        return read_raw(home.log, branches=True)
    except StoreError as error:
        raise EvidenceInvalid(
            f"the log was changed or is damaged: {error}",
            cure="keep a copy of it; a new member (lazaretto join) gets the records anew",
        ) from None


def _find(home: Home, stored: Sequence[Stored], digits: str) -> bytes:
    # By the name it was stored under as well as by its bytes: a claim of which either was changed
    # is found all the same.
    named = {row.id for row in stored if row.kind == Claim.KIND}
    named |= {record.id for row in stored if (record := _claim(row.data)) is not None}
    return pick(home, named, digits)


def pick(home: Home, named: Iterable[bytes], digits: str) -> bytes:
    """The one of ``named`` that begins with ``digits``.

    Raises:
        EvidenceIncomplete: there is none.
        UsageError: there are several.
    """
    fitting = {name for name in named if name.hex().startswith(digits)}
    if not fitting:
        raise EvidenceIncomplete(
            f"no claim {digits[:16]} is held here",
            cure=f"lazaretto discoveries --home {home.path}   lists them",
        )
    if len(fitting) > 1:
        raise UsageError(f"{digits} fits {len(fitting)} claims", cure="give more digits")
    return fitting.pop()


def _claim(data: bytes) -> Record | None:
    try:
        record = parse(data, check_signature=False)
    except SwarmError:
        return None
    return record if isinstance(record.payload, Claim) else None

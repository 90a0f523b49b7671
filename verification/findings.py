"""What an audit says: checks, facts, limits; as JSON for programs and as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

SCHEMA: Final = "lazaretto.audit/1"


class Outcome(StrEnum):
    """How one check ended."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_CHECKED = "NOT CHECKED"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was asked, how it ended, and on what."""

    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All checks of one claim, what is known about it, and what no audit of this kind can show."""

    swarm: bytes
    claim: bytes
    verdict: str
    checks: tuple[Check, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: everything passed. 4: something failed. 5: nothing failed, something is missing."""
        outcomes = {check.outcome for check in self.checks}
        if Outcome.FAIL in outcomes:
            return 4
        return 5 if Outcome.NOT_CHECKED in outcomes or not self.checks else 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; hashes and keys in hex."""
        return {
            "schema": SCHEMA,
            "swarm": self.swarm.hex(),
            "claim": self.claim.hex(),
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "checks": [
                {"name": one.name, "outcome": one.outcome.value, "detail": one.detail}
                for one in self.checks
            ],
            "facts": dict(self.facts),
            "limits": list(self.limits),
        }

    def to_text(self) -> str:
        """The report for a person, one line for each check."""
        width = max((len(one.name) for one in self.checks), default=0)
        lines = [f"claim  {self.claim.hex()}", f"swarm  {self.swarm.hex()}", ""]
        lines += [
            f"{one.outcome.value:<11}  {one.name:<{width}}  {one.detail}" for one in self.checks
        ]
        lines += ["", f"verdict: {self.verdict}"]
        for name, value in self.facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"  {name.replace('_', ' ')}: {shown}")
        if self.limits:
            lines += ["", "not shown by any of this:", *(f"  - {one}" for one in self.limits)]
        return "\n".join(lines)


def printable(text: str, most: int = 200) -> str:
    """Words of a peer, made harmless for a terminal or a log: printable ASCII, at most ``most``."""
    shown = "".join(char if " " <= char <= "~" else "?" for char in text[: most + 1])
    return shown if len(shown) <= most else shown[:most] + "..."

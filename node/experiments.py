"""``lazaretto experiments``: what this node tried, from its own signed feed and its programs."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node import programs
from node.errors import EvidenceIncomplete, UsageError
from node.escaping import escaped
from node.judging import is_look
from node.programs import Tried
from node.report import Held
from node.tables import table
from swarm.records import Claim, Experiment

if TYPE_CHECKING:
    from node.settings import Home

SHOWN = 72
"""Characters of a hypothesis in a list."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment: its number (from 1, in the order of the feed), record, program and fate.

    ``verdict`` is that of the swarm where it was claimed, else empty.
    """

    number: int
    record: Experiment
    day: int
    tried: Tried | None
    verdict: str

    @property
    def gain_bpb(self) -> float | None:
        """Mean gain over the base on dev text, bits per byte; None without a score."""
        gains = [pair.d_nano for pair in self.record.dev_pairs]
        return sum(gains) / len(gains) / 1e9 if gains else None

    @property
    def bpb(self) -> float | None:
        """Mean bits per byte of the program on dev text."""
        scores = self.tried.bpb if self.tried else ()
        return sum(scores) / len(scores) / 1e9 if scores else None

    @property
    def kept(self) -> bool:
        """Whether it was better by more than noise, claimed or not."""
        return self.record.outcome in ("claimed", "better")

    def to_json(self) -> dict[str, Any]:
        """Plain values; hashes in hex."""
        record = self.record
        return {
            "number": self.number,
            "tier": record.tier,
            "base": record.base.hex() if record.base else None,
            "hypothesis": record.hypothesis,
            "proposer": record.proposer,
            "outcome": record.outcome,
            "reason": record.reason,
            "verdict": self.verdict or None,
            "gain_bpb": self.gain_bpb,
            "bpb": self.bpb,
            "pairs": [[pair.seed, pair.d_nano] for pair in record.dev_pairs],
            "cost_ms": record.cost_ms,
            "ast_sha256": record.ast_hash.hex(),
            "program_kept": self.tried is not None,
        }


def entries(home: Home, tier: str = "") -> list[Entry]:
    """All experiments of the node in ``home``, oldest first. Raises UsageError and StoreError."""
    held = Held(home)
    own = [record for record in held.records if record.author == held.key]
    fates = {
        record.payload.ast_hash: held.state.claims[record.id].stage.value
        for record in own
        if isinstance(record.payload, Claim) and record.id in held.state.claims
    }
    found: list[Entry] = []
    bases: dict[bytes | None, str] = {}  # the program of a frontier: what was tried first is on it
    for record in own:
        payload = record.payload
        if isinstance(payload, Experiment):
            tried = programs.find(home, payload.ast_hash, payload.base)
            if tried is not None:
                first = bases.setdefault(payload.base, tried.base_code)
                if is_look(payload):  # its scores are of the last edit alone
                    tried = Tried(tried.tried, first, tried.code)
            verdict = fates.get(payload.ast_hash, "")
            found.append(Entry(len(found) + 1, payload, record.envelope.day, tried, verdict))
    return [entry for entry in found if not tier or entry.record.tier == tier]


def entry(home: Home, number: int) -> Entry:
    """The experiment with this number. Raises UsageError."""
    found = entries(home)
    if not 1 <= number <= len(found):
        raise UsageError(
            f"there is no experiment {number}; this node has {len(found)}",
            cure=f"lazaretto experiments list --home {home.path}",
        )
    return found[number - 1]


def show_list(home: Home, *, tier: str, as_json: bool) -> int:
    """``lazaretto experiments list``."""
    found = entries(home, tier)
    if as_json:
        facts = {
            "schema": "lazaretto.experiments/1",
            "experiments": [one.to_json() for one in found],
        }
        print(json.dumps(facts))
        return 0
    if not found:
        print("no experiment yet")
        return 0
    rows = [
        (
            str(one.number),
            one.record.outcome.replace("_", " ") + (f", {one.verdict}" if one.verdict else ""),
            _signed(one.gain_bpb),
            str(len(one.record.dev_pairs)),
            one.record.proposer,
            escaped(one.record.hypothesis, SHOWN),
        )
        for one in found
    ]
    table(("no.", "outcome", "gain bpb", "pairs", "by", "hypothesis"), rows)
    return 0


def show_one(home: Home, number: int, *, as_json: bool) -> int:
    """``lazaretto experiments show``."""
    one = entry(home, number)
    if as_json:
        facts = {"schema": "lazaretto.experiment-entry/1", **one.to_json()}
        print(json.dumps({**facts, "code": one.tried.code if one.tried else None}))
        return 0
    record = one.record
    lines = [
        ("hypothesis", escaped(record.hypothesis, 500)),
        ("proposer", record.proposer),
        ("tier", record.tier),
        ("base", record.base.hex() if record.base else "the challenge's own"),
        ("outcome", f"{record.outcome.replace('_', ' ')}: {record.reason.replace('_', ' ')}"),
        ("verdict", one.verdict or "not claimed"),
        ("gain", f"{_signed(one.gain_bpb)} bits per byte on dev text"),
        ("pairs", ", ".join(f"{pair.d_nano / 1e9:+.4f}" for pair in record.dev_pairs) or "none"),
        ("cost", f"{record.cost_ms / 1000:.1f} s"),
    ]
    for label, text in lines:
        print(f"{label:<11} {text}")
    return 0


def show_diff(home: Home, number: int) -> int:
    """``lazaretto experiments diff``: what the program changes, as a unified diff."""
    print(diff_of(entry(home, number)), end="")
    return 0


def diff_of(one: Entry) -> str:
    """The unified diff of an experiment. Raises EvidenceIncomplete where it was not kept."""
    if one.tried is None:
        raise EvidenceIncomplete(
            f"the program of experiment {one.number} is not in this home any more",
            cure="its numbers are: lazaretto experiments show",
        )
    # nothing that a model wrote reaches a terminal as it is
    before, after = (_lines(text) for text in (one.tried.base_code, one.tried.code))
    return "".join(difflib.unified_diff(before, after, "base/train.py", "train.py"))


def _lines(text: str) -> list[str]:
    return [escaped(line, 2000) + "\n" for line in text.splitlines()]


def _signed(value: float | None) -> str:
    return f"{value:+.4f}" if value is not None else "-"

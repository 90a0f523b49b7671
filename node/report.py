"""What a node knows, for people and for programs: ``status``, ``inbox``, ``discoveries``.

Everything is folded anew from the log of the home, beside the running node if there is one. Text
that somebody else wrote is shown escaped and cut short, and only where it was asked for.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from node.convicts import convicts, outlook, staying, story
from node.epochs import waiting_members
from node.errors import NotRunning
from node.escaping import escaped as escaped
from node.spending import told
from node.state import read_state
from node.tables import table
from node.times import clock
from swarm.charter import trust_note
from swarm.keys import KeyPair, peer_id, short
from swarm.records import Claim, Contradiction
from swarm.store import Store
from verification.folds import MOST_USES, fold_uses, worn
from verification.quarantine import Quarantine
from verification.rechecks import contradicted, disputes
from verification.states import CLOSED, ClaimState, Stage, State
from verification.verdict import IMPROVEMENT, noise_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from node.settings import Home
    from swarm.envelope import Record
    from verification.effect import Effect
    from verification.rechecks import Dispute


CLOCK_TOLERANCE_S = 60.0
"""Nothing is decided by a clock, so that a wrong one is only worth a line."""


class Held:
    """A home's log, folded once; ``count`` records in all."""

    def __init__(self, home: Home) -> None:
        self.settings = home.load()
        self.key = KeyPair.load(home.key).public
        self._log = home.log
        self.count = 0
        with Store(self._log, self.settings.swarm_id, read_only=True) as store:
            self._quarantine = Quarantine(
                self.settings.swarm_id, log=store.get, anchor=lambda: store.anchor
            )
            for self.count, (_, record) in enumerate(store.records(), 1):
                self._quarantine.add(record)
            self.state: State = self._quarantine.state()
            self.disputes: list[Dispute] = disputes(self.state, store.of_kind(Contradiction.KIND))
            self.convicts = convicts(store)
            self.staying = staying(store)

    @property
    def records(self) -> Iterator[Record]:
        """All records, one by one: read from the log again, and not held."""
        with Store(self._log, self.settings.swarm_id, read_only=True) as store:
            yield from (record for _, record in store.records())

    def claim(self, claim: bytes) -> Claim:
        """The payload of a claim."""
        record = self._quarantine.claim(claim)
        assert record is not None
        assert isinstance(record.payload, Claim)
        return record.payload

    def describe(self, state: ClaimState) -> dict[str, Any]:
        """One claim as plain values."""
        payload, decision, settlement = self.claim(state.id), state.verdict, state.settlement
        gains = [pair.d_nano for pair in payload.dev_pairs]
        done = settlement.reproductions if settlement else ()
        return {
            "id": state.id.hex(),
            "author": state.author.hex(),
            "tier": state.tier,
            "type": state.kind,
            "base": state.base.hex() if state.base else None,
            "stage": state.stage.value,
            "outcome": _outcome(state),
            "reason": state.reason,
            "hypothesis": payload.hypothesis,
            "claimed_bpb": sum(gains) / len(gains) / 1e9 if gains else None,
            "mean_bpb": decision.mean_nano / 1e9
            if decision and decision.pairs > decision.lost
            else None,
            **_effect(state.effect),
            "pairs": len(done),
            "verifiers": len({one.member for one in done}),
            "e_value": decision.e_value if decision else None,
            "needed": f"{float(1 / state.level):.6g}" if state.level else None,
            "waiting_for": peer_id(state.turn.seat.key) if state.turn else None,
            "contradictions": [_dispute(one) for one in self.disputes if one.claim == state.id],
            "contradicted": self._tests_of(state.id),
            "retracted_by": state.retracted_by.hex() if state.retracted_by else None,
            "bridge": state.bridge.hex() if state.bridge else None,
        }

    def _tests_of(self, claim: bytes) -> list[dict[str, Any]]:
        """The contradictions of a claim, as plain values."""
        found = [one for one in self.state.contradictions.values() if one.target == claim]
        return [
            {
                "id": one.id.hex(),
                "by": peer_id(one.author),
                "stage": one.stage.value,
                "reason": one.reason,
                "pairs": one.verdict.pairs if one.verdict else 0,
                "e_value": one.verdict.e_value if one.verdict else None,
                "needed": f"{float(1 / one.level):.6g}" if one.level else None,
            }
            for one in sorted(found, key=lambda one: (one.epoch, one.author, one.slot))
        ]

    def claims(self, stages: Iterable[Stage]) -> list[dict[str, Any]]:
        """Claims in these stages, in a stable order: by author, epoch and slot."""
        wanted = set(stages)
        found = [claim for claim in self.state.claims.values() if claim.stage in wanted]
        found.sort(key=lambda claim: (claim.epoch, claim.depth, claim.author, claim.slot))
        return [self.describe(claim) for claim in found]

    @property
    def trust(self) -> str:
        """What a reader must know about the benches of this swarm."""
        rules = self.state.rules
        tiers = rules.charter.tiers if rules else ()
        notes = "; ".join(f"{tier.name}: {trust_note(tier.n, tier.f, tier.g)}" for tier in tiers)
        return notes or "unknown until the charter is here"


def _effect(effect: Effect | None) -> dict[str, Any]:
    """What pairs after acceptance found, in bits per byte; nulls until they are all there."""
    if effect is None:
        return {"effect_bpb": None, "effect_interval_bpb": None, "effect_pairs": 0}
    return {
        "effect_bpb": effect.mean_nano / 1e9,
        "effect_interval_bpb": [effect.low_nano / 1e9, effect.high_nano / 1e9],
        "effect_pairs": effect.pairs,
    }


def _dispute(one: Dispute) -> dict[str, Any]:
    """A member's word against another's block, as plain values."""
    return {
        "block": one.block.hex(),
        "round": one.round,
        "rank": one.rank,
        "member": peer_id(one.member),
        "by": peer_id(one.by),
        "margin_bpb": one.margin_nano / 1e9,
        "reason": one.reason,
    }


def _show_disputes(claims: Iterable[dict[str, Any]]) -> None:
    """What members contradict, below a table of claims: facts, which change no verdict."""
    for claim in claims:
        for one in claim["contradictions"]:
            print(
                f"contradicted: claim {claim['id'][:12]} position {one['round']}.{one['rank']} of "
                f"{short(one['member'])} by {short(one['by'])}, off by {one['margin_bpb']:+.4f} "
                "(a fact; no verdict is changed by it)"
            )
        for one in claim["contradicted"]:
            why = one["reason"].replace("_", " ")
            print(
                f"contradiction {one['id'][:12]} of claim {claim['id'][:12]} by "
                f"{short(one['by'])}: {one['stage']} ({why}) after {one['pairs']} pairs"
            )


def _folds(held: Held) -> dict[str, Any]:
    """How often each holdout fold was looked at."""
    uses, rules = fold_uses(held.state), held.state.rules
    active = rules.current.active_folds if rules and rules.current else ()
    return {
        "uses": {str(fold): count for fold, count in uses.items()},
        "active": list(active),
        "worn": list(worn(uses, active)),
        "limit": MOST_USES,
    }


def _outcome(state: ClaimState) -> str:
    if state.stage is Stage.ADOPTED:
        return "adopt"
    if state.stage is Stage.RETRACTED:
        return "retract"
    if state.stage is Stage.EXPIRED:
        return "expire"
    return "reject" if state.stage in CLOSED else "pending"


def summary(home: Home) -> dict[str, Any]:
    """What ``status --json`` prints: identity, state, frontier and all claims."""
    held = Held(home)
    rules = held.state.rules
    epoch = rules.current if rules else None
    member = epoch.roster.get(held.key) if epoch else None
    try:
        running: dict[str, Any] | None = asdict(read_state(home))
    except NotRunning:
        running = None
    return {
        "schema": "lazaretto.status/1",
        "id": peer_id(held.key),
        "key": held.key.hex(),
        "name": held.settings.name,
        "swarm": held.settings.swarm,
        "swarm_name": rules.charter.name if rules else None,
        "roles": list(member.roles if member else held.settings.roles),
        "epoch": epoch.number if epoch else None,
        "members": len(epoch.roster) if epoch else 0,
        "records": held.count,
        "frontier": {
            tier: claim.hex() if claim else None for tier, claim in held.state.frontier.items()
        },
        "claims": held.claims(Stage),
        "folds": _folds(held),
        "contradicted": {
            peer_id(member): count for member, count in contradicted(held.disputes).items()
        },
        "told_two_stories": [
            {"id": peer_id(key), "proof": proof.hex(), "stays": key in held.staying}
            for key, proof in held.convicts.items()
        ],
        "waits_for_epoch": [peer_id(one.key) for one in waiting_members(rules)] if rules else [],
        "governs": bool(rules and held.key in rules.governors),
        "trust": held.trust,
        "running": running,
        "paused": held.settings.start == "paused",
        "paused_until": held.settings.paused_until or None,
        "model_spending": told(home.spending),
    }


def show_status(home: Home, *, as_json: bool) -> int:
    """``lazaretto status``."""
    facts = summary(home)
    if as_json:
        print(json.dumps(facts))
        return 0
    running = facts["running"]
    outcomes = [claim["outcome"] for claim in facts["claims"]]
    lines = [
        ("node", f"{facts['name']} ({facts['id']})"),
        ("swarm", f"{facts['swarm_name'] or '?'} ({facts['swarm'][:16]})"),
        ("roles", ", ".join(facts["roles"]) or "none yet"),
        ("epoch", f"{facts['epoch'] or 'none yet'}, {facts['members']} members"),
        ("running", f"yes, pid {running['pid']}" if running else f"no  ({_up(home)})"),
    ]
    if not running and facts["paused"]:
        until = facts["paused_until"]
        lines.append(("paused", f"until {clock(until)}" if until else "until lazaretto resume"))
    if running:
        peers = ", ".join(short(peer) for peer in running["peers"]) or "none"
        lines.append(("doing", escaped(running["activity"], 160)))
        if running["why"] and running["why"] != running["activity"]:
            lines.append(("why", escaped(running["why"], 160)))
        if running["kept"]:
            lines.append(("at home", escaped(running["kept"], 160)))
        lines.append(("peers", peers))
        if running["disk"]:
            lines.append(("disk", escaped(running["disk"])))
        if abs(running["clock_s"] or 0) > CLOCK_TOLERANCE_S:
            lines.append(("clock", f"peers' clocks differ by {running['clock_s']:.0f} s: check it"))
    counts = {
        word: outcomes.count(outcome)
        for word, outcome in (
            ("in quarantine", "pending"), ("adopted", "adopt"), ("rejected", "reject"),
            ("retracted", "retract"), ("expired", "expire"),
        )
        if outcome in outcomes or outcome not in ("retract", "expire")
    }  # fmt: skip
    lines.append(("records", str(facts["records"])))
    lines.append(("claims", ", ".join(f"{count} {word}" for word, count in counts.items())))
    for tier, claim in facts["frontier"].items():
        lines.append(("frontier", f"{tier}: {claim[:16] if claim else 'the challenge base'}"))
    folds = facts["folds"]
    most = max(folds["uses"].values(), default=0)
    worn_out = f"{len(folds['worn'])} of them worn out" if folds["worn"] else "none worn out"
    lines.append(
        ("folds", f"{len(folds['active'])} active, looked at {most} times at most; {worn_out}")
    )
    for peer, count in facts["contradicted"].items():
        lines.append(("disputed", f"{count} blocks of {short(peer)} are contradicted by members"))
    if waiting := facts["waits_for_epoch"]:
        who = "this node" if facts["id"] in waiting else ", ".join(map(short, waiting[:4]))
        more = f" and {len(waiting) - 4} more" if who != "this node" and len(waiting) > 4 else ""
        means = "lazaretto epoch open" if facts["governs"] else "a governor opens it"
        lines.append(
            ("waiting", f"{who}{more}: no claims and no seats until the next epoch; {means}")
        )
    for one in facts["told_two_stories"]:
        means = outlook(home, stays=one["stays"], opens=facts["governs"])
        who = "this node" if one["id"] == facts["id"] else short(one["id"])
        lines.append(("convicted", f"{who} {story(bytes.fromhex(one['proof']))}: {means}"))
    if spent := facts["model_spending"]:
        lines.append(
            ("model", "{cents_last_hour} cents this hour, {cents_last_day} this day, {cents_total} "
            "in all; {tokens_total:,} tokens".format(**spent))
        )  # fmt: skip
    lines.append(("trust", facts["trust"]))
    for label, text in lines:
        print(f"{label:<9} {text}")
    return 0


def _up(home: Home) -> str:
    return f"lazaretto up --home {home.path}"


def show_inbox(home: Home, *, as_json: bool) -> int:
    """``lazaretto inbox``: claims that wait for their verdict."""
    held = Held(home)
    waiting = held.claims(set(Stage) - CLOSED)
    if as_json:
        print(json.dumps({"schema": "lazaretto.inbox/1", "claims": waiting, "trust": held.trust}))
        return 0
    if not waiting:
        print("no claim is in quarantine")
        return 0
    rows = [
        (
            claim["id"][:12],
            _author(held, claim["author"]),
            _bpb(claim["claimed_bpb"]),
            _bpb(claim["mean_bpb"]),
            str(claim["pairs"]),
            claim["stage"],
            claim["reason"].replace("_", " ") if claim["reason"] != claim["stage"] else "",
        )
        for claim in waiting
    ]
    table(("claim", "by", "says", "found", "pairs", "stage", "why"), rows)
    _show_disputes(waiting)
    print(f"benches: {held.trust}", file=sys.stderr)
    return 0


_MARKS = {
    "adopted": "+ adopted", "retracted": "x retracted", "frozen": "~ frozen",
    "expired": "- expired",
}  # fmt: skip


def show_discoveries(home: Home, *, as_json: bool) -> int:
    """``lazaretto discoveries``: what was adopted, rejected, retracted, and frozen by that."""
    held = Held(home)
    decided = held.claims(CLOSED | {Stage.FROZEN})
    if as_json:
        answer = {"schema": "lazaretto.discoveries/1", "claims": decided, "trust": held.trust}
        print(json.dumps(answer))
        return 0
    if not decided:
        print("nothing was decided yet")
        return 0
    rows = [
        (
            _MARKS.get(claim["stage"], "- rejected"),
            claim["id"][:12],
            _author(held, claim["author"]),
            _bpb(claim["claimed_bpb"]),
            _bpb(claim["mean_bpb"]),
            str(claim["pairs"]),
            _interval(claim),
            claim["reason"].replace("_", " "),
            escaped(claim["hypothesis"], 40) if claim["outcome"] == "adopt" else "",
        )
        for claim in decided
    ]
    heads = ("", "claim", "by", "says", "found", "pairs", "effect", "reason", "hypothesis")
    table(heads, rows)
    _show_disputes(decided)
    print(f"benches: {held.trust}", file=sys.stderr)
    print(f"not covered: {noise_note(IMPROVEMENT)}", file=sys.stderr)
    first = next((claim for claim in decided if claim["outcome"] == "adopt"), decided[0])
    where = f" --home {home.path}"
    print(f"check one:  lazaretto audit {first['id'][:12]}{where}", file=sys.stderr)
    return 0


def _author(held: Held, author: str) -> str:
    """A member's operator and short id."""
    key = bytes.fromhex(author)
    rules = held.state.rules
    for epoch in rules.epochs.values() if rules else ():
        member = epoch.roster.get(key)
        if member is not None:
            return f"{member.operator} ({short(key)})"
    return short(key)


def _interval(claim: dict[str, Any]) -> str:
    """The effect measured after acceptance, with its 95 % interval."""
    if claim["effect_bpb"] is None:
        return "-"
    low, high = claim["effect_interval_bpb"]
    return f"{claim['effect_bpb']:+.4f} ({low:+.4f} to {high:+.4f})"


def _bpb(value: float | None) -> str:
    return f"{value:+.4f}" if value is not None else "-"

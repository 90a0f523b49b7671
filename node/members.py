"""``lazaretto members``, ``requests``, ``epoch list``, ``invite --list``: who is in, who asks."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from node import epochs
from node.convicts import convicts, story
from node.escaping import escaped
from node.invitations import Invitations
from node.requests import Requests
from node.tables import table
from swarm.database import GOVERNANCE
from swarm.keys import KeyPair, peer_id, short
from swarm.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from node.settings import Home
    from swarm.charter import Rules
    from swarm.records import Epoch, Member


def membership(home: Home) -> dict[str, Any]:
    """What ``members --json`` prints: roster, who waits, who left and why, governors, refusals."""
    settings, own = home.load(), KeyPair.load(home.key).public
    with Store(home.log, settings.swarm_id, read_only=True) as store:
        rules = store.rules
        waiting = epochs.waiting_members(rules) if rules else []
        kinds = {record.id: record.kind for record in store.of_kind(*GOVERNANCE)}
        proofs = convicts(store)
    newest = rules.newest if rules else None
    current = rules.current if rules else None
    return {
        "schema": "lazaretto.members/1",
        "swarm": settings.swarm,
        "swarm_name": rules.charter.name if rules else None,
        "admission": rules.charter.admission if rules else None,
        "id": peer_id(own),
        "epoch": current.number if current else None,
        "newest_epoch": newest.number if newest else None,
        "final_epoch": rules.final if rules else None,
        "frozen": bool(rules and rules.frozen),
        "governors": [peer_id(key) for key in rules.governors] if rules else [],
        "must_sign": rules.quorum if rules else None,
        "members": [_line(one, rules, proofs) for one in newest.roster.values()] if newest else [],
        "waiting": [_line(one, rules, proofs) for one in waiting],
        "removed": [
            {"id": peer_id(item.key), "epoch": view.number, "reason": item.reason,
             "last_seq": item.last_seq, "last_id": item.last_id.hex()}
            for view in (rules.epochs.values() if rules else ())
            for item in view.removals
        ],
        "handovers": [
            {"old": peer_id(item.old), "new": peer_id(item.new), "epoch": view.number,
             "last_seq": item.last_seq, "last_id": item.last_id.hex()}
            for view in (rules.epochs.values() if rules else ())
            for item in view.handovers
        ],
        "refused": [
            {"record": record.hex(), "kind": kinds.get(record, "?"), "reason": reason}
            for record, reason in sorted(rules.refused.items() if rules else ())
        ],
    }  # fmt: skip


def _line(member: Member, rules: Rules | None, proofs: Mapping[bytes, bytes]) -> dict[str, Any]:
    governors = rules.governors if rules else ()
    proof = proofs.get(rules.heir(member.key)) if rules else None
    admitted = member.voucher_root in governors or bool(
        rules and rules.has_governed(member.voucher_root)
    )
    return {
        "id": peer_id(member.key),
        "operator": member.operator,
        "roles": list(member.roles),
        "claims": member.slots,
        "share": f"{member.gamma_num}/{member.gamma_den}",
        "governs": member.key in governors,
        "by": peer_id(member.voucher_root),
        "vouched_for": not admitted,
        "told_two_stories": proof.hex() if proof else None,
    }


def show_members(home: Home, *, as_json: bool) -> int:
    """``lazaretto members``."""
    facts = membership(home)
    if as_json:
        print(json.dumps(facts))
        return 0
    rows = []
    for word, lines in (("", facts["members"]), ("next epoch", facts["waiting"])):
        for line in lines:
            governs = ["governor"] if line["governs"] and "governor" not in line["roles"] else []
            proof = line["told_two_stories"]
            notes = [f"vouched for by {short(line['by'])}" if line["vouched_for"] else word]
            notes = [story(bytes.fromhex(proof)) if proof else "", *notes]
            rows.append((
                short(line["id"]), line["operator"], ", ".join([*line["roles"], *governs]),
                str(line["claims"]), line["share"], "; ".join(filter(None, notes)),
            ))  # fmt: skip
    if rows:
        table(("member", "operator", "roles", "claims", "share", ""), rows)
    else:
        print("the charter or the first epoch is not here yet")
    for gone in facts["removed"]:
        reason = escaped(gone["reason"], 120)
        print(f"removed in epoch {gone['epoch']}: {short(gone['id'])}: {reason}")
    for change in facts["handovers"]:
        print(
            f"new key in epoch {change['epoch']}: {short(change['old'])} -> {short(change['new'])}"
        )
    if facts["frozen"]:
        print("FROZEN: two different epochs have one number; nobody may make new claims")
    for refused in facts["refused"]:
        print(f"does not count: {refused['kind']} {refused['record'][:12]}: {refused['reason']}")
    count, needed = len(facts["governors"]), facts["must_sign"]
    print(f"epoch {facts['epoch'] or 'none yet'}; {needed or '?'} of {count} governors sign",
          file=sys.stderr)  # fmt: skip
    return 0


def show_requests(home: Home, *, as_json: bool) -> int:
    """``lazaretto requests``: nodes that ask to join, as they describe themselves."""
    home.load()
    listed: list[dict[str, Any]] = [
        {"id": peer_id(bytes.fromhex(one.key)), "operator": one.operator, "roles": list(one.roles),
         "note": one.note, "subnet": one.subnet, "made": one.made, "state": one.state}
        for one in Requests(home).listed()
    ]  # fmt: skip
    if as_json:
        print(json.dumps({"schema": "lazaretto.requests/1", "requests": listed}))
        return 0
    if not listed:
        print("nobody asks to join")
        return 0
    table(
        ("node", "says it is", "roles", "from", "state", "note"),
        [
            (short(str(one["id"])), str(one["operator"]), ", ".join(map(str, one["roles"])),
             str(one["subnet"]), str(one["state"]), escaped(str(one["note"]), 60))
            for one in listed
        ],
    )  # fmt: skip
    print(f"decide:  lazaretto accept NODE | ignore NODE | dismiss NODE   --home {home.path}",
          file=sys.stderr)  # fmt: skip
    return 0


def show_invitations(home: Home, *, as_json: bool) -> int:
    """``lazaretto invite --list``."""
    home.load()
    now = time.time()
    listed: list[dict[str, Any]] = [
        {"id": one.id, "operator": one.operator, "roles": list(one.roles), "made": one.made,
         "expires": one.expires, "uses": one.uses, "used": len(one.used_by),
         "state": "revoked" if one.revoked else "expired" if now >= one.expires
         else "used" if len(one.used_by) >= one.uses else "open"}
        for one in Invitations(home).listed()
    ]  # fmt: skip
    if as_json:
        print(json.dumps({"schema": "lazaretto.invitations/1", "invitations": listed}))
        return 0
    if not listed:
        print("no invitation was given out")
        return 0
    rows = [
        (str(one["id"]), str(one["operator"]), ", ".join(map(str, one["roles"])),
         f"{one['used']} of {one['uses']}", str(one["state"]))
        for one in listed
    ]  # fmt: skip
    table(("invitation", "operator", "roles", "used", "state"), rows)
    return 0


def show_epochs(home: Home, *, as_json: bool) -> int:
    """``lazaretto epoch list``: the epochs that count, and drafts that wait for signatures."""
    settings = home.load()
    with Store(home.log, settings.swarm_id, read_only=True) as store:
        rules = store.rules
        found = epochs.drafts(store) if rules else []
        waiting = [(record, epoch, epochs.consents(store, record)) for record, epoch in found]
    views = list(rules.epochs.values()) if rules else []
    listed: list[dict[str, Any]] = [
        {"number": view.number, "id": view.id.hex(), "members": len(view.roster),
         "signers": [peer_id(key) for key in view.signers], "beacon": view.beacon is not None,
         "folds": len(view.active_folds), "final": view.number <= (rules.final if rules else 0),
         "removed": [peer_id(item.key) for item in view.removals]}
        for view in views
    ]  # fmt: skip
    drafts: list[dict[str, Any]] = [
        {"id": record.id.hex(), "by": peer_id(record.author), "number": epoch.number,
         "signers": [peer_id(key) for key in (record.author, *(key for key, _ in agreed))],
         "must_sign": rules.quorum if rules else 0,
         "changes": _changes(epoch, views[-1].roster if views else {})}
        for record, epoch, agreed in waiting
    ]  # fmt: skip
    if as_json:
        facts = {"schema": "lazaretto.epochs/1", "epochs": listed, "drafts": drafts,
                 "frozen": bool(rules and rules.frozen)}  # fmt: skip
        print(json.dumps(facts))
        return 0
    rows = [
        (str(one["number"]), str(one["id"])[:12], str(one["members"]), str(one["folds"]),
         ", ".join(map(short, one["signers"])), "known" if one["beacon"] else "not revealed yet",
         "final" if one["final"] else "not final yet")
        for one in listed
    ]  # fmt: skip
    table(("epoch", "id", "members", "folds", "signed by", "beacon", ""), rows)
    for draft in drafts:
        signed = f"{len(draft['signers'])} of {draft['must_sign']} signatures"
        print(
            f"draft {draft['id'][:12]} of epoch {draft['number']} by {short(draft['by'])}: {signed}"
        )
        for change in draft["changes"]:
            print(f"  {escaped(change, 160)}")
    if drafts:
        print(f"sign one:  lazaretto epoch sign ID --home {home.path}", file=sys.stderr)
    return 0


def _changes(epoch: Epoch, before: Any) -> list[str]:
    """What a draft changes, for whoever is asked to sign it."""
    from swarm.charter import decode_roster

    after = decode_roster(epoch.roster)
    said = [f"removes {peer_id(item.key)}: {item.reason}" for item in epoch.removed]
    said += [f"{peer_id(item.old)} goes on as {peer_id(item.new)}" for item in epoch.handovers]
    explained = {item.key for item in epoch.removed} | {item.old for item in epoch.handovers}
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if new is None and key not in explained:
            said.append(f"leaves out {peer_id(key)}")
        elif new is not None and (
            old is None or (old.roles, old.operator) != (new.roles, new.operator)
        ):
            word = "takes in" if old is None else "changes"
            said.append(f"{word} {peer_id(key)}: {new.operator}, {', '.join(new.roles)}")
    return said or ["changes nobody"]

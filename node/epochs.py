"""What governors do from epoch to epoch: draft, sign, open, reveal; and admitting keys in between.

With one governor an epoch is opened at once. With more, the one who opens it publishes a ``draft``;
others answer with a ``consent``: their signature and their commitment for the beacon. As soon as
enough are here, the author's node publishes the epoch, and every signer reveals its secret.
All functions append to the store of this node and are safe to call again after a crash.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from node.convicts import removals, story
from node.errors import NodeError, UsageError
from swarm.charter import chained
from swarm.database import GOVERNANCE
from swarm.epochs import beacon_commit, consent_bytes, verifies
from swarm.keys import peer_id, short
from swarm.records import (
    Admission,
    Beacon,
    Consent,
    Cosignature,
    Draft,
    Epoch,
    Handover,
    Member,
    Removed,
    Rotation,
    Upkeep,
)
from swarm.roster import MAX_ROSTER, encode_roster, share_alpha
from swarm.wire import sign
from verification.folds import fold_uses, fresh_folds
from verification.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from swarm.charter import Rules
    from swarm.envelope import Record
    from swarm.keys import KeyPair
    from swarm.store import Store


@dataclass(frozen=True, slots=True)
class Changes:
    """What the next epoch changes besides taking in who was admitted and who handed over its key.

    ``removed``: keys and the reason. ``governors`` and ``no_governors``: keys that get or lose that
    role. ``retired``: folds that no claim is scored on any more.
    """

    removed: tuple[tuple[bytes, str], ...] = ()
    governors: tuple[bytes, ...] = ()
    no_governors: tuple[bytes, ...] = ()
    retired: tuple[int, ...] = ()


NO_CHANGES = Changes()


def rules_of(store: Store) -> Rules:
    """The rules of a log that has its charter, by the epochs under which this node writes.

    Raises:
        NodeError: the charter is not here yet.
    """
    if store.stand is None:
        raise NodeError("the charter is not here yet", cure="lazaretto up, or join again")
    return store.stand


def _governed(store: Store, key: bytes) -> Rules:
    rules = rules_of(store)
    if key not in rules.governors:
        names = ", ".join(peer_id(one) for one in rules.governors)
        raise NodeError(
            "only a governor can do this, and this node is none", cure=f"ask one of: {names}"
        )
    return rules


def open_epoch(
    store: Store,
    key: KeyPair,
    members: Iterable[Member] = (),
    changes: Changes = NO_CHANGES,
    *,
    instead: bool = False,
) -> Record:
    """Open the next epoch, or publish its draft where more governors must sign; returns the record.

    It leaves out who told two stories (``node.convicts``) besides whom ``changes`` removes.
    ``instead``: although this governor consented to the draft of another, or the swarm is frozen by
    two conflicting epochs: it goes on from the one that this node saw first.

    Raises:
        NodeError: this node is no governor; or without ``instead``, see there.
        UsageError: the epoch would break a rule; nothing was signed.
    """
    rules = _governed(store, key.public)
    if not instead:
        if store.rules is not None and store.rules.frozen:
            raise NodeError(
                "two different epochs have the same number, so the swarm is frozen; it goes on by "
                "itself once enough members wrote under one of them",
                cure="lazaretto epoch list; if that never comes, go on from the one that this node "
                "saw first: the same command with --instead",
            )
        _stand_by_one(store, key.public, None)
    named = {one for one, _ in changes.removed}
    proven = tuple(item for item in removals(store) if item[0] not in named)
    epoch = _next(store, key, members, replace(changes, removed=changes.removed + proven))
    alone = rules.quorum == 1
    chain = chained(store.of_kind(*GOVERNANCE), rules_of(store))
    fault = chain.fault(key.public, epoch, signers=None if alone else 1)
    if fault:
        raise UsageError(f"this epoch cannot be opened: {fault}", cure="lazaretto members")
    record = store.append(key, epoch if alone else Draft(epoch))
    reveal_beacon(store, key)
    return record


def _next(store: Store, key: KeyPair, members: Iterable[Member], changes: Changes) -> Epoch:
    rules = rules_of(store)
    newest = rules.newest
    number = newest.number + 1 if newest else 1
    gone = {removed for removed, _ in changes.removed}
    lines = {one.key: one for one in members}
    if newest is not None:
        lines |= {**newest.roster, **{one.key: one for one in newcomers(rules)}}
    handovers = _take_over(store, lines)
    lines = {one: _with_role(line, one, changes) for one, line in lines.items() if one not in gone}
    sizes = rules.charter.sizes
    folds = _fresh_folds(store, newest.active_folds) if newest else tuple(range(sizes["folds"]))
    roster = encode_roster(share_alpha(lines.values(), sizes["slots"]))
    heads = store.heads()
    return Epoch(
        number=number,
        prev_epoch=newest.id if newest else None,
        policy_id=rules.swarm,
        rule_version=rules.charter.rule_version,
        roster_hash=hashlib.sha256(roster).digest(),
        roster=roster,
        active_folds=tuple(fold for fold in folds if fold not in changes.retired),
        removed=tuple(
            Removed(one, head.seq if head else 0, head.id if head else bytes(32), reason)
            for one, reason in changes.removed
            for head in (heads.get(one),)
        ),
        handovers=handovers,
        beacon_commits=(beacon_commit(key.public, _secret(key, rules.swarm, number)),),
        cosignatures=(),
    )


def _fresh_folds(store: Store, active: Sequence[int]) -> tuple[int, ...]:
    """The active folds that settled pairs have not worn out."""
    quarantine = Quarantine(store.swarm, log=store.get, anchor=lambda: store.anchor)
    for _, record in store.records():
        quarantine.add(record)
    return fresh_folds(fold_uses(quarantine.state()), active)


def _with_role(line: Member, key: bytes, changes: Changes) -> Member:
    roles = set(line.roles)
    if key in changes.governors:
        roles.add("governor")
    if key in changes.no_governors:
        roles.discard("governor")
    ordered = tuple(one for one in line.roles if one in roles)
    return replace(line, roles=ordered + tuple(sorted(roles - set(ordered))))


def _take_over(store: Store, lines: dict[bytes, Member]) -> tuple[Handover, ...]:
    """Put new keys in the place of those that handed over, in ``lines``; returns the handovers."""
    rules = rules_of(store)
    handovers = []
    said = {
        (record.author, record.payload.new): record
        for record in store.of_kind(Rotation.KIND)
        if isinstance(record.payload, Rotation) and record.id not in rules.refused
    }
    for old in list(lines):
        line = lines[old]
        seen = {old}
        while (new := rules.rotated.get(old)) is not None and new not in seen:
            record = said[old, new]
            handovers.append(Handover(old, new, record.envelope.seq, record.id))
            lines.pop(old, None)
            lines[new] = replace(line, key=new)
            seen.add(new)
            old = new
    return tuple(handovers)


# --- signing together -----------------------------------------------------------------------------


def drafts(store: Store) -> list[tuple[Record, Epoch]]:
    """Drafts that may still become the next epoch, oldest first."""
    newest = rules_of(store).newest
    number = newest.number + 1 if newest else 1
    found = [
        (record, record.payload.epoch)
        for record in store.of_kind(Draft.KIND)
        if isinstance(record.payload, Draft) and record.payload.epoch.number == number
    ]
    if not found:
        return []
    chain = chained(store.of_kind(*GOVERNANCE), rules_of(store))
    return [item for item in found if not chain.fault(item[0].author, item[1], signers=1)]


def consents(store: Store, draft: Record) -> list[tuple[bytes, Consent]]:
    """Governors other than the author who consented to ``draft``, with what they said."""
    payload, rules = draft.payload, rules_of(store)
    assert isinstance(payload, Draft)
    found = {}
    for record in store.of_kind(Consent.KIND):
        consent = record.payload
        if not isinstance(consent, Consent) or consent.draft != draft.id:
            continue
        commit = replace(beacon_commit(record.author, b""), commit=consent.commit)
        message = consent_bytes(payload.epoch, rules.swarm, commit)
        if record.author in rules.governors and record.author != draft.author:
            if verifies(record.author, message, consent.signature):
                found[record.author] = consent
    return sorted(found.items())


def sign_draft(store: Store, key: KeyPair, wanted: bytes, *, instead: bool = False) -> Record:
    """Consent to the draft with the id ``wanted``.

    A governor consents to one draft of a number, so that no two epochs of that number can both
    count; ``instead`` consents to another one all the same.

    Raises:
        NodeError: no governor, no such draft, or consent was given to another one.
    """
    rules = _governed(store, key.public)
    found = [item for item in drafts(store) if item[0].id == wanted]
    if not found:
        raise NodeError(
            f"there is no draft {wanted.hex()[:12]} that waits", cure="lazaretto epoch list"
        )
    (record, epoch), own = found[0], key.public
    if record.author == own:
        raise NodeError("this node's own draft is signed already", cure="lazaretto epoch list")
    if not instead:
        _stand_by_one(store, own, wanted)
    commit = beacon_commit(own, _secret(key, rules.swarm, epoch.number))
    signature = sign(key.private, consent_bytes(epoch, rules.swarm, commit)).signature
    return store.append(key, Consent(wanted, commit.commit, signature), refs=(wanted,))


def _stand_by_one(store: Store, own: bytes, wanted: bytes | None) -> None:
    """Refuse to support a second epoch of one number; ``wanted`` is the draft to support."""
    for other, _ in drafts(store):
        ours = other.author == own and wanted is not None
        if other.id != wanted and (ours or own in dict(consents(store, other))):
            raise NodeError(
                f"this governor stands by another draft, {other.id.hex()[:12]}; if enough signed "
                "both, the swarm would be frozen",
                cure="once the other is dropped, the same command with --instead",
            )


def finish_drafts(store: Store, key: KeyPair) -> bool:
    """Publish the epoch of an own draft that enough governors consented to; tell whether it was."""
    rules = store.stand
    if rules is None or rules.frozen or key.public not in rules.governors:
        return False
    for record, epoch in reversed(drafts(store)):
        if record.author != key.public:
            continue
        agreed = consents(store, record)
        if len(agreed) + 1 < rules.quorum:
            continue
        commits = tuple(
            replace(beacon_commit(governor, b""), commit=consent.commit)
            for governor, consent in agreed
        )
        signed = tuple(Cosignature(governor, consent.signature) for governor, consent in agreed)
        whole = replace(
            epoch, beacon_commits=(*epoch.beacon_commits, *commits), cosignatures=signed
        )
        if not chained(store.of_kind(*GOVERNANCE), rules).fault(key.public, whole):
            store.append(key, whole, refs=(record.id,))
            return True
    return False


def reveal_beacon(store: Store, key: KeyPair) -> bool:
    """Reveal our part of every beacon that waits for it; tell whether there was one.

    The secret comes from the key, so a crash between commitment and reveal loses nothing.
    """
    rules = store.stand
    waiting = [one for one in rules.epochs.values() if one.beacon is None] if rules else []
    said = {
        (record.author, record.payload.epoch_id)
        for record in (store.of_kind(Beacon.KIND) if waiting else ())
        if isinstance(record.payload, Beacon)
    }
    revealed = False
    for view in waiting:
        assert rules is not None
        if key.public not in view.signers or (key.public, view.id) in said:
            continue
        store.append(key, Beacon(view.id, _secret(key, rules.swarm, view.number)))
        revealed = True
    return revealed


def speak(store: Store, key: KeyPair) -> bool:
    """Write something, however little, under an epoch that is not final yet; tell whether it was.

    Enough who verify have to have done so, and in a quiet swarm nobody has anything to say.
    """
    rules = store.stand
    current = rules.current if rules else None
    if rules is None or current is None or rules.final >= current.number:
        return False
    if not rules.is_member(key.public) or store.has_stated(key.public, current.id):
        return False
    lines = [view.roster.get(key.public) for view in (current, rules.epochs.get(current.number - 1))
             if view]  # fmt: skip
    if not any(line and {"verifier", "governor"} & set(line.roles) for line in lines):
        return False
    store.append(key, Upkeep((), (), ()))
    return True


def _secret(key: KeyPair, swarm: bytes, number: int) -> bytes:
    message = b"lazaretto/beacon-secret/1" + swarm + number.to_bytes(8, "big")
    return hmac.digest(key.seed, message, "sha256")


# --- admitting ------------------------------------------------------------------------------------


def admit(store: Store, key: KeyPair, member: Member) -> None:
    """Admit ``member``: it may connect at once, and the next epoch has it. Twice is as once.

    Raises:
        NodeError: the key was removed or handed over, and cannot come back, or told two stories.
    """
    rules = rules_of(store)
    if member.key in rules.known:
        if rules.is_member(member.key):
            return
        raise NodeError(
            f"the key of {short(member.key)} was removed or handed over",
            cure="the node needs a new key: join with another home",
        )
    if proofs := store.convicted().get(member.key):
        raise NodeError(
            f"the key of {short(member.key)} {story(proofs[0].id)}",
            cure="the node needs a new key: join with another home",
        )
    record = store.append(key, Admission(member))
    fault = rules_of(store).refused.get(record.id)
    if fault:
        raise NodeError(f"the admission does not count: {fault}", cure="ask a governor to invite")


def newcomers(rules: Rules) -> list[Member]:
    """Who was admitted and is on no roster yet, as many as the next one has room for."""
    newest = rules.newest
    if newest is None:
        return []
    out = {*rules.removed, *(item.old for one in rules.epochs.values() for item in one.handovers)}
    room = MAX_ROSTER - sum(map(_size, newest.roster.values())) - 256
    found = []
    for key, one in rules.admissions.items():
        if key in out or key in newest.roster:
            continue
        room -= _size(one)
        if room < 0:
            break
        found.append(one)
    return found


def _size(member: Member) -> int:
    """Bytes of a line at most, whatever its share of alpha and its roles will be."""
    return len(encode_roster([replace(member, slots=0, gamma_num=0, gamma_den=1)])) + 32


def waiting_members(rules: Rules) -> list[Member]:
    """Members who are on no roster yet: admitted, or under a new key."""
    newest = rules.newest
    listed = newest.roster if newest else {}
    admitted = [one for key, one in rules.admissions.items() if key not in listed]
    return [one for one in admitted if rules.is_member(one.key)] + heirs(rules)


def heirs(rules: Rules) -> list[Member]:
    """Members of the newest roster who handed over since, under their new keys.

    They wait for an epoch that opens for another reason, or by hand. Each epoch gives fresh slots,
    folds and benches, so none opens because a member changed its key, which it can do at any time.
    """
    roster = rules.newest.roster if rules.newest else {}
    lines = [
        replace(one, key=rules.heir(old)) for old, one in roster.items() if old in rules.rotated
    ]
    return [one for one in lines if rules.is_member(one.key)]

"""The chain of epochs: which of the governors' records count, and why the others do not.

An epoch counts when more than half of the governors of the epoch before it signed it (``quorum``),
each with a commitment to a secret of its own, and when it keeps the rules of rosters, removals,
handovers and folds. All of it is read off signed records; nothing here reads a clock, and nothing
depends on the order in which records arrive.

Two epochs that follow one and both keep the rules are rivals. All of them are kept, as a tree, and
which one is followed is told by what members wrote under them (``swarm.finality``). While that
prefers none of them, nobody may make new claims (``frozen``), and the chain ends before them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from swarm import wire
from swarm.errors import CharterError, WireError
from swarm.fields import to_map
from swarm.finality import Chooser, margin_of
from swarm.keys import rotation_bytes, short
from swarm.records import Beacon, BeaconCommit, Epoch, Handover, Member, Removed, Rotation
from swarm.roster import encode_roster, governors_of, read_roster, roster_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from swarm.envelope import Record
    from swarm.finality import Statements
    from swarm.records import Charter

_BEACON_DOMAIN = b"lazaretto/beacon/1"
_CONSENT_DOMAIN = b"lazaretto/consent/1"


@dataclass(frozen=True, slots=True)
class EpochView:
    """One epoch as every node sees it. ``beacon`` is None until every commit is revealed.

    ``removed``: all keys that were removed up to here, in this epoch or before. ``governors``: who
    signs the next one. ``removals`` and ``handovers`` are this epoch's own; ``signers`` signed it.
    ``prev``: the id of the epoch that it follows.
    """

    id: bytes
    number: int
    roster: Mapping[bytes, Member]
    removed: frozenset[bytes]
    active_folds: tuple[int, ...]
    beacon: bytes | None
    governors: tuple[bytes, ...] = ()
    removals: tuple[Removed, ...] = ()
    handovers: tuple[Handover, ...] = ()
    signers: tuple[bytes, ...] = ()
    prev: bytes | None = None


@dataclass(frozen=True, slots=True)
class Stem:
    """An epoch that keeps the rules, or the charter (``view`` is None), and what it leaves behind:

    Attributes:
        number: of the epoch, 0 for the charter.
        roster: the encoded roster, that of nobody for the charter.
        governors: who signs the next epoch.
        ever_governed: every key that has governed, up to here.
        lines: the latest line of every key that was ever on a roster.
        removed: key -> number of the epoch that removed it.
        out: keys that were removed or handed over; they never come back.
    """

    number: int
    view: EpochView | None
    roster: bytes
    governors: tuple[bytes, ...]
    ever_governed: frozenset[bytes]
    lines: Mapping[bytes, Member]
    removed: Mapping[bytes, int]
    out: frozenset[bytes]


@dataclass(slots=True)
class Chain:
    """The epochs that count, by number; and for every other one (by record id) why it does not.

    ``final``: up to this number they are final. ``contested``: there are rivals somewhere.
    """

    views: dict[int, EpochView] = field(default_factory=dict)
    frozen: bool = False
    refused: dict[bytes, str] = field(default_factory=dict)
    final: int = 0
    contested: bool = False


def quorum(charter: Charter, governors: Sequence[bytes]) -> int:
    """How many of ``governors`` must sign: the charter's k, and always more than half."""
    count = len(governors)
    return min(count, max(charter.k, count // 2 + 1))


def beacon_commit(governor: bytes, reveal: bytes) -> BeaconCommit:
    """The commitment to a 32-byte secret that ``governor`` reveals once the roster is fixed."""
    return BeaconCommit(governor, hashlib.sha256(reveal).digest())


def consent_bytes(epoch: Epoch, swarm: bytes, commit: BeaconCommit) -> bytes:
    """What a governor co-signs: the epoch, with its own commitment and nobody else's.

    So every governor signs once, without waiting for the commitments of the others.
    """
    bare = replace(epoch, cosignatures=(), beacon_commits=(commit,))
    return _CONSENT_DOMAIN + swarm + hashlib.sha256(wire.encode(to_map(bare))).digest()


@lru_cache(maxsize=4096)
def verifies(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is one of ``key`` on ``message``."""
    try:
        wire.verify(key, wire.Signed(message, signature))
    except WireError:
        return False
    return True


def is_rotation(author: bytes, rotation: Rotation, swarm: bytes) -> bool:
    """Whether the new key of ``rotation`` agreed to take over from ``author``."""
    message = rotation_bytes(swarm, author, rotation.new)
    return rotation.new != author and verifies(rotation.new, message, rotation.proof)


def signers_of(epoch: Epoch, author: bytes, swarm: bytes) -> set[bytes]:
    """The keys that signed ``epoch`` and committed to a secret: its author and co-signers."""
    commits = {item.governor: item for item in epoch.beacon_commits}
    signed = {
        item.governor
        for item in epoch.cosignatures
        if (commit := commits.get(item.governor)) is not None
        and verifies(item.governor, consent_bytes(epoch, swarm, commit), item.signature)
    }
    return signed | ({author} & commits.keys())


class Chaining:
    """Grows the tree of the epochs that keep the rules, and chooses a chain in it.

    Args:
        swarm: the swarm id, which is the id of the policy.
        charter: its charter.
        epochs, reveals, rotations: records of these kinds, in any order.
        statements: who wrote under which epochs.
    """

    def __init__(
        self,
        swarm: bytes,
        charter: Charter,
        epochs: Iterable[tuple[Record, Epoch]],
        reveals: Iterable[tuple[bytes, Beacon]],
        rotations: Iterable[tuple[Record, Rotation]],
        statements: Statements,
    ) -> None:
        self.swarm = swarm
        self.charter = charter
        self._reveals: dict[bytes, dict[tuple[bytes, bytes], bytes]] = defaultdict(dict)
        for author, reveal in reveals:
            commit = hashlib.sha256(reveal.reveal).digest()
            self._reveals[reveal.epoch_id][author, commit] = reveal.reveal
        self._rotations = {
            record.id: (record, payload)
            for record, payload in rotations
            if is_rotation(record.author, payload, swarm)
        }
        self._before: dict[bytes, set[bytes]] = defaultdict(set)
        after: dict[bytes, set[bytes]] = defaultdict(set)
        for record, rotation in self._rotations.values():
            self._before[rotation.new].add(record.author)
            after[record.author].add(rotation.new)
        self.heirs = {key: _reached(after, key) for key in after}
        governors = tuple(sorted(charter.governors))
        self.stems: dict[bytes | None, Stem] = {
            None: Stem(
                0, None, encode_roster(()), governors, frozenset(governors), {}, {}, frozenset()
            )
        }
        self._refused: dict[bytes, str] = {}
        self._known = {record.id: (record, epoch) for record, epoch in epochs}
        self._grow()
        self._chooser = Chooser(
            self.stems,
            statements,
            self.heirs,
            margin_of((tier.f, tier.g) for tier in charter.tiers),
        )
        self._at: bytes | None = None

    def _grow(self) -> None:
        after: dict[bytes | None, list[tuple[Record, Epoch]]] = defaultdict(list)
        for record, epoch in sorted(self._known.values(), key=lambda item: item[0].id):
            after[epoch.prev_epoch].append((record, epoch))
        ready: list[bytes | None] = [None]
        while ready:
            at = ready.pop()
            for record, epoch in after.get(at, ()):
                fault = self._fault(self.stems[at], record.author, epoch)
                if fault:
                    self._refused[record.id] = fault
                else:
                    self.stems[record.id] = self._stem(self.stems[at], record, epoch)
                    ready.append(record.id)

    def chain(self, anchor: bytes | None = None, lean: bytes | None = None) -> Chain:
        """The chain that is followed, see :meth:`swarm.finality.Chooser.choose`."""
        choice = self._chooser.choose(anchor, lean)
        stems = [self.stems[name] for name in choice.path]
        views = {stem.number: stem.view for stem in stems if stem.view is not None}
        self._at = choice.path[-1] if choice.path else None
        followed = set(choice.path)
        refused = dict(self._refused)
        for name, (_, epoch) in self._known.items():
            if name in refused or name in followed:
                continue
            number, prev = epoch.number, epoch.prev_epoch
            if name not in self.stems and number <= len(views) + 1 and prev not in self._known:
                refused[name] = "it does not follow the newest epoch"
            elif name in self.stems and (prev is None or prev in followed):
                refused[name] = f"two different epochs have number {number}"
            else:
                refused[name] = f"epoch {number - 1} is not here or not settled"
        return Chain(views, choice.frozen, refused, choice.final, choice.contested)

    def go_to(self, name: bytes | None) -> None:
        """Let :meth:`fault` judge what may follow the epoch ``name``, None for the charter."""
        self._at = name

    # --- one epoch ------------------------------------------------------------------------------

    def fault(self, author: bytes, epoch: Epoch, *, signers: int | None = None) -> str:
        """Why ``epoch`` by ``author`` may not follow the newest; empty when it may.

        ``signers`` overrides how many must have signed, for drafts that are still collecting.
        """
        return self._fault(self.stems[self._at], author, epoch, signers)

    def _fault(self, at: Stem, author: bytes, epoch: Epoch, signers: int | None = None) -> str:
        before = at.view
        if epoch.number != at.number + 1 or epoch.prev_epoch != (before.id if before else None):
            return "it does not follow the newest epoch"
        if epoch.policy_id != self.swarm or epoch.rule_version != self.charter.rule_version:
            return "it names another charter, or another version of the rules"
        if not self._seats(at, author):
            return f"its author {short(author)} is no governor"
        signed = {key for key in signers_of(epoch, author, self.swarm) if self._seats(at, key)}
        seats = frozenset[bytes]().union(*(self._seats(at, key) for key in signed))
        needed = quorum(self.charter, at.governors) if signers is None else signers
        if len(seats) < needed:
            return f"{len(seats)} of {len(at.governors)} governors signed it, {needed} must"
        committed = [item.governor for item in epoch.beacon_commits]
        if len(set(committed)) != len(committed) or set(committed) - signed:
            return "it has a commitment to the beacon of somebody who did not sign"
        return self._fault_of_folds(epoch, before) or self._fault_of_members(at, epoch)

    def _seats(self, at: Stem, key: bytes) -> frozenset[bytes]:
        """The governors for whom ``key`` signs: itself, or those from whom it took over.

        A governor who rotated its key can sign the very epoch that hands over, with one voice.
        Another rotation that arrives later takes no seat away: what was signed stays signed.
        """
        if key in at.governors:
            return frozenset((key,))
        return _reached(self._before, key, at.governors) & set(at.governors)

    def _fault_of_folds(self, epoch: Epoch, before: EpochView | None) -> str:
        folds, count = epoch.active_folds, self.charter.sizes.get("folds")
        if not folds or len(set(folds)) != len(folds):
            return "it has no active fold, or one twice"
        if count is not None and max(folds) >= count:
            return "it names a fold that the challenge does not have"
        if before is not None and not set(folds) <= set(before.active_folds):
            return "it brings back a fold that was spent"
        return ""

    def _fault_of_members(self, at: Stem, epoch: Epoch) -> str:
        if hashlib.sha256(epoch.roster).digest() != epoch.roster_hash:
            return "its roster does not match its hash"
        try:
            roster = read_roster(epoch.roster)
        except CharterError as error:
            return str(error)
        for removal in epoch.removed:
            if removal.key in at.out:
                return f"{short(removal.key)} is out already"
            if not removal.reason.strip():
                return f"it removes {short(removal.key)} without a reason"
        for handover in epoch.handovers:
            fault = self._fault_of_handover(at, handover, roster)
            if fault:
                return fault
        gone = _gone(epoch)
        if len(set(gone)) != len(gone):
            return "it takes one key out twice"
        if not _next_governors(at, roster, gone):
            return "it leaves nobody to govern"
        return roster_fault(
            roster,
            governors=at.ever_governed | set(governors_of(roster)),
            earlier=at.lines,
            out=at.out | set(gone),
            is_open=self.charter.admission == "open",
            slots=self.charter.sizes.get("slots"),
        )

    def _fault_of_handover(
        self, at: Stem, handover: Handover, roster: Mapping[bytes, Member]
    ) -> str:
        name = f"the handover of {short(handover.old)}"
        record, rotation = self._rotations.get(handover.last_id, (None, None))
        if record is None or rotation is None:
            return f"{name} waits for the record in which the old key says so"
        said = (record.author, rotation.new, record.envelope.seq)
        if said != (handover.old, handover.new, handover.last_seq):
            return f"{name} is not what the old key signed"
        before, after = at.lines.get(handover.old), roster.get(handover.new)
        if handover.new in at.lines:
            return f"{name} goes to a key that is a member already"
        if before is not None and after is not None and before.operator != after.operator:
            return f"{name} changes its operator"
        return ""

    def _stem(self, at: Stem, record: Record, epoch: Epoch) -> Stem:
        roster = read_roster(epoch.roster)
        signers = signers_of(epoch, record.author, self.swarm)
        governors = _next_governors(at, roster, _gone(epoch))
        removed = {**at.removed, **{item.key: epoch.number for item in epoch.removed}}
        view = EpochView(
            id=record.id,
            number=epoch.number,
            roster=roster,
            removed=frozenset(removed),
            active_folds=epoch.active_folds,
            beacon=self._beacon(record.id, epoch),
            governors=governors,
            removals=epoch.removed,
            handovers=epoch.handovers,
            signers=tuple(sorted(key for key in signers if self._seats(at, key))),
            prev=epoch.prev_epoch,
        )
        return Stem(
            number=epoch.number,
            view=view,
            roster=epoch.roster,
            governors=governors,
            ever_governed=at.ever_governed | set(governors),
            lines={**at.lines, **roster},
            removed=removed,
            out=at.out | set(_gone(epoch)),
        )

    def _beacon(self, epoch_id: bytes, epoch: Epoch) -> bytes | None:
        """Only what was committed to is a reveal; anything else that a governor says is nothing."""
        revealed = self._reveals.get(epoch_id, {})
        digest = hashlib.sha256(_BEACON_DOMAIN + epoch_id)
        for item in sorted(epoch.beacon_commits, key=lambda item: item.governor):
            reveal = revealed.get((item.governor, item.commit))
            if reveal is None:
                return None
            digest.update(reveal)
        return digest.digest()


def _gone(epoch: Epoch) -> list[bytes]:
    return [item.key for item in epoch.removed] + [item.old for item in epoch.handovers]


def _next_governors(
    at: Stem, roster: Mapping[bytes, Member], gone: Sequence[bytes]
) -> tuple[bytes, ...]:
    """Those whom the roster names; where it names none, those who were and are not gone."""
    return governors_of(roster) or tuple(key for key in at.governors if key not in gone)


def _reached(
    ways: Mapping[bytes, set[bytes]], key: bytes, ends: Sequence[bytes] = ()
) -> frozenset[bytes]:
    """What can be reached from ``key``, not going on from ``ends``."""
    seen: set[bytes] = set()
    fresh = set(ways.get(key, ()))
    while fresh:
        seen |= fresh
        fresh = {there for one in fresh if one not in ends for there in ways.get(one, ())} - seen
    return frozenset(seen)

"""The chain of epochs: which of the governors' records count, and why the others do not.

An epoch counts when more than half of the governors of the epoch before it signed it (``quorum``),
each with a commitment to a secret of its own, and when it keeps the rules of rosters, removals,
handovers and folds. All of it is read off signed records; nothing here reads a clock, and nothing
depends on the order in which records arrive.

Two epochs with one number that both count are a conflict. A conflict is settled when the governors
go on from exactly one of the two; until then nobody may make new claims (``frozen``). What the
chain was before the conflict stays as it was.
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
from swarm.keys import rotation_bytes, short
from swarm.records import Beacon, BeaconCommit, Epoch, Handover, Member, Removed, Rotation
from swarm.roster import governors_of, read_roster, roster_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from swarm.envelope import Record
    from swarm.records import Charter

_BEACON_DOMAIN = b"lazaretto/beacon/1"
_CONSENT_DOMAIN = b"lazaretto/consent/1"


@dataclass(frozen=True, slots=True)
class EpochView:
    """One epoch as every node sees it. ``beacon`` is None until every commit is revealed.

    ``removed``: all keys that were removed up to here, in this epoch or before. ``governors``: who
    signs the next one. ``removals`` and ``handovers`` are this epoch's own; ``signers`` signed it.
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


@dataclass(slots=True)
class Chain:
    """The epochs that count, by number; and for every other one (by record id) why it does not."""

    views: dict[int, EpochView] = field(default_factory=dict)
    frozen: bool = False
    refused: dict[bytes, str] = field(default_factory=dict)


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
    """Folds epochs into a :class:`Chain`: one use, one call of :meth:`chain`.

    Args:
        swarm: the swarm id, which is the id of the policy.
        charter: its charter.
        epochs, reveals, rotations: records of these kinds, in any order.
    """

    def __init__(
        self,
        swarm: bytes,
        charter: Charter,
        epochs: Iterable[tuple[Record, Epoch]],
        reveals: Iterable[tuple[bytes, Beacon]],
        rotations: Iterable[tuple[Record, Rotation]],
    ) -> None:
        self.swarm = swarm
        self.charter = charter
        self.governors = tuple(sorted(charter.governors))
        self.ever_governed = set(charter.governors)
        self.lines: dict[bytes, Member] = {}
        self.out: set[bytes] = set()
        self._removed: frozenset[bytes] = frozenset()
        self._views: dict[int, EpochView] = {}
        self._by_number: dict[int, list[tuple[Record, Epoch]]] = defaultdict(list)
        for item in epochs:
            self._by_number[item[1].number].append(item)
        self._reveals: dict[bytes, dict[tuple[bytes, bytes], bytes]] = defaultdict(dict)
        for author, reveal in reveals:
            commit = hashlib.sha256(reveal.reveal).digest()
            self._reveals[reveal.epoch_id][author, commit] = reveal.reveal
        self._rotations = {
            record.id: (record, payload)
            for record, payload in rotations
            if is_rotation(record.author, payload, swarm)
        }
        self._before = {one.new: record.author for record, one in self._rotations.values()}

    def chain(self) -> Chain:
        """Walk from the first epoch to the newest that counts."""
        result = Chain(self._views)
        number = 1
        while number in self._by_number:
            fitting: list[tuple[Record, Epoch]] = []
            for record, epoch in self._by_number[number]:
                fault = self.fault(record.author, epoch)
                if fault:
                    result.refused[record.id] = fault
                else:
                    fitting.append((record, epoch))
            if len(fitting) > 1:
                followed = [item for item in fitting if self._is_followed(*item)]
                for record, _ in fitting:
                    if [record] != [one for one, _ in followed]:
                        result.refused[record.id] = f"two different epochs have number {number}"
                result.frozen = len(followed) != 1
                fitting = followed if len(followed) == 1 else []
            if not fitting:
                break
            self._enter(*fitting[0])
            number += 1
        for later, items in self._by_number.items():
            for record, _ in items if later > max(self._views, default=0) else ():
                result.refused.setdefault(
                    record.id, f"epoch {later - 1} is not here or not settled"
                )
        return result

    # --- one epoch ------------------------------------------------------------------------------

    def fault(self, author: bytes, epoch: Epoch, *, signers: int | None = None) -> str:
        """Why ``epoch`` by ``author`` may not follow the newest; empty when it may.

        ``signers`` overrides how many must have signed, for drafts that are still collecting.
        """
        number = max(self._views, default=0) + 1
        before = self._views.get(number - 1)
        if epoch.number != number or epoch.prev_epoch != (before.id if before else None):
            return "it does not follow the newest epoch"
        if epoch.policy_id != self.swarm or epoch.rule_version != self.charter.rule_version:
            return "it names another charter, or another version of the rules"
        if self.seat(author) is None:
            return f"its author {short(author)} is no governor"
        signed = {
            key for key in signers_of(epoch, author, self.swarm) if self.seat(key) is not None
        }
        seats = {self.seat(key) for key in signed}
        needed = quorum(self.charter, self.governors) if signers is None else signers
        if len(seats) < needed:
            return f"{len(seats)} of {len(self.governors)} governors signed it, {needed} must"
        committed = [item.governor for item in epoch.beacon_commits]
        if len(set(committed)) != len(committed) or set(committed) - signed:
            return "it has a commitment to the beacon of somebody who did not sign"
        return self._fault_of_folds(epoch, before) or self._fault_of_members(epoch)

    def seat(self, key: bytes) -> bytes | None:
        """The governor for whom ``key`` signs: itself, or the key that it took over from.

        A governor who rotated its key can sign the very epoch that hands over, with one voice.
        """
        seen: set[bytes] = set()
        while key not in self.governors:
            if key in seen or key not in self._before:
                return None
            seen.add(key)
            key = self._before[key]
        return key

    def _fault_of_folds(self, epoch: Epoch, before: EpochView | None) -> str:
        folds, count = epoch.active_folds, self.charter.sizes.get("folds")
        if not folds or len(set(folds)) != len(folds):
            return "it has no active fold, or one twice"
        if count is not None and max(folds) >= count:
            return "it names a fold that the challenge does not have"
        if before is not None and not set(folds) <= set(before.active_folds):
            return "it brings back a fold that was spent"
        return ""

    def _fault_of_members(self, epoch: Epoch) -> str:
        if hashlib.sha256(epoch.roster).digest() != epoch.roster_hash:
            return "its roster does not match its hash"
        try:
            roster = read_roster(epoch.roster)
        except CharterError as error:
            return str(error)
        for removal in epoch.removed:
            if removal.key in self.out:
                return f"{short(removal.key)} is out already"
            if not removal.reason.strip():
                return f"it removes {short(removal.key)} without a reason"
        for handover in epoch.handovers:
            fault = self._fault_of_handover(handover, roster)
            if fault:
                return fault
        gone = _gone(epoch)
        if len(set(gone)) != len(gone):
            return "it takes one key out twice"
        if not self._next_governors(roster, gone):
            return "it leaves nobody to govern"
        return roster_fault(
            roster,
            governors=self.ever_governed | set(governors_of(roster)),
            earlier=self.lines,
            out=self.out | set(gone),
            is_open=self.charter.admission == "open",
            slots=self.charter.sizes.get("slots"),
        )

    def _fault_of_handover(self, handover: Handover, roster: Mapping[bytes, Member]) -> str:
        name = f"the handover of {short(handover.old)}"
        record, rotation = self._rotations.get(handover.last_id, (None, None))
        if record is None or rotation is None:
            return f"{name} waits for the record in which the old key says so"
        said = (record.author, rotation.new, record.envelope.seq)
        if said != (handover.old, handover.new, handover.last_seq):
            return f"{name} is not what the old key signed"
        before, after = self.lines.get(handover.old), roster.get(handover.new)
        if handover.new in self.lines:
            return f"{name} goes to a key that is a member already"
        if before is not None and after is not None and before.operator != after.operator:
            return f"{name} changes its operator"
        return ""

    def _next_governors(
        self, roster: Mapping[bytes, Member], gone: Sequence[bytes]
    ) -> tuple[bytes, ...]:
        """Those whom the roster names; where it names none, those who were and are not gone."""
        return governors_of(roster) or tuple(key for key in self.governors if key not in gone)

    def _is_followed(self, record: Record, epoch: Epoch) -> bool:
        """Whether the governors went on from ``epoch``: a later epoch that counts names it."""
        after = Chaining(self.swarm, self.charter, (), (), self._rotations.values())
        after.governors, after.ever_governed = self.governors, set(self.ever_governed)
        after.lines, after.out, after._removed = dict(self.lines), set(self.out), self._removed
        after._views = dict(self._views)
        after._enter(record, epoch)
        return any(
            not after.fault(later.author, payload)
            for later, payload in self._by_number.get(epoch.number + 1, ())
        )

    def _enter(self, record: Record, epoch: Epoch) -> None:
        roster = read_roster(epoch.roster)
        signers = signers_of(epoch, record.author, self.swarm)
        signers = {key for key in signers if self.seat(key) is not None}
        self.governors = self._next_governors(roster, _gone(epoch))
        self.ever_governed |= set(self.governors)
        self.lines |= roster
        self._removed |= {item.key for item in epoch.removed}
        self.out |= self._removed | {item.old for item in epoch.handovers}
        self._views[epoch.number] = EpochView(
            id=record.id,
            number=epoch.number,
            roster=roster,
            removed=self._removed,
            active_folds=epoch.active_folds,
            beacon=self._beacon(record.id, epoch),
            governors=self.governors,
            removals=epoch.removed,
            handovers=epoch.handovers,
            signers=tuple(sorted(signers)),
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

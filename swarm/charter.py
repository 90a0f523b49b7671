"""The rules of a swarm, folded from governors' records: charter, epochs, beacons, admissions.

:func:`fold_rules` is pure and independent of the order of arrival. A claim lives by the epoch that
it names, to the end: nothing here reads a clock or a "latest" state but :attr:`Rules.current`,
which says in which epoch a *new* record is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING

from swarm import wire
from swarm.errors import CharterError, RecordError, WireError
from swarm.fields import from_map, to_map
from swarm.keys import is_valid_public
from swarm.records import Admission, Beacon, BeaconCommit, Charter, Cosignature, Epoch, Member

if TYPE_CHECKING:
    from swarm.envelope import Record

MAX_PROVABLE_CODE = 25 * 1024
"""A claim with this much code, at its longest, fits twice into a proof of equivocation."""
_BEACON_DOMAIN = b"lazaretto/beacon/1"


def encode_roster(members: Iterable[Member]) -> bytes:
    """Canonical bytes of a roster, ordered by key."""
    ordered = sorted(members, key=lambda member: member.key)
    return wire.encode([to_map(member) for member in ordered])


def decode_roster(data: bytes) -> dict[bytes, Member]:
    """Inverse of :func:`encode_roster`.

    Raises:
        CharterError: malformed, unordered, repeated keys, unsound keys, or gammas above one.
    """
    try:
        items = wire.decode(data)
        if not isinstance(items, list):
            raise CharterError("a roster is a list")
        members = [from_map(Member, item) for item in items]
    except (WireError, RecordError) as error:
        raise CharterError(f"roster: {error}") from None
    keys = [member.key for member in members]
    if keys != sorted(set(keys)):
        raise CharterError("a roster is ordered by key, each key once")
    if not all(is_valid_public(key) for key in keys):
        raise CharterError("a roster holds a key that is not a sound Ed25519 key")
    # sum of gamma <= 1, in exact integers: what the false-discovery bound rests on
    numerator, denominator = 0, 1
    for member in members:
        numerator = numerator * member.gamma_den + member.gamma_num * denominator
        denominator *= member.gamma_den
    if numerator > denominator:
        raise CharterError("the shares of alpha (gamma) of a roster add up to more than one")
    return {member.key: member for member in members}


def capture_milli(n: int, f: int, liar_share_milli: int, roster: int = 100) -> int:
    """Chance, in thousandths (rounded up), that a random bench of ``n`` has more than ``f`` liars.

    Hypergeometric, for a roster of ``roster`` verifiers of whom ``liar_share_milli`` lie.
    """
    liars = roster * liar_share_milli // 1000
    bad = sum(comb(liars, i) * comb(roster - liars, n - i) for i in range(f + 1, n + 1))
    return -(-1000 * bad // comb(roster, n))


def check_charter(charter: Charter) -> None:
    """Refuse a charter that cannot keep its own promise.

    Raises:
        CharterError: too few signatures asked for, a bench that cannot outvote its liars, code or
            diff caps that could smuggle the holdout, or unsound governor keys.
    """
    governors = charter.governors
    if not governors or len(set(governors)) != len(governors):
        raise CharterError("a charter has one or more governors, each once")
    if not all(is_valid_public(key) for key in governors):
        raise CharterError("a governor's key is not a sound Ed25519 key")
    if not len(governors) / 2 < charter.k <= len(governors):
        raise CharterError(f"k={charter.k} of {len(governors)} governors is not a majority")
    if charter.max_code_bytes > MAX_PROVABLE_CODE:
        raise CharterError(
            f"code of {charter.max_code_bytes} bytes makes claims too large for a proof of "
            f"equivocation; at most {MAX_PROVABLE_CODE}"
        )
    names = [tier.name for tier in charter.tiers]
    if not names or len(set(names)) != len(names):
        raise CharterError("a charter has one or more tiers, each name once")
    holdout = charter.sizes.get("holdout_bytes", 0)
    for tier in charter.tiers:
        if tier.n <= 2 * tier.f:
            raise CharterError(f"tier {tier.name}: N={tier.n} is not more than 2f={2 * tier.f}")
        if tier.g and tier.n - 1 < 3 * tier.g + 1:
            raise CharterError(f"tier {tier.name}: N-1={tier.n - 1} is less than 3g+1")
        captured = capture_milli(tier.n, tier.f, charter.liar_share_milli)
        if captured > charter.capture_max_milli:
            raise CharterError(
                f"tier {tier.name}: a bench is captured with chance {captured}/1000 at "
                f"{charter.liar_share_milli}/1000 liars, above the charter's own limit",
                cure="raise n and f, or state a smaller liar_share_milli",
            )
        # Bits that a diff can carry, spread over the holdout, stay below a quarter of min_effect.
        if 32 * charter.max_diff_bytes * 10**9 > tier.min_effect_nano * holdout:
            raise CharterError(
                f"tier {tier.name}: diffs of {charter.max_diff_bytes} bytes could carry "
                f"min_effect worth of a holdout of {holdout} bytes",
                cure="use more holdout text, a smaller max_diff_bytes or a larger min_effect",
            )


def trust_note(n: int, f: int) -> str:
    """What a reader must be told about a bench of ``n`` with ``f`` tolerated liars."""
    if f == 0:
        return "trusts every verifier (f = 0)"
    return f"holds with at most {f} of {n} lying verifiers"


@dataclass(frozen=True, slots=True)
class EpochView:
    """One epoch as every node sees it. ``beacon`` is None until every commit is revealed."""

    id: bytes
    number: int
    roster: Mapping[bytes, Member]
    removed: frozenset[bytes]
    active_folds: tuple[int, ...]
    beacon: bytes | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The folded rules. ``frozen``: two conflicting epochs exist, so nobody may claim."""

    swarm: bytes
    charter: Charter
    epochs: Mapping[int, EpochView]
    admitted: frozenset[bytes]
    frozen: bool

    @property
    def current(self) -> EpochView | None:
        """The newest epoch whose beacon is known, in which new records are written."""
        ready = [number for number, epoch in self.epochs.items() if epoch.beacon is not None]
        return self.epochs[max(ready)] if ready else None

    def is_member(self, key: bytes) -> bool:
        """May ``key`` have a feed here: governor, admitted, or on a roster, and not removed."""
        if key in self.charter.governors:
            return True
        newest = self.epochs[max(self.epochs)] if self.epochs else None
        if newest is not None and key in newest.removed:
            return False
        on_roster = any(key in epoch.roster for epoch in self.epochs.values())
        return on_roster or key in self.admitted

    def member(self, epoch: int, key: bytes) -> Member | None:
        """The roster line of ``key`` in ``epoch``."""
        view = self.epochs.get(epoch)
        return view.roster.get(key) if view else None


def epoch_cosign_bytes(epoch: Epoch, swarm: bytes) -> bytes:
    """What a co-signing governor signs: swarm id and the epoch without co-signatures."""
    return swarm + wire.encode(to_map(replace(epoch, cosignatures=())))


def _is_authorised(epoch: Epoch, author: bytes, swarm: bytes, charter: Charter) -> bool:
    if author not in charter.governors:
        return False
    signers = {author}
    message = epoch_cosign_bytes(epoch, swarm)
    for item in epoch.cosignatures:
        known = item.governor in charter.governors and item.governor not in signers
        if known and _cosigned(item, message):
            signers.add(item.governor)
    return len(signers) >= charter.k


def _cosigned(item: Cosignature, message: bytes) -> bool:
    try:
        wire.verify(item.governor, wire.Signed(message, item.signature))
    except WireError:
        return False
    return True


def beacon_commit(governor: bytes, reveal: bytes) -> BeaconCommit:
    """The commit to a 32-byte secret, fixed in an epoch before its roster can be foreseen."""
    return BeaconCommit(governor, hashlib.sha256(reveal).digest())


def _beacon(epoch: Epoch, epoch_id: bytes, reveals: Iterable[tuple[bytes, Beacon]]) -> bytes | None:
    # Only what was committed to is a reveal; anything else that a governor says is passed over.
    revealed = {
        (author, hashlib.sha256(reveal.reveal).digest()): reveal.reveal
        for author, reveal in reveals
        if reveal.epoch_id == epoch_id
    }
    digest = hashlib.sha256(_BEACON_DOMAIN + epoch_id)
    for item in sorted(epoch.beacon_commits, key=lambda item: item.governor):
        reveal = revealed.get((item.governor, item.commit))
        if reveal is None:
            return None
        digest.update(reveal)
    return digest.digest() if epoch.beacon_commits else None


def fold_rules(records: Iterable[Record]) -> Rules | None:
    """Fold governors' records into the rules; other kinds are passed over.

    Returns None without a charter. Records that are not authorised change nothing. Independent of
    order; epochs count from 1 and each names its predecessor.
    """
    charters = []
    epochs: list[tuple[Record, Epoch]] = []
    reveals: list[tuple[bytes, Beacon]] = []
    admissions: list[tuple[bytes, Admission]] = []
    for record in records:
        payload = record.payload
        if isinstance(payload, Charter):
            charters.append((record, payload))
        elif isinstance(payload, Epoch):
            epochs.append((record, payload))
        elif isinstance(payload, Beacon):
            reveals.append((record.author, payload))
        elif isinstance(payload, Admission):
            admissions.append((record.author, payload))
    if not charters:
        return None
    record, charter = min(charters, key=lambda item: item[0].id)
    governors = set(charter.governors)
    views: dict[int, EpochView] = {}
    frozen = False
    previous: bytes | None = None
    for number in range(1, len(epochs) + 1):
        fitting = {
            item.id: payload
            for item, payload in epochs
            if payload.number == number
            and payload.prev_epoch == previous
            and payload.policy_id == record.id
            and _is_authorised(payload, item.author, record.id, charter)
            and _has_sound_roster(payload)
        }
        if len(fitting) != 1:
            frozen = len(fitting) > 1
            break
        previous, payload = fitting.popitem()
        views[number] = EpochView(
            id=previous,
            number=number,
            roster=decode_roster(payload.roster),
            removed=frozenset(item.key for item in payload.removed),
            active_folds=payload.active_folds,
            beacon=_beacon(payload, previous, reveals),
        )
    admitted = frozenset(
        item.member.key
        for author, item in admissions
        if author in governors and is_valid_public(item.member.key)
    )
    return Rules(record.id, charter, views, admitted, frozen)


def _has_sound_roster(epoch: Epoch) -> bool:
    if hashlib.sha256(epoch.roster).digest() != epoch.roster_hash:
        return False
    try:
        decode_roster(epoch.roster)
    except CharterError:
        return False
    return True

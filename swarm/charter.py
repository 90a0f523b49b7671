"""The rules of a swarm, folded from governors' records: charter, epochs, members.

:func:`fold_rules` is pure and independent of the order of arrival. A claim lives by the epoch that
it names, to the end: nothing here reads a clock or a "latest" state but :attr:`Rules.current`,
which says in which epoch a *new* record is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

from swarm.epochs import Chaining, is_rotation, quorum
from swarm.epochs import EpochView as EpochView
from swarm.epochs import beacon_commit as beacon_commit
from swarm.errors import CharterError
from swarm.keys import is_valid_public
from swarm.records import Admission, Beacon, Charter, Consent, Draft, Epoch, Member, Rotation
from swarm.roster import MAX_VOUCHED, OPEN_OPERATOR
from swarm.roster import decode_roster as decode_roster
from swarm.roster import encode_roster as encode_roster

if TYPE_CHECKING:
    from swarm.envelope import Record

_GOVERNORS_ONLY = (Epoch, Beacon, Draft, Consent)
MAX_PROVABLE_CODE = 25 * 1024
"""A claim with this much code, at its longest, fits twice into a proof of equivocation."""


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


def trust_note(n: int, f: int, g: int | None = None) -> str:
    """What a reader must be told about a bench of ``n`` whose verdicts ``f`` liars cannot bend, and
    whose agreement ``g`` liars cannot stop.
    """
    if n == 1:
        return "trusts every verifier: each decides alone (n = 1, f = 0)"
    note = (
        f"holds with at most {f} of {n} lying verifiers" if f else "trusts every verifier (f = 0)"
    )
    if g is not None and g < max(1, f):
        who = f"more than {g} that vanish or lie" if g else "one that vanishes or lies"
        note += f"; {who} may make a claim wait (g = {g})"
    return note


@dataclass(frozen=True, slots=True)
class Rules:
    """The folded rules. ``frozen``: two conflicting epochs exist, so nobody may claim.

    Attributes:
        epochs: the chain, by number from 1 on, in this order.
        known: every key that was ever let in: governors, rosters, admissions, and their heirs.
        removed: key -> number of the epoch that removed it.
        admissions: lines of admitted keys, for the next roster; many are on one already.
        rotated: old key -> new key, as soon as the old key said so.
        refused: record id -> why an epoch, admission or rotation does not count.
    """

    swarm: bytes
    charter: Charter
    epochs: dict[int, EpochView]
    frozen: bool
    known: frozenset[bytes]
    removed: Mapping[bytes, int]
    admissions: Mapping[bytes, Member]
    rotated: Mapping[bytes, bytes]
    refused: Mapping[bytes, str]

    @property
    def current(self) -> EpochView | None:
        """The newest epoch whose beacon is known, in which new records are written."""
        known = (epoch for epoch in reversed(self.epochs.values()) if epoch.beacon is not None)
        return next(known, None)

    @property
    def number(self) -> int:
        """The number of the newest epoch, 0 before the first."""
        return next(reversed(self.epochs), 0)

    @property
    def newest(self) -> EpochView | None:
        """The newest epoch, its beacon known or not; the next one follows it."""
        return self.epochs.get(self.number)

    @property
    def governors(self) -> tuple[bytes, ...]:
        """Who signs the next epoch, by the newest; a rotated key of theirs included."""
        newest = self.newest
        seats = newest.governors if newest is not None else self.charter.governors
        return tuple(self.heir(key) for key in seats)

    @property
    def quorum(self) -> int:
        """How many governors must sign the next epoch."""
        return quorum(self.charter, self.governors)

    def heir(self, key: bytes) -> bytes:
        """The key under which ``key`` goes on: itself, or what it was rotated to."""
        return self._line(key)[-1]

    def _line(self, key: bytes) -> list[bytes]:
        """``key`` and those to which it was handed on, in order."""
        line = [key]
        while (new := self.rotated.get(line[-1])) is not None and new not in line:
            line.append(new)
        return line

    def is_member(self, key: bytes) -> bool:
        """May ``key`` connect: governor, admitted or on a roster; not removed, not handed over."""
        return key in self.known and key not in self.rotated and key not in self.removed

    def governs(self, key: bytes, epoch: int) -> bool:
        """Is ``key`` a governor of ``epoch`` (0: of the charter), or does it go on for one?

        No for an epoch that is not here; the answer about one that is here stays.
        """
        view = self.epochs.get(epoch)
        seats = view.governors if view else () if epoch else self.charter.governors
        return any(key in self._line(seat) for seat in seats)

    def has_governed(self, key: bytes) -> bool:
        """Is or was ``key`` a governor, or does it go on for one?"""
        seats = {*self.charter.governors}.union(*(one.governors for one in self.epochs.values()))
        return any(key in self._line(seat) for seat in seats)

    def belongs(self, record: Record) -> bool:
        """Does ``record`` have a place in the log, by who its author is and when it was written?

        The answer never changes once the epoch that it names is here: a removed key is out from the
        epoch that removes it on, and what it says in earlier ones still counts (removals take
        effect in the next epoch, never on arrival, lest two nodes disagree). A governors' record
        may be of an epoch that is not here yet: it may be what makes it.
        """
        author, epoch, newest = record.author, record.envelope.epoch, self.number
        if isinstance(record.payload, _GOVERNORS_ONLY):
            if not self.has_governed(author):
                return False
            epoch = min(epoch, newest)
        if author not in self.known or epoch > newest:
            return False
        return epoch < self.removed.get(author, epoch + 1)

    def usurps(self, record: Record) -> bool:
        """Is it a governors' record, of an epoch that is here, by somebody who never governed?"""
        return (
            isinstance(record.payload, _GOVERNORS_ONLY)
            and record.envelope.epoch <= self.number
            and not self.has_governed(record.author)
        )

    def member(self, epoch: int, key: bytes) -> Member | None:
        """The roster line of ``key`` in ``epoch``."""
        view = self.epochs.get(epoch)
        return view.roster.get(key) if view else None


def fold_rules(records: Iterable[Record]) -> Rules | None:
    """Fold governance records into the rules; other kinds are passed over.

    Returns None without a charter. Records that are not authorised change nothing, and
    ``Rules.refused`` says why. Independent of order; epochs count from 1 and each names its
    predecessor.
    """
    said = _sort(records)
    if said is None:
        return None
    record, charter, chaining, admissions, rotations = said
    chain = chaining.chain()
    refused = dict(chain.refused)
    rotated: dict[bytes, bytes] = {}
    for rotation, heir in sorted(rotations, key=_place):
        if is_rotation(rotation.author, heir, record.id):
            rotated.setdefault(rotation.author, heir.new)
        else:
            refused[rotation.id] = "the new key did not agree to it"
    admitted: dict[bytes, Member] = {}
    vouched: Counter[bytes] = Counter()
    for admission, item in sorted(admissions, key=_place):
        fault = _admission_fault(admission, item.member, charter, chain.views, rotated, vouched)
        if fault:
            refused[admission.id] = fault
        else:
            admitted.setdefault(item.member.key, item.member)
    known = {*charter.governors, *admitted}.union(*(view.roster for view in chain.views.values()))
    while heirs := {new for old, new in rotated.items() if old in known} - known:
        known |= heirs
    removed = {item.key: n for n, view in chain.views.items() for item in view.removals}
    return Rules(
        swarm=record.id,
        charter=charter,
        epochs=chain.views,
        frozen=chain.frozen,
        known=frozenset(known),
        removed=removed,
        admissions=admitted,
        rotated=rotated,
        refused=refused,
    )


def chained(records: Iterable[Record]) -> Chaining:
    """The chain that follows from ``records``, ready to judge what may come next.

    Raises:
        CharterError: the charter is not among them.
    """
    said = _sort(records)
    if said is None:
        raise CharterError("the charter is not here", cure="wait for the next sync")
    said[2].chain()
    return said[2]


_Sorted = tuple[
    "Record", Charter, Chaining, list[tuple["Record", Admission]], list[tuple["Record", Rotation]]
]


def _sort(records: Iterable[Record]) -> _Sorted | None:
    """Records by kind, the epochs ready to be walked; None without a charter."""
    charters: list[tuple[Record, Charter]] = []
    epochs: list[tuple[Record, Epoch]] = []
    reveals: list[tuple[bytes, Beacon]] = []
    admissions: list[tuple[Record, Admission]] = []
    rotations: list[tuple[Record, Rotation]] = []
    for record in records:
        payload = record.payload
        if isinstance(payload, Charter):
            charters.append((record, payload))
        elif isinstance(payload, Epoch):
            epochs.append((record, payload))
        elif isinstance(payload, Beacon):
            reveals.append((record.author, payload))
        elif isinstance(payload, Admission):
            admissions.append((record, payload))
        elif isinstance(payload, Rotation):
            rotations.append((record, payload))
    if not charters:
        return None
    record, charter = min(charters, key=lambda item: item[0].id)
    chaining = Chaining(record.id, charter, epochs, reveals, rotations)
    return record, charter, chaining, admissions, rotations


def _place(item: tuple[Record, object]) -> tuple[int, bytes]:
    """An order that is the same everywhere, and that of its feed for one author."""
    return item[0].envelope.seq, item[0].id


def _admission_fault(
    record: Record,
    member: Member,
    charter: Charter,
    views: Mapping[int, EpochView],
    rotated: Mapping[bytes, bytes],
    vouched: Counter[bytes],
) -> str:
    """Why an admission does not count, by the epoch in which its author wrote it; counts vouching.

    A member that is no governor vouches for researchers under its own operator, for a few.
    """
    author, view = record.author, views.get(record.envelope.epoch)
    if view is None and record.envelope.epoch:
        return f"epoch {record.envelope.epoch} is not here"
    governors = set(view.governors if view else charter.governors)
    governors |= {new for old, new in rotated.items() if old in governors}
    earlier = {key for one in views.values() for key in one.governors} | set(charter.governors)
    if not is_valid_public(member.key):
        return "its key is not a sound Ed25519 key"
    if member.voucher_root != author:
        return "it is not in the name of its author"
    if "governor" in member.roles:
        return "governors are made by an epoch, which more than half of them sign"
    stranger = member.operator == OPEN_OPERATOR
    if stranger and (charter.admission != "open" or member.roles != ("researcher",)):
        return f"the operator {OPEN_OPERATOR!r} is for researchers of open swarms"
    if author in governors:
        return ""
    line = view.roster.get(author) if view else None
    if line is None or (view is not None and author in view.removed):
        return "its author was no member"
    if line.voucher_root not in earlier or line.operator == OPEN_OPERATOR:
        return "its author was let in by no governor, and cannot vouch"
    if member.roles != ("researcher",) or member.operator != line.operator:
        return "a member vouches for researchers only, under its own operator"
    vouched[author] += 1
    if vouched[author] > MAX_VOUCHED:
        return f"its author vouched for {MAX_VOUCHED} others before"
    return ""

"""The rules of a swarm, folded from governors' records: charter, epochs, members.

:func:`fold_rules` is pure and independent of the order of arrival. A claim lives by the epoch that
it names, to the end: nothing here reads a clock or a "latest" state but :attr:`Rules.current`,
which says in which epoch a *new* record is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import comb
from typing import TYPE_CHECKING

from swarm.envelope import NO_EPOCH
from swarm.epochs import Chaining, Stem, is_rotation, quorum
from swarm.epochs import EpochView as EpochView
from swarm.epochs import beacon_commit as beacon_commit
from swarm.errors import CharterError
from swarm.finality import Chooser, Statements, margin_of
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
    """The folded rules. ``frozen``: rivals exist of which none is preferred, so nobody may claim.

    Attributes:
        epochs: the chain, by number from 1 on, in this order.
        known: every key that was ever let in: governors, rosters, admissions, and their heirs.
        removed: key -> number of the epoch that removed it.
        admissions: lines of admitted keys, for the next roster; many are on one already.
        rotated: old key -> new key, as soon as the old key said so.
        refused: record id -> why an epoch, admission or rotation does not count.
        final: up to this number epochs are final (``swarm.finality``).
        contested: there are rivals somewhere, settled or not.
        anchored: the epoch that the chain has to contain is in it, or none has to be.
        longest: the number of the last epoch of the longest chain, followed or not.
        stems: all epochs that keep the rules, those that are not followed too, by id.
        heirs: key -> all keys to which it was handed on, over any number of steps.
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
    final: int = 0
    contested: bool = False
    anchored: bool = True
    longest: int = 0
    stems: Mapping[bytes | None, Stem] = field(default_factory=dict, repr=False)
    heirs: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict, repr=False)

    @property
    def current(self) -> EpochView | None:
        """The newest epoch whose beacon is known, in which new records are written.

        None where the chain lacks the epoch that it has to contain: it may be anybody's.
        """
        if not self.anchored:
            return None
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
        """Is or was ``key`` a governor in any epoch, followed or not, or does it go on for one?"""
        seats = {*self.charter.governors}.union(*(one.governors for one in self.stems.values()))
        return key in seats or any(key in self.heirs.get(seat, ()) for seat in seats)

    def names(self, record: Record) -> EpochView | None:
        """The epoch in which ``record`` counts: the one that it names, if that is followed.

        A record that names an epoch by number alone counts in whichever of that number is followed.
        """
        view, name = self.epochs.get(record.envelope.epoch), record.envelope.epoch_id
        return view if view is not None and name in (view.id, NO_EPOCH) else None

    def _stem(self, record: Record) -> Stem | None:
        """The epoch under which ``record`` was written, followed or not; None while not here.

        A record may state a later number than that of the epoch that it names, so that nobody who
        left a longer chain for a final one has to go back; but none that no epoch has yet.
        """
        envelope = record.envelope
        number, name = envelope.epoch, envelope.epoch_id
        if name == NO_EPOCH:
            if isinstance(record.payload, Epoch) and number == record.payload.number:
                number = min(number, self.number)  # it may be what makes it
            view = self.epochs.get(number)
            return self.stems.get(view.id if view else None) if view or not number else None
        stem = self.stems.get(name)
        return stem if stem is not None and stem.number <= number <= self.longest else None

    def belongs(self, record: Record) -> bool:
        """Does ``record`` have a place in the log, by who its author is and when it was written?

        The answer never changes once the epoch that it names is here, followed or not: a removed
        key is out from the epoch that removes it on, and what it says in earlier ones still counts
        (removals take effect in the next epoch, never on arrival, lest two nodes disagree). Records
        under an epoch that is not followed have a place as well: feeds are whole or not at all.
        """
        author, stem = record.author, self._stem(record)
        if stem is None:
            return False
        if isinstance(record.payload, _GOVERNORS_ONLY) and not self.has_governed(author):
            return False
        number = stem.number + 1
        return self._is_known(author, stem) and stem.number < stem.removed.get(author, number)

    def line_before(self, key: bytes, epoch: int) -> list[bytes]:
        """The keys for which ``key`` goes on, unless the epoch with that number has it itself."""
        view = self.epochs.get(epoch)
        if view is not None and key in view.roster:
            return []
        return [old for old, heirs in self.heirs.items() if key in heirs]

    def _is_known(self, key: bytes, stem: Stem) -> bool:
        if key in self.known:
            return True
        roots = (key, *(old for old, new in self.rotated.items() if new == key))
        return any(one in stem.lines or one in stem.ever_governed for one in roots)

    def is_foreign(self, record: Record) -> bool:
        """Is it under an epoch that is not followed, or by an author known only there?"""
        envelope = record.envelope
        if record.author not in self.known or envelope.epoch > self.number:
            return True
        return envelope.epoch > 0 and self.names(record) is None

    def usurps(self, record: Record) -> bool:
        """Is it a governors' record, of an epoch that is here, by somebody who never governed?"""
        return (
            isinstance(record.payload, _GOVERNORS_ONLY)
            and self._stem(record) is not None
            and record.envelope.epoch <= self.number
            and not self.has_governed(record.author)
        )

    def with_statements(self, statements: Statements, anchor: bytes | None) -> Rules:
        """The same with more statements, where there are no rivals: more epochs may be final."""
        margin = margin_of((tier.f, tier.g) for tier in self.charter.tiers)
        choice = Chooser(self.stems, statements, self.heirs, margin).choose(anchor)
        return replace(self, final=choice.final)

    def member(self, epoch: int, key: bytes) -> Member | None:
        """The roster line of ``key`` in ``epoch``."""
        view = self.epochs.get(epoch)
        return view.roster.get(key) if view else None


def fold_rules(
    records: Iterable[Record],
    statements: Statements | None = None,
    anchor: bytes | None = None,
    lean: bytes | None = None,
) -> Rules | None:
    """Fold governance records into the rules; of others it reads only under which epoch they are.

    Returns None without a charter. Records that are not authorised change nothing, and
    ``Rules.refused`` says why. Independent of order; epochs count from 1 and each names its
    predecessor.

    Args:
        records: what governs, and all else where ``statements`` are not given.
        statements: who wrote under which epochs, taken in from all records before.
        anchor: an epoch that the chain has to contain; nothing is written until it is here.
        lean: an epoch to stay with while no rival is final. For what a node writes, never for what
            it judges: others do not know what it saw first.
    """
    said = _sort(records, statements)
    if said is None:
        return None
    record, charter, chaining, admissions, rotations = said
    chain = chaining.chain(anchor, lean)
    refused = dict(chain.refused)
    rotated = {item.old: item.new for view in chain.views.values() for item in view.handovers}
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
    known |= {item.new for view in chain.views.values() for item in view.handovers}
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
        final=chain.final,
        contested=chain.contested,
        anchored=anchor is None or any(view.id == anchor for view in chain.views.values()),
        longest=max(stem.number for stem in chaining.stems.values()),
        stems=chaining.stems,
        heirs=chaining.heirs,
    )


def chained(records: Iterable[Record], rules: Rules) -> Chaining:
    """The chain of ``rules``, folded from ``records``, ready to judge what may come next."""
    said = _sort(records)
    assert said is not None
    said[2].go_to(rules.newest.id if rules.newest else None)
    return said[2]


_Sorted = tuple[
    "Record", Charter, Chaining, list[tuple["Record", Admission]], list[tuple["Record", Rotation]]
]


def _sort(records: Iterable[Record], statements: Statements | None = None) -> _Sorted | None:
    """Records by kind, the epochs grown to a tree; None without a charter."""
    charters: list[tuple[Record, Charter]] = []
    epochs: list[tuple[Record, Epoch]] = []
    reveals: list[tuple[bytes, Beacon]] = []
    admissions: list[tuple[Record, Admission]] = []
    rotations: list[tuple[Record, Rotation]] = []
    found = Statements() if statements is None else statements
    for record in records:
        if statements is None:
            found.note(record)
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
    chaining = Chaining(record.id, charter, epochs, reveals, rotations, found)
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
    if view is not None and record.envelope.epoch_id not in (view.id, NO_EPOCH):
        return f"another epoch {view.number} is followed"
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

"""Random histories of governing: honest ones, and what old keys and liars make up beside them.

The honest part: governors open epochs, join, leave, are removed and change their keys, and
verifiers write under the epoch that they follow. The other part: with every key that ever governed
and does not any more (and in some worlds that of the only governor as it was then), rivals of any
epoch are signed, with whatever roster, and gone on from; liars among the verifiers, no more than
the margin of the charter, speak for all of them; and whoever has not spoken yet may be led into it.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

from swarm.charter import Rules, beacon_commit, encode_roster, fold_rules
from swarm.envelope import NO_EPOCH, Record, seal_record
from swarm.epochs import consent_bytes
from swarm.keys import KeyPair, rotation_bytes
from swarm.records import (
    Beacon,
    Cosignature,
    Epoch,
    Handover,
    Member,
    Payload,
    Removed,
    Rotation,
    Upkeep,
)
from swarm.wire import sign
from tests.swarm.founding import TIER, make_charter

POOL = [KeyPair.from_seed(hashlib.sha256(bytes([n])).digest()) for n in range(48)]


@dataclass
class World:
    """One history; ``records`` are what honest members and governors said, in order."""

    rng: random.Random
    records: list[Record] = field(default_factory=list)
    forged: list[Record] = field(default_factory=list)
    finals: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        self.fresh = iter(POOL)
        self.governors = [next(self.fresh) for _ in range(rng.choice((1, 1, 2, 3)))]
        self.margin = rng.choice((0, 0, 1))
        several = rng.randint(2 * self.margin + 1, 2 * self.margin + 4)
        self.verifiers = [next(self.fresh) for _ in range(several)]
        self.liars = set(rng.sample([one.public for one in self.verifiers], self.margin))
        self.names = {one.public: f"op-{n}" for n, one in enumerate(POOL)}
        self.old: list[KeyPair] = []  # keys that do not govern any more
        self.feeds: dict[bytes, tuple[int, bytes | None]] = {}
        self.chain: list[tuple[bytes, list[KeyPair], list[Member]]] = []  # id, governors, roster
        self.spoken: dict[str, int] = {}  # operator -> the last epoch under which it wrote
        self.misled: set[str] = set()  # operators
        tier = replace(TIER, n=3, f=self.margin) if self.margin else TIER
        charter = make_charter(
            governors=tuple(one.public for one in self.governors),
            k=len(self.governors) // 2 + 1,
            tiers=(tier,),
        )
        self.swarm = b""
        self.swarm = self._say(self.governors[0], charter, 0, NO_EPOCH).id
        self.founders = list(self.governors)
        self.open()

    def line(self, key: KeyPair, *roles: str) -> Member:
        root = self.founders[0].public
        return Member(key.public, self.names[key.public], root, roles, ("quick",), "cpu", 0, 0, 1)

    def roster(self) -> list[Member]:
        govern = [self.line(one, "governor") for one in self.governors]
        return govern + [self.line(one, "verifier") for one in self.verifiers]

    # --- signing --------------------------------------------------------------------------------

    def _seal(self, key: KeyPair, payload: Payload, number: int, name: bytes, at: tuple) -> Record:
        seq, prev = at
        return seal_record(
            key, payload, swarm=self.swarm or None, seq=seq, prev=prev, epoch=number, day=1,
            epoch_id=name,
        )  # fmt: skip

    def _say(self, key: KeyPair, payload: Payload, number: int, name: bytes) -> Record:
        record = self._seal(key, payload, number, name, self.feeds.get(key.public, (0, None)))
        self.feeds[key.public] = (record.envelope.seq + 1, record.id)
        self.records.append(record)
        self.spoken[self.names[key.public]] = number
        return record

    def epoch(self, number: int, prev: bytes | None, signers: list[KeyPair], roster: list[Member],
              **changes: object) -> Epoch:  # fmt: skip
        encoded = encode_roster(roster)
        commits = tuple(beacon_commit(one.public, one.seed) for one in signers)
        epoch = Epoch(
            number, prev, self.swarm, 1, hashlib.sha256(encoded).digest(), encoded,
            tuple(range(40)), (), (), commits, (),
        )  # fmt: skip
        epoch = replace(epoch, **changes)  # type: ignore[arg-type]
        signed = tuple(
            Cosignature(one.public, sign(one.private, consent_bytes(epoch, self.swarm, commit))
                        .signature)
            for one, commit in zip(signers[1:], commits[1:], strict=True)
        )  # fmt: skip
        return replace(epoch, cosignatures=signed)

    # --- what honest members do -----------------------------------------------------------------

    @property
    def number(self) -> int:
        return len(self.chain)

    @property
    def tip(self) -> bytes | None:
        return self.chain[-1][0] if self.chain else None

    def open(self) -> None:
        """The governors open the next epoch, with a change of who governs or verifies."""
        rng, before = self.rng, list(self.governors)
        removed: list[Removed] = []
        handovers: list[Handover] = []
        change = rng.random() if self.chain else 1.0
        if change < 0.3:
            gone = self.governors.pop(rng.randrange(len(self.governors)))
            if rng.random() < 0.5 or not self.governors:
                self.governors.append(next(self.fresh))
            if rng.random() < 0.7:
                seq, last = self.feeds.get(gone.public, (0, None))
                removed = [Removed(gone.public, max(0, seq - 1), last or bytes(32), "left")]
            self.old.append(gone)
        elif change < 0.55:
            group = self.governors if rng.random() < 0.7 else self.verifiers
            place = rng.randrange(len(group))
            if self.names[group[place].public] in self.misled:
                group, place = self.governors, 0
            old, new = group[place], next(self.fresh)
            self.names[new.public] = self.names[old.public]
            if old.public in self.liars:
                self.liars.add(new.public)
            message = rotation_bytes(self.swarm, old.public, new.public)
            proof = sign(new.private, message).signature
            record = self._say(old, Rotation(new.public, proof), self.number, self.tip or NO_EPOCH)
            handovers = [Handover(old.public, new.public, record.envelope.seq, record.id)]
            group[place] = new
            if group is self.governors:
                self.old.append(old)
                before = [new if one is old else one for one in before]
        elif change < 0.7 and len(self.verifiers) < 8:
            self.verifiers.append(next(self.fresh))
        signers = rng.sample(before, len(before) // 2 + 1)
        epoch = self.epoch(self.number + 1, self.tip, signers, self.roster(),
                           removed=tuple(removed), handovers=tuple(handovers))  # fmt: skip
        record = self._say(signers[0], epoch, self.number, self.tip or NO_EPOCH)
        self.chain.append((record.id, list(self.governors), self.roster()))
        for one in signers:
            self._say(one, Beacon(record.id, one.seed), self.number, record.id)

    def write(self) -> None:
        """A verifier says something under the newest epoch."""
        assert self.tip is not None
        key = self.rng.choice(self.verifiers)
        name = self.names[key.public]
        if name not in self.misled:
            self._say(key, Upkeep((), (), ()), self.number, self.tip)

    # --- what others make up --------------------------------------------------------------------

    def forge(self) -> None:
        """A rival of some epoch, where old keys can sign one, and what goes on from it."""
        rng = self.rng
        places = []
        for number in range(1, self.number + 1):
            governing = self.chain[number - 2][1] if number > 1 else self.founders
            bad = [one for one in governing if one in self.old]
            if len(bad) >= len(governing) // 2 + 1 and number > 1:
                places.append((number, bad))
        if not places:
            return
        number, signers = rng.choice(places)
        prev, lines = self.chain[number - 2][0], self.chain[number - 1][2]
        roster = self._made_up(lines, signers[0])
        names = [self.names[one.public] for one in self.verifiers]
        late = [name for name in names if self.spoken.get(name, 0) < number]
        late = [name for name in late if name not in self.misled]
        led = set(rng.sample(late, rng.randint(0, len(late))))
        self.misled |= led  # who saw the rival first stays with it
        for _ in range(rng.choice((1, 2, 2, 5))):
            epoch = self.epoch(number, prev, signers, roster)
            at = (rng.randint(1, 9), rng.randbytes(32))
            record = self._seal(signers[0], epoch, number - 1, prev or NO_EPOCH, at)
            self.forged.append(record)
            prev, number = record.id, number + 1
            roster_keys = {one.key for one in roster if "governor" in one.roles}
            signers = [one for one in (*self.old, *POOL) if one.public in roster_keys][:1] or (
                signers
            )
            if rng.random() < 0.7:
                self._forged_say(signers[0], Beacon(record.id, signers[0].seed), record, number)
            for one in (*POOL[-6:], *self.old):
                if rng.random() < 0.3:
                    self._forged_say(one, Upkeep((), (), ()), record, number)
            for one in POOL:
                if one.public in self.liars or self.names[one.public] in led:
                    self._forged_say(one, Upkeep((), (), ()), record, number)

    def _forged_say(self, key: KeyPair, payload: Payload, under: Record, number: int) -> None:
        at = (self.rng.randint(1, 9), self.rng.randbytes(32))
        self.forged.append(self._seal(key, payload, number - 1, under.id, at))

    def _made_up(self, lines: list[Member], governor: KeyPair) -> list[Member]:
        kind = self.rng.choice(("same", "sybils", "both"))
        root = self.founders[0].public
        sybils = [Member(one.public, f"sybil-{n}", root, ("verifier",), ("quick",), "cpu", 0, 0, 1)
                  for n, one in enumerate(POOL[-6:])]  # fmt: skip
        others = [
            one for one in lines if "governor" not in one.roles and one.key != governor.public
        ]
        head = Member(governor.public, "gov", root, ("governor",), ("quick",), "cpu", 0, 0, 1)
        return [head, *({"same": others, "sybils": sybils, "both": others + sybils}[kind])]


def fold(records: list[Record]) -> Rules:
    rules = fold_rules(records)
    assert rules is not None
    return rules


def play(seed: int) -> tuple[int, int]:
    """One history: what was final at any point stays, whatever is made up, in any order.

    Returns how many epochs were final somewhere on the way, and how many records were made up.
    """
    rng = random.Random(seed)
    world = World(rng)
    final: dict[int, bytes] = {}

    def look() -> None:
        known = world.records + world.forged
        rules = fold(known)
        for number, name in final.items():
            view = rules.epochs.get(number)
            assert view is not None and view.id == name, (seed, number)  # noqa: PT018
        if rng.random() < 0.2:
            assert rules == fold(rng.sample(known, len(known))), seed
        for number in range(1, rules.final + 1):
            final[number] = rules.epochs[number].id

    for _ in range(rng.randint(4, 14)):
        what = rng.random()
        if what < 0.35 and world.number < 8:
            world.open()
        elif what < 0.8:
            for _ in range(rng.randint(1, 4)):
                world.write()
        else:
            world.forge()
        look()
    # Everything at once, and parts in another order: what a part shows as final, the whole keeps.
    known = world.records + world.forged
    whole = fold(known)
    part = rng.sample(known, rng.randint(len(known) // 2, len(known)))
    found = fold_rules(part)
    if found is not None:
        for number in range(1, found.final + 1):
            assert whole.epochs[number].id == found.epochs[number].id, (seed, number)
    return len(final), len(world.forged)

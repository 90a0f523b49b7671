"""A founded swarm with real keys and signatures, for tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.governing import new_member
from swarm.charter import beacon_commit, encode_roster
from swarm.envelope import NO_EPOCH, seal_record
from swarm.keys import KeyPair
from swarm.records import Beacon, Charter, Epoch, TierPolicy

SECRET = b"s" * 32
TIER = TierPolicy("quick", 2, 0, 0, 10, 0, 3000, 5_000_000, 2_000_000, 6_000_000, 100, ("cpu",))


def make_charter(**changes) -> Charter:
    values = {
        "name": "test",
        "governors": (founder_key().public,),
        "k": 1,
        "admission": "invite",
        "rule_version": 1,
        "challenge": {},
        "tiers": (TIER,),
        "alpha_milli": 100,
        "alpha_retract_milli": 10,
        "liar_share_milli": 0,
        "capture_max_milli": 0,
        "max_code_bytes": 16_384,
        "max_diff_bytes": 300,
        "screen": {},
        "fold_batches": (),
        "approval_rules": (),
        "sizes": {"holdout_bytes": 2_000_000, "slots": 4, "folds": 40},
    }
    return Charter(**{**values, **changes})


def founder_key() -> KeyPair:
    return KeyPair.from_seed(b"founder".ljust(32, b"."))


def make_epoch(swarm: bytes, members=(), number=1, previous=None, governor=None) -> Epoch:
    import hashlib

    roster = encode_roster(members)
    governor = governor or founder_key()
    return Epoch(
        number=number,
        prev_epoch=previous,
        policy_id=swarm,
        rule_version=1,
        roster_hash=hashlib.sha256(roster).digest(),
        roster=roster,
        active_folds=tuple(range(40)),
        removed=(),
        handovers=(),
        beacon_commits=(beacon_commit(governor.public, SECRET),),
        cosignatures=(),
    )


@dataclass
class Feed:
    """Signs records one after the other, as one author."""

    key: KeyPair
    swarm: bytes
    seq: int = 0
    prev: bytes | None = None
    epoch: int = 1
    records: list = field(default_factory=list)
    ids: dict = field(default_factory=dict)  # of epochs, by number

    def say(self, payload):
        record = seal_record(
            self.key,
            payload,
            swarm=None if isinstance(payload, Charter) else self.swarm,
            seq=self.seq,
            prev=self.prev,
            epoch=0 if isinstance(payload, Charter) else self.epoch,
            day=20_000,
            epoch_id=self.ids.get(self.epoch, NO_EPOCH),
        )
        self.seq, self.prev = self.seq + 1, record.id
        self.records.append(record)
        return record


@dataclass
class Founded:
    """A charter, epoch 1 with two members, and its beacon: ``feeds[0]`` is the founder's."""

    swarm: bytes
    feeds: list[Feed]

    @property
    def wire(self) -> list[bytes]:
        return [record.signed.to_bytes() for feed in self.feeds for record in feed.records]


def make_founded() -> Founded:
    founder = Feed(founder_key(), b"")
    charter = founder.say(make_charter())
    founder.swarm = charter.id
    keys = [KeyPair.from_seed(bytes([number]) * 32) for number in (1, 2)]
    members = [
        new_member(key.public, f"operator-{number}", ["verifier"], founder.key.public, ["quick"])
        for number, key in enumerate(keys)
    ]
    epoch = founder.say(make_epoch(charter.id, members))
    founder.say(Beacon(epoch.id, SECRET))
    return Founded(charter.id, [founder, *(Feed(key, charter.id) for key in keys)])


def found_with(keys: list[KeyPair]) -> tuple[bytes, list[bytes]]:
    """A swarm whose members have these keys: its id, and the wires of its founder's feed."""
    founder = Feed(founder_key(), b"")
    founder.swarm = founder.say(make_charter()).id
    members = [
        new_member(key.public, f"op-{index}", ["researcher"], founder.key.public, ["quick"])
        for index, key in enumerate(keys)
    ]
    epoch = founder.say(make_epoch(founder.swarm, members))
    founder.say(Beacon(epoch.id, SECRET))
    return founder.swarm, [record.signed.to_bytes() for record in founder.records]

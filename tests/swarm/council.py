"""Governors in memory: they open epochs with real keys, rosters, commitments and signatures."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from swarm import wire
from swarm.charter import beacon_commit, encode_roster, fold_rules
from swarm.epochs import consent_bytes
from swarm.keys import KeyPair, rotation_bytes
from swarm.records import Beacon, Cosignature, Epoch, Member, Rotation
from swarm.roster import share_alpha
from tests.swarm.founding import Feed, founder_key, make_charter

FOUNDER = founder_key()
KEYS = [KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 9)]
COUNCIL = [FOUNDER, *KEYS[:2]]


def line(key: KeyPair, operator: str, *roles: str, voucher: bytes | None = None) -> Member:
    """A roster line, admitted by the founder where nobody else is named."""
    root = voucher or founder_key().public
    return Member(key.public, operator, root, roles, ("quick",), "cpu", 0, 0, 1)


def secret(key: KeyPair, number: int) -> bytes:
    return hashlib.sha256(key.seed + bytes([number])).digest()


class Council:
    """A swarm governed by the first ``size`` of ``COUNCIL``, more than half of whom must sign."""

    def __init__(self, size: int = 1, **changes):
        self.keys = COUNCIL[:size]
        self.feeds: dict[bytes, Feed] = {}
        self.ids: dict[int, bytes] = {}
        founder = Feed(founder_key(), b"", epoch=0, ids=self.ids)
        self.feeds[founder.key.public] = founder
        governors = tuple(key.public for key in self.keys)
        record = founder.say(make_charter(governors=governors, k=size // 2 + 1, **changes))
        self.swarm = founder.swarm = record.id
        self.tip: bytes | None = None
        self.number = 0

    @property
    def records(self):
        return [record for feed in self.feeds.values() for record in feed.records]

    @property
    def rules(self):
        rules = fold_rules(self.records)
        assert rules == fold_rules(reversed(self.records))
        return rules

    def feed(self, key: KeyPair) -> Feed:
        feed = Feed(key, self.swarm, epoch=self.number, ids=self.ids)
        return self.feeds.setdefault(key.public, feed)

    def epoch(self, *members: Member, by=None, signed=(), number=None, **changes) -> Epoch:
        """An epoch by ``by``, co-signed by ``signed``, that follows the last one opened."""
        by, number = by or self.keys[0], number or self.number + 1
        roster = changes.pop("roster", None)
        if roster is None:
            roster = encode_roster(share_alpha(members, 4))
        signers = (by, *signed)
        epoch = Epoch(
            number=number,
            prev_epoch=self.tip,
            policy_id=self.swarm,
            rule_version=1,
            roster_hash=hashlib.sha256(roster).digest(),
            roster=roster,
            active_folds=tuple(range(40)),
            removed=(),
            handovers=(),
            beacon_commits=tuple(beacon_commit(key.public, secret(key, number)) for key in signers),
            cosignatures=(),
        )
        epoch = replace(epoch, **changes)
        return replace(epoch, cosignatures=tuple(self.cosign(epoch, key) for key in signed))

    def cosign(self, epoch: Epoch, key: KeyPair, name: bytes | None = None) -> Cosignature:
        name = name or key.public
        commit = next(item for item in epoch.beacon_commits if item.governor == name)
        message = consent_bytes(epoch, self.swarm, commit)
        return Cosignature(name, wire.sign(key.private, message).signature)

    def say_epoch(self, epoch: Epoch, by=None) -> bytes:
        """Publish ``epoch`` without going on from it."""
        return self.feed(by or self.keys[0]).say(epoch).id

    def open(self, *members: Member, by=None, signed=(), reveal=True, **changes) -> bytes:
        """Publish the next epoch, go on from it, and reveal its beacon."""
        epoch = self.epoch(*members, by=by, signed=signed, **changes)
        self.tip = self.ids[epoch.number] = self.say_epoch(epoch, by)
        self.number = epoch.number
        if reveal:
            for key in (by or self.keys[0], *signed):
                self.reveal(key)
        for feed in self.feeds.values():
            feed.epoch = self.number
        return self.tip

    def reveal(self, key: KeyPair):
        self.feed(key).say(Beacon(self.tip, secret(key, self.number)))

    def rotate(self, old: KeyPair, new: KeyPair, proof: KeyPair | None = None):
        """The record in which ``old`` hands over to ``new``, agreed to by ``proof``."""
        message = rotation_bytes(self.swarm, old.public, new.public)
        signature = wire.sign((proof or new).private, message).signature
        return self.feed(old).say(Rotation(new.public, signature))


def wires(council: Council) -> list[bytes]:
    """Everything said, as it travels."""
    return [record.signed.to_bytes() for record in council.records]

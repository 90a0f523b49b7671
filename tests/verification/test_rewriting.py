"""Whoever once governed, or has an old key of who did, rewrites nothing that was settled."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import replace

import pytest

from swarm.charter import beacon_commit, encode_roster
from swarm.envelope import Record, seal_record
from swarm.keys import KeyPair, rotation_bytes
from swarm.records import Beacon, Epoch, Handover, Member, Removed, Rotation, Upkeep
from swarm.wire import sign
from tests.verification.small_swarm import (
    BASE_CODE,
    RULE_VERSION,
    SmallSwarm,
    digest,
    measure,
    no_screen,
)
from verification.quarantine import fold
from verification.states import Stage

GOOD = measure(9_000_000)
SYBILS = [KeyPair.from_seed(digest(f"sybil {n}")) for n in range(4)]


def code(rate: int) -> bytes:
    return BASE_CODE.replace(b"RATE = 1", b"RATE = %d" % rate)


class Governed(SmallSwarm):
    """Four epochs: the founder hands governing over in the second and is out from the third on.

    One claim is adopted in the first and one that builds on it in the fourth.
    """

    def __init__(self, leaves: str = "removed", judged: bool = True) -> None:
        super().__init__()
        self.new = KeyPair.from_seed(digest("governor 2"))
        self.first = next(one for one in self.records if isinstance(one.payload, Epoch))
        self.base = [self.line(key, ("researcher",), f"r{i}")
                     for i, key in enumerate(self.researchers)]  # fmt: skip
        self.base += [self.line(key, ("verifier",), f"v{i}")
                      for i, key in enumerate(self.verifiers)]  # fmt: skip
        self.governor = replace(self.line(self.new, ("governor",), "gov2"), gamma_den=1)
        members = [*self.base, self.governor]
        self.c1 = self.claim(self.researchers[0], code(2))
        self.run(GOOD)
        changes: dict[str, object] = {}
        if leaves == "rotated":
            message = rotation_bytes(self.swarm, self.founder.public, self.new.public)
            proof = sign(self.new.private, message).signature
            record = self.write(self.founder, Rotation(self.new.public, proof), epoch=1)
            old, new = self.founder.public, self.new.public
            changes["handovers"] = (Handover(old, new, record.envelope.seq, record.id),)
        by = self.new if leaves == "rotated" else self.founder
        self.chain = [self.first, self.go_on(by, 2, self.first.id, members, **changes)]
        gone = (Removed(self.founder.public, 0, bytes(32), "retired"),)
        third = {"removed": gone} if leaves == "removed" else {}
        for number in (3, 4):
            tip = self.chain[-1].id
            self.chain.append(self.go_on(self.new, number, tip, members, **third))
            third = {}
        self.c2 = self.write(
            self.researchers[1], self.claim_payload(code(3), 0, self.c1.id), epoch=4
        )
        if judged:
            self.run_late()

    def run_late(self) -> None:
        """The bench of the second claim works in the fourth epoch."""
        write = self.write
        self.write = lambda key, payload, epoch=4: write(key, payload, epoch=4)  # type: ignore[method-assign]
        self.run(GOOD)
        del self.write  # type: ignore[method-assign]

    def epoch(
        self, by: KeyPair, number: int, prev: bytes | None, members: list[Member],
        **changes: object,
    ) -> Epoch:  # fmt: skip
        roster = encode_roster(members)
        epoch = Epoch(
            number=number, prev_epoch=prev, policy_id=self.swarm, rule_version=RULE_VERSION,
            roster_hash=hashlib.sha256(roster).digest(), roster=roster,
            active_folds=tuple(range(16)), removed=(), handovers=(),
            beacon_commits=(beacon_commit(by.public, digest(f"secret {number}")),), cosignatures=(),
        )  # fmt: skip
        return replace(epoch, **changes)  # type: ignore[arg-type]

    def go_on(
        self, by: KeyPair, number: int, prev: bytes, members: list[Member], **changes: object
    ) -> Record:
        record = self.write(by, self.epoch(by, number, prev, members, **changes), epoch=number)
        self.write(by, Beacon(record.id, digest(f"secret {number}")), epoch=number)
        return record

    def rivals(
        self, number: int, roster: str, length: int, *, beacons: bool = True, spoken: bool = False
    ) -> list[Record]:
        """What the key that could sign epoch ``number`` makes up, from there on."""
        by = self.founder if number <= 2 else self.new
        prev = self.chain[number - 2].id if number > 1 else None
        sybils = [self.line(key, ("verifier",), f"s{n}") for n, key in enumerate(SYBILS)]
        members = {"same": self.base, "sybils": sybils, "both": [*self.base, *sybils]}[roster]
        governor = replace(self.line(by, ("governor",), "rival"), gamma_den=1)
        found: list[Record] = []
        at, before = 3, digest("before")
        for step in range(length):
            lines = [*members, governor]
            made = self.epoch(by, number + step, prev, lines, active_folds=(1, 2, 3))
            found.append(self.made(by, made, number + step, at + len(found), before))
            prev = found[-1].id
            if beacons:
                secret = Beacon(prev, digest(f"secret {number + step}"))
                found.append(self.made(by, secret, number + step, at + len(found), before))
        if spoken and prev is not None:
            for key in SYBILS:
                word = self.made(key, Upkeep((), (), ()), number + length - 1, 1, before, prev)
                found.append(word)
        return found

    def made(self, key, payload, epoch, seq, prev, epoch_id=bytes(32)) -> Record:
        return seal_record(
            key, payload, swarm=self.swarm, seq=seq, prev=prev, epoch=epoch, day=20_000,
            epoch_id=epoch_id,
        )  # fmt: skip


@pytest.fixture(scope="module", params=["removed", "rotated"])
def governed(request) -> Governed:
    return Governed(request.param)


def stands(swarm: Governed, records: list[Record]) -> None:
    """The four epochs are followed and both claims are adopted."""
    state = fold(swarm.swarm, records, no_screen)
    assert state.rules is not None
    assert [one.id for one in state.rules.epochs.values()] == [one.id for one in swarm.chain]
    assert not state.rules.frozen
    assert state.rules.final == 4
    assert [state.claims[one.id].stage for one in (swarm.c1, swarm.c2)] == [Stage.ADOPTED] * 2


CASES = list(itertools.product((1, 2, 3, 4), ("same", "sybils", "both"), (1, 2, 7), (True, False)))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_old_key_rewrites_nothing(governed, number):
    stands(governed, governed.records)
    for place, (_, roster, length, beacons) in enumerate(c for c in CASES if c[0] == number):
        made_up = governed.rivals(number, roster, length, beacons=beacons, spoken=number > 1)
        records = [*governed.records, *made_up]
        random.Random(place).shuffle(records)
        stands(governed, records)


def test_what_arrives_late_changes_nothing_that_was_folded_before(governed):
    for record in governed.rivals(2, "same", 3):
        before = governed.quarantine.state()
        governed.quarantine.add(record)
        assert governed.quarantine.state().claims == before.claims
        assert governed.quarantine.state().rules.epochs == before.rules.epochs


def test_rivals_before_anybody_wrote_freeze_and_the_first_words_of_the_bench_heal():
    """Of two histories that nobody but their governors has written in, none is told to be first."""
    swarm = Governed(judged=False)
    for record in swarm.rivals(2, "sybils", 2):
        swarm.quarantine.add(record)
    assert swarm.quarantine.state().rules.frozen
    assert swarm.quarantine.state().claims[swarm.c2.id].reason == "epoch_unknown"
    for key in swarm.verifiers[:2]:
        swarm.write(key, Upkeep((), (), ()), epoch=4)
    assert not swarm.quarantine.state().rules.frozen
    swarm.run_late()
    assert swarm.quarantine.state().claims[swarm.c2.id].stage is Stage.ADOPTED


def test_a_claim_under_a_rival_takes_no_slot(governed):
    """Nor does it count: it names an epoch that is not followed."""
    author = governed.researchers[1]
    rival = governed.rivals(4, "same", 1)
    there = governed.made(author, governed.claim_payload(code(5)), 4, 0, None, rival[0].id)
    state = fold(governed.swarm, [*governed.records, *rival, there], no_screen)
    assert state.claims[there.id].reason == "epoch_unknown"
    assert state.claims[governed.c2.id].stage is Stage.ADOPTED

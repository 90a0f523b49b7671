"""How much one member may say in one epoch, what governs included where it does not govern."""

from __future__ import annotations

import pytest

from node.governing import new_member
from swarm import wire
from swarm.errors import RecordError
from swarm.keys import KeyPair, rotation_bytes
from swarm.records import Admission, Beacon, Open, Rotation
from swarm.store import BEYOND_QUOTA, Store
from tests.swarm.council import COUNCIL, FOUNDER, KEYS, Council, line, wires
from tests.swarm.founding import SECRET, Feed, founder_key, make_charter, make_epoch

FIVE = {"holdout_bytes": 2_000_000, "folds": 40, "epoch_records": 5}


def said(byte: bytes) -> Open:
    """A record that any member may write."""
    return Open(b"e" * 32, byte * 32)


def crowded(**sizes):
    """A swarm with small quotas, and the feeds of its founder and one member."""
    founder = Feed(founder_key(), b"")
    founder.swarm = founder.say(make_charter(sizes={"holdout_bytes": 2_000_000, **sizes})).id
    member = Feed(KeyPair.from_seed(b"1" * 32), founder.swarm)
    one = new_member(member.key.public, "op", ["verifier"], founder.key.public, ["quick"])
    epoch = founder.say(make_epoch(founder.swarm, [one]))
    founder.say(Beacon(epoch.id, SECRET))
    return founder, member, one, epoch


@pytest.mark.parametrize("sizes", [{"epoch_records": 5}, {"epoch_bytes": 2000}])
def test_a_member_is_held_to_its_quota_of_the_epoch(tmp_path, sizes):
    founder, member, one, epoch = crowded(**sizes)
    many = [member.say(said(bytes([n]))).signed.to_bytes() for n in range(9)]
    with Store(tmp_path / "log.sqlite", founder.swarm) as store:
        store.ingest([record.signed.to_bytes() for record in founder.records])
        result = store.ingest(many)
        assert len(result.new) == 5
        assert result.refused == ["a record beyond its author's quota for the epoch"]
        assert store.ingest(many).known == 5
    with Store(tmp_path / "log.sqlite", founder.swarm) as store:  # it is remembered
        assert store.ingest(many[5:6]).refused
        with pytest.raises(RecordError, match="quota"):
            store.append(member.key, said(b"x"))
        founder.say(make_epoch(founder.swarm, [one], number=2, previous=epoch.id))
        founder.say(Beacon(founder.records[-1].id, SECRET))
        store.ingest([record.signed.to_bytes() for record in founder.records])
        assert store.append(member.key, said(b"x")).envelope.epoch == 2


def test_what_a_member_says_of_governing_counts_in_its_quota(tmp_path):
    """Not so what a governor says of it, nor the last word of a feed."""
    founder, member, one, epoch = crowded(epoch_records=5)
    many = [member.say(Admission(one)).signed.to_bytes() for _ in range(9)]
    for _ in range(9):
        founder.say(Admission(one))
    founder.say(make_epoch(founder.swarm, [one], number=2, previous=epoch.id))
    with Store(tmp_path / "log.sqlite", founder.swarm) as store:
        offered = [*many, *(record.signed.to_bytes() for record in founder.records)]
        result = store.ingest(offered)
        assert result.refused == ["a record beyond its author's quota for the epoch"]
        store.ingest(offered)  # epoch 2 comes behind what waits for epoch 1
        assert len(list(store.records())) == 5 + len(founder.records)
        assert store.rules.number == 2
        with pytest.raises(RecordError, match="quota"):
            store.append(member.key, Admission(one))
        new = KeyPair.from_seed(b"9" * 32)
        proof = wire.sign(new.private, rotation_bytes(store.swarm, member.key.public, new.public))
        assert store.append(member.key, Rotation(new.public, proof.signature))


def test_who_governs_no_more_has_a_quota_for_what_governs(tmp_path):
    """It is read off the epoch that a record names, so nothing that comes later changes it."""
    council = Council(2, sizes=FIVE)
    other = council.feed(COUNCIL[1])
    council.open(
        line(FOUNDER, "f", "governor"), line(COUNCIL[1], "o", "governor"), signed=[COUNCIL[1]]
    )
    early = [other.say(Beacon(council.tip, bytes(32))) for _ in range(8)]
    council.open(
        line(FOUNDER, "f", "governor"), line(COUNCIL[1], "o", "verifier"), signed=[COUNCIL[1]]
    )
    late = [other.say(Beacon(council.tip, bytes(32))) for _ in range(8)]
    unknown = Feed(other.key, council.swarm, other.seq - 3, late[4].id, epoch=9)
    unseen = [unknown.say(Beacon(council.tip, bytes(32))) for _ in range(8)]
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        assert set(store.ingest(wires(council)).refused) <= {BEYOND_QUOTA}  # the sixth of the late
        for _ in range(3):  # each brings an epoch, and what waited for it
            store.ingest(wires(council))
        assert store.rules.number == 2
        assert store.get(early[-1].id) is not None
        assert [store.get(record.id) is not None for record in late] == [True] * 5 + [False] * 3
        result = store.ingest([record.signed.to_bytes() for record in unseen])
        assert not result.new  # a number that no epoch has is no new quota, nor a fault: it waits
        assert result.gaps == {other.key.public}


def test_a_governors_heir_governs_too(tmp_path):
    council = Council(sizes=FIVE)
    council.open()
    heir = KEYS[7]
    council.rotate(FOUNDER, heir)
    said_by = [council.feed(heir).say(Admission(line(KEYS[3], "a", "verifier"))) for _ in range(9)]
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        store.ingest(wires(council))
        assert store.heads()[heir.public].id == said_by[-1].id


def test_a_quota_cannot_be_had_for_epochs_that_do_not_exist(store, founded):
    store.ingest(founded.wire)
    feed = founded.feeds[1]
    feed.epoch = 3  # 1 is known, 2 may be on its way
    result = store.ingest([feed.say(said(b"x")).signed.to_bytes()])
    assert not result.new
    assert result.gaps == {feed.key.public}

"""The log: in feed order, durable, the same state whatever the order of arrival."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.governing import new_member
from swarm.database import read_raw
from swarm.errors import RecordError, StoreError
from swarm.feed import prove_equivocation
from swarm.keys import KeyPair
from swarm.records import Beacon, Consent, Draft, Equivocation, Open, Removed
from swarm.store import Store
from tests.swarm.council import FOUNDER, KEYS, Council, line, wires
from tests.swarm.founding import (
    Feed,
    make_epoch,
    make_founded,
)

HEADROOM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def said(byte: bytes) -> Open:
    """A record that any member may write."""
    return Open(b"e" * 32, byte * 32)


def fingerprint(store: Store):
    return store.heads(), store.rules, {record.id for _, record in store.records()}


def test_records_are_stored_as_they_came(store, founded):
    result = store.ingest(founded.wire)
    assert len(result.new) == 3
    assert not result.refused
    assert [row.data for row in read_raw(store.path)] == founded.wire
    assert store.ingest(founded.wire).known == 3


def history():
    founded = make_founded()
    for feed in founded.feeds[1:]:
        for number in range(4):
            feed.say(said(bytes([number])))
    return founded


@settings(max_examples=25, suppress_health_check=HEADROOM)
@given(random=st.randoms(use_true_random=False), cut=st.integers(1, 5))
def test_any_order_of_arrival_gives_the_same_state(tmp_path_factory, random, cut):
    """Gossip shuffles, repeats and cuts; anti-entropy offers all again until nothing is new."""
    founded = history()
    wires = founded.wire
    states = []
    for _ in range(2):
        shuffled = wires * 2
        random.shuffle(shuffled)
        directory = tmp_path_factory.mktemp("order")
        with Store(directory / "log.sqlite", founded.swarm) as store:
            while any(store.ingest(shuffled[i : i + cut]).new for i in range(0, len(wires), cut)):
                pass
            while store.ingest(wires).new:
                pass
            states.append(fingerprint(store))
    assert states[0] == states[1]
    assert len(states[0][2]) == len(wires)


def test_a_reopened_log_is_the_same(tmp_path, founded):
    path = tmp_path / "log.sqlite"
    with Store(path, founded.swarm) as store:
        store.ingest(history().wire)
        before = fingerprint(store)
    with Store(path, founded.swarm) as store:
        assert fingerprint(store) == before


def test_strangers_are_refused_until_a_governor_admits_them(store, founded):
    stranger = Feed(KeyPair.from_seed(b"9" * 32), founded.swarm)
    hello = stranger.say(said(b"h")).signed.to_bytes()
    store.ingest(founded.wire)
    refused = store.ingest([hello])
    assert not refused.new
    assert refused.gaps == {stranger.key.public}
    founder = founded.feeds[0]
    epoch = founder.records[1]
    member = new_member(stranger.key.public, "late", ["verifier"], founder.key.public, ["quick"])
    founder.say(make_epoch(founded.swarm, [member], number=2, previous=epoch.id))
    # in one batch, and in the wrong order
    result = store.ingest([hello, *founded.wire])
    assert len(result.new) == 2
    assert not result.refused


def test_another_charter_is_refused(tmp_path, founded):
    with Store(tmp_path / "log.sqlite", b"x" * 32) as store:
        result = store.ingest(founded.wire)
        heads = store.heads()
    assert result.refused == ["the charter of another swarm"]
    assert not result.new
    assert not heads


def test_records_of_another_swarm_are_refused(store, founded):
    store.ingest(founded.wire)
    elsewhere = Feed(founded.feeds[1].key, b"t" * 32)
    assert store.ingest([elsewhere.say(said(b"x")).signed.to_bytes()]).refused


def test_only_governors_write_what_governs(store, founded):
    store.ingest(founded.wire)
    member = founded.feeds[1]
    result = store.ingest([member.say(Beacon(b"e" * 32, b"x" * 32)).signed.to_bytes()])
    assert result.refused == ["a governor's record by somebody who is none"]
    assert member.key.public not in store.heads()


def test_a_feed_does_not_go_back_to_an_earlier_epoch(tmp_path):
    """Else an author could pick a bench among those of all epochs that ever were."""
    council = Council()
    council.open(line(KEYS[3], "ada", "researcher"))
    council.open(line(KEYS[3], "ada", "researcher"))
    feed = council.feed(KEYS[3])
    held = [feed.say(said(b"1")), feed.say(said(b"2"))]
    feed.epoch = 1
    back = feed.say(said(b"3"))
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        store.ingest(wires(council))
        assert store.heads()[KEYS[3].public].id == held[-1].id
        assert store.ingest([back.signed.to_bytes()]).refused == [
            "a record back in an earlier epoch"
        ]
        store.append(KEYS[3], said(b"3"))
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        assert store.append(KEYS[3], said(b"4")).envelope.epoch == 2


def test_a_record_waits_for_the_epoch_that_it_names(tmp_path):
    council = Council()
    council.open(line(KEYS[3], "ada", "researcher"))
    first = wires(council)
    council.open(line(KEYS[3], "ada", "researcher"))
    ahead = council.feed(KEYS[3]).say(said(b"1")).signed.to_bytes()
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        store.ingest(first)
        result = store.ingest([ahead])
        assert (result.gaps, result.refused) == ({KEYS[3].public}, [])
        assert store.ingest([ahead, *wires(council)]).new
        assert KEYS[3].public in store.heads()


def test_what_a_removed_key_says_is_the_same_on_every_node(tmp_path):
    """Whether the removal or the record arrives first makes no difference."""
    council = Council()
    council.open(line(KEYS[3], "ada", "researcher"))
    feed = council.feed(KEYS[3])
    old = feed.say(said(b"1")).signed.to_bytes()
    gone = Removed(KEYS[3].public, 0, bytes(32), "left")
    council.open(removed=(gone,))
    governors = [one.signed.to_bytes() for one in council.feed(FOUNDER).records]
    late = feed.say(said(b"2")).signed.to_bytes()
    for number, order in enumerate(([*governors, old, late], [old, late, *governors])):
        with Store(tmp_path / f"{number}.sqlite", council.swarm) as store:
            for data in order * 2:
                store.ingest([data])
            assert store.heads()[KEYS[3].public].seq == 0


def test_nothing_follows_the_handover_of_a_key(tmp_path):
    council = Council()
    council.open(line(KEYS[3], "ada", "researcher"))
    council.rotate(KEYS[3], KEYS[4])
    behind = council.feed(KEYS[3]).say(said(b"1")).signed.to_bytes()
    heir = council.feed(KEYS[4]).say(said(b"1"))
    for name in ("a", "a"):  # the second time the tail is read from disk
        with Store(tmp_path / f"{name}.sqlite", council.swarm) as store:
            store.ingest(wires(council)[:-2])
            assert store.ingest([behind]).refused == ["a record behind the handover of its key"]
            store.ingest([heir.signed.to_bytes()])
            assert store.heads()[KEYS[4].public].id == heir.id


def test_only_governors_draft_and_consent(tmp_path):
    council = Council()
    council.open(line(KEYS[3], "ada", "researcher"))
    draft = council.feed(KEYS[3]).say(Draft(council.epoch())).signed.to_bytes()
    consent = council.feed(KEYS[4]).say(Consent(b"d" * 32, b"c" * 32, b"s" * 64)).signed.to_bytes()
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        store.ingest(wires(council))
        refused = store.ingest([draft, consent]).refused
        assert refused == ["a governor's record by somebody who is none"] * 2


def test_a_failure_that_is_not_of_the_disk_leaves_the_log_usable(store, founded, monkeypatch):
    monkeypatch.setattr("swarm.store.fold_rules", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.ingest(founded.wire)
    monkeypatch.undo()
    assert not store.heads()
    assert len(store.ingest(founded.wire).new) == 3


def test_a_gap_is_reported_and_nothing_behind_it_is_stored(store, founded):
    store.ingest(founded.wire)
    feed = founded.feeds[1]
    feed.say(said(b"1"))
    late = feed.say(said(b"2")).signed.to_bytes()
    result = store.ingest([late])
    assert result.gaps == {feed.key.public}
    assert feed.key.public not in store.heads()


def test_both_branches_of_a_fork_are_kept_and_proven(store, founded):
    store.ingest(founded.wire)
    feed = founded.feeds[1]
    first = feed.say(said(b"1")).signed.to_bytes()
    other = Feed(feed.key, founded.swarm).say(said(b"2")).signed.to_bytes()
    result = store.ingest([first, other])
    assert len(result.new) == 2
    assert not result.refused
    (proof,) = result.proofs
    assert store.contradictions() == {feed.key.public: proof}
    assert store.ingest([other]).known == 1
    assert [row.data for row in read_raw(store.path)][-1] == first
    witness = founded.feeds[2]
    assert store.ingest([witness.say(proof).signed.to_bytes()]).new
    empty = Equivocation(first, first)
    assert store.ingest([witness.say(empty).signed.to_bytes()]).refused


def test_a_proof_from_another_swarm_neither_convicts_nor_hides_a_fork(store, founded):
    store.ingest(founded.wire)
    feed, witness = founded.feeds[1:3]
    elsewhere = prove_equivocation(
        *(Feed(feed.key, b"o" * 32).say(said(text)) for text in (b"1", b"2"))
    )
    assert store.ingest([witness.say(elsewhere).signed.to_bytes()]).new
    assert store.convictions() == {}
    branches = (feed, Feed(feed.key, founded.swarm))
    records = [one.say(said(b"%d" % n)) for n, one in enumerate(branches)]
    (proof,) = store.ingest([one.signed.to_bytes() for one in records]).proofs
    published = [witness.say(proof) for _ in range(2)]
    store.ingest([one.signed.to_bytes() for one in published])
    assert store.convictions() == {feed.key.public: min(published, key=lambda one: one.id)}


def test_garbage_is_refused_and_costs_nothing_else(store, founded):
    result = store.ingest([b"", b"x" * 100, *founded.wire, b"\xff" * 70_000])
    assert len(result.new) == 3
    assert len(result.refused) == 3


def test_appending_needs_membership(store, founded):
    store.ingest(founded.wire)
    member = founded.feeds[1].key
    first = store.append(member, said(b"1"))
    second = store.append(member, said(b"2"))
    assert second.envelope.prev == first.id
    assert second.envelope.epoch == 1
    with pytest.raises(RecordError, match="member"):
        store.append(KeyPair.from_seed(b"9" * 32), said(b"3"))


def test_a_second_writer_is_kept_out_and_a_reader_is_not(tmp_path, founded, store):
    store.ingest(founded.wire)
    with pytest.raises(StoreError, match="in use"):
        Store(store.path, founded.swarm)
    with Store(store.path, founded.swarm, read_only=True) as reader:
        assert fingerprint(reader) == fingerprint(store)


def test_a_full_disk_loses_nothing_and_is_survived(store, founded):
    store.ingest(founded.wire[:1])
    before = fingerprint(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    feed = founded.feeds[0]
    big = [feed.say(said(bytes([n % 250]))).signed.to_bytes() for n in range(200)]
    with pytest.raises(StoreError, match="nothing that was stored is lost"):
        store.ingest([*founded.wire, *big])
    assert fingerprint(store) == before
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.ingest(founded.wire).new


WRITER = """
    import sys
    from pathlib import Path
    from swarm.store import Store
    from tests.swarm.founding import make_founded
    from swarm.records import Open

    founded = make_founded()
    store = Store(Path(sys.argv[1]), founded.swarm)
    store.ingest(founded.wire)
    number = 0
    while True:
        record = store.append(founded.feeds[1].key, Open(b"e" * 32, number.to_bytes(32)))
        print(record.id.hex(), flush=True)
        number += 1
"""


def test_kill_9_loses_nothing_that_was_announced(tmp_path):
    path = tmp_path / "log.sqlite"
    for round_number in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        announced = [writer.stdout.readline() for _ in range(5)]
        time.sleep(0.01 * round_number)
        os.kill(writer.pid, signal.SIGKILL)
        announced += writer.stdout.readlines()
        writer.stdout.close()
        writer.wait()
        swarm = make_founded().swarm
        with Store(path, swarm) as store:
            held = {record.id.hex() for _, record in store.records()}
        whole = {line.strip() for line in announced if line.endswith("\n")}
        assert whole <= held

"""What becomes final, and what a node holds by until it is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from swarm.charter import fold_rules
from swarm.finality import majority
from swarm.keys import KeyPair
from swarm.records import Handover, Open, Upkeep
from swarm.store import Store
from tests.swarm.council import FOUNDER, KEYS, Council, line, wires
from tests.swarm.epoch_histories import play
from tests.swarm.founding import TIER, Feed

ADA, BOB, CY, DI = KEYS[3:7]
GOVERNOR = line(FOUNDER, "us", "governor", "verifier")
VERIFIERS = [line(key, name, "verifier") for key, name in ((ADA, "a"), (BOB, "b"), (CY, "c"))]
HERE = Upkeep((), (), ())


def as_wires(*records) -> list[bytes]:
    return [record.signed.to_bytes() for record in records]


def rival(council: Council, *members, number: int, prev: bytes | None, by=FOUNDER, after=None):
    """An epoch by the founder beside the one that was opened; on a branch of its own feed."""
    feed = council.feeds[by.public]
    fork = after or Feed(by, council.swarm, ids={}, seq=1, prev=feed.records[0].id)
    fork.epoch = number - 1
    fork.ids = {number - 1: prev} if prev else {}
    epoch = council.epoch(*members, by=by, number=number, prev_epoch=prev, active_folds=(7,))
    return fork, fork.say(epoch)


@pytest.mark.parametrize("seed", range(60))
def test_what_was_final_stays_whatever_is_made_up_in_any_order(seed):
    play(seed)


@pytest.mark.soak
def test_many_more_histories_of_governing():
    said = [play(seed) for seed in range(1000, 6000)]
    print(f"{len(said)} histories, {sum(one for one, _ in said)} final epochs, "
          f"{sum(two for _, two in said)} records made up: nothing final ever changed")  # fmt: skip


def test_a_majority_leaves_room_for_the_margin():
    for voices in range(1, 40):
        for margin in range(4):
            needed = majority(voices, margin)
            assert needed <= voices
            if needed < voices:
                assert 2 * needed - voices > margin


# --- by whose statements --------------------------------------------------------------------------


@pytest.fixture
def council() -> Council:
    """Two epochs, the second with a rival: verifiers ada, bob and cy, and the founder governs."""
    made = Council()
    made.open(GOVERNOR, *VERIFIERS)
    made.open(GOVERNOR, *VERIFIERS)
    return made


def test_verifiers_who_do_not_govern_make_an_epoch_final(council):
    first, second = council.ids[1], council.ids[2]
    assert council.rules.final == 0
    for key in (FOUNDER, FOUNDER, DI):
        council.feed(key).say(HERE)
    council.feed(ADA).say(HERE)
    assert council.rules.final == 0
    council.feed(BOB).say(HERE)
    assert council.rules.final == 2
    _, other = rival(council, GOVERNOR, *VERIFIERS, number=2, prev=first)
    rules = fold_rules([*council.records, other])
    assert rules.epochs[2].id == second
    assert rules.refused == {other.id: "two different epochs have number 2"}


def test_one_operator_has_one_voice_with_all_its_keys():
    council = Council()
    lines = [line(key, "a", "verifier") for key in (ADA, BOB)] + [line(CY, "c", "verifier")]
    for _ in range(2):
        council.open(GOVERNOR, *lines)
    council.feed(ADA).say(HERE)
    council.feed(BOB).say(HERE)
    assert council.rules.final == 0
    council.feed(CY).say(HERE)
    assert council.rules.final == 2


def test_a_new_key_speaks_for_the_old_one(council):
    council.feeds[ADA.public] = Feed(ADA, council.swarm, epoch=1, ids=council.ids)
    council.rotate(ADA, DI)
    council.feed(DI).say(HERE)
    council.feed(BOB).say(HERE)
    assert council.rules.final == 2


def test_liars_within_the_margin_make_no_epoch_final():
    council = Council(tiers=(replace(TIER, n=3, f=1),))
    for _ in range(2):
        council.open(GOVERNOR, *VERIFIERS)
    for key, final in ((ADA, 0), (BOB, 0), (CY, 2)):
        council.feed(key).say(HERE)
        assert council.rules.final == final


def test_a_rival_that_the_electorate_went_to_is_followed_though_the_other_is_longer(council):
    """Of two epochs of which none was final, the one that is first to be so is followed."""
    _, other = rival(council, GOVERNOR, *VERIFIERS, number=2, prev=council.ids[1])
    council.open(GOVERNOR, *VERIFIERS)
    feeds = [Feed(key, council.swarm, epoch=2, ids={2: other.id}) for key in (ADA, BOB)]
    rules = fold_rules([*council.records, other, *(feed.say(HERE) for feed in feeds)])
    assert rules.epochs[2].id == other.id
    assert rules.final == 2


# --- what a node holds by -------------------------------------------------------------------------


@pytest.fixture
def frozen(council, tmp_path):
    """Two nodes, each of which saw another one of two rivals first, both gone on from."""
    ours = wires(council)
    council.open(GOVERNOR, *VERIFIERS)
    more = [one for one in wires(council) if one not in ours]
    fork, second = rival(council, GOVERNOR, *VERIFIERS, number=2, prev=council.ids[1])
    _, third = rival(council, GOVERNOR, number=3, prev=second.id, after=fork)
    with (
        Store(tmp_path / "one.sqlite", council.swarm) as one,
        Store(tmp_path / "two.sqlite", council.swarm) as two,
    ):
        one.ingest(ours + more)
        two.ingest(ours[:3])
        two.ingest(as_wires(second, third))
        for store, wanted in ((one, council.ids[3]), (two, third.id)):
            assert store.rules.newest.id == wanted
        one.ingest(as_wires(second, third))
        two.ingest(ours + more)
        assert one.rules == two.rules
        assert one.rules.frozen
        yield council, one, two, (second, third)


def exchange(one: Store, two: Store) -> None:
    for _ in range(2):
        for ours, theirs in ((one, two), (two, one)):
            ours.ingest([record.signed.to_bytes() for _, record in theirs.records()])


def test_a_frozen_swarm_heals_as_members_go_on_under_what_they_saw_first(frozen):
    council, one, two, _ = frozen
    assert one.stand.newest.id == council.ids[3]
    assert two.stand.newest.id != council.ids[3]
    for store, key in ((one, ADA), (one, BOB), (two, CY)):
        store.append(key, HERE)
    assert not one.rules.frozen
    assert one.rules.final == 2 or one.rules.final == 3
    exchange(one, two)
    for store in (one, two):
        assert store.rules.newest.id == store.stand.newest.id == council.ids[3]
        assert not store.rules.frozen
    assert len(one.heads()) == len(two.heads()) == 4  # who wrote under the other is heard as well
    said = two.append(CY, HERE)
    assert said.envelope.epoch_id == council.ids[3]
    assert one.ingest(as_wires(said)).new


def test_what_a_node_holds_by_outlives_its_process(frozen):
    council, _, two, _ = frozen
    two.close()
    with Store(two.path, council.swarm) as again:
        assert again.rules.frozen
        assert again.stand.newest.id != council.ids[3]


def test_a_new_history_of_made_up_members_moves_no_node_that_saw_the_first_as_final(tmp_path):
    """The only governor's key is stolen, while nobody else verified in the first epoch."""
    council = Council()
    council.open(GOVERNOR)
    council.open(GOVERNOR, *VERIFIERS)
    council.feed(ADA).say(HERE)
    council.feed(BOB).say(HERE)
    sybils = [KeyPair.from_seed(bytes([n]) * 32) for n in range(80, 83)]
    lines = [line(key, f"s{n}", "verifier") for n, key in enumerate(sybils)]
    _, other = rival(council, GOVERNOR, *lines, number=1, prev=None)
    feeds = [Feed(key, council.swarm, ids={1: other.id}) for key in sybils]
    words = [feed.say(HERE) for feed in feeds]
    everything = [*wires(council), *as_wires(other, *words)]
    with Store(tmp_path / "a.sqlite", council.swarm) as store:
        store.ingest(wires(council))
        assert store.anchor == council.ids[2]
        store.ingest(everything)
        assert store.rules.newest.id == council.ids[2]
    with Store(tmp_path / "a.sqlite", council.swarm) as store:
        assert store.rules.newest.id == council.ids[2]
    with Store(tmp_path / "b.sqlite", council.swarm) as late:
        late.anchor_at(council.ids[2])
        late.ingest([wires(council)[0], *as_wires(other, *words)])
        assert late.rules.current is None  # nothing is written under a chain without it
        late.ingest(everything)
        assert late.rules.current.id == council.ids[2]
        late.anchor_at(other.id)
        assert late.anchor == council.ids[2]


# --- what a log takes in --------------------------------------------------------------------------


def test_a_former_governor_names_no_epoch_that_is_not_here(tmp_path):
    """Each number would be one more quota."""
    council = Council(sizes={"slots": 4, "folds": 40, "epoch_records": 3})
    ada = line(ADA, "ada", "governor")
    council.open(GOVERNOR, ada)
    council.open(line(FOUNDER, "us", "verifier"), ada, signed=[ADA])
    council.feeds[FOUNDER.public].records.pop()  # its part of the beacon is withheld
    held = wires(council)
    former = Feed(FOUNDER, council.swarm, seq=council.feeds[FOUNDER.public].seq - 1)
    former.prev = council.feeds[FOUNDER.public].records[-1].id
    many = []
    for number in range(5, 25):
        former.epoch = number
        many.append(former.say(council.epoch(ada, number=number, by=FOUNDER)))
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        store.ingest(held)
        assert store.rules.number == 2
        assert len(store.ingest(as_wires(*many)).new) == 3
        former.epoch = 99
        former.seq, former.prev = many[3].envelope.seq, many[2].id
        assert not store.ingest(as_wires(former.say(Open(b"e" * 32, b"f" * 32)))).new


def test_who_hands_on_a_key_again_and_again_has_one_quota(tmp_path):
    council = Council(sizes={"slots": 4, "folds": 40, "epoch_records": 5})
    council.open(GOVERNOR, line(ADA, "ada", "researcher"))
    line_of = [ADA, *(KeyPair.from_seed(bytes([n]) * 32) for n in range(90, 100))]
    for old, new in pairwise(line_of):
        council.feed(old).say(Open(b"e" * 32, b"f" * 32))
        council.rotate(old, new)
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        store.ingest(wires(council))
        others = [record for _, record in store.records() if record.author != FOUNDER.public]
        # The key that is on the roster may always hand over; the others share what it has.
        assert [record.author for record in others][:2] == [ADA.public] * 2
        assert len(others) == 5


def test_members_who_are_made_up_fill_no_disk(tmp_path, council, monkeypatch):
    monkeypatch.setattr("swarm.store.MAX_FOREIGN", 5)
    for key in (ADA, BOB):
        council.feed(key).say(HERE)
    sybils = [KeyPair.from_seed(bytes([n]) * 32) for n in range(80, 88)]
    lines = [line(key, f"s{n}", "verifier") for n, key in enumerate(sybils)]
    _, other = rival(council, GOVERNOR, *lines, number=2, prev=council.ids[1])
    words = [Feed(key, council.swarm, epoch=2, ids={2: other.id}).say(HERE) for key in sybils]
    with Store(tmp_path / "log.sqlite", council.swarm) as store:
        store.ingest(wires(council))
        result = store.ingest(as_wires(other, *words))
        assert len(result.new) == 1 + 5
        assert not result.refused


def test_a_rotation_that_comes_late_takes_no_seat_from_who_signed(council):
    """A governor who signs under its new key makes that key the heir of somebody else as well."""
    record = council.rotate(FOUNDER, DI)
    lines = (line(DI, "us", "governor", "verifier"), *VERIFIERS)
    handover = Handover(FOUNDER.public, DI.public, record.envelope.seq, record.id)
    council.open(*lines, by=DI, handovers=(handover,))
    before = council.rules.epochs
    council.rotate(ADA, DI)
    assert council.rules.epochs == before


def test_a_thief_of_the_old_key_names_no_other_heir(council):
    """Once an epoch has the heir, whatever the old key signs under a lower number."""
    feed = council.feed(ADA)
    feed.say(HERE)
    record = council.rotate(ADA, DI)
    handover = Handover(ADA.public, DI.public, record.envelope.seq, record.id)
    council.open(GOVERNOR, line(DI, "a", "verifier"), *VERIFIERS[1:], handovers=(handover,))
    council.feeds[ADA.public] = Feed(ADA, council.swarm, epoch=1, ids=council.ids)
    council.feeds[b"first"] = feed
    council.rotate(ADA, KEYS[7])
    assert council.rules.heir(ADA.public) == DI.public

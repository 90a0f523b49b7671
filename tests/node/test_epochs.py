"""What governors do: they draft, sign, open, reveal, admit, and never stand by two epochs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from node.claiming import Claims
from node.convicts import convicts, staying
from node.epochs import (
    Changes,
    admit,
    consents,
    drafts,
    finish_drafts,
    open_epoch,
    reveal_beacon,
    sign_draft,
    speak,
    waiting_members,
)
from node.errors import NodeError, UsageError
from swarm.charter import decode_roster
from swarm.envelope import seal_record
from swarm.errors import SwarmError
from swarm.feed import prove_equivocation
from swarm.keys import KeyPair, rotation_bytes
from swarm.records import Draft, Epoch, Open, Rotation
from swarm.roster import MAX_ROSTER, encode_roster, share_alpha
from swarm.wire import sign
from tests.node.councils import Councils, line
from tests.swarm.founding import make_charter


@pytest.fixture
def three(tmp_path):
    """Three governors, two of whom must sign, and one more key."""
    with closing(Councils(tmp_path, 4, governors=3)) as council:
        yield council


@pytest.fixture
def one(tmp_path):
    """One governor with epoch 1 open, and three more keys."""
    with closing(Councils(tmp_path, 4)) as council:
        open_epoch(council.stores[0], council.keys[0], [line(council.keys[0], "us", "governor")])
        council.spread()
        yield council


def everybody(council, *roles):
    return [line(key, f"op-{n}", *roles) for n, key in enumerate(council.keys[:3])]


def test_two_of_three_governors_open_an_epoch_over_their_feeds(three):
    draft = open_epoch(three.stores[0], three.keys[0], everybody(three, "governor"))
    assert isinstance(draft.payload, Draft)
    assert not finish_drafts(three.stores[0], three.keys[0])
    three.spread()
    assert [record.id for record, _ in drafts(three.stores[1])] == [draft.id]
    sign_draft(three.stores[1], three.keys[1], draft.id)
    three.spread()
    assert not finish_drafts(three.stores[1], three.keys[1])
    assert finish_drafts(three.stores[0], three.keys[0])
    three.spread()
    assert three.rules.epochs[1].beacon is None
    assert [reveal_beacon(*pair) for pair in zip(three.stores, three.keys, strict=True)] == [
        True, True, False, False,
    ]  # fmt: skip
    three.spread()
    assert three.rules.current.number == 1
    assert set(three.rules.current.signers) == {key.public for key in three.keys[:2]}
    assert not any(reveal_beacon(*pair) for pair in zip(three.stores, three.keys, strict=True))
    assert not drafts(three.stores[2])


def test_a_governor_stands_by_one_draft_of_a_number(three):
    first = open_epoch(three.stores[0], three.keys[0], everybody(three, "governor"))
    second = open_epoch(three.stores[1], three.keys[1], everybody(three, "governor", "verifier"))
    three.spread()
    sign_draft(three.stores[2], three.keys[2], first.id)
    for store, key, wanted in (
        (three.stores[2], three.keys[2], second.id),  # consented to the other
        (three.stores[0], three.keys[0], second.id),  # wrote the other
    ):
        with pytest.raises(NodeError, match="stands by another draft") as caught:
            sign_draft(store, key, wanted)
        assert "--instead" in caught.value.cure
    with pytest.raises(NodeError, match="stands by another draft"):
        open_epoch(three.stores[2], three.keys[2], everybody(three, "governor"))
    sign_draft(three.stores[2], three.keys[2], second.id, instead=True)
    three.spread()
    assert finish_drafts(three.stores[0], three.keys[0])
    assert finish_drafts(three.stores[1], three.keys[1])
    three.spread()
    assert three.rules.frozen  # what --instead warns of
    with pytest.raises(NodeError, match="frozen"):
        open_epoch(three.stores[0], three.keys[0])


def test_a_consent_with_a_wrong_signature_counts_for_nobody(three):
    from swarm.records import Consent

    draft = open_epoch(three.stores[0], three.keys[0], everybody(three, "governor"))
    three.spread()
    three.stores[1].append(three.keys[1], Consent(draft.id, b"c" * 32, b"s" * 64))
    three.spread()
    assert consents(three.stores[0], draft) == []
    assert not finish_drafts(three.stores[0], three.keys[0])


def test_only_governors_open_and_sign(one):
    with pytest.raises(NodeError, match="only a governor"):
        open_epoch(one.stores[1], one.keys[1])
    with pytest.raises(NodeError, match="only a governor"):
        sign_draft(one.stores[1], one.keys[1], b"d" * 32)


def test_who_is_admitted_gets_a_share_in_the_next_epoch_and_in_no_other(one):
    store, key = one.stores[0], one.keys[0]
    newcomer = one.keys[1]
    admit(store, key, line(newcomer, "ada", "researcher", "verifier"))
    admit(store, key, line(newcomer, "ada", "researcher", "verifier"))
    assert [member.key for member in waiting_members(store.rules)] == [newcomer.public]
    assert store.rules.member(1, newcomer.public) is None
    assert isinstance(open_epoch(store, key).payload, Epoch)
    assert waiting_members(store.rules) == []
    member = store.rules.member(2, newcomer.public)
    assert (member.slots, member.gamma_num, member.gamma_den) == (4, 4, 4)


def test_a_roster_takes_as_many_as_fit_into_a_record_and_the_others_wait(one, monkeypatch):
    """One governor who admits without end must not keep the others from opening an epoch."""
    store, key = one.stores[0], one.keys[0]
    line_bytes = len(encode_roster([line(key, "us", "governor")]))
    monkeypatch.setattr("node.epochs.MAX_ROSTER", 256 + 2 * line_bytes + 150)
    for number, newcomer in enumerate(one.keys[1:]):
        admit(store, key, line(newcomer, f"op-{number}", "verifier"))
    open_epoch(store, key)
    assert len(store.rules.current.roster) == 2
    assert len(waiting_members(store.rules)) == 2


def test_about_two_hundred_members_fit(one):
    usual = line(one.keys[0], "a-usual-name", "researcher", "verifier")
    keys = [n.to_bytes(2, "big") * 16 for n in range(180)]
    members = [replace(usual, key=key, operator=f"operator-{n}") for n, key in enumerate(keys)]
    assert len(encode_roster(share_alpha(members, 100))) < MAX_ROSTER - 2048


def test_a_removed_key_does_not_come_back_and_its_operator_does(one):
    store, key, lost = one.stores[0], one.keys[0], one.keys[1]
    admit(store, key, line(lost, "ada", "verifier"))
    open_epoch(store, key)
    one.spread()
    said = one.stores[1].append(lost, Rotation(one.keys[2].public, b"s" * 64))  # any record
    one.spread()
    open_epoch(store, key, changes=Changes(removed=((lost.public, "lost its key"),)))
    (removal,) = store.rules.epochs[3].removals
    assert (removal.last_seq, removal.last_id) == (0, said.id)
    with pytest.raises(NodeError, match="removed"):
        admit(store, key, line(lost, "ada", "verifier"))
    admit(store, key, line(one.keys[3], "ada", "verifier"))
    open_epoch(store, key)
    assert store.rules.member(4, one.keys[3].public).operator == "ada"


def test_an_epoch_that_would_break_a_rule_is_not_signed(one):
    store, key = one.stores[0], one.keys[0]
    before = store.heads()
    with pytest.raises(UsageError, match="nobody to govern"):
        open_epoch(store, key, changes=Changes(removed=((key.public, "tired"),)))
    with pytest.raises(UsageError, match="active fold"):
        open_epoch(store, key, changes=Changes(retired=tuple(range(40))))
    assert store.heads() == before


def rotate(store, old, new):
    proof = sign(new.private, rotation_bytes(store.swarm, old.public, new.public)).signature
    return store.append(old, Rotation(new.public, proof))


def test_the_next_epoch_takes_a_new_key_over_even_after_two_changes(one):
    store, key = one.stores[0], one.keys[0]
    old, middle, new = one.keys[1:4]
    admit(store, key, line(old, "ada", "researcher"))
    open_epoch(store, key)
    one.spread()
    rotate(one.stores[1], old, middle)
    rotate(one.stores[1], middle, new)
    one.spread()
    assert [member.key for member in waiting_members(store.rules)] == [new.public]
    open_epoch(store, key)
    one.spread()
    epoch = one.rules.current
    assert new.public in epoch.roster
    assert not {old.public, middle.public} & set(epoch.roster)
    assert [item.new for item in epoch.handovers] == [middle.public, new.public]


def test_the_sole_governor_can_change_its_key(one):
    store, (old, new) = one.stores[0], one.keys[:2]
    rotate(store, old, new)
    assert store.rules.governors == (new.public,)
    open_epoch(store, new)
    assert store.rules.current.number == 2
    assert store.rules.current.governors == (new.public,)


def test_governors_come_and_go(one):
    store, key, other = one.stores[0], one.keys[0], one.keys[1]
    admit(store, key, line(other, "ada", "verifier"))
    open_epoch(store, key, changes=Changes(governors=(other.public,)))
    assert store.rules.quorum == 2
    one.spread()
    changes = Changes(no_governors=(key.public,))
    draft = open_epoch(one.stores[1], other, changes=changes)
    one.spread()
    sign_draft(store, key, draft.id)
    one.spread()
    assert finish_drafts(one.stores[1], other)
    one.spread()
    assert one.rules.governors == (other.public,)
    assert one.rules.newest.roster[key.public].roles == ()


# --- who told two stories -------------------------------------------------------------------------


def with_members(council, *keys):
    store, key = council.stores[0], council.keys[0]
    for number, newcomer in enumerate(keys):
        admit(store, key, line(newcomer, f"op-{number}", "verifier"))
    open_epoch(store, key)
    council.spread()


def test_the_next_epoch_leaves_out_who_told_two_stories_and_names_the_proof(one):
    liar, witness = one.keys[1:3]
    with_members(one, liar, witness)
    proof = one.convict(liar, by=2)
    assert one.rules.is_member(liar.public)  # a proof that arrives changes nothing yet
    open_epoch(one.stores[0], one.keys[0])
    one.spread()
    (removal,) = one.rules.newest.removals
    assert removal.key == liar.public
    assert removal.reason == f"told two stories, proof {proof.id.hex()[:12]}"
    assert set(one.rules.newest.roster) == {one.keys[0].public, witness.public}
    assert not one.rules.is_member(liar.public)
    with pytest.raises(SwarmError):
        one.stores[1].append(liar, Open(b"e" * 32, b"c" * 32))
    open_epoch(one.stores[0], one.keys[0])  # once is enough
    assert not one.rules.newest.removals


def test_a_reason_that_a_governor_gives_stands_beside_no_second_one(one):
    liar = one.keys[1]
    with_members(one, liar)
    one.convict(liar)
    gone = Changes(removed=((liar.public, "two machines had its key"),))
    open_epoch(one.stores[0], one.keys[0], changes=gone)
    assert [item.reason for item in one.rules.newest.removals] == ["two machines had its key"]


def test_an_epoch_leaves_out_as_many_as_it_has_room_for(one, monkeypatch):
    """Else a crowd that convicts itself could make an epoch larger than a record, for ever."""
    monkeypatch.setattr("node.convicts.MOST_OUT", 1)
    liars = one.keys[1:3]
    with_members(one, *liars)
    for liar in liars:
        one.convict(liar)
    for left in (1, 0):
        open_epoch(one.stores[0], one.keys[0])
        one.spread()
        assert len(one.rules.newest.removals) == 1
        assert sum(one.rules.is_member(liar.public) for liar in liars) == left


def test_a_new_key_is_no_way_out_of_two_stories(one):
    old, new = one.keys[1:3]
    with_members(one, old)
    one.convict(old)
    rotate(one.stores[0], old, new)
    one.spread()
    open_epoch(one.stores[0], one.keys[0])
    one.spread()
    epoch = one.rules.newest
    assert set(epoch.roster) == {one.keys[0].public}
    assert [item.key for item in epoch.removals] == [new.public]
    assert not one.rules.is_member(new.public)
    assert one.stores[1].rules.refused == {}


def test_who_told_two_stories_is_not_admitted(one):
    one.stores[0].append(one.keys[0], one.fork(one.keys[1], told=False))
    with pytest.raises(NodeError, match="told two stories"):
        admit(one.stores[0], one.keys[0], line(one.keys[1], "ada", "verifier"))


def test_two_governors_leave_out_the_third_who_told_two_stories(three):
    store, key, liar = three.stores[0], three.keys[0], three.keys[2]
    first = open_epoch(store, key, everybody(three, "governor"))
    three.spread()
    sign_draft(three.stores[1], three.keys[1], first.id)
    three.spread()
    finish_drafts(store, key)
    reveal_beacon(store, key)
    reveal_beacon(three.stores[1], three.keys[1])
    three.spread()
    three.convict(liar)
    draft = open_epoch(store, key)
    three.spread()
    sign_draft(three.stores[1], three.keys[1], draft.id)
    three.spread()
    assert finish_drafts(store, key)
    three.spread()
    assert three.rules.number == 2
    assert three.rules.governors == tuple(sorted(one.public for one in three.keys[:2]))
    three.convict(three.keys[1])  # both of two must sign, so that one stays
    draft = open_epoch(store, key).payload.epoch
    assert not draft.removed
    assert three.keys[1].public in decode_roster(draft.roster)
    assert staying(store) == [three.keys[1].public]


def test_a_sole_governor_who_told_two_stories_stays_until_others_can_sign(one):
    store, key, others = one.stores[0], one.keys[0], one.keys[1:3]
    with_members(one, *others)
    proof = one.fork(key)
    one.stores[1].append(others[0], proof)
    everything = [record.signed.to_bytes() for _, record in one.stores[1].records()]
    store.ingest(everything)
    assert key.public in store.convictions()
    assert staying(store) == [key.public]
    open_epoch(store, key, changes=Changes(governors=tuple(one.public for one in others)))
    assert not store.rules.newest.removals
    draft = open_epoch(store, key).payload.epoch
    assert [item.key for item in draft.removed] == [key.public]
    assert staying(store) == []


def test_what_a_key_signed_in_another_swarm_convicts_nobody_here(one):
    liar = one.keys[1]
    with_members(one, liar)
    elsewhere = one.fork(liar, swarm=b"o" * 32, told=False)
    founded = [
        seal_record(one.keys[0], make_charter(name=name), swarm=None, seq=0, prev=None, epoch=0,
                    day=1)
        for name in ("first", "second")
    ]  # fmt: skip
    for proof in (elsewhere, prove_equivocation(*founded)):
        one.stores[0].append(one.keys[0], proof)
    one.spread()
    assert one.stores[1].convictions() == {}
    open_epoch(one.stores[0], one.keys[0])
    assert not one.rules.newest.removals
    one.spread()
    assert one.convict(liar).payload == one.stores[0].contradictions()[liar.public]


def test_a_frozen_swarm_makes_no_claims(one):
    store, key, ada = one.stores[0], one.keys[0], one.keys[1]
    others = [line(other, f"op-{n}", "verifier") for n, other in enumerate(one.keys[2:])]
    for member in (line(ada, "ada", "researcher"), *others):
        admit(store, key, member)
    open_epoch(store, key)
    trials = SimpleNamespace(tier=SimpleNamespace(name="quick"), base_id=None)

    def obstacle() -> str:
        state = SimpleNamespace(rules=store.rules, frontier={"quick": None}, claims={})
        policy = store.rules.charter.tiers[0]
        node = SimpleNamespace(
            state=state, key=ada, epoch=store.rules.current.number, policy=lambda _: policy
        )
        return Claims(node).obstacle(trials)

    assert obstacle() == ""
    epoch = open_epoch(store, key).payload
    assert not store.rules.frozen
    store.append(key, replace(epoch, active_folds=(1,)))
    assert store.rules.frozen
    assert "conflicting" in obstacle()
    with pytest.raises(NodeError, match="frozen"):
        open_epoch(store, key)


def signed_twice(swarm: bytes, key: KeyPair, seq: int, prev: bytes):
    """Two records of ``key`` with the number ``seq``."""
    records = [
        seal_record(key, Open(b"e" * 32, name.ljust(32)), swarm=swarm, seq=seq, prev=prev, epoch=1,
                    day=20_000)
        for name in (b"one", b"two")
    ]  # fmt: skip
    proof = prove_equivocation(*records)
    assert proof is not None
    return proof


def test_an_heir_does_not_answer_for_a_thief_of_the_old_key(one):
    store, key, old, new = one.stores[0], *one.keys[:3]
    with_members(one, old)
    one.stores[1].append(old, Open(b"e" * 32, b"f" * 32))
    rotate(one.stores[1], old, new)
    one.spread()
    last = store.heads()[old.public]
    store.append(key, signed_twice(one.swarm, old, last.seq + 1, last.id))
    assert convicts(store) == {}
    open_epoch(store, key)
    assert new.public in store.rules.newest.roster
    store.append(key, signed_twice(one.swarm, old, last.seq, b"p" * 32))
    assert convicts(store) == {}


def test_an_heir_answers_for_what_the_old_key_had_signed(one):
    store, key, old, new = one.stores[0], *one.keys[:3]
    with_members(one, old)
    one.stores[1].append(old, Open(b"e" * 32, b"f" * 32))
    rotate(one.stores[1], old, new)
    one.spread()
    store.append(key, signed_twice(one.swarm, old, store.heads()[old.public].seq, b"p" * 32))
    assert list(convicts(store)) == [new.public]


def test_governors_go_on_from_what_their_node_saw_first_if_they_say_so(one):
    store, key = one.stores[0], one.keys[0]
    first = open_epoch(store, key)
    epoch = open_epoch(store, key)
    store.append(key, replace(epoch.payload, active_folds=(1,)))
    assert store.rules.frozen
    with pytest.raises(NodeError, match="frozen"):
        open_epoch(store, key)
    open_epoch(store, key, instead=True)
    assert [view.id for view in store.rules.epochs.values()][1:3] == [first.id, epoch.id]
    assert not store.rules.frozen


def test_a_verifier_speaks_once_for_an_epoch_that_is_not_final(one):
    with_members(one, *one.keys[1:3])
    open_epoch(one.stores[0], one.keys[0])
    reveal_beacon(one.stores[0], one.keys[0])
    one.spread()
    for place in (1, 2):
        assert speak(one.stores[place], one.keys[place])
        assert not speak(one.stores[place], one.keys[place])
    one.spread()
    assert one.rules.final == one.rules.number
    assert not speak(one.stores[0], one.keys[0])

"""What governors do: they draft, sign, open, reveal, admit, and never stand by two epochs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from node.claiming import Claims
from node.epochs import (
    Changes,
    admit,
    consents,
    drafts,
    finish_drafts,
    open_epoch,
    reveal_beacon,
    sign_draft,
    waiting_members,
)
from node.errors import NodeError, UsageError
from swarm.keys import rotation_bytes
from swarm.records import Draft, Epoch, Rotation
from swarm.roster import MAX_ROSTER, encode_roster, share_alpha
from swarm.wire import sign
from tests.node.councils import Councils, line


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

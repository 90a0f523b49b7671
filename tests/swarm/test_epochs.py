"""Who may change the rules of a swarm: every rule of membership, and what breaks it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from swarm.charter import encode_roster
from swarm.epochs import quorum
from swarm.keys import KeyPair
from swarm.records import Admission, Beacon, BeaconCommit, Handover, Removed
from swarm.roster import MAX_VOUCHED, share_alpha
from tests.swarm.council import COUNCIL, FOUNDER, KEYS, Council, line, secret
from tests.swarm.founding import make_charter

ADA, BOB, CY, DI = KEYS[3:7]
GOVERNOR = line(FOUNDER, "us", "governor", "verifier")


def removed(key: KeyPair, reason="left", seq=0, last=b"l" * 32) -> Removed:
    return Removed(key.public, seq, last, reason)


def refusals(council: Council) -> list[str]:
    return sorted(council.rules.refused.values())


# --- signatures -----------------------------------------------------------------------------------


def test_more_than_half_of_the_governors_sign_and_none_can_be_made_up():
    council = Council(3)
    good = council.epoch(signed=[COUNCIL[1]])
    alone = council.epoch()
    assert council.cosign(good, COUNCIL[1]) in good.cosignatures
    forged = replace(good, cosignatures=(council.cosign(good, KEYS[5], COUNCIL[1].public),))
    outsider = council.epoch(signed=[KEYS[5]])
    twice = council.epoch(signed=[COUNCIL[0]])
    changed = replace(good, active_folds=(1,))
    for bad in (alone, forged, outsider, twice, changed):
        council.say_epoch(bad)
    assert not council.rules.epochs
    assert refusals(council) == ["1 of 3 governors signed it, 2 must"] * 5
    council.say_epoch(good)
    assert set(council.rules.epochs[1].signers) == {COUNCIL[0].public, COUNCIL[1].public}


def test_a_governor_commits_for_itself_only():
    """A commitment in the name of a governor who did not sign could never be revealed."""
    council = Council(3)
    good = council.epoch(signed=[COUNCIL[1]])
    invented = BeaconCommit(COUNCIL[2].public, b"c" * 32)
    padded = replace(good, beacon_commits=(*good.beacon_commits, invented))
    council.say_epoch(padded)
    assert refusals(council) == ["it has a commitment to the beacon of somebody who did not sign"]


def test_each_signer_agrees_to_the_epoch_and_to_its_own_commitment():
    council = Council(3)
    good = council.epoch(signed=[COUNCIL[1]])
    other = tuple(replace(item, commit=b"o" * 32) for item in good.beacon_commits)
    council.say_epoch(replace(good, beacon_commits=other))
    assert not council.rules.epochs


def test_the_beacon_needs_every_signer_and_a_withheld_one_is_stepped_over():
    council = Council(3)
    council.open(signed=[COUNCIL[1]], reveal=False)
    council.reveal(COUNCIL[0])
    council.feed(COUNCIL[1]).say(Beacon(council.tip, secret(COUNCIL[2], 1)))
    assert council.rules.current is None
    council.open(signed=[COUNCIL[2]])
    assert council.rules.current.number == 2
    council.feeds[COUNCIL[1].public].say(Beacon(council.rules.epochs[1].id, secret(COUNCIL[1], 1)))
    assert council.rules.current.number == 2
    assert council.rules.epochs[1].beacon is not None


def test_the_quorum_is_never_half_or_less():
    charter = make_charter(k=1)
    assert [quorum(charter, [b""] * n) for n in range(1, 6)] == [1, 2, 2, 3, 3]
    assert [quorum(replace(charter, k=4), [b""] * n) for n in (2, 5, 9)] == [2, 4, 5]


# --- conflicts ------------------------------------------------------------------------------------


def test_a_conflict_freezes_until_the_governors_go_on_from_one_side():
    council = Council()
    council.open(line(ADA, "ada", "researcher"))
    before = council.rules.epochs
    one = council.say_epoch(council.epoch())
    council.say_epoch(council.epoch(line(BOB, "bob", "verifier")))
    assert council.rules.frozen
    assert council.rules.epochs == before
    assert refusals(council) == ["two different epochs have number 2"] * 2
    council.tip, council.number = one, 2
    council.open()
    assert not council.rules.frozen
    assert council.rules.epochs[2].id == one
    assert council.rules.current.number == 3


def test_a_late_rival_cannot_undo_what_the_swarm_went_on_from():
    council = Council()
    council.open()
    first = council.epoch(line(ADA, "ada", "researcher"), number=2)
    council.open(line(BOB, "bob", "researcher"))
    council.open()
    history = council.rules.epochs
    council.say_epoch(first)
    assert council.rules.epochs == history
    assert not council.rules.frozen


def test_both_sides_going_on_stays_frozen():
    council = Council()
    council.open()
    ids = [council.say_epoch(council.epoch(line(key, "x", "verifier"))) for key in (ADA, BOB)]
    for council.tip in ids:
        council.say_epoch(council.epoch(number=3))
    assert council.rules.frozen
    assert max(council.rules.epochs) == 1


# --- rosters --------------------------------------------------------------------------------------


def test_one_operator_shares_one_voice():
    lines = [line(key, "ada", "researcher") for key in KEYS[:3]] + [line(BOB, "bob", "researcher")]
    shared = share_alpha([*lines, line(CY, "cy", "verifier")], 4)
    claims = {one.key: one.slots for one in shared}
    assert claims[BOB.public] == 4
    assert sum(claims[key.public] for key in KEYS[:3]) == 4
    assert claims[CY.public] == 0
    levels = {one.gamma_num / one.gamma_den / one.slots for one in shared if one.slots}
    assert levels == {1 / 8}
    council = Council()
    greedy = [replace(one, slots=4, gamma_num=0) for one in shared if one.operator == "ada"]
    council.say_epoch(council.epoch(roster=encode_roster(greedy)))
    assert refusals(council) == ["the operator ada has more than 4 claims"]


def test_who_was_vouched_for_researches_under_the_vouching_operator():
    council = Council()
    vera = line(ADA, "vera", "verifier")
    council.open(GOVERNOR, vera)
    for bad, why in [
        (line(BOB, "vera", "verifier", voucher=ADA.public), "researcher only"),
        (line(BOB, "vera", "researcher", "governor", voucher=ADA.public), "researcher only"),
        (line(BOB, "bob", "researcher", voucher=ADA.public), "not under the operator"),
        (line(BOB, "bob", "researcher", voucher=CY.public), "somebody who is no member"),
    ]:
        council.say_epoch(council.epoch(GOVERNOR, vera, bad))
        assert any(why in reason for reason in refusals(council)), why
    assert len(refusals(council)) == 4
    council.open(GOVERNOR, vera, line(BOB, "vera", "researcher", voucher=ADA.public))
    council.open(GOVERNOR, line(BOB, "vera", "researcher", voucher=ADA.public))
    assert council.number == max(council.rules.epochs) == 3


def test_nobody_verifies_through_an_open_door():
    council = Council(admission="open")
    council.say_epoch(council.epoch(line(ADA, "open", "researcher", "verifier")))
    assert "researcher only" in refusals(council)[0]
    council.open(line(ADA, "open", "researcher"))
    assert council.rules.current is not None
    closed = Council()
    closed.say_epoch(closed.epoch(line(ADA, "open", "researcher")))
    assert "belongs to open swarms" in refusals(closed)[0]


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("does not follow", {"prev_epoch": b"p" * 32}),
        ("another charter", {"policy_id": b"p" * 32}),
        ("hash", {"roster_hash": b"p" * 32}),
        ("list", {"roster": b"\x80", "roster_hash": hashlib.sha256(b"\x80").digest()}),
        ("active fold", {"active_folds": ()}),
        ("active fold", {"active_folds": (1, 1)}),
        ("does not have", {"active_folds": (40,)}),
        ("somebody who did not sign", {"beacon_commits": (BeaconCommit(b"x" * 32, b"y" * 32),)}),
    ],
)
def test_what_an_epoch_may_not_say(why, changes):
    council = Council()
    good = council.epoch()
    if "beacon_commits" in changes:
        changes = {"beacon_commits": good.beacon_commits + changes["beacon_commits"]}
    council.say_epoch(replace(good, **changes))
    assert not council.rules.epochs
    assert why in refusals(council)[0]


def test_a_spent_fold_does_not_come_back():
    council = Council()
    council.open(active_folds=(1, 2))
    council.say_epoch(council.epoch(active_folds=(1, 2, 3)))
    assert refusals(council) == ["it brings back a fold that was spent"]
    council.open(active_folds=(2,))
    assert council.rules.current.active_folds == (2,)


# --- admissions -----------------------------------------------------------------------------------


def test_an_admission_lets_in_and_an_epoch_gives_a_share():
    council = Council()
    council.open(GOVERNOR)
    council.feed(FOUNDER).say(Admission(line(ADA, "ada", "researcher", "verifier")))
    rules = council.rules
    assert rules.is_member(ADA.public)
    assert rules.member(1, ADA.public) is None
    council.open(GOVERNOR, *rules.admissions.values())
    assert council.rules.member(2, ADA.public).slots == 4


def test_one_governor_alone_makes_no_governor_and_uses_no_reserved_name():
    """What one of them admits is in the next draft of the others, who may sign it unread."""
    council = Council(3)
    council.open(GOVERNOR, signed=[COUNCIL[1]])
    council.feed(FOUNDER).say(Admission(line(ADA, "ada", "verifier", "governor")))
    council.feed(FOUNDER).say(Admission(line(ADA, "open", "researcher")))
    council.feed(FOUNDER).say(Admission(line(ADA, "ada", "verifier", voucher=BOB.public)))
    assert not council.rules.admissions
    assert len(refusals(council)) == 3


def test_members_vouch_for_a_few_researchers_and_for_nobody_else():
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "verifier"), line(BOB, "bob", "archivist"))
    vouch = council.feed(ADA)
    for bad in (
        line(CY, "ada", "verifier", voucher=ADA.public),
        line(CY, "cy", "researcher", voucher=ADA.public),
        line(CY, "ada", "researcher"),
    ):
        vouch.say(Admission(bad))
    council.feed(DI).say(Admission(line(CY, "ada", "researcher", voucher=DI.public)))
    assert not council.rules.admissions
    assert len(refusals(council)) == 4
    news = [KeyPair.from_seed(bytes([n]) * 32) for n in range(100, 101 + MAX_VOUCHED)]
    for key in news:
        vouch.say(Admission(line(key, "ada", "researcher", voucher=ADA.public)))
    assert list(council.rules.admissions) == [key.public for key in news[:-1]]
    council.feed(news[0]).say(Admission(line(CY, "ada", "researcher", voucher=news[0].public)))
    assert CY.public not in council.rules.known


def test_a_vouched_member_cannot_vouch():
    council = Council()
    lent = line(BOB, "ada", "researcher", voucher=ADA.public)
    council.open(GOVERNOR, line(ADA, "ada", "verifier"), lent)
    council.feed(BOB).say(Admission(line(CY, "ada", "researcher", voucher=BOB.public)))
    assert refusals(council) == ["its author was let in by no governor, and cannot vouch"]


# --- removal and keys -----------------------------------------------------------------------------


def test_a_removed_key_is_out_from_that_epoch_on_and_keeps_what_it_said_before():
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "researcher"))
    early, late = council.feed(ADA).say(Beacon(b"e" * 32, b"r" * 32)), council.feed(ADA)
    council.open(GOVERNOR, removed=(removed(ADA, "claims what it did not measure"),))
    late.epoch = 2
    after = late.say(Beacon(b"e" * 32, b"r" * 32))
    rules = council.rules
    assert not rules.is_member(ADA.public)
    assert rules.removed == {ADA.public: 2}
    as_said = replace(early, payload=after.payload)
    plain = [replace(one, payload=Admission(line(BOB, "b"))) for one in (as_said, after)]
    assert [rules.belongs(one) for one in plain] == [True, False]
    council.say_epoch(council.epoch(GOVERNOR, line(ADA, "ada", "researcher")))
    assert "cannot come back" in refusals(council)[0]
    council.open(GOVERNOR, line(BOB, "ada", "researcher"))
    assert council.rules.member(3, BOB.public).operator == "ada"


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_removal_has_a_reason(reason):
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "researcher"))
    council.say_epoch(council.epoch(GOVERNOR, removed=(removed(ADA, reason),)))
    assert "without a reason" in refusals(council)[0]


def handed_over(council: Council, old: KeyPair, new: KeyPair, **changes) -> Handover:
    record = council.rotate(old, new)
    handover = Handover(old.public, new.public, record.envelope.seq, record.id)
    return replace(handover, **changes)


def test_a_key_is_handed_over_by_its_owner_and_by_nobody_else():
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "verifier"))
    made_up = Handover(ADA.public, BOB.public, 0, b"h" * 32)
    council.say_epoch(council.epoch(GOVERNOR, line(BOB, "ada", "verifier"), handovers=(made_up,)))
    assert "waits for the record in which the old key says so" in refusals(council)[0]
    handover = handed_over(council, ADA, BOB)
    assert council.rules.is_member(BOB.public)
    assert not council.rules.is_member(ADA.public)
    for bad in (
        replace(handover, new=CY.public),
        replace(handover, old=CY.public),
        replace(handover, last_seq=7),
    ):
        council.say_epoch(council.epoch(GOVERNOR, handovers=(bad,)))
    assert len([why for why in refusals(council) if "not what the old key signed" in why]) == 3
    council.say_epoch(council.epoch(GOVERNOR, line(BOB, "bob", "verifier"), handovers=(handover,)))
    assert any("changes its operator" in why for why in refusals(council))
    both = council.epoch(
        GOVERNOR, line(BOB, "ada", "verifier"), line(ADA, "ada", "verifier"), handovers=(handover,)
    )
    council.say_epoch(both)
    assert any("cannot come back" in why for why in refusals(council))
    council.open(GOVERNOR, line(BOB, "ada", "verifier"), handovers=(handover,))
    assert council.rules.current.handovers == (handover,)
    assert set(council.rules.current.roster) == {FOUNDER.public, BOB.public}


def test_nobody_is_made_the_heir_of_a_key_without_taking_part():
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "verifier"), line(BOB, "bob", "verifier"))
    council.rotate(ADA, BOB, proof=ADA)
    assert refusals(council) == ["the new key did not agree to it"]
    assert council.rules.is_member(ADA.public)
    assert not council.rules.rotated


def test_a_handover_counts_in_whatever_order_its_records_arrive():
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "verifier"))
    record = council.rotate(ADA, BOB)
    handover = Handover(ADA.public, BOB.public, record.envelope.seq, record.id)
    council.open(GOVERNOR, line(BOB, "ada", "verifier"), handovers=(handover,))
    council.feeds[ADA.public].records.clear()
    assert max(council.rules.epochs) == 1
    council.feeds[ADA.public].records.append(record)
    assert max(council.rules.epochs) == 2


# --- governors ------------------------------------------------------------------------------------


def test_governors_change_by_their_own_signatures_and_the_old_ones_are_out():
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "governor"))
    assert council.rules.quorum == 2
    council.say_epoch(council.epoch(GOVERNOR))
    assert refusals(council) == ["1 of 2 governors signed it, 2 must"]
    council.open(line(ADA, "ada", "governor"), line(FOUNDER, "us", "verifier"), signed=[ADA])
    assert council.rules.governors == (ADA.public,)
    council.say_epoch(council.epoch(GOVERNOR))
    assert "is no governor" in " ".join(refusals(council))
    council.open(line(ADA, "ada", "governor"), by=ADA)
    assert council.rules.current.number == 3


def test_one_operator_has_one_governor_and_somebody_always_governs():
    council = Council()
    council.say_epoch(council.epoch(GOVERNOR, line(ADA, "us", "governor")))
    assert refusals(council) == ["the operator us has two governors, and one voice"]
    council.open(GOVERNOR)
    council.say_epoch(council.epoch(removed=(removed(FOUNDER),)))
    assert "it leaves nobody to govern" in refusals(council)


def test_a_governor_who_rotated_its_key_signs_with_one_voice():
    council = Council()
    council.open(GOVERNOR, line(ADA, "ada", "governor"))
    record = council.rotate(ADA, BOB)
    handover = Handover(ADA.public, BOB.public, record.envelope.seq, record.id)
    assert set(council.rules.governors) == {FOUNDER.public, BOB.public}
    lines = (GOVERNOR, line(BOB, "ada", "governor"))
    council.say_epoch(council.epoch(*lines, by=BOB, signed=[ADA], handovers=(handover,)), BOB)
    assert any("1 of 2 governors" in why for why in refusals(council))
    council.open(*lines, by=BOB, signed=[FOUNDER], handovers=(handover,))
    assert set(council.rules.governors) == {FOUNDER.public, BOB.public}


def test_a_loop_of_handovers_is_nobody():
    council = Council()
    council.open(GOVERNOR)
    council.rotate(ADA, BOB)
    council.rotate(BOB, ADA)
    assert not council.rules.is_member(ADA.public)
    assert not council.rules.has_governed(BOB.public)

"""A charter keeps its promise or is refused; epochs count only with enough signatures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.governing import new_member, share_alpha
from swarm.charter import (
    capture_milli,
    check_charter,
    decode_roster,
    encode_roster,
    fold_rules,
    trust_note,
)
from swarm.errors import CharterError
from swarm.keys import KeyPair
from swarm.records import Beacon
from tests.swarm.founding import SECRET, TIER, Feed, founder_key, make_charter, make_epoch

KEYS = [KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 6)]


def test_a_sound_charter_passes():
    check_charter(make_charter())


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("governors", {"governors": ()}),
        ("governors", {"governors": (KEYS[0].public,) * 2}),
        ("sound", {"governors": (bytes(32),)}),
        ("majority", {"governors": tuple(key.public for key in KEYS[:2]), "k": 1}),
        ("majority", {"k": 2}),
        ("tiers", {"tiers": ()}),
        ("2f", {"tiers": (replace(TIER, n=2, f=1),)}),
        ("3g", {"tiers": (replace(TIER, n=3, f=1, g=1),)}),
        ("captured", {"tiers": (replace(TIER, n=3, f=1),), "liar_share_milli": 200}),
        ("holdout", {"max_diff_bytes": 4000}),
        ("holdout", {"sizes": {}}),
        ("equivocation", {"max_code_bytes": 40_000}),
    ],
)
def test_an_unsound_charter_is_refused(match, changes):
    with pytest.raises(CharterError, match=match):
        check_charter(make_charter(**changes))


def test_capture_chances_are_those_of_the_hypergeometric_table():
    # roster 100; N, f, liars in thousandths -> percent as published with the rule
    for n, f, share, percent in [(3, 1, 100, 2.6), (5, 1, 100, 7.7), (5, 2, 200, 5.3)]:
        assert capture_milli(n, f, share) == pytest.approx(percent * 10, abs=1)


def members(*roles):
    return [
        new_member(key.public, f"op-{number}", role, founder_key().public, ["quick"])
        for number, (key, role) in enumerate(zip(KEYS, roles, strict=False))
    ]


@given(st.lists(st.sampled_from([("researcher",), ("verifier",)]), max_size=5))
def test_shares_of_alpha_add_up_to_one_at_most(roles):
    roster = encode_roster(share_alpha(members(*roles), 4))
    assert len(decode_roster(roster)) == len(roles)


def test_a_roster_that_spends_too_much_alpha_is_refused():
    greedy = [replace(m, gamma_num=2, gamma_den=3) for m in members(("researcher",)) * 2]
    greedy[1] = replace(greedy[1], key=KEYS[1].public)
    with pytest.raises(CharterError, match="more than one"):
        decode_roster(encode_roster(greedy))


def founded(charter=None):
    founder = Feed(founder_key(), b"")
    record = founder.say(charter or make_charter())
    founder.swarm = record.id
    return founder


def test_the_fold_does_not_depend_on_order():
    founder = founded()
    epoch = founder.say(make_epoch(founder.swarm, members(("verifier",))))
    founder.say(Beacon(epoch.id, SECRET))
    rules = fold_rules(founder.records)
    assert rules == fold_rules(reversed(founder.records))
    assert rules is not None
    assert rules.current is not None
    assert rules.current.number == 1
    assert rules.is_member(KEYS[0].public)
    assert not rules.is_member(KEYS[1].public)


def test_an_epoch_without_its_beacon_is_not_current():
    founder = founded()
    epoch = founder.say(make_epoch(founder.swarm))
    rules = fold_rules(founder.records)
    assert rules is not None
    assert rules.current is None
    founder.say(Beacon(epoch.id, b"z" * 32))
    rules = fold_rules(founder.records)
    assert rules is not None
    assert rules.current is None


def test_a_second_reveal_takes_no_beacon_back():
    """One governor must not be able to undo an epoch that others have built on."""
    founder = founded()
    epoch = founder.say(make_epoch(founder.swarm, members(("verifier",))))
    founder.say(Beacon(epoch.id, SECRET))
    before = fold_rules(founder.records)
    founder.say(Beacon(epoch.id, b"z" * 32))
    assert fold_rules(founder.records) == fold_rules(founder.records[::-1]) == before


def test_an_epoch_of_somebody_else_changes_nothing():
    founder = founded()
    usurper = Feed(KEYS[0], founder.swarm)
    usurper.say(make_epoch(founder.swarm, members(("verifier",)), governor=KEYS[0]))
    rules = fold_rules([*founder.records, *usurper.records])
    assert rules is not None
    assert not rules.epochs


def test_two_conflicting_epochs_freeze_new_claims():
    founder = founded()
    founder.say(make_epoch(founder.swarm, members(("verifier",))))
    founder.say(make_epoch(founder.swarm, members(("verifier",), ("researcher",))))
    rules = fold_rules(founder.records)
    assert rules is not None
    assert rules.frozen
    assert not rules.epochs


def test_no_tolerated_liar_is_said_plainly():
    assert "trusts every verifier" in trust_note(2, 0)
    assert "one that vanishes or lies may" in trust_note(2, 0, 0)
    assert "decides alone" in trust_note(1, 0, 0)
    assert "2 of 5" in trust_note(5, 2, 1)
    assert "more than 1" in trust_note(5, 2, 1)
    assert "wait" not in trust_note(5, 1, 1)

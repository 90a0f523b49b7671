"""Blocks scored again: what counts as a contradiction, whose counts, and how folds wear out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.records import Block, Contradiction, Pair, Seal
from tests.verification.small_swarm import TIER, SmallSwarm, digest, measure, no_screen
from verification.folds import LEAST_ACTIVE, fold_uses, fresh_folds, worn
from verification.quarantine import fold
from verification.rechecks import (
    NO_WEIGHTS,
    Found,
    Recheck,
    compare,
    contradicted,
    disputes,
    is_drawn,
    recheck_of,
    settled_blocks,
)
from verification.reproduce import scoring_seed

if TYPE_CHECKING:
    import random

    from swarm.envelope import Record
    from verification.states import State

GOOD = measure(30_000_000)
SAID = Pair(0, 3, "base_first", 30, "ok", 1_000_030, 1_000_000, 1, 1, 1)
TOLERANCE = 200


# --- what an answer means ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "found", "verdict", "margin"),
    [
        ({}, Found("ok", 1_000_030, 1_000_000), "agrees", 0),
        ({}, Found("ok", 1_000_130, 1_000_100), "agrees", -100),
        ({}, Found("ok", 1_000_030, 1_000_201), "contradicts", 201),
        # each number within the tolerance, but not their difference
        ({}, Found("ok", 1_000_180, 999_850), "contradicts", -300),
        # both moved alike: the difference is right, the numbers are invented
        ({}, Found("ok", 2_000_030, 2_000_000), "contradicts", -1_000_000),
        ({}, Found("non_causal", 0, 0), "contradicts", 0),
        ({}, Found("bad_weights", 0, 0), "contradicts", 0),
        ({}, Found("timeout", 0, 0), "unsure", 0),
        ({"status": "non_causal", "d_nano": 0}, Found("ok", 1, 1), "contradicts", 0),
        ({"status": "non_causal"}, Found("leaks_across_batch", 0, 0), "agrees", 0),
    ],
)
def test_what_scoring_again_means(said, found, verdict, margin) -> None:
    finding = compare(replace(SAID, **said), found, TOLERANCE)
    assert (finding.verdict, finding.margin_nano) == (verdict, margin)
    assert bool(finding.reason) == (verdict != "agrees")


def a_recheck(status: str, weights: bytes = digest("w")) -> Recheck:
    said = replace(SAID, status=status)
    return Recheck(
        digest("b"), digest("c"), None, digest("c"), "quick", digest("m"), 0, 0, "verdict",
        digest("w"), weights, 1, said,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "weights", "verdict"),
    [
        ("ok", digest("w"), None),
        ("non_causal", digest("w"), None),
        ("ok", NO_WEIGHTS, "contradicts"),
        ("crashed", NO_WEIGHTS, "unsure"),
        ("timeout", digest("w"), "unsure"),
        ("base_memory", digest("w"), "unsure"),
    ],
)
def test_what_needs_no_scoring(status: str, weights: bytes, verdict: str | None) -> None:
    evident = a_recheck(status, weights).evident
    assert (evident.verdict if evident else None) == verdict


def test_each_member_looks_at_another_share() -> None:
    blocks = [digest(str(number)) for number in range(2000)]
    mine = {block for block in blocks if is_drawn(digest("me"), block, 100)}
    yours = {block for block in blocks if is_drawn(digest("you"), block, 100)}
    assert 140 < len(mine) < 260
    assert len(mine & yours) < 60
    assert not any(is_drawn(digest("me"), block, 0) for block in blocks)
    assert all(is_drawn(digest("me"), block, 1000) for block in blocks)


def test_a_recheck_asks_what_was_asked_in_the_first_place() -> None:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(GOOD)
    state = swarm.quarantine.state()
    held = {record.id: record for record in swarm.records}
    found = [
        recheck_of(state, state.claims[claim.id], item, held.get)
        for item in settled_blocks(state.claims[claim.id])
    ]
    assert len(found) == len([r for r in swarm.records if isinstance(r.payload, Block)])
    assert state.rules is not None
    for item in found:
        assert item is not None
        block = held[item.block].payload
        assert isinstance(block, Block)
        seal = held[block.seal].payload
        assert isinstance(seal, Seal)
        beacon = state.rules.epochs[1].beacon
        assert beacon is not None
        assert item.seed == scoring_seed(beacon, claim.id, block.seal, block.fold_nonce, 0)
        assert (item.base_weights, item.said) == (seal.base_weights, block.pairs[0])
        assert (item.round, item.rank) == (block.round, block.rank)
    first = settled_blocks(state.claims[claim.id])[0]
    assert recheck_of(state, state.claims[claim.id], first, lambda _: None) is None


# --- whose contradictions count ------------------------------------------------------------------


def contradiction(target: bytes, reason: str = "scored again") -> Contradiction:
    return Contradiction(target=target, slot=0, margin_nano=200_000_000, reason=reason)


def test_only_members_words_about_settled_blocks_of_others_count() -> None:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(GOOD)
    before = swarm.quarantine.state()
    (target, other) = settled_blocks(before.claims[claim.id])[:2]
    accused = next(key for key in swarm.verifiers if key.public == target.member)
    accuser = next(key for key in swarm.verifiers if key.public != target.member)
    assert target.block is not None
    swarm.write(swarm.outsider, contradiction(target.block))
    swarm.write(accused, contradiction(target.block))
    swarm.write(accuser, contradiction(digest("no such block")))
    swarm.write(accuser, contradiction(claim.id))
    assert disputes(swarm.quarantine.state(), swarm.records) == []
    said = swarm.write(accuser, contradiction(target.block, "first"))
    swarm.write(accuser, contradiction(target.block, "second"))
    swarm.write(swarm.researchers[1], contradiction(target.block))
    state = swarm.quarantine.state()
    found = disputes(state, swarm.records)
    assert {(one.block, one.by) for one in found} == {
        (target.block, accuser.public),
        (target.block, swarm.researchers[1].public),
    }
    (mine,) = (one for one in found if one.by == accuser.public)
    assert (mine.reason, mine.record, mine.claim) == ("first", said.id, claim.id)
    assert contradicted(found) == {accused.public: 1}
    assert other.block not in {one.block for one in found}
    # and no verdict is changed by any of it
    assert state.claims == before.claims
    assert state.frontier == before.frontier


@given(st.randoms(use_true_random=False))
def test_the_order_of_contradictions_does_not_matter(rng: random.Random) -> None:
    state, records = DISPUTED
    shuffled = rng.sample(records, len(records))
    assert disputes(state, shuffled) == disputes(state, records)
    assert len(disputes(state, records)) == 3


def disputed_swarm() -> tuple[State, list[Record]]:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(GOOD)
    blocks = [item.block for item in settled_blocks(swarm.quarantine.state().claims[claim.id])]
    for block in blocks[:3]:
        assert block is not None
        swarm.write(swarm.researchers[1], contradiction(block))
        swarm.write(swarm.researchers[1], contradiction(block, "again"))
    return swarm.quarantine.state(), swarm.records


DISPUTED = disputed_swarm()


# --- folds ---------------------------------------------------------------------------------------


def test_every_settled_pair_is_a_look_at_its_fold() -> None:
    swarm = SmallSwarm(tier=replace(TIER, effect_pairs=4))
    for slot, author in enumerate(swarm.researchers):
        swarm.claim(author, b"x = %d\n" % slot)
    assert fold_uses(swarm.quarantine.state()) == {}
    swarm.run(GOOD)
    blocks = [r.payload for r in swarm.records if isinstance(r.payload, Block)]
    assert any(block.purpose == "effect" for block in blocks)
    uses = fold_uses(swarm.quarantine.state())
    folds = [block.pairs[0].fold for block in blocks]
    assert uses == {number: folds.count(number) for number in set(folds)}
    assert uses == fold_uses(fold(swarm.swarm, reversed(swarm.records), no_screen))


def test_worn_folds_are_left_out_and_never_too_many_of_them() -> None:
    uses = {fold: 10 * fold for fold in range(20)}
    assert fresh_folds(uses, range(20), limit=150) == tuple(range(15))
    assert worn(uses, range(20), limit=150) == (15, 16, 17, 18, 19)
    assert fresh_folds(uses, range(20), limit=1) == tuple(range(LEAST_ACTIVE))
    assert fresh_folds({}, [5, 3, 5]) == (3, 5)
    assert fresh_folds({3: 10**6}, [5, 3]) == (3, 5)


@given(st.dictionaries(st.integers(0, 40), st.integers(0, 300)), st.sets(st.integers(0, 40)))
def test_what_stays_active_is_the_least_used(uses: dict[int, int], active: set[int]) -> None:
    kept = set(fresh_folds(uses, active, 200))
    assert kept <= active
    assert len(kept) >= min(len(active), LEAST_ACTIVE)
    gone = active - kept
    assert all(uses.get(a, 0) <= uses.get(b, 0) for a in kept for b in gone)
    assert all(uses.get(fold, 0) >= 200 for fold in gone)

"""Where claims stand: each rule with a record that breaks it; one state for one set of records."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.records import Block, Commit, Open, Seal
from tests.verification.small_swarm import (
    TIER,
    SmallSwarm,
    digest,
    level_of_claim,
    measure,
    no_screen,
)
from verification.duty import CommitDuty, LostDuty, OpenDuty, PairDuty, duties, lost_duties
from verification.quarantine import fold
from verification.states import CLOSED, ClaimState, Stage, State

if TYPE_CHECKING:
    from swarm.envelope import Record
    from swarm.keys import KeyPair

GOOD = measure(30_000_000)
BAD = measure(-5_000_000, 4_000_000)


def where(swarm: SmallSwarm, claim: Record) -> ClaimState:
    return swarm.quarantine.state().claims[claim.id]


def stands(swarm: SmallSwarm, claim: Record) -> tuple[Stage, str]:
    state = where(swarm, claim)
    return state.stage, state.reason


# --- the way of a claim ---------------------------------------------------------------------------


def test_the_way_of_a_true_claim() -> None:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    seen = [stands(swarm, claim)]
    while swarm.step(GOOD):
        if stands(swarm, claim) != seen[-1]:
            seen.append(stands(swarm, claim))
    assert seen == [
        (Stage.ASSIGNED, "waiting_for_commits"),
        (Stage.ASSIGNED, "waiting_for_seatings"),
        (Stage.COMMITTED, "waiting_for_the_first_pair"),
        (Stage.REPRODUCING, "reproducing"),
        (Stage.ADOPTED, "evidence"),
    ]
    state = swarm.quarantine.state()
    assert state.frontier == {"quick": claim.id}
    assert state.ignored == {}
    assert state.claims[claim.id].level == level_of_claim(1, 0)
    assert state.claims[claim.id].turn is None


def test_an_invented_gain_is_rejected_whatever_the_claim_says() -> None:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n", hypothesis="halves the loss, trust me")
    swarm.run(BAD)
    assert stands(swarm, claim) == (Stage.REJECTED, "not_reproduced")
    assert swarm.quarantine.state().frontier == {"quick": None}


def test_reading_ahead_is_rejected_at_the_first_report() -> None:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(measure(0, status="non_causal"))
    assert stands(swarm, claim) == (Stage.REJECTED, "non_causal")
    verdict = where(swarm, claim).verdict
    assert verdict is not None
    assert verdict.pairs == 1


def test_the_frontier_grows_and_levels_rise_along_the_chain() -> None:
    swarm = SmallSwarm()
    author, other = swarm.researchers
    first = swarm.claim(author, b"x = 1\n")
    swarm.run(GOOD)
    second = swarm.claim(author, b"x = 2\n", slot=1, base=first.id)
    sibling = swarm.claim(other, b"x = 3\n", base=None)
    swarm.run(GOOD)
    state = swarm.quarantine.state()
    assert [state.claims[one.id].stage for one in (first, second, sibling)] == [Stage.ADOPTED] * 3
    assert state.frontier == {"quick": second.id}
    assert state.claims[second.id].r_ids == (first.id,)
    assert state.claims[second.id].level == level_of_claim(2, 1)
    assert state.claims[sibling.id].level == level_of_claim(1, 0)
    third = swarm.claim(other, b"x = 4\n", slot=1, base=second.id)
    assert where(swarm, third).r_ids == (second.id, first.id)


def test_ties_of_the_frontier_do_not_depend_on_order() -> None:
    swarm = SmallSwarm()
    for author in swarm.researchers:
        swarm.claim(author, b"x = 1\n")
    swarm.run(GOOD)
    forward = fold(swarm.swarm, swarm.records, no_screen)
    backward = fold(swarm.swarm, reversed(swarm.records), no_screen)
    assert forward.frontier == backward.frontier
    assert forward.frontier["quick"] is not None


def test_a_claim_waits_for_its_base_and_falls_with_it() -> None:
    for how, stage, reason in [
        (GOOD, Stage.ASSIGNED, "waiting_for_commits"),
        (BAD, Stage.VOID, "base_not_adopted"),
    ]:
        swarm = SmallSwarm()
        base = swarm.claim(swarm.researchers[0], b"x = 1\n")
        child = swarm.claim(swarm.researchers[1], b"x = 2\n", base=base.id)
        grandchild = swarm.claim(swarm.researchers[1], b"x = 3\n", slot=1, base=child.id)
        assert stands(swarm, child) == (Stage.RECEIVED, "base_undecided")
        while where(swarm, base).stage not in CLOSED:
            swarm.step(how)
        assert stands(swarm, child) == (stage, reason)
        waits = (Stage.RECEIVED, "base_undecided") if how is GOOD else (stage, reason)
        assert stands(swarm, grandchild) == waits


# --- claims that may not be judged ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "stage", "reason"),
    [
        ({"slot": 4}, Stage.VOID, "slot_beyond_the_allowance"),
        ({"tier": "gpu"}, Stage.VOID, "unknown_tier"),
        ({"code_hash": digest("other")}, Stage.VOID, "code_does_not_match_its_hash"),
        ({"code": b"#" * 5000}, Stage.VOID, "code_too_large"),
        ({"code": b"FORBIDDEN"}, Stage.REFUSED, "out_of_scope"),
        ({"base": digest("nowhere")}, Stage.RECEIVED, "base_unknown"),
        (
            {"code": b"#" * 999, "type": "simplification"},
            Stage.REFUSED,
            "not_smaller_than_its_base",
        ),
        ({"type": "economy"}, Stage.ASSIGNED, "waiting_for_commits"),
        ({}, Stage.ASSIGNED, "waiting_for_commits"),
    ],
)
def test_rules_of_admission(changes: dict[str, object], stage: Stage, reason: str) -> None:
    swarm = SmallSwarm()
    code = changes.pop("code", b"x = 1\n")
    assert isinstance(code, bytes)
    claim = swarm.claim(swarm.researchers[0], code, **changes)  # type: ignore[arg-type]
    assert stands(swarm, claim) == (stage, reason)
    assert swarm.step(GOOD) == (stage is Stage.ASSIGNED)


def test_who_may_claim_and_when() -> None:
    swarm = SmallSwarm()
    payload = swarm.claim_payload(b"x = 1\n")
    outsider = swarm.write(swarm.outsider, payload)
    verifier = swarm.write(swarm.verifiers[0], payload)
    early = swarm.write(swarm.researchers[0], payload, epoch=2)
    assert stands(swarm, outsider) == (Stage.VOID, "author_not_on_the_roster")
    assert stands(swarm, verifier) == (Stage.VOID, "author_is_no_researcher")
    assert stands(swarm, early) == (Stage.RECEIVED, "epoch_unknown")
    first = swarm.quarantine.state().rules
    assert first is not None
    swarm.open_epoch(2, first.epochs[1].id)
    assert stands(swarm, early)[0] is Stage.ASSIGNED


def test_a_slot_is_spent_once_by_the_claim_that_its_bench_sat_down_for() -> None:
    swarm = SmallSwarm()
    refused = swarm.claim(swarm.researchers[0], b"FORBIDDEN")  # nobody sits down for it
    first = swarm.claim(swarm.researchers[0], b"x = 2\n")
    second = swarm.claim(swarm.researchers[0], b"x = 3\n")
    other = swarm.claim(swarm.researchers[1], b"x = 2\n")
    assert stands(swarm, refused)[0] is Stage.REFUSED
    swarm.run(GOOD)
    assert stands(swarm, first)[0] is Stage.ADOPTED
    assert stands(swarm, second) == (Stage.VOID, "slot_taken")
    assert stands(swarm, other)[0] is Stage.ADOPTED
    assert stands(swarm, refused)[0] is Stage.REFUSED


def test_too_few_verifiers_for_its_bench_end_a_claim() -> None:
    swarm = SmallSwarm(verifiers=1)
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    assert stands(swarm, claim) == (Stage.EXPIRED, "too_few_verifiers (1 of 2 operators)")
    assert not swarm.step(GOOD)


def test_a_profile_that_records_cannot_number_waits() -> None:
    swarm = SmallSwarm(tier=replace(TIER, max_pairs=60, effect_pairs=10))
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    assert stands(swarm, claim) == (Stage.SCREENED, "profile_not_supported")


def test_approval_rules_are_never_skipped() -> None:
    swarm = SmallSwarm(approval_rules=({"rule": "always"},))
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(GOOD)
    assert stands(swarm, claim) == (Stage.APPROVAL, "approval_not_counted_yet")
    assert swarm.quarantine.state().frontier == {"quick": None}


def test_tolerances_add_up() -> None:
    swarm = SmallSwarm(researchers=1)
    author, base = swarm.researchers[0], None
    codes = [b"x = 111\n", b"x = 11\n", b"x = 1\n"]
    reasons = []
    for slot, code in enumerate(codes):
        claim = swarm.claim(author, code, slot=slot, base=base, type="simplification")
        swarm.run(measure(0, 500_000))
        reasons.append(stands(swarm, claim)[1])
        base = claim.id
    # 2 + 2 of 5 million nano-bits are spent; a third tolerance does not fit.
    assert reasons == ["evidence", "evidence", "tolerance_spent"]


def test_no_charter_no_state() -> None:
    swarm = SmallSwarm()
    assert fold(swarm.swarm, swarm.records[1:], no_screen) == State(None)
    assert fold(digest("another swarm"), swarm.records, no_screen) == State(None)


# --- bench records that do not count --------------------------------------------------------------

Spoil = Callable[[Block], Block]

SPOILT: dict[str, Spoil] = {
    "wrong_nonce": lambda b: replace(b, nonce=digest("x")),
    "wrong_fold_nonce": lambda b: replace(b, fold_nonce=digest("x")),
    "wrong_fold_source": lambda b: replace(b, fold_source="own"),
    "wrong_rank": lambda b: replace(b, rank=b.rank + 1),
    "block_without_its_seal": lambda b: replace(b, seal=digest("x")),
    "not_for_the_verdict": lambda b: replace(b, purpose="effect"),
    "wrong_number_of_pairs": lambda b: replace(b, pairs=b.pairs * 2),
    "wrong_fold": lambda b: replace(
        b, pairs=(replace(b.pairs[0], fold=(b.pairs[0].fold + 1) % 16),)
    ),
    "numbers_that_contradict_each_other": lambda b: replace(
        b, pairs=(replace(b.pairs[0], d_nano=b.pairs[0].d_nano + 1),)
    ),
    "out_of_turn": lambda b: replace(b, round=1),
    "class_not_in_the_charter": lambda b: replace(b, hw_class="cpu-landlock"),
}


def member_at_turn(swarm: SmallSwarm, claim: Record) -> KeyPair:
    turn = where(swarm, claim).turn
    assert turn is not None
    return next(key for key in swarm.verifiers if key.public == turn.seat.key)


def pair_due(swarm: SmallSwarm, key: KeyPair) -> PairDuty:
    (duty,) = (one for one in swarm.duties_of(key) if isinstance(one, PairDuty))
    return duty


def to_first_pair(swarm: SmallSwarm) -> tuple[Record, KeyPair, PairDuty]:
    """A claim with all seats taken, the member whose turn it is, and its duty: sealed, opened."""
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    while where(swarm, claim).stage is Stage.ASSIGNED:
        swarm.step(GOOD)
    key = member_at_turn(swarm, claim)
    swarm.seal(key, pair_due(swarm, key))
    while pair_due(swarm, key).waits:
        swarm.step(GOOD)
    return claim, key, pair_due(swarm, key)


@pytest.mark.parametrize("reason", SPOILT)
def test_spoilt_blocks_hold_no_position_and_a_good_one_still_does(reason: str) -> None:
    swarm = SmallSwarm()
    claim, key, duty = to_first_pair(swarm)
    block = swarm.block(duty, GOOD)
    spoilt = swarm.write(key, SPOILT[reason](block))
    state = swarm.quarantine.state()
    assert state.ignored == {spoilt.id: reason}
    assert state.claims[claim.id].stage is Stage.COMMITTED
    good = swarm.write(key, block)
    second = swarm.write(key, block)
    assert where(swarm, claim).stage is Stage.COMMITTED
    while where(swarm, claim).stage is Stage.COMMITTED:
        swarm.step(GOOD)
    held = where(swarm, claim).settlement
    assert held is not None
    assert held.reproductions[0].block == good.id
    assert swarm.quarantine.state().ignored[second.id] == "second_block"
    swarm.run(GOOD)
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_a_block_before_its_turn_does_not_count() -> None:
    swarm = SmallSwarm()
    claim, _, duty = to_first_pair(swarm)
    bench = where(swarm, claim).bench
    assert bench is not None
    late = next(key for key in swarm.verifiers if key.public == bench.seats[1].key)
    hasty = replace(duty, rank=1, sealed=swarm.seal(late, duty).id)
    record = swarm.write(late, swarm.block(hasty, GOOD))
    assert swarm.quarantine.state().ignored == {record.id: "out_of_turn"}


def test_nobody_off_the_bench_counts_and_nobody_commits_twice() -> None:
    swarm = SmallSwarm()
    claim, _, _ = to_first_pair(swarm)
    state = where(swarm, claim)
    assert state.bench is not None
    seated = {seat.key for seat in state.bench.seats}
    off = next(key for key in swarm.verifiers if key.public not in seated)
    on = next(key for key in swarm.verifiers if key.public in seated)
    fitting = next(r for r in swarm.records if r.kind == "commit" and r.author == on.public)
    assert isinstance(fitting.payload, Commit)
    strange = swarm.write(off, fitting.payload)
    again = swarm.write(on, replace(fitting.payload, nonce_hash=digest("regret")))
    unfit = swarm.write(on, replace(fitting.payload, place=digest("elsewhere")))
    author = swarm.write(swarm.researchers[0], fitting.payload)
    assert swarm.quarantine.state().ignored == {
        strange.id: "not_on_the_bench",
        author.id: "not_on_the_bench",
        again.id: "second_commit",
        unfit.id: "commit_does_not_fit_the_claim",
    }
    swarm.run(GOOD)
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_sealing_twice_draws_no_second_fold() -> None:
    swarm = SmallSwarm()
    claim, key, duty = to_first_pair(swarm)
    again = swarm.write(key, duty.seal(digest("better"), digest("better"), True))
    now = where(swarm, claim).turn
    assert now is not None
    assert now.seal == duty.sealed
    regretted = swarm.write(key, swarm.block(replace(duty, sealed=again.id), GOOD))
    assert swarm.quarantine.state().ignored == {
        again.id: "second_seal",
        regretted.id: "second_seal",
    }
    swarm.run(GOOD)
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_a_fold_is_opened_by_another_member_and_only_after_the_seal() -> None:
    swarm = SmallSwarm(verifiers=3, tier=replace(TIER, n=3))
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    while where(swarm, claim).stage is Stage.ASSIGNED:
        swarm.step(GOOD)
    key = member_at_turn(swarm, claim)
    duty = pair_due(swarm, key)
    assert duty.fold_nonce is None
    assert not any(isinstance(one, OpenDuty) for _, one in swarm.todo(patient=False))
    seal = swarm.seal(key, duty)
    assert pair_due(swarm, key).waits
    opens = [(who, one) for who, one in swarm.todo(patient=False) if isinstance(one, OpenDuty)]
    assert sorted(one.due for _, one in opens) == [False, True]
    assert key not in [who for who, _ in opens]
    own = swarm.write(key, Open(seal.id, digest("own")))
    assert pair_due(swarm, key).waits
    (first,) = ((who, one) for who, one in opens if one.due)
    swarm.write(first[0], first[1].payload)
    assert pair_due(swarm, key).fold_nonce == first[1].payload.fold_nonce
    assert not any(isinstance(one, OpenDuty) for _, one in swarm.todo(patient=False))
    swarm.run(GOOD)
    assert where(swarm, claim).stage is Stage.ADOPTED
    assert own.id not in swarm.quarantine.state().ignored


def test_who_sits_alone_opens_its_own_link_and_seals_once() -> None:
    swarm = SmallSwarm(tier=replace(TIER, n=1))
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    while where(swarm, claim).stage is Stage.ASSIGNED:
        swarm.step(GOOD)
    key = member_at_turn(swarm, claim)
    seal = swarm.seal(key, pair_due(swarm, key))
    duty = pair_due(swarm, key)
    assert (duty.sealed, duty.waits, duty.fold_source) == (seal.id, False, "own")
    again = swarm.seal(key, duty)
    regretted = swarm.write(key, swarm.block(replace(duty, sealed=again.id), GOOD))
    ignored = swarm.quarantine.state().ignored
    assert ignored == {again.id: "second_seal", regretted.id: "second_seal"}
    swarm.run(GOOD)
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_a_seal_before_the_commit_and_records_about_nothing() -> None:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    bench = where(swarm, claim).bench
    assert bench is not None
    key = next(key for key in swarm.verifiers if key.public == bench.seats[0].key)
    early = swarm.write(key, Seal(claim.id, 0, digest("a"), digest("b"), True))
    lost = swarm.write(key, Seal(digest("none"), 0, digest("a"), digest("b"), True))
    opened = swarm.write(key, Open(digest("no seal"), digest("n")))
    assert swarm.quarantine.state().ignored == {
        early.id: "seal_without_commit",
        lost.id: "claim_unknown",
        opened.id: "seal_unknown",
    }


# --- duties ---------------------------------------------------------------------------------------


def test_a_restarted_member_finds_the_same_duty() -> None:
    swarm = SmallSwarm()
    _, key, duty = to_first_pair(swarm)
    assert swarm.duties_of(key) == [duty]
    swarm.write(key, swarm.block(duty, GOOD))
    assert swarm.duties_of(key) == []


def test_a_lost_secret_is_told_and_stops_nothing_else() -> None:
    swarm = SmallSwarm()
    claim, member, _duty = to_first_pair(swarm)
    state, key = swarm.quarantine.state(), member.public
    assert duties(state, key, digest("lost")) == []
    assert lost_duties(state, key, digest("lost")) == [LostDuty(claim.id, 0)]
    swarm.claim(swarm.researchers[1], b"x = 2\n")
    state = swarm.quarantine.state()
    now = [duties(state, one.public, digest("lost")) for one in swarm.verifiers]
    assert sum(isinstance(one, CommitDuty) for due in now for one in due) == 2


def test_nobody_has_duties_for_closed_claims_or_foreign_benches() -> None:
    swarm = SmallSwarm()
    swarm.claim(swarm.researchers[0], b"x = 1\n")
    assert swarm.duties_of(swarm.researchers[0]) == []
    swarm.run(GOOD)
    assert all(swarm.duties_of(key) == [] for key in swarm.verifiers)


# --- the law: one set of records, one state ------------------------------------------------------


def play(seed: int) -> SmallSwarm:
    """A random history: honest and spoilt records of members and outsiders, in random order."""
    rng = random.Random(seed)
    swarm = SmallSwarm(verifiers=rng.choice([2, 3, 4]))
    claims: list[Record] = []
    for key in swarm.verifiers:
        if rng.random() < 0.5:
            changes = {"sigma0_nano": 5} if rng.random() < 0.2 else {}
            held = swarm.calibrate(key, rng.choice([1_000_000, 9_000_000]), **changes)
            if rng.random() < 0.2:  # another's, which does not count
                swarm.calibrations[rng.choice(swarm.verifiers).public] = {"quick": held.id}
    for _ in range(rng.randint(10, 70)):
        act = rng.random()
        if act < 0.2:
            bases = [None, None, digest("nowhere"), *[one.id for one in claims]]
            code = rng.choice([b"x = 1\n", b"x = 2\n", b"FORBIDDEN"])
            author = rng.choice([*swarm.researchers, swarm.outsider])
            claims.append(swarm.claim(author, code, slot=rng.randint(0, 4), base=rng.choice(bases)))
        elif act < 0.85:
            how = rng.choice([GOOD, GOOD, BAD, measure(0, status="crashed")])
            for _ in range(rng.choice([1, 1, 9])):
                swarm.step(how, rng)
        else:
            old = rng.choice([r for r in swarm.records if r.kind not in ("charter", "epoch")])
            payload = old.payload
            if isinstance(payload, Block):
                payload = rng.choice(list(SPOILT.values()))(payload)
            swarm.write(rng.choice([*swarm.verifiers, swarm.outsider]), payload)
    return swarm


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_any_order_with_duplicates_and_gaps_gives_one_state(seed: int, rng: random.Random) -> None:
    swarm = play(seed)
    assert swarm.quarantine.state() == fold(swarm.swarm, swarm.records, no_screen)
    kept = [record for record in swarm.records if rng.random() < 0.95]
    expected = fold(swarm.swarm, kept, no_screen)
    shuffled = kept + rng.sample(kept, len(kept) // 3)
    rng.shuffle(shuffled)
    assert fold(swarm.swarm, shuffled, no_screen) == expected


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_decisions_stay_while_feeds_grow(seed: int, rng: random.Random) -> None:
    """Feeds arrive in order but interleaved at will; a decision, once there, never changes."""
    swarm = play(seed)
    feeds: dict[bytes, list[Record]] = {}
    for record in swarm.records:
        feeds.setdefault(record.author, []).append(record)
    received: list[Record] = []
    decided: dict[bytes, tuple[Stage, str]] = {}
    while feeds:
        author = rng.choice(sorted(feeds))
        for _ in range(rng.randint(1, 8)):
            if feeds[author]:
                received.append(feeds[author].pop(0))
        if not feeds[author]:
            del feeds[author]
        state = fold(swarm.swarm, received, no_screen)
        for claim, before in decided.items():
            now = state.claims[claim]
            assert (now.stage, now.reason) == before
        decided.update(
            (one.id, (one.stage, one.reason))
            for one in state.claims.values()
            if one.stage in (Stage.ADOPTED, Stage.REJECTED)
        )


def test_random_histories_reach_every_stage() -> None:
    """The two properties above are about something."""
    states = [play(seed).quarantine.state() for seed in range(80)]
    stages = {one.stage for state in states for one in state.claims.values()}
    assert {"calibration_numbers_do_not_follow", "calibration_of_another_author"} <= {
        reason for state in states for reason in state.ignored.values()
    }
    assert any(
        seat is not None and seat.sigma0_nano is not None
        for state in states
        for one in state.claims.values()
        if one.settlement is not None and one.settlement.reproductions
        for seat in one.settlement.seats.taken or ()
    )
    assert stages >= {
        Stage.RECEIVED,
        Stage.ASSIGNED,
        Stage.REPRODUCING,
        Stage.ADOPTED,
        Stage.REJECTED,
        Stage.REFUSED,
        Stage.VOID,
    }

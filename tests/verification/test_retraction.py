"""Taking discoveries back: who may, when it succeeds, what is frozen by it and what restores it."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.records import Contradiction, Pair
from tests.verification.small_swarm import (
    SHARE,
    TIER,
    SmallSwarm,
    digest,
    level_of_claim,
    measure,
    no_screen,
)
from verification.duty import PairDuty
from verification.effect import modest_mean
from verification.frontier import ancestry, unmerged
from verification.quarantine import fold
from verification.retraction import doubt, frozen_by, margin_of
from verification.states import ClaimState, Stage, State
from verification.verdict import Deliberation, Reproduction, Terms

if TYPE_CHECKING:
    from swarm.envelope import Record
    from swarm.keys import KeyPair

GOOD = measure(30_000_000)
NOTHING = measure(0)
WORSE = measure(-30_000_000)


def where(swarm: SmallSwarm, record: Record) -> ClaimState:
    return swarm.quarantine.state().cases[record.id]


def stands(swarm: SmallSwarm, record: Record) -> tuple[Stage, str]:
    state = where(swarm, record)
    return state.stage, state.reason


def adopted(swarm: SmallSwarm, author: KeyPair, code: bytes, slot: int = 0, **more) -> Record:
    claim = swarm.claim(author, code, slot=slot, **more)
    swarm.run(GOOD)
    assert where(swarm, claim).stage is Stage.ADOPTED
    return claim


def contradict(
    swarm: SmallSwarm, author: KeyPair, of: Record, /, slot: int = 1, epoch: int = 1, **more
) -> Record:
    margin = margin_of(where(swarm, of), swarm.tier)
    said = Contradiction(of.id, slot, margin, "it was not so here")
    return swarm.write(author, replace(said, **more), epoch=epoch)


def a_chain(swarm: SmallSwarm) -> tuple[Record, Record, Record, Record]:
    """One below the other, and a sibling of the second: a, b on a, c on b, d on a."""
    author, other = swarm.researchers[:2]
    a = adopted(swarm, author, b"x = 1\n")
    b = adopted(swarm, author, b"x = 2\n", slot=1, base=a.id)
    c = adopted(swarm, author, b"x = 3\n", slot=2, base=b.id)
    d = adopted(swarm, other, b"x = 4\n", base=a.id)
    return a, b, c, d


def retracted(swarm: SmallSwarm, target: Record, **more) -> Record:
    """Nothing of it is reproduced; claims that are under way meanwhile are good."""
    record = contradict(swarm, swarm.researchers[1], target, **more)
    swarm.run(lambda duty: (GOOD if duty.claim == duty.candidate else NOTHING)(duty))
    assert where(swarm, record).stage is Stage.UPHELD
    return record


# --- the way of a contradiction ------------------------------------------------------------------


def test_a_false_discovery_is_retracted_by_a_fresh_bench() -> None:
    swarm = SmallSwarm(verifiers=5)
    claim = adopted(swarm, swarm.researchers[0], b"x = 1\n")
    against = contradict(swarm, swarm.researchers[1], claim)
    assert stands(swarm, against) == (Stage.ASSIGNED, "waiting_for_commits")
    assert stands(swarm, claim) == (Stage.ADOPTED, "evidence")  # it stands until then
    first, second = where(swarm, claim).bench, where(swarm, against).bench
    assert first is not None
    assert second is not None
    assert not {s.operator for s in first.seats} & {s.operator for s in second.seats}
    duty = None
    while where(swarm, against).stage is not Stage.UPHELD:
        for _, duty in swarm.todo():
            if isinstance(duty, PairDuty):  # the very same pair as for the claim
                assert (duty.candidate, duty.base, duty.purpose) == (claim.id, None, "verdict")
        assert swarm.step(NOTHING)
    assert duty is not None
    state = swarm.quarantine.state()
    assert (state.claims[claim.id].stage, state.claims[claim.id].reason) == (
        Stage.RETRACTED, "contradicted",
    )  # fmt: skip
    assert state.claims[claim.id].retracted_by == against.id
    assert state.frontier == {"quick": None}
    assert state.ignored == {}
    # alpha_retract of .01, the share of its author, half of that for the first of this target
    assert state.contradictions[against.id].level == Fraction(1, 100) * SHARE / 2
    assert not swarm.todo(patient=False)


def test_a_true_discovery_is_contradicted_for_a_few_pairs_and_stands() -> None:
    swarm = SmallSwarm(verifiers=5)
    claim = adopted(swarm, swarm.researchers[0], b"x = 1\n")
    against = contradict(swarm, swarm.researchers[1], claim)
    swarm.run(GOOD)
    assert stands(swarm, against) == (Stage.REJECTED, "not_upheld")
    verdict = where(swarm, against).verdict
    assert verdict is not None
    assert verdict.pairs <= 6
    assert stands(swarm, claim)[0] is Stage.ADOPTED
    assert swarm.quarantine.state().frontier == {"quick": claim.id}


def test_a_target_that_fails_is_not_reproduced_and_silence_retracts_nothing() -> None:
    for how, stage in ((measure(0, status="crashed"), Stage.UPHELD), (None, Stage.REJECTED)):
        swarm = SmallSwarm(verifiers=6, tier=replace(TIER, n=3))
        claim = adopted(swarm, swarm.researchers[0], b"x = 1\n")
        against = contradict(swarm, swarm.researchers[1], claim)
        if how is not None:
            swarm.run(how)
        else:  # of three who sat down one vanishes, and the others say so
            while where(swarm, against).stage is Stage.ASSIGNED:
                swarm.step(NOTHING)
            bench = where(swarm, against).bench
            assert bench is not None
            gone = bench.seats[0].key
            rest = [key for key in swarm.verifiers if key.public != gone]
            for _ in range(12):
                swarm.step(NOTHING, members=rest, patient=False)
            state = where(swarm, against)
            assert state.verdict is not None
            assert state.verdict.lost >= 1
            assert state.stage is not Stage.UPHELD
            continue
        assert where(swarm, against).stage is stage


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slot": 5}, "slot_beyond_the_allowance"),
        ({"margin_nano": 29_000_000}, "margin_is_not_half_of_what_was_adopted"),
        ({"target": digest("nothing")}, "target_unknown"),
        ({"epoch": 7}, "epoch_unknown"),
    ],
)
def test_contradictions_that_may_not_be_judged(changes, reason) -> None:
    swarm = SmallSwarm(verifiers=5)
    claim = adopted(swarm, swarm.researchers[0], b"x = 1\n")
    against = contradict(swarm, swarm.researchers[1], claim, **changes)
    assert where(swarm, against).reason == reason
    assert not swarm.todo(patient=False)


def test_who_may_contradict_what_and_how_often() -> None:
    swarm = SmallSwarm(verifiers=5)
    a = adopted(swarm, swarm.researchers[0], b"x = 1\n")
    b = adopted(swarm, swarm.researchers[0], b"x = 2\n", slot=1)
    open_ = swarm.claim(swarm.researchers[0], b"x = 3\n", slot=2)
    bad = swarm.claim(swarm.researchers[0], b"FORBIDDEN", slot=3)
    author = swarm.researchers[1]
    assert where(swarm, contradict(swarm, swarm.outsider, a)).reason == "author_not_on_the_roster"
    verifier = contradict(swarm, swarm.verifiers[0], a)
    assert where(swarm, verifier).reason == "slot_beyond_the_allowance"
    said = Contradiction(open_.id, 1, 0, "")
    assert where(swarm, swarm.write(author, said)).reason == "target_undecided"
    said = Contradiction(bad.id, 2, 0, "")
    assert stands(swarm, swarm.write(author, said)) == (Stage.VOID, "target_not_adopted")
    third = contradict(swarm, author, a, slot=3)
    assert where(swarm, third).stage is Stage.ASSIGNED
    reused = contradict(swarm, author, b, slot=3)
    again = contradict(swarm, author, a, slot=4)
    swarm.run(GOOD)
    assert stands(swarm, third) == (Stage.REJECTED, "not_upheld")
    assert stands(swarm, again) == (Stage.VOID, "contradicted_before_in_this_epoch")
    assert stands(swarm, reused) == (Stage.ASSIGNED, "waiting_for_commits")
    assert not swarm.todo(patient=False)  # whose slot was used before gets no bench to sit down


def test_a_bench_that_cannot_be_fresh_is_none() -> None:
    swarm = SmallSwarm(verifiers=3)
    claim = adopted(swarm, swarm.researchers[0], b"x = 1\n")
    against = contradict(swarm, swarm.researchers[1], claim)
    assert stands(swarm, against) == (Stage.EXPIRED, "too_few_verifiers (1 of 2 operators)")


def test_levels_of_a_target_add_up_over_all_epochs_and_fade_with_none() -> None:
    swarm = SmallSwarm(verifiers=5)
    claim = adopted(swarm, swarm.researchers[0], b"x = 1\n")
    previous = swarm.quarantine.state().rules.epochs[1].id  # type: ignore[union-attr]
    levels: list[Fraction] = []
    for number in range(1, 9):
        if number > 1:
            previous = swarm.open_epoch(number, previous).id
        for author in swarm.researchers[: 1 if number < 8 else 2]:
            level = where(swarm, contradict(swarm, author, claim, epoch=number)).level
            assert level is not None
            levels.append(level)
    assert levels[-1] == levels[0] == Fraction(1, 100) * SHARE / 2, "the first, eight epochs later"
    assert sum(levels[:8]) == Fraction(1, 100) * SHARE * (1 - Fraction(1, 9))


def test_the_margin_is_half_of_what_the_modest_members_found() -> None:
    pair = Pair(0, 0, "base_first", 0, "ok", 0, 0, 1, 1, 1)
    said = [(0, 10), (1, 12), (2, 10_000), (0, 14), (1, None), (2, 10_000)]
    found = [
        Reproduction(
            i // 3, rank, digest(str(i)), digest(f"m{rank}"),
            replace(pair, d_nano=d) if d else replace(pair, status="crashed"),
        )
        for i, (rank, d) in enumerate(said)
    ]  # fmt: skip
    assert modest_mean(found, 1) == (10 + 14 + 12) // 3
    assert modest_mean(found, 0) == (10 + 14 + 12 + 20_000) // 5
    assert modest_mean(found, 3) == 12  # somebody is always left
    assert modest_mean([], 1) == 0


# --- what falls with it --------------------------------------------------------------------------


def test_what_stands_on_it_is_frozen_and_the_frontier_falls_back() -> None:
    swarm = SmallSwarm(verifiers=8)
    a, b, c, d = a_chain(swarm)
    waits = swarm.claim(swarm.researchers[1], b"x = 5\n", slot=1, base=c.id)
    assert where(swarm, waits).stage is Stage.ASSIGNED
    retracted(swarm, b)
    state = swarm.quarantine.state()
    assert [state.claims[one.id].stage for one in (a, b, c, d, waits)] == [
        Stage.ADOPTED, Stage.RETRACTED, Stage.FROZEN, Stage.ADOPTED, Stage.FROZEN,
    ]  # fmt: skip
    assert state.frontier == {"quick": d.id}
    assert set(frozen_by(state.claims, b.id)) == {c.id, waits.id}
    assert frozen_by(state.claims, d.id) == ()
    assert unmerged(state, "quick") == []
    assert not swarm.todo(patient=False)  # nobody measures what is frozen
    later = swarm.claim(swarm.researchers[1], b"x = 6\n", slot=2, base=c.id)
    assert stands(swarm, later) == (Stage.FROZEN, "base_retracted")
    # a level does not move when an ancestor is retracted
    assert state.claims[c.id].number == 3
    assert state.claims[c.id].level == level_of_claim(3, 2)


def test_a_bridge_restores_all_that_stands_on_its_code() -> None:
    swarm = SmallSwarm(verifiers=8)
    a, b, c, _ = a_chain(swarm)
    on_c = adopted(swarm, swarm.researchers[1], b"x = 5\n", slot=1, base=c.id)
    waits = swarm.claim(swarm.researchers[1], b"x = 6\n", slot=2, base=on_c.id)
    retracted(swarm, b)
    bridge = adopted(swarm, swarm.researchers[0], b"x = 3\n", slot=3, base=a.id)
    state = swarm.quarantine.state()
    stages = [state.claims[one.id].stage for one in (b, c, on_c, bridge)]
    assert stages == [Stage.RETRACTED, Stage.FROZEN, Stage.ADOPTED, Stage.ADOPTED]
    assert state.claims[on_c.id].bridge == bridge.id
    assert list(ancestry(state.claims, on_c.id)) == [on_c.id, bridge.id, a.id]
    assert where(swarm, waits).stage is Stage.ADOPTED  # it was measured on, meanwhile
    assert state.frontier == {"quick": waits.id}
    # and the bridge can fall as well
    against = contradict(swarm, swarm.researchers[0], bridge, slot=2)
    swarm.run(NOTHING)
    state = swarm.quarantine.state()
    assert where(swarm, against).stage is Stage.UPHELD
    assert state.claims[waits.id].stage is Stage.FROZEN


def test_no_two_claims_hold_each_other_up() -> None:
    """A claim that goes back to the code of its own base is no bridge for it."""
    swarm = SmallSwarm(verifiers=8)
    author = swarm.researchers[0]
    a = adopted(swarm, author, b"x = 1\n")
    b = adopted(swarm, author, b"x = 2\n", slot=1, base=a.id)
    back = adopted(swarm, author, b"x = 1\n", slot=2, base=b.id)
    retracted(swarm, a)
    assert [where(swarm, one).stage for one in (a, b, back)] == [
        Stage.RETRACTED, Stage.FROZEN, Stage.FROZEN,
    ]  # fmt: skip
    assert swarm.quarantine.state().frontier == {"quick": None}


def test_a_contradiction_of_what_does_not_stand_waits() -> None:
    swarm = SmallSwarm(verifiers=10)
    a, b, _, _ = a_chain(swarm)
    other = contradict(swarm, swarm.researchers[0], b)
    retracted(swarm, a)
    assert where(swarm, other).stage in (Stage.FROZEN, Stage.UPHELD)


# --- what speaks against a discovery -------------------------------------------------------------


def test_pairs_after_the_adoption_that_show_too_little_are_a_reason() -> None:
    swarm = SmallSwarm(tier=replace(TIER, effect_pairs=6))
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    while where(swarm, claim).stage is not Stage.ADOPTED:
        swarm.step(GOOD)
    assert not doubt(where(swarm, claim), swarm.tier, set())
    swarm.run(NOTHING)
    state = where(swarm, claim)
    assert state.effect is not None
    assert "less than half" in doubt(state, swarm.tier, set())
    swarm = SmallSwarm()
    claim = adopted(swarm, swarm.researchers[0], b"x = 1\n")
    state = where(swarm, claim)
    assert state.settlement is not None
    block = state.settlement.reproductions[0].block
    assert block is not None
    assert not doubt(state, swarm.tier, {digest("another")})
    assert "does not say what its weights do" in doubt(state, swarm.tier, {block})


# --- liars on the bench of a contradiction -------------------------------------------------------


@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 2)])
def test_f_liars_retract_no_true_discovery_and_save_no_false_one(n: int, f: int) -> None:
    """The same walk as the fold's: liars who say the worst, or the best, of the target."""
    policy = replace(TIER, n=n, f=f, max_pairs=24, min_effect_nano=1_000_000)
    terms = Terms(
        digest("c"), "contradiction", policy, 1500, Fraction(1, 20_000), margin_nano=10_000_000
    )
    upheld = {}
    for truth in (20_000_000, 0):
        rng, count = random.Random(truth), 0
        for _ in range(24):
            lying = set(rng.sample(range(n), f))
            lie = -300_000_000 if truth else 300_000_000
            walk = Deliberation(terms)
            for index in range(n * 24):
                rank = index % n
                d = lie if rank in lying else round(truth + rng.gauss(0, 5_000_000))
                pair = Pair(0, 0, "base_first", d, "ok", 3 * 10**9, 3 * 10**9 - d, 9, 9, 9)
                if walk.add(Reproduction(index // n, rank, digest(""), b"", pair)) != "pending":
                    break
            count += walk.outcome == "adopt"
        upheld[truth] = count
    assert upheld[20_000_000] == 0
    assert upheld[0] >= 21


# --- one state for one set of records ------------------------------------------------------------


def history(seed: int) -> SmallSwarm:
    """A tree of claims and contradictions of them, true and false, with liars on f = 0 benches."""
    rng = random.Random(seed)
    swarm = SmallSwarm(researchers=3, verifiers=9, tier=replace(TIER, n=1, max_pairs=16))
    made: list[Record] = []
    codes = [b"x = %d\n" % i for i in range(5)]
    slots = {key.public: 0 for key in swarm.researchers}
    against = {key.public: 0 for key in swarm.researchers}
    for _ in range(rng.randint(20, 60)):
        author = rng.choice(swarm.researchers)
        act = rng.random()
        if act < 0.35 and slots[author.public] < 4:
            base = rng.choice([None, *made[-4:]])
            made.append(
                swarm.claim(
                    author, rng.choice(codes), slot=slots[author.public],
                    base=base.id if base else None,
                )
            )  # fmt: skip
            slots[author.public] += 1
        elif act < 0.55 and made and against[author.public] < 4:
            target = rng.choice(made)
            state = swarm.quarantine.state().claims[target.id]
            if state.stage in (Stage.ADOPTED, Stage.FROZEN):
                against[author.public] += 1
                contradict(swarm, author, target, slot=against[author.public])
        for _ in range(rng.randint(0, 14)):
            duties = swarm.todo(patient=False)
            if not duties:
                break
            key, duty = rng.choice(duties)
            doubted = isinstance(duty, PairDuty) and duty.claim != duty.candidate
            bad = doubted and duty.candidate[0] % 2  # type: ignore[union-attr]
            swarm.do(key, duty, NOTHING if bad else GOOD)
    return swarm


def settled(state: State) -> dict[bytes, object]:
    return {one.id: (one.stage, one.verdict) for one in state.cases.values()}


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_any_order_gives_one_state_and_a_part_undoes_no_retraction(
    seed: int, rng: random.Random
) -> None:
    swarm = history(seed)
    whole = swarm.quarantine.state()
    records = list(swarm.records)
    rng.shuffle(records)
    assert fold(swarm.swarm, records + records[:9], no_screen) == whole
    part = records[: rng.randint(0, len(records))]
    seen = fold(swarm.swarm, part, no_screen)
    for one in seen.cases.values():
        after = whole.cases[one.id]
        if one.stage in (Stage.UPHELD, Stage.REJECTED, Stage.RETRACTED):
            assert (after.stage, after.verdict) == (one.stage, one.verdict)
        if one.stage is Stage.ADOPTED:
            assert after.stage in (Stage.ADOPTED, Stage.RETRACTED, Stage.FROZEN)
            assert after.verdict == one.verdict
    for tier, claim in whole.frontier.items():
        for below in ancestry(whole.claims, claim):
            assert whole.claims[below].stage is Stage.ADOPTED, tier


def test_the_histories_above_retract_freeze_and_restore() -> None:
    seen: set[str] = set()
    for seed in (0, 1, 2, 3, 4, 5):
        state = history(seed).quarantine.state()
        seen |= {one.stage.value for one in state.cases.values()}
        seen |= {"bridged" for one in state.claims.values() if one.bridge}
    assert {"retracted", "frozen", "upheld", "rejected", "adopted", "bridged"} <= seen

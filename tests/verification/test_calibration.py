"""Null pairs become a bound, and a bound counts only for whom and for what it was measured."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.records import Commit
from tests.verification.small_swarm import TIER, SmallSwarm, digest, measure, no_screen
from verification.calibration import MIN_PAIRS, Bound, bound_of
from verification.duty import CommitDuty
from verification.errors import EvidenceError
from verification.quarantine import Quarantine, fold
from verification.states import Stage

GOOD = measure(30_000_000)


# --- numbers -------------------------------------------------------------------------------------


def test_numbers_by_hand() -> None:
    # 20 pairs of +-10: sum of squares 2000 over 19 is 105.26, whose root is 10.26: 11, rounded up
    assert bound_of([10, -10] * 10) == Bound(20, 11, 1370, 16)
    # 12 pairs, one of 12 and the rest 0: (144 - 12) / 11 is 12; its root 3.46: 4; 4 * 1.55 = 6.2
    assert bound_of([12] + [0] * 11) == Bound(12, 4, 1550, 7)


@pytest.mark.parametrize("pairs", [[], [1, -1] * 5, [7] * 20, [0] * 40])
def test_too_few_pairs_and_pairs_without_noise_are_refused(pairs: list[int]) -> None:
    with pytest.raises(EvidenceError) as caught:
        bound_of(pairs)
    assert "calibrate" in caught.value.cure


@given(st.lists(st.integers(-(10**12), 10**12), min_size=MIN_PAIRS, max_size=40))
def test_the_bound_is_the_rounded_up_deviation_of_the_standard_library(pairs: list[int]) -> None:
    exact = statistics.stdev(pairs)
    if exact == 0:
        return
    bound = bound_of(pairs)
    assert exact * (1 - 1e-12) <= bound.s_nano <= exact * (1 + 1e-12) + 1
    assert bound.factor_milli == (1370 if len(pairs) >= 20 else 1550)
    assert bound.sigma0_nano == math.ceil(bound.s_nano * bound.factor_milli / 1000)


@pytest.mark.parametrize("n", [12, 20])
def test_sigma0_bounds_the_true_noise_95_times_of_100(n: int) -> None:
    rng = random.Random(n)
    sigma, tries = 1_000_000, 4000
    below = sum(
        bound_of([round(rng.gauss(0, sigma)) for _ in range(n)]).sigma0_nano < sigma
        for _ in range(tries)
    )
    assert 0.04 < below / tries < 0.06


# --- what a commit may name ----------------------------------------------------------------------


def bounds(swarm: SmallSwarm, claim: bytes) -> list[int | None]:
    settlement = swarm.quarantine.state().claims[claim].settlement
    assert settlement is not None
    assert settlement.seats.taken is not None
    return [seat.sigma0_nano if seat else None for seat in settlement.seats.taken]


def test_calibrated_members_decide_in_fewer_pairs() -> None:
    pairs = []
    for calibrated in (False, True):
        swarm = SmallSwarm(verifiers=2, tier=replace(TIER, noise_nano=60_000_000))
        if calibrated:
            for key in swarm.verifiers:
                swarm.calibrate(key, 8_000_000)
        claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
        swarm.run(measure(30_000_000, 20_000_000))
        state = swarm.quarantine.state().claims[claim.id]
        assert state.stage is Stage.ADOPTED
        expected = bound_of([8_000_000, -8_000_000] * 10).sigma0_nano if calibrated else None
        assert bounds(swarm, claim.id) == [expected] * 2
        assert state.verdict is not None
        pairs.append(state.verdict.pairs)
    assert pairs[1] < pairs[0]


WRONG = {
    "calibration_of_another_tier": {"tier": "gpu"},
    "calibration_class_not_in_the_charter": {"hw_class": "cuda"},
    "calibration_of_an_unknown_noise_class": {"noise_class": "any"},
    "calibration_numbers_do_not_follow": {"sigma0_nano": 1},
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_commit_with_a_calibration_that_does_not_fit_does_not_count(reason: str) -> None:
    swarm = SmallSwarm(tier=replace(TIER, n=1))
    for key in swarm.verifiers:
        swarm.calibrate(key, **WRONG[reason])
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.step(GOOD)
    state = swarm.quarantine.state()
    assert state.claims[claim.id].reason == "waiting_for_commits"
    assert list(state.ignored.values()) == [reason]


@pytest.mark.parametrize(
    "changes", [{"n": 12}, {"s_nano": 1}, {"factor_milli": 1000}, {"pairs": (5,) * 20}]
)
def test_every_number_must_follow_from_the_pairs(changes: dict[str, object]) -> None:
    swarm = SmallSwarm(tier=replace(TIER, n=1))
    for key in swarm.verifiers:
        swarm.calibrate(key, **changes)
    swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.step(GOOD)
    assert list(swarm.quarantine.state().ignored.values()) == ["calibration_numbers_do_not_follow"]


def test_a_calibration_is_its_authors_own_and_older_than_the_commit() -> None:
    swarm = SmallSwarm(tier=replace(TIER, n=1))
    foreign = swarm.calibrate(swarm.researchers[0])
    claim = swarm.claim(swarm.researchers[1], b"x = 1\n")
    member, duty = next((k, d) for k, d in swarm.todo() if isinstance(d, CommitDuty))
    stolen = swarm.write(member, replace(duty.payload, calibration=foreign.id))
    unknown = swarm.write(member, replace(duty.payload, calibration=digest("nothing")))
    assert swarm.quarantine.state().ignored == {
        stolen.id: "calibration_of_another_author",
        unknown.id: "calibration_unknown",
    }
    # One that is written after the commit cannot be named by it: here its id comes from a copy
    # of the feed in which the two stand the other way round.
    other = SmallSwarm(tier=replace(TIER, n=1))
    late = other.write(member, duty.payload)
    late = other.calibrate(member)
    early = swarm.write(member, replace(duty.payload, calibration=late.id))
    swarm.quarantine.add(late)
    assert early.envelope.seq > late.envelope.seq  # so this one may
    assert early.id not in swarm.quarantine.state().ignored
    before = swarm.quarantine.state().claims[claim.id].settlement
    assert before is not None
    assert before.seats.seen == (early.id,)


def test_a_calibration_that_arrives_late_makes_its_commits_count() -> None:
    swarm = SmallSwarm(verifiers=2)
    held = [swarm.calibrate(key) for key in swarm.verifiers]
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(GOOD)
    records = [record for record in swarm.records if record not in held]
    quarantine = Quarantine(swarm.swarm, no_screen)
    for record in records:
        quarantine.add(record)
    state = quarantine.state()
    assert state.claims[claim.id].stage is Stage.ASSIGNED
    assert "behind_a_gap_in_its_feed" in state.ignored.values()
    for number, record in enumerate(held):
        assert quarantine.add(record)
        assert not quarantine.add(record)
        assert quarantine.state() == fold(swarm.swarm, [*held[: number + 1], *records], no_screen)
    assert quarantine.state().claims[claim.id].stage is Stage.ADOPTED


def test_a_commit_names_what_its_node_was_calibrated_with() -> None:
    swarm = SmallSwarm(verifiers=2)
    held = swarm.calibrate(swarm.verifiers[0])
    swarm.claim(swarm.researchers[0], b"x = 1\n")
    named = {
        key.public: duty.payload.calibration
        for key, duty in swarm.todo()
        if isinstance(duty, CommitDuty) and isinstance(duty.payload, Commit)
    }
    assert named == {swarm.verifiers[0].public: held.id, swarm.verifiers[1].public: None}

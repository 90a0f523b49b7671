"""A bench whose members lie, vanish and contradict themselves: what is settled stays settled.

Honest members here do what ``verification.duty`` asks of them and see records in any order; liars
say whatever the forms allow, in both branches of a fork if they like.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.envelope import seal_record
from swarm.records import Attest, Block, Commit, Open, Seal, Seating
from tests.verification.small_swarm import TIER, SmallSwarm, digest, measure, no_screen
from verification.duty import AttestDuty, PairDuty, SeatingDuty
from verification.quarantine import Quarantine, fold
from verification.seating import enough, is_torn
from verification.states import ClaimState, Stage

if TYPE_CHECKING:
    from swarm.envelope import Record
    from swarm.keys import KeyPair
    from swarm.records import Payload

GOOD = measure(30_000_000)
BAD = measure(-30_000_000, 4_000_000)
YES = measure(300_000_000)
NO = measure(-300_000_000)
FIVE = replace(TIER, n=5, f=1, g=1, max_pairs=8)


def five(tier=FIVE, verifiers: int = 5) -> tuple[SmallSwarm, Record]:
    swarm = SmallSwarm(verifiers=verifiers, tier=tier)
    return swarm, swarm.claim(swarm.researchers[0], b"x = 1\n")


def where(swarm: SmallSwarm, claim: Record) -> ClaimState:
    return swarm.quarantine.state().claims[claim.id]


def at_turn(swarm: SmallSwarm, claim: Record) -> KeyPair:
    turn = where(swarm, claim).turn
    assert turn is not None
    return next(key for key in swarm.verifiers if key.public == turn.seat.key)


def to_the_first_turn(swarm: SmallSwarm, claim: Record) -> KeyPair:
    while where(swarm, claim).stage is Stage.ASSIGNED:
        assert swarm.step(GOOD)
    return at_turn(swarm, claim)


# --- how many are enough -------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 16))
@pytest.mark.parametrize("g", range(6))
def test_two_things_about_one_member_never_both_have_enough(n: int, g: int) -> None:
    """Others who speak once, and liars among them who speak twice, cannot fill both."""
    said, silent = enough(n, g, absent=False), enough(n, g, absent=True)
    others = n - 1
    assert said + silent > others + min(g, others)
    if g:  # two blocks of one member: then it is one of the g itself
        assert 2 * said > others + min(g - 1, others)
    if others >= 3 * g + 1:  # and with enough others the honest ones decide alone
        assert said <= others - g
        assert silent <= others - g


@given(st.integers(2, 9), st.integers(0, 3), st.booleans(), st.randoms(use_true_random=False))
def test_what_is_torn_can_never_be_settled(
    n: int, g: int, two_faced: bool, rng: random.Random
) -> None:
    """Whatever is said later: by those who have not spoken, and by liars about everything."""
    others, values = range(1, n), [b"x", b"y", b"z", None]
    said = {rank: rng.choice(values) for rank in others if rng.random() < 0.9}
    voices = {v: {rank for rank, word in said.items() if word == v} for v in set(said.values())}
    if not is_torn(n, g, voices, two_faced=two_faced):
        return
    liars = set(rng.sample(list(others), min(max(0, g - two_faced), n - 1)))
    for value in [*values, b"never seen"]:
        most = voices.get(value, set()) | liars | (set(others) - set(said))
        assert len(most) < enough(n, g, absent=value is None)


def test_a_bench_that_is_told_two_things_is_torn_and_one_that_waits_is_not() -> None:
    told = {b"x": {1, 2}, b"y": {3, 4}}
    assert is_torn(5, 1, told, two_faced=True)
    assert not is_torn(5, 1, {b"x": {1, 2}, b"y": {3}}, two_faced=True)
    assert not is_torn(5, 1, {b"x": {1, 2, 3}, None: {4}}, two_faced=False)
    assert not is_torn(5, 1, {}, two_faced=False)


# --- who vanishes --------------------------------------------------------------------------------


def test_who_never_comes_is_passed_over_and_who_vanishes_loses_the_pair() -> None:
    swarm, claim = five(replace(FIVE, f=0, g=0))
    absent, *rest = swarm.verifiers
    swarm.run(GOOD, members=rest)
    assert where(swarm, claim).reason == "waiting_for_commits"
    swarm.run(GOOD, members=rest, patient=False)
    state = where(swarm, claim)
    assert state.stage is Stage.ADOPTED
    assert state.settlement is not None
    assert state.bench is not None
    rank = state.bench.rank_of(absent.public)
    skipped = [one for one in state.settlement.reproductions if one.rank == rank]
    assert all((one.block, one.pair, one.committed) == (None, None, False) for one in skipped)
    assert state.verdict is not None
    assert state.verdict.lost == 0


def test_a_member_that_leaves_when_it_sees_the_result_has_lost_its_pair() -> None:
    swarm, claim = five()
    leaver = to_the_first_turn(swarm, claim)
    rest = [key for key in swarm.verifiers if key != leaver]
    swarm.seal(leaver, next(one for one in swarm.duties_of(leaver) if isinstance(one, PairDuty)))
    swarm.run(GOOD, members=rest)
    assert where(swarm, claim).stage is Stage.COMMITTED  # patient members wait for its block
    while where(swarm, claim).stage is Stage.COMMITTED:
        assert swarm.step(GOOD, members=rest, patient=False)
    state = where(swarm, claim)
    assert state.settlement is not None
    first = state.settlement.reproductions[0]
    assert (first.block, first.committed) == (None, True)
    assert state.verdict is not None
    assert state.verdict.lost == 1
    swarm.run(GOOD)  # it comes back, its other rounds count
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_two_need_each_other_and_two_of_five_settle_nothing() -> None:
    swarm, claim = five(replace(TIER, n=2), verifiers=2)
    swarm.run(GOOD, members=swarm.verifiers[:1], patient=False)
    assert where(swarm, claim).reason == "waiting_for_commits"
    swarm, claim = five()
    swarm.run(GOOD, members=swarm.verifiers[:2], patient=False)
    assert where(swarm, claim).reason == "waiting_for_commits"
    assert not swarm.todo(swarm.verifiers[:2], patient=False)
    swarm.run(GOOD)  # the others wake up
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_a_bench_that_never_answers_leaves_its_claim_in_quarantine() -> None:
    swarm, claim = five()
    swarm.run(GOOD, members=[], patient=False)
    state = where(swarm, claim)
    assert (state.stage, state.reason) == (Stage.ASSIGNED, "waiting_for_commits")
    assert swarm.quarantine.state().frontier == {"quick": None}


def test_a_laptop_that_wakes_up_and_declares_everybody_absent_changes_nothing() -> None:
    swarm, claim = five()
    sleeper = to_the_first_turn(swarm, claim)
    rest = [key for key in swarm.verifiers if key != sleeper]
    while where(swarm, claim).stage is not Stage.ADOPTED:
        assert swarm.step(GOOD, members=rest, patient=False)
    before = where(swarm, claim)
    assert before.settlement is not None
    for item in before.settlement.reproductions:
        swarm.write(sleeper, Attest(
            claim.id, item.round, item.rank, None, claim.id, digest("whatever it saw")
        ))  # fmt: skip
    assert where(swarm, claim).verdict == before.verdict


# --- who says two things -------------------------------------------------------------------------


def test_a_second_version_of_a_block_months_later_changes_nothing() -> None:
    swarm, claim = five()
    liar = to_the_first_turn(swarm, claim)
    swarm.seal(liar, next(one for one in swarm.duties_of(liar) if isinstance(one, PairDuty)))
    while (duty := next(d for d in swarm.duties_of(liar) if isinstance(d, PairDuty))).waits:
        swarm.step(GOOD)
    held = swarm.write(liar, swarm.block(duty, GOOD))
    swarm.run(GOOD)
    before = where(swarm, claim)
    assert before.stage is Stage.ADOPTED
    second = swarm.write(liar, swarm.block(duty, NO))
    fork = fork_of(swarm, liar, held, swarm.block(duty, NO))
    for records in ([*swarm.records, fork], [fork, *reversed(swarm.records)]):
        state = fold(swarm.swarm, records, no_screen)
        assert state.claims[claim.id].verdict == before.verdict
        assert state.ignored[second.id] == "second_block"


def fork_of(swarm: SmallSwarm, key: KeyPair, said: Record, payload: Payload) -> Record:
    """What an author says in place of ``said``, to others."""
    env = said.envelope
    return seal_record(
        key, payload, swarm=swarm.swarm, seq=env.seq, prev=env.prev, epoch=env.epoch, day=env.day
    )


@pytest.mark.parametrize(("n", "f"), [(3, 0), (3, 1)])
def test_a_forked_block_that_halves_the_bench_costs_its_pair_and_stops_nothing(
    n: int, f: int
) -> None:
    swarm, claim = five(replace(FIVE, n=n, f=f, g=0), verifiers=n)
    liar = to_the_first_turn(swarm, claim)
    swarm.seal(liar, next(one for one in swarm.duties_of(liar) if isinstance(one, PairDuty)))
    while (duty := next(d for d in swarm.duties_of(liar) if isinstance(d, PairDuty))).waits:
        swarm.step(GOOD)
    first, second = (key for key in swarm.verifiers if key != liar)
    one = swarm.write(liar, swarm.block(duty, YES))
    said = next(d for d in swarm.duties_of(first) if isinstance(d, AttestDuty)).payload
    assert said.block == one.id
    other = fork_of(swarm, liar, one, swarm.block(duty, NO))
    swarm.quarantine.add(other)
    swarm.write(first, said)
    swarm.write(second, replace(said, block=other.id))
    state = where(swarm, claim)
    assert state.settlement is not None
    (position,) = state.settlement.reproductions
    assert (position.block, position.committed) == (None, True)
    assert swarm.todo(patient=False)  # and it goes on


# --- any order, any part, any lies of f members ---------------------------------------------------


class Liars:
    """Members of a bench who say anything at all, in forked feeds too; ``how`` they measure."""

    def __init__(self, swarm: SmallSwarm, keys: list[KeyPair], rng: random.Random) -> None:
        self.swarm, self.keys, self.rng = swarm, keys, rng
        self.how = rng.choice([YES, NO])
        self.forks: list[Record] = []

    def act(self, claim: Record) -> None:
        """Say one thing: what an honest member would, a lie in its place, or noise."""
        rng, swarm, key = self.rng, self.swarm, self.rng.choice(self.keys)
        due = swarm.duties_of(key)
        if due and rng.random() < 0.6:
            duty = rng.choice(due)
            if isinstance(duty, PairDuty):
                if not duty.waits:
                    swarm.do(key, duty, self.how)
                return
            payload = duty.payload
            if isinstance(duty, AttestDuty) and rng.random() < 0.5:
                payload = replace(duty.payload, block=None)
            if isinstance(duty, SeatingDuty) and rng.random() < 0.5:
                payload = replace(duty.payload, commits=(None,) * len(duty.payload.commits))
            swarm.write(key, payload)
            return
        said = [r for r in swarm.records if isinstance(
            r.payload, Commit | Seating | Seal | Open | Block | Attest
        )]  # fmt: skip
        if not said:
            return
        model = rng.choice(said)
        payload = self._bent(model.payload)
        own = [r for r in said if r.author == key.public]
        if own and rng.random() < 0.3:
            fork = fork_of(swarm, key, rng.choice(own), payload)
            self.forks.append(fork)
            swarm.quarantine.add(fork)
        else:
            swarm.write(key, payload)

    def _bent(self, payload: Payload) -> Payload:
        rng = self.rng
        if isinstance(payload, Attest):
            blocks = [r.id for r in self.swarm.records if isinstance(r.payload, Block)]
            return replace(payload, block=rng.choice([None, *blocks]))
        if isinstance(payload, Seating):
            return replace(payload, commits=tuple(rng.choice([c, None]) for c in payload.commits))
        if isinstance(payload, Block):
            pair = payload.pairs[0]
            candidate = pair.candidate_nano + rng.choice([-1, 1]) * 200_000_000
            gain = pair.base_nano - candidate
            return replace(payload, pairs=(replace(pair, candidate_nano=candidate, d_nano=gain),))
        return payload


def play(seed: int, truth, patience: float = 0.8) -> tuple[SmallSwarm, Record, list[Record]]:
    """A claim before a bench of five, of whom one says anything; of the others' words a share of
    ``1 - patience`` is said before its time."""
    rng = random.Random(seed)
    swarm, claim = five()
    for key in swarm.verifiers:
        if rng.random() < 0.5:
            swarm.calibrate(key, 10_000_000)
    bad = Liars(swarm, rng.sample(swarm.verifiers, 1), rng)
    honest = [key for key in swarm.verifiers if key not in bad.keys]
    for _ in range(rng.randint(60, 260)):
        if rng.random() < 0.3:
            bad.act(claim)
        else:
            swarm.step(truth, rng, members=honest, patient=rng.random() < patience)
    return swarm, claim, bad.forks


OPEN = {Stage.ASSIGNED, Stage.COMMITTED, Stage.REPRODUCING}


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6))
def test_one_liar_of_five_neither_makes_a_bad_claim_pass_nor_a_good_one_fail(seed: int) -> None:
    for truth, stage in ((BAD, Stage.REJECTED), (GOOD, Stage.ADOPTED)):
        swarm, claim, _ = play(seed, truth, patience=1)
        swarm.run(truth, patient=False)
        state = where(swarm, claim)
        assert state.stage is stage, state.reason


def test_the_histories_above_come_to_verdicts_through_lies() -> None:
    """The properties are about something: forks, spoilt records, absences, and decisions."""
    seen: set[str] = set()
    for seed in range(8):
        swarm, claim, forks = play(seed, GOOD)
        state = where(swarm, claim)
        seen.add(state.stage.value)
        seen.update(swarm.quarantine.state().ignored.values())
        seen.update({"fork"} if forks else ())
        if state.settlement:
            seen.update("absent" for one in state.settlement.reproductions if one.pair is None)
    assert {"adopted", "fork", "absent", "outvoted"} <= seen, seen


def test_one_by_one_gives_what_all_at_once_gives() -> None:
    swarm, claim, forks = play(3, GOOD)
    records = [*swarm.records, *forks]
    quarantine = Quarantine(swarm.swarm, no_screen)
    for record in records:
        quarantine.add(record)
        quarantine.state()
    assert quarantine.state() == fold(swarm.swarm, reversed(records), no_screen)
    assert quarantine.state().claims[claim.id].id == claim.id

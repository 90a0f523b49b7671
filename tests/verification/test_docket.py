"""Members that say far too much: it neither slows a claim down, nor undoes what was settled."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.records import Attest, Block, Commit, Open, Seal, Seating
from tests.verification.small_swarm import SmallSwarm, digest, no_screen
from tests.verification.test_agreement import (
    BAD,
    FIVE,
    GOOD,
    OPEN,
    at_turn,
    five,
    play,
    to_the_first_turn,
    where,
)
from verification import docket, filing
from verification.docket import MOST_WORDS, Docket
from verification.duty import PairDuty
from verification.quarantine import fold
from verification.states import Stage


def flood(swarm: SmallSwarm, key, payload, field: str, values) -> None:
    for value in values:
        swarm.write(key, replace(payload, **{field: value}))


def numbers(count: int = MOST_WORDS + 4) -> list[bytes]:
    return [digest(f"flood {i}") for i in range(count)]


def said_by(swarm: SmallSwarm, key, kind):
    return next(r.payload for r in swarm.records
                if r.author == key.public and isinstance(r.payload, kind))  # fmt: skip


def test_each_kind_of_flood_by_one_of_five_leaves_the_claim_to_the_others() -> None:
    swarm, claim = five()
    liar = swarm.verifiers[0]
    while where(swarm, claim).stage is not Stage.REPRODUCING or not any(
        r.author == liar.public and isinstance(r.payload, Block) for r in swarm.records
    ):
        assert swarm.step(GOOD)
    before = where(swarm, claim).settlement
    assert before is not None
    for kind, field in (
        (Commit, "nonce_hash"), (Seal, "base_weights"), (Attest, "block"), (Block, "env_digest"),
        (Open, "fold_nonce"),
    ):  # fmt: skip
        flood(swarm, liar, said_by(swarm, liar, kind), field, numbers())
    seating = said_by(swarm, liar, Seating)
    flood(swarm, liar, seating, "commits", [(n,) * 5 for n in numbers()])
    after = where(swarm, claim).settlement
    assert after is not None
    assert after.reproductions[: len(before.reproductions)] == before.reproductions
    records = list(swarm.records)
    random.Random(1).shuffle(records)
    assert fold(swarm.swarm, records, no_screen) == swarm.quarantine.state()
    honest = [key for key in swarm.verifiers if key != liar]
    swarm.run(GOOD, members=honest, patient=False)
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_who_has_no_seat_is_put_aside_and_costs_nothing() -> None:
    swarm, claim = five(verifiers=6)
    state = where(swarm, claim)
    assert state.bench is not None
    seated = {seat.key for seat in state.bench.seats}
    off = next(key for key in swarm.verifiers if key.public not in seated)
    word = Attest(claim.id, 0, 0, None, claim.id, digest("prefix"))
    few = [swarm.write(off, word) for _ in range(MOST_WORDS)]
    assert swarm.quarantine.state().ignored == dict.fromkeys(
        (one.id for one in few), "not_on_the_bench"
    )
    swarm.write(off, word)
    assert swarm.quarantine.state().ignored == {}  # too many to be listed
    before = swarm.quarantine.state()
    swarm.write(off, word)
    assert swarm.quarantine.state() is before  # nothing was computed for it
    assert fold(swarm.swarm, reversed(swarm.records), no_screen) == before
    swarm.run(GOOD)
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_a_member_with_many_blocks_is_believed_what_others_hold() -> None:
    swarm, claim = five()
    liar = to_the_first_turn(swarm, claim)
    swarm.seal(liar, next(one for one in swarm.duties_of(liar) if isinstance(one, PairDuty)))
    while (duty := next(d for d in swarm.duties_of(liar) if isinstance(d, PairDuty))).waits:
        swarm.step(GOOD)
    block = swarm.block(duty, GOOD)
    held = swarm.write(liar, block)
    swarm.run(GOOD, members=[key for key in swarm.verifiers if key != liar])
    before = where(swarm, claim).settlement
    assert before is not None
    assert before.reproductions[0].block == held.id
    flood(swarm, liar, block, "env_digest", numbers())
    after = where(swarm, claim).settlement
    assert after is not None
    assert after.reproductions[0].block == held.id
    # and many blocks before anybody has spoken are nobody's: the others call it absent
    swarm, claim = five()
    liar = to_the_first_turn(swarm, claim)
    swarm.seal(liar, next(one for one in swarm.duties_of(liar) if isinstance(one, PairDuty)))
    while (duty := next(d for d in swarm.duties_of(liar) if isinstance(d, PairDuty))).waits:
        swarm.step(GOOD)
    flood(swarm, liar, swarm.block(duty, GOOD), "env_digest", numbers())
    honest = [key for key in swarm.verifiers if key != liar]
    swarm.run(GOOD, members=honest, patient=False)
    settlement = where(swarm, claim).settlement
    assert settlement is not None
    assert settlement.reproductions[0].block is None
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_words_are_in_the_order_of_the_feed_whatever_came_first() -> None:
    swarm, claim = five()
    key = at_turn_or_first(swarm, claim)
    records = [swarm.write(key, Seal(claim.id, 0, n, n, True)) for n in numbers(6)]
    for seed in range(5):
        held = Docket()
        for record in random.Random(seed).sample(records, len(records)):
            held.add(record)
        words = held.seals[(key.public, 0)]
        assert words.records == records
        assert words.first_after(records[2].envelope.seq) is records[3]
        assert words.first_after(records[-1].envelope.seq) is None


def at_turn_or_first(swarm: SmallSwarm, claim):
    return at_turn(swarm, claim) if where(swarm, claim).turn else swarm.verifiers[0]


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_one_word_more_than_anybody_honest_says_undoes_nothing(
    seed: int, rng: random.Random
) -> None:
    """As in the tests of agreement, with forks; a liar is known for one at its second word."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docket, "MOST_WORDS", 1)
        patch.setattr(filing, "MOST_WORDS", 1)
        swarm, claim, forks = play(seed, GOOD)
        records = [*swarm.records, *forks]
        state = fold(swarm.swarm, rng.sample(records, len(records)), no_screen)
        assert state == swarm.quarantine.state()
        whole = state.claims[claim.id]
        rules = [r for r in records if r.kind in ("charter", "epoch", "beacon", "claim")]
        for _ in range(4):
            part = rules + rng.sample(records, rng.randint(0, len(records)))
            seen = fold(swarm.swarm, part, no_screen).claims[claim.id]
            if seen.stage not in OPEN:
                assert (seen.stage, seen.verdict) == (whole.stage, whole.verdict)
            settled = seen.settlement.reproductions if seen.settlement else ()
            held = whole.settlement.reproductions if whole.settlement else ()
            assert held[: len(settled)] == settled


def test_a_talkative_liar_of_five_changes_no_verdict() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docket, "MOST_WORDS", 1)
        wild = False
        for seed in range(4):
            for truth, stage in ((BAD, Stage.REJECTED), (GOOD, Stage.ADOPTED)):
                swarm, claim, _ = play(seed, truth, patience=1)
                swarm.run(truth, patient=False)
                assert where(swarm, claim).stage is stage
                held = swarm.quarantine._filing.of(claim.id)
                wild = wild or any(w.wild for by in held.attests.values() for w in by.values())
        assert wild
        assert FIVE.g == 1

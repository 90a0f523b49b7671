"""Members that say far too much: it neither slows a claim down, nor undoes what was settled."""

from __future__ import annotations

import gc
import random
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.envelope import parse, seal_record
from swarm.records import (
    Attest,
    Block,
    Commit,
    Equivocation,
    Open,
    Pair,
    Position,
    Seal,
    Seating,
)
from tests.verification.small_swarm import SmallSwarm, digest, no_screen
from tests.verification.test_agreement import (
    BAD,
    FIVE,
    GOOD,
    OPEN,
    at_turn,
    five,
    fork_of,
    play,
    to_the_first_turn,
    where,
)
from verification import docket, filing
from verification.docket import MOST_WORDS, Docket
from verification.duty import PairDuty
from verification.quarantine import Quarantine, fold
from verification.shelf import Said
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
    while (
        where(swarm, claim).stage is not Stage.REPRODUCING
        or not any(r.author == liar.public and isinstance(r.payload, Block) for r in swarm.records)
        or not any(r.author == liar.public and isinstance(r.payload, Open) for r in swarm.records)
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
    # of many blocks before anybody has spoken the first counts, if its feed has no fork;
    swarm, claim = five()
    liar = to_the_first_turn(swarm, claim)
    swarm.seal(liar, next(one for one in swarm.duties_of(liar) if isinstance(one, PairDuty)))
    while (duty := next(d for d in swarm.duties_of(liar) if isinstance(d, PairDuty))).waits:
        swarm.step(GOOD)
    before_flood = len(swarm.records)
    flood(swarm, liar, swarm.block(duty, GOOD), "env_digest", numbers())
    first = swarm.records[before_flood]
    at = where(swarm, claim).settlement
    assert at is not None
    assert at.open is not None
    assert at.open.block == first.id
    # with one they are nobody's: the others call it absent
    swarm.quarantine.add(fork_of(swarm, liar, first, swarm.block(duty, BAD)))
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
            held.add(Said.of(record))
        words = held.seals[(key.public, 0)]
        assert words.said == [Said.of(record) for record in records]
        after = words.first_after(records[2].envelope.seq)
        assert after is not None
        assert after.id == records[3].id
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


# --- what is held in memory of it ----------------------------------------------------------------


def held_bytes(swarm: SmallSwarm, records) -> tuple[int, int]:
    """What a fold with a log keeps in memory of ``records`` at their arrival, and their own size;
    its state is then that of a fold that keeps all.
    """
    log = {record.id: record.signed.to_bytes() for record in [*swarm.records, *records]}
    kept = Quarantine(swarm.swarm, no_screen, log=lambda id_: parse(log[id_]))
    for record in swarm.records:
        kept.add(record)
    kept.state()
    gc.collect()
    tracemalloc.start()
    for record in records:
        kept.add(parse(log[record.id]))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.state() == fold(swarm.swarm, [*records, *swarm.records], no_screen)
    return taken, sum(len(log[record.id]) for record in records)


@pytest.mark.parametrize("about", ["a claim that is unknown", "a bench without a seat for it"])
def test_a_flood_that_nothing_follows_from_takes_less_memory_than_its_bytes(about: str) -> None:
    swarm, claim = five(verifiers=6)
    state = where(swarm, claim)
    assert state.bench is not None
    seated = {seat.key for seat in state.bench.seats}
    off = next(key for key in swarm.verifiers if key.public not in seated)
    target = digest("nothing") if about == "a claim that is unknown" else claim.id
    said = a_block(target)
    for size in (1, 400):  # a small record has less to save
        prefix = tuple(Position(0, 0, None) for _ in range(size))
        flood = [
            seal_record(
                off, replace(said, prefix=prefix, nonce=nonce), swarm=swarm.swarm, seq=number,
                prev=nonce if number else None, epoch=1, day=20_000,
            )
            for number, nonce in enumerate(numbers(300))
        ]  # fmt: skip
        taken, size_of_all = held_bytes(swarm, flood)
        assert taken < size_of_all / (1 if size == 1 else 10)


def test_blocks_of_a_talkative_member_on_the_bench_take_less_memory_than_their_bytes() -> None:
    swarm, claim = five()
    liar = to_the_first_turn(swarm, claim)
    seq = sum(record.author == liar.public for record in swarm.records)
    flood = [
        seal_record(
            liar, replace(a_block(claim.id), nonce=nonce), swarm=swarm.swarm, seq=seq + number,
            prev=nonce, epoch=1, day=20_000,
        )
        for number, nonce in enumerate(numbers(300))
    ]  # fmt: skip
    taken, size_of_all = held_bytes(swarm, flood)
    assert taken < size_of_all


def test_what_was_said_before_its_claim_came_counts_as_if_it_had_come_after() -> None:
    """With a log that words are read from again, and records that the log has in a proof only."""
    swarm, claim, forks = play(3, GOOD)
    proof_of = {(r.author, r.envelope.seq): r for r in swarm.records}
    proofs = [
        seal_record(
            swarm.outsider,
            Equivocation(
                proof_of[fork.author, fork.envelope.seq].signed.to_bytes(),
                fork.signed.to_bytes(),
            ),
            swarm=swarm.swarm, seq=number, prev=digest("x") if number else None, epoch=1, day=1,
        )
        for number, fork in enumerate(forks)
        if (fork.author, fork.envelope.seq) in proof_of
    ]  # fmt: skip
    assert proofs
    records = [*swarm.records, *proofs]
    log = {record.id: record for record in records}
    whole = fold(swarm.swarm, records, no_screen)
    for seed in range(4):
        rng = random.Random(seed)
        late = Quarantine(swarm.swarm, no_screen, log=log.get)
        for record in rng.sample(records, len(records)):
            if record.id != claim.id:
                late.add(record)
            if rng.random() < 0.1:
                late.state()
        late.add(claim)
        assert late.state() == whole


def test_a_link_of_somebody_without_a_seat_breaks_no_fold_when_words_come_too_late() -> None:
    """Opened before the bench is drawn, it is filed with it; what came late was then looked for
    among the words of those who are seated.
    """
    swarm = SmallSwarm(verifiers=3, sizes={"claim_epochs": 0})
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    seals = [swarm.write(key, Seal(claim.id, 0, claim.id, claim.id, True))
             for key in swarm.verifiers]  # fmt: skip
    for key, seal in zip(swarm.verifiers, seals, strict=True):
        swarm.write(key, Open(seal.id, digest("link")))
    for key in swarm.verifiers:
        swarm.write(key, Attest(claim.id, 0, 0, None, claim.id, digest("prefix")), epoch=2)
    state = where(swarm, claim)
    assert state.bench is not None
    assert len(state.bench.seats) == 2
    assert fold(swarm.swarm, reversed(swarm.records), no_screen) == swarm.quarantine.state()


def a_block(claim: bytes) -> Block:
    pair = Pair(0, 7, "base_first", 1, "ok", 1, 0, 9, 9, 9)
    numbers_ = (claim, 0, 0, "verdict", (), claim, claim, claim, "other", (pair,), {})
    return Block(*numbers_, hw_class="cpu", env_digest=claim)

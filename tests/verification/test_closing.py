"""Claims that can never be decided any more: when that is known, and that nothing undoes it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from swarm.records import Attest, Block, Experiment, Open
from tests.verification.small_swarm import TIER, SmallSwarm, digest, measure, no_screen
from verification.closing import LIFE, Feeds, last_epoch
from verification.quarantine import fold
from verification.seating import enough, is_stuck, is_torn
from verification.states import FAILED, ClaimState, Stage

if TYPE_CHECKING:
    from swarm.envelope import Record
    from swarm.keys import KeyPair

GOOD = measure(30_000_000)
STUCK = (Stage.EXPIRED, "too_few_are_left_to_say_anything")


def where(swarm: SmallSwarm, claim: Record) -> ClaimState:
    return swarm.quarantine.state().cases[claim.id]


def stands(swarm: SmallSwarm, claim: Record) -> tuple[Stage, str]:
    state = where(swarm, claim)
    return state.stage, state.reason


def go_on(swarm: SmallSwarm, epoch: int, members: list[KeyPair] | None = None) -> None:
    """Members say something else in a later epoch, which is opened if it is not there."""
    rules = swarm.quarantine.state().rules
    assert rules is not None
    for number in range(rules.number + 1, epoch + 1):
        swarm.open_epoch(number, swarm.quarantine.state().rules.epochs[number - 1].id)  # type: ignore[union-attr]
    said = Experiment("quick", None, digest("ast"), "an idea", "me", "failed", "", (), 1)
    for key in swarm.verifiers if members is None else members:
        swarm.write(key, said, epoch=epoch)


def mortal(epochs: int = 1, verifiers: int = 2, tier=TIER) -> tuple[SmallSwarm, Record]:
    swarm = SmallSwarm(verifiers=verifiers, tier=tier, sizes={"claim_epochs": epochs})
    return swarm, swarm.claim(swarm.researchers[0], b"x = 1\n")


# --- by hand -------------------------------------------------------------------------------------


def test_a_bench_that_went_on_without_a_word_ends_the_claim() -> None:
    swarm, claim = mortal()
    child = swarm.claim(swarm.researchers[0], b"x = 2\n", slot=1, base=claim.id)
    go_on(swarm, 2)  # its life lasts to the end of epoch 2
    assert where(swarm, claim).stage is Stage.ASSIGNED
    go_on(swarm, 3, [])
    assert where(swarm, claim).stage is Stage.ASSIGNED  # who is silent may have spoken in time
    go_on(swarm, 3)
    assert stands(swarm, claim) == STUCK
    assert stands(swarm, child) == (Stage.VOID, "base_not_adopted")
    assert not swarm.todo(patient=False)
    assert fold(swarm.swarm, reversed(swarm.records), no_screen) == swarm.quarantine.state()


def test_what_is_said_too_late_does_not_count_and_nobody_is_asked_to() -> None:
    swarm, claim = mortal(epochs=0)
    duties = swarm.todo()
    go_on(swarm, 2, [])
    assert not swarm.todo(patient=False)
    key, duty = duties[0]
    late = swarm.write(key, duty.payload, epoch=2)  # type: ignore[union-attr]
    state = swarm.quarantine.state()
    assert state.ignored == {late.id: "after_the_last_epoch_of_its_claim"}
    assert state.claims[claim.id].settlement.seats.seen == (None, None)  # type: ignore[union-attr]


def test_what_was_adopted_stays_so_when_all_have_gone_on() -> None:
    swarm, claim = mortal(epochs=0, tier=replace(TIER, effect_pairs=6))
    while where(swarm, claim).stage is not Stage.ADOPTED:
        swarm.step(GOOD)
    before = where(swarm, claim)
    go_on(swarm, 2)
    after = where(swarm, claim)
    assert (after.stage, after.verdict) == (Stage.ADOPTED, before.verdict)
    assert not swarm.todo(patient=False)  # an effect that was not complete in time never is


def test_a_position_that_waits_for_those_who_have_gone_on_ends_the_claim() -> None:
    swarm, claim = mortal(epochs=0)
    while where(swarm, claim).stage is not Stage.REPRODUCING:
        swarm.step(GOOD)
    go_on(swarm, 2, swarm.verifiers[:1])
    go_on(swarm, 2, swarm.verifiers[1:])
    assert stands(swarm, claim) == STUCK


def test_a_member_alone_on_its_bench_and_gone() -> None:
    swarm, claim = mortal(epochs=0, verifiers=1, tier=replace(TIER, n=1))
    go_on(swarm, 2)
    assert stands(swarm, claim) == STUCK


def test_who_is_never_heard_of_again_may_have_said_what_settles_it() -> None:
    """No rule can end this one: the third voice may be signed, and on its way."""
    swarm, claim = mortal(epochs=0, verifiers=5, tier=replace(TIER, n=5, f=1, g=1))
    while where(swarm, claim).stage is Stage.ASSIGNED:
        swarm.step(GOOD)
    turn = where(swarm, claim).turn
    assert turn is not None
    rest = [key for key in swarm.verifiers if key.public != turn.seat.key]
    alive, third = rest[:2], rest[2]
    for key in alive:
        (duty,) = (d for k, d in swarm.todo([key], patient=False) if k is key)
        swarm.do(key, duty, GOOD)
    go_on(swarm, 2, alive)
    assert where(swarm, claim).stage is Stage.COMMITTED
    said = next(r.payload for r in swarm.records if isinstance(r.payload, Attest))
    swarm.write(third, said, epoch=1)  # here it comes
    state = where(swarm, claim)
    assert state.settlement is not None
    assert len(state.settlement.reproductions) == 1


def test_a_block_whose_fold_another_has_yet_to_open_is_not_silence() -> None:
    """All that its author said is here, and does not fit without the link, which may be on its way.

    So the position may still be settled as that block: nobody may call the claim expired.
    """
    swarm, claim = mortal(epochs=0, verifiers=3, tier=replace(TIER, n=3))
    while not isinstance(swarm.records[-1].payload, Block):
        swarm.step(GOOD)
    author = swarm.records[-1].author
    (link,) = (record for record in swarm.records if isinstance(record.payload, Open))
    (opener,) = (key for key in swarm.verifiers if key.public == link.author)
    ((_, attest),) = swarm.todo([opener])
    go_on(swarm, 2, [key for key in swarm.verifiers if key is not opener])
    part = [record for record in swarm.records if record.id != link.id]
    seen = fold(swarm.swarm, part, no_screen)
    assert seen.ignored[next(r.id for r in part if r.author == author and r.kind == "block")] == (
        "fold_not_opened"
    )
    assert seen.cases[claim.id].stage is Stage.COMMITTED
    swarm.do(opener, attest, GOOD)
    settlement = where(swarm, claim).settlement
    assert settlement is not None
    assert len(settlement.reproductions) == 1
    go_on(swarm, 2, [opener])
    assert stands(swarm, claim) == STUCK  # all the same at the next position, where all are silent


def test_a_charter_names_how_long_and_a_long_life_is_the_rule() -> None:
    swarm = SmallSwarm()
    rules = swarm.quarantine.state().rules
    assert rules is not None
    assert last_epoch(rules, 3) == 3 + LIFE
    swarm, _ = mortal(epochs=4)
    rules = swarm.quarantine.state().rules
    assert rules is not None
    assert last_epoch(rules, 3) == 7


# --- feeds without a gap -------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_only_the_gapless_part_of_a_feed_tells_where_its_author_is(rng: random.Random) -> None:
    swarm, _ = mortal()
    go_on(swarm, 2)
    go_on(swarm, 4)
    key = swarm.verifiers[0].public
    own = [record for record in swarm.records if record.author == key]
    held = rng.sample(own, rng.randint(0, len(own)))
    feeds = Feeds()
    for record in held:
        feeds.note(record)
    epochs = [record.envelope.epoch for record in own]
    seqs = {record.envelope.seq for record in held}
    gapless = next(n for n in range(len(own) + 1) if n not in seqs)
    assert feeds.epoch(key) == max(epochs[:gapless], default=0)


# --- what can never happen -----------------------------------------------------------------------


def some_voices(rng: random.Random, n: int) -> dict[bytes | None, set[int]]:
    said = {rank: rng.choice([b"x", b"y", None]) for rank in range(1, n) if rng.random() < 0.5}
    return {v: {rank for rank, word in said.items() if word == v} for v in set(said.values())}


def said_later(
    rng: random.Random, voices: dict[bytes | None, set[int]], speak: set[int], liars: set[int]
) -> dict[bytes | None, set[int]]:
    """Voices after ``speak`` have said one thing each, if they had said nothing, and ``liars`` any
    number of things.
    """
    after = {value: set(said) for value, said in voices.items()}
    spoke = set().union(*voices.values()) if voices else set()
    values = [b"x", b"y", b"z", b"w", None]
    for rank in speak - spoke:
        if rng.random() < 0.9:
            after.setdefault(rng.choice(values), set()).add(rank)
    for rank in liars:
        for value in rng.sample(values, rng.randint(0, 4)):
            after.setdefault(value, set()).add(rank)
    return after


def settled_or_torn(n: int, g: int, voices: dict[bytes | None, set[int]], two_faced: bool) -> bool:
    return is_torn(n, g, voices, two_faced=two_faced) or any(
        len(said) >= enough(n, g, absent=value is None) for value, said in voices.items()
    )


def test_what_is_stuck_is_never_settled_nor_torn() -> None:
    stuck = 0
    for seed in range(4000):
        rng = random.Random(seed)
        n, g = rng.randint(1, 9), rng.randint(0, 2)
        two_faced = g > 0 and rng.random() < 0.3
        voices, others = some_voices(rng, n), set(range(1, n))
        gone = {rank for rank in others if rng.random() < 0.8}
        silent = not two_faced and rng.random() < 0.5
        if settled_or_torn(n, g, voices, two_faced):
            continue
        if not is_stuck(n, g, voices, gone, two_faced=two_faced, silent=silent):
            continue
        stuck += 1
        for _ in range(5):
            liars = set(rng.sample(sorted(others), min(n - 1, g - two_faced)))
            later = said_later(rng, voices, others - gone, liars)
            if silent:  # its member would have to be one of the g to come with a block after all
                later = {value: said for value, said in later.items() if value is None}
            assert not settled_or_torn(n, g, later, two_faced), seed
    assert stuck > 300


def test_what_is_torn_stays_torn_whatever_g_liars_add() -> None:
    """A liar that says a second thing must not mend it: what was agreed as absent would be open."""
    torn = 0
    for seed in range(4000):
        rng = random.Random(seed)
        n, g = rng.randint(4, 9), rng.randint(1, 3)
        two_faced = rng.random() < 0.6
        said = {r: rng.choice([b"x", b"y", b"z", None]) for r in range(1, n) if rng.random() < 0.9}
        voices = {v: {rank for rank, word in said.items() if word == v} for v in set(said.values())}
        if is_torn(n, g, voices, two_faced=two_faced):
            torn += 1
            others = set(range(1, n))
            liars = set(rng.sample(sorted(others), min(n - 1, g - two_faced)))
            later = said_later(rng, voices, others, liars)
            assert is_torn(n, g, later, two_faced=two_faced), seed
    assert torn > 500


# --- histories -----------------------------------------------------------------------------------


def history(seed: int) -> tuple[SmallSwarm, Record]:
    """A claim on a bench of five that answers, vanishes and goes on, in epochs that pass."""
    rng = random.Random(seed)
    n, g = rng.choice([(2, 0), (3, 0), (5, 1)])
    tier = replace(TIER, n=n, f=g, g=g, max_pairs=12)
    swarm, claim = mortal(epochs=rng.randint(0, 1), verifiers=n, tier=tier)
    alive = rng.sample(swarm.verifiers, rng.randint(0, n))
    epoch = 1
    for _ in range(rng.randint(5, 150)):
        if rng.random() < 0.015:
            epoch += 1
            go_on(swarm, epoch, [key for key in swarm.verifiers if rng.random() < 0.6])
        due = swarm.todo(alive, patient=rng.random() < 0.7)
        current = {r.author: r.envelope.epoch for r in swarm.records}
        fit = [(key, duty) for key, duty in due if current.get(key.public, 0) <= 1]
        if fit:
            swarm.do(*rng.choice(fit), GOOD)
    return swarm, claim


def prefixes(swarm: SmallSwarm, rng: random.Random) -> list[Record]:
    """A part of every feed, without gaps, as a node holds them."""
    part: list[Record] = []
    for author in dict.fromkeys(record.author for record in swarm.records):
        feed = [record for record in swarm.records if record.author == author]
        whole = author == swarm.founder.public or any(r.kind == "claim" for r in feed)
        part += feed if whole else feed[: rng.randint(0, len(feed))]
    rng.shuffle(part)
    return part


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@example(3569, random.Random(2))
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_expired_and_decided_never_become_each_other(seed: int, rng: random.Random) -> None:
    swarm, claim = history(seed)
    whole = swarm.quarantine.state()
    assert fold(swarm.swarm, rng.sample(swarm.records, len(swarm.records)), no_screen) == whole
    for _ in range(4):
        seen = fold(swarm.swarm, prefixes(swarm, rng), no_screen).claims[claim.id]
        if seen.stage in FAILED | {Stage.ADOPTED}:
            assert whole.claims[claim.id].stage is seen.stage
            assert whole.claims[claim.id].reason == seen.reason


def test_the_histories_above_expire_and_decide() -> None:
    seen = {where(*history(seed)).stage for seed in range(14)}
    assert {Stage.EXPIRED, Stage.ADOPTED, Stage.ASSIGNED} <= seen

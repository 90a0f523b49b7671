"""What a quorum settled is final: whatever arrives later, from claimants, liars and their forks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.records import Attest, Block, Commit, Contradiction, Open, Seal, Seating
from tests.verification.histories import play
from tests.verification.small_swarm import TIER, SmallSwarm, measure, no_screen
from tests.verification.test_agreement import GOOD, at_turn, five, fork_of, to_the_first_turn, where
from verification.duty import AttestDuty, CommitDuty, OpenDuty, PairDuty, SeatingDuty
from verification.quarantine import fold
from verification.retraction import margin_of
from verification.states import Stage

NULL = measure(-2_000_000)
LIE = measure(20_000_000)


def case(swarm: SmallSwarm, record):
    return swarm.quarantine.state().cases[record.id]


def order_does_not_matter(swarm: SmallSwarm, *more) -> None:
    state = swarm.quarantine.state()
    assert fold(swarm.swarm, [*reversed(more), *reversed(swarm.records)], no_screen) == state


# --- slots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"type": "economy"}, {"slot": 0, "type": "simplification"}, {"slot": 1}]
)
def test_a_fork_of_its_author_voids_no_adopted_claim_and_no_child_of_others(changes) -> None:
    swarm = SmallSwarm()
    author, other = swarm.researchers
    parent = swarm.claim(author, b"x = 111\n")
    swarm.run(GOOD)
    child = swarm.claim(other, b"x = 2\n", base=parent.id)
    swarm.run(GOOD)
    before = swarm.quarantine.state()
    assert before.frontier == {"quick": child.id}
    forks = []
    for number in range(6):  # some of them with smaller ids
        payload = swarm.claim_payload(b"x = 9\n", hypothesis=f"{number}", **changes)
        forks.append(fork_of(swarm, author, parent, payload))
        swarm.quarantine.add(forks[-1])
    swarm.run(GOOD)
    after = swarm.quarantine.state()
    assert after.frontier == before.frontier
    assert {one: after.claims[one] for one in before.claims} == dict(before.claims)
    fates = {(after.claims[one.id].stage, after.claims[one.id].reason) for one in forks}
    if changes.get("slot"):  # another slot: nobody sits down for a known liar
        assert fates == {(Stage.ASSIGNED, "waiting_for_commits")}
    else:
        assert fates <= {(Stage.VOID, "slot_taken"), (Stage.REFUSED, "not_smaller_than_its_base")}
    order_does_not_matter(swarm, *forks)


def test_one_slot_is_judged_once_however_often_its_author_forks_and_at_any_stage() -> None:
    for steps in range(14):
        swarm = SmallSwarm()
        author = swarm.researchers[0]
        first = swarm.claim(author, b"x = 2\n")
        for _ in range(steps):
            swarm.step(NULL)
        rivals = [first]
        for number in range(3):
            payload = swarm.claim_payload(b"x = 3\n", hypothesis=f"{number}")
            rivals.append(fork_of(swarm, author, first, payload))
            swarm.quarantine.add(rivals[-1])
            swarm.run(NULL, patient=False)
        judged = [one for one in rivals if where(swarm, one).stage in (Stage.REJECTED,)]
        assert len(judged) <= 1
        spent = [one.verdict.pairs for r in rivals if (one := where(swarm, r)).verdict]
        assert sum(pairs > 0 for pairs in spent) <= 1
        if steps >= 4:  # all that the bench had begun it ends
            assert judged == [first]


def test_rivals_that_split_their_bench_all_end_by_name() -> None:
    swarm = SmallSwarm(verifiers=2)
    author = swarm.researchers[0]
    first = swarm.claim(author, b"x = 2\n")
    (one, duty), (other, _) = [
        (key, due) for key in swarm.verifiers for due in swarm.duties_of(key)
    ]
    swarm.do(one, duty, GOOD)
    second = fork_of(swarm, author, first, swarm.claim_payload(b"x = 3\n"))
    fitting = next(due for due in swarm.duties_of(other) if isinstance(due, CommitDuty))
    swarm.quarantine.add(second)
    assert not swarm.duties_of(other)  # nobody sits down for a known liar
    swarm.write(other, replace(fitting.payload, claim=second.id))  # who had not heard of the first
    for claim in (first, second):
        assert (where(swarm, claim).stage, where(swarm, claim).reason) == (Stage.VOID, "slot_taken")
    order_does_not_matter(swarm, second)


def test_a_fork_of_who_contradicted_undoes_no_retraction_and_buys_no_second_bench() -> None:
    swarm = SmallSwarm(verifiers=5)
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(GOOD)
    margin = margin_of(where(swarm, claim), swarm.tier)
    author = swarm.researchers[1]
    against = swarm.write(author, Contradiction(claim.id, 1, margin, "not here"))
    swarm.run(measure(0))
    assert where(swarm, claim).stage is Stage.RETRACTED
    forks = []
    for number in range(6):
        said = Contradiction(claim.id, 1 + number % 3, margin, f"{number}")
        forks.append(fork_of(swarm, author, against, said))
        swarm.quarantine.add(forks[-1])
    swarm.run(GOOD, patient=False)
    assert where(swarm, claim).stage is Stage.RETRACTED
    assert case(swarm, against).stage is Stage.UPHELD
    for one in forks:
        assert case(swarm, one).reason in (
            "contradicted_before_in_this_epoch",
            "target_not_adopted",
        )
    order_does_not_matter(swarm, *forks)


def test_who_sits_for_one_rival_is_not_heard_for_another() -> None:
    """Its first commit of the place says for which, in whatever order records come."""
    swarm = SmallSwarm(verifiers=2)
    first = swarm.claim(swarm.researchers[0], b"x = 2\n")
    second = swarm.claim(swarm.researchers[0], b"x = 3\n")
    liar = swarm.verifiers[0]
    duty = next(due for due in swarm.duties_of(liar) if isinstance(due, CommitDuty))
    assert duty.claim == first.id
    swarm.do(liar, duty, GOOD)
    late = swarm.write(liar, replace(duty.payload, claim=second.id))
    state = swarm.quarantine.state()
    assert state.ignored == {late.id: "sits_for_a_rival"}
    part = [record for record in swarm.records if record.kind != "commit" or record is late]
    seen = fold(swarm.swarm, part, no_screen)
    assert seen.ignored == {late.id: "behind_a_gap_in_its_feed"}


# --- second statements without a fork ------------------------------------------------------------


@pytest.mark.parametrize("bench", [(2, 0, 0), (3, 1, 0), (3, 0, 0), (5, 1, 1)])
def test_no_second_statement_of_any_kind_by_anybody_changes_anything(bench) -> None:
    n, f, g = bench
    swarm, claim = five(replace(TIER, n=n, f=f, g=g, max_pairs=16), verifiers=n)
    swarm.run(GOOD)
    before = where(swarm, claim)
    assert before.stage is Stage.ADOPTED
    blocks = [r.id for r in swarm.records if isinstance(r.payload, Block)]
    for record in list(swarm.records):
        said, key = (
            record.payload,
            next((key for key in swarm.verifiers if key.public == record.author), None),
        )
        if key is None:
            continue
        if isinstance(said, Commit):
            swarm.write(key, replace(said, nonce_hash=claim.id))
        elif isinstance(said, Seating):
            swarm.write(key, replace(said, commits=(None,) * n))
        elif isinstance(said, Seal):
            swarm.write(key, replace(said, base_weights=claim.id))
        elif isinstance(said, Open):
            swarm.write(key, replace(said, fold_nonce=claim.id))
        elif isinstance(said, Attest):
            swarm.write(key, replace(said, block=None))
            swarm.write(key, replace(said, block=blocks[0]))
        elif isinstance(said, Block):
            (pair,) = said.pairs
            worse = replace(pair, candidate_nano=pair.candidate_nano + 9, d_nano=pair.d_nano - 9)
            swarm.write(key, replace(said, pairs=(worse,)))
    after = where(swarm, claim)
    assert (after.stage, after.verdict) == (before.stage, before.verdict)
    assert after.settlement.reproductions == before.settlement.reproductions  # type: ignore[union-attr]
    order_does_not_matter(swarm)


def test_one_late_attestation_of_one_of_three_undoes_no_adoption() -> None:
    """n = 3, f = 1, g = 0, and an honest member that was once slower than the others' patience."""
    swarm, claim = five(replace(TIER, n=3, f=1, g=0, max_pairs=16), verifiers=3)
    slow = to_the_first_turn(swarm, claim)
    liar, honest = (key for key in swarm.verifiers if key != slow)
    swarm.seal(slow, next(d for d in swarm.duties_of(slow) if isinstance(d, PairDuty)))
    while (duty := next(d for d in swarm.duties_of(slow) if isinstance(d, PairDuty))).waits:
        swarm.step(GOOD)
    late = swarm.block(duty, GOOD)
    while where(swarm, claim).settlement.open.index == 0:  # type: ignore[union-attr]
        assert swarm.step(GOOD, members=[liar, honest], patient=False)
    block = swarm.write(slow, late)
    swarm.run(GOOD)
    before = where(swarm, claim)
    assert before.stage is Stage.ADOPTED
    assert before.verdict is not None
    assert before.verdict.lost == 1
    said = next(r for r in swarm.records if isinstance(r.payload, Attest)
                and r.author == liar.public and r.payload.block is None)  # fmt: skip
    swarm.write(liar, replace(said.payload, block=block.id))
    fork = fork_of(swarm, liar, said, replace(said.payload, block=block.id))
    swarm.quarantine.add(fork)  # nor does a fork: of three with f = 1 all others have to agree
    assert where(swarm, claim).verdict == before.verdict
    order_does_not_matter(swarm, fork)


# --- a bench of two ------------------------------------------------------------------------------


def of_two() -> tuple[SmallSwarm, object]:
    swarm, claim = five(replace(TIER, n=2), verifiers=2)
    for key in swarm.verifiers:
        swarm.do(key, swarm.duties_of(key)[0], GOOD)
    return swarm, claim


def test_the_word_of_one_empties_no_seat_of_the_other_and_alone_decides_nothing() -> None:
    swarm, claim = of_two()
    liar, honest = swarm.verifiers
    duty = next(d for d in swarm.duties_of(liar) if isinstance(d, SeatingDuty))
    bench = where(swarm, claim).bench
    assert bench is not None
    commits = list(duty.payload.commits)
    commits[1 - bench.rank_of(liar.public)] = None  # type: ignore[operator]
    swarm.write(liar, replace(duty.payload, commits=tuple(commits)))
    swarm.run(LIE, members=[liar], patient=False)
    state = where(swarm, claim)
    assert (state.stage, state.reason) == (Stage.ASSIGNED, "waiting_for_seatings")
    for _ in range(200):
        for key, how in ((honest, NULL), (liar, LIE)):
            swarm.step(how, members=[key])
    state = where(swarm, claim)
    assert state.stage is Stage.REJECTED
    assert all(state.settlement.seats.taken)  # type: ignore[union-attr,arg-type]


def test_who_withholds_a_link_of_two_makes_no_evidence_against_the_claim() -> None:
    swarm, claim = of_two()
    swarm.step(GOOD)
    swarm.step(GOOD)
    sealed = at_turn(swarm, claim)
    (other,) = (key for key in swarm.verifiers if key != sealed)
    swarm.seal(sealed, next(d for d in swarm.duties_of(sealed) if isinstance(d, PairDuty)))
    assert [type(due) for due in swarm.duties_of(other)] == [OpenDuty]
    at = where(swarm, claim).settlement.open  # type: ignore[union-attr]
    assert at is not None
    head, digest = at.head, at.prefix_digest
    swarm.write(other, Attest(claim.id, at.round, at.seat.rank, None, head, digest))
    swarm.run(GOOD, members=[sealed], patient=False)
    assert where(swarm, claim).stage is Stage.COMMITTED
    swarm.run(GOOD)  # it opens it after all, and the block counts
    assert where(swarm, claim).stage is Stage.ADOPTED


def test_nobody_is_called_absent_while_others_owe_it_a_link() -> None:
    swarm, claim = five()
    sealed = to_the_first_turn(swarm, claim)
    others = [key for key in swarm.verifiers if key != sealed]
    assert any(isinstance(d, AttestDuty) for key in others for d in swarm.duties_of(key))
    swarm.seal(sealed, next(d for d in swarm.duties_of(sealed) if isinstance(d, PairDuty)))
    due = [d for key in others for d in swarm.duties_of(key)]
    assert {type(one) for one in due} == {OpenDuty}
    swarm.do(others[0], swarm.duties_of(others[0])[0], GOOD)
    due = [d for key in others for d in swarm.duties_of(key)]
    assert {type(one) for one in due} == {AttestDuty}


def test_a_bench_of_which_one_seat_is_taken_ends_by_name() -> None:
    """Three sit down, and two of them say that nobody but one of them did."""
    swarm, claim = five(replace(TIER, n=3), verifiers=3)
    for key in swarm.verifiers:
        swarm.do(key, swarm.duties_of(key)[0], GOOD)
    bench = where(swarm, claim).bench
    assert bench is not None
    keys = {key.public: key for key in swarm.verifiers}
    full = next(d for d in swarm.duties_of(keys[bench.seats[0].key]) if isinstance(d, SeatingDuty))
    first, second, third = full.payload.commits
    for rank, commits in enumerate(
        [(first, None, None), (first, second, None), (None, None, third)]
    ):
        swarm.write(keys[bench.seats[rank].key], replace(full.payload, commits=commits))
    state = where(swarm, claim)
    assert state.settlement is not None
    assert state.settlement.seats.taken is not None
    assert [bool(seat) for seat in state.settlement.seats.taken] == [True, False, False]
    assert (state.stage, state.reason) == (Stage.EXPIRED, "bench_too_small")
    assert not swarm.todo(patient=False)


def test_a_junk_block_of_who_has_gone_on_is_silence() -> None:
    from tests.verification.test_closing import STUCK, go_on, mortal, stands

    swarm, claim = mortal(epochs=0)
    while where(swarm, claim).stage is not Stage.COMMITTED:
        swarm.step(GOOD)
    key = at_turn(swarm, claim)
    seal = swarm.seal(key, next(d for d in swarm.duties_of(key) if isinstance(d, PairDuty)))
    swarm.step(GOOD)
    duty = next(d for d in swarm.duties_of(key) if isinstance(d, PairDuty))
    swarm.write(key, replace(swarm.block(duty, GOOD), nonce=seal.id))
    go_on(swarm, 2, [key])
    assert stands(swarm, claim) == STUCK


# --- at random -----------------------------------------------------------------------------------


def test_what_is_final_in_two_thousand_histories_stays_so() -> None:
    seen = play(range(2000))
    wanted = {
        "rival", "bench fork", "lie", "proof", "epoch", "slot_taken", "expired", "retracted",
        "adopted", "rejected", "upheld", "contradicted_before_in_this_epoch",
    }  # fmt: skip
    assert wanted <= {name for name, count in seen.items() if count > 2}, seen

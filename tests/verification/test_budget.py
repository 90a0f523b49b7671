"""Alpha for a lifetime: weights add up to at most one, whatever a swarm lives through."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import epochs
from swarm.feed import prove_equivocation
from swarm.keys import KeyPair, rotation_bytes
from swarm.records import Contradiction, Rotation
from swarm.store import Store
from swarm.wire import sign
from tests.verification.small_swarm import (
    SHARE,
    SmallSwarm,
    digest,
    level_of_claim,
    measure,
    no_screen,
)
from verification.budget import RESEARCHERS, series, share_of_key, share_of_operator
from verification.ledger import Ledger
from verification.quarantine import Quarantine, fold
from verification.simulate_books import Books
from verification.states import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from swarm.envelope import Record

ALPHA = Fraction(1, 10)


# --- the three series ----------------------------------------------------------------------------


def zeta(s: float, upto: int) -> float:
    """By Euler and Maclaurin."""
    head = math.fsum(math.pow(n, -s) for n in range(1, upto))
    n = float(upto)
    return head + math.pow(n, 1 - s) / (s - 1) + math.pow(n, -s) / 2 + s * math.pow(n, -s - 1) / 12


@pytest.mark.parametrize("k", [1, 2, 3, 10, 1000, 10**6, 2**53])
def test_the_series_is_a_power_rounded_down_by_next_to_nothing(k: int) -> None:
    exact = k**-1.1 / zeta(1.1, 2000)
    assert exact * (1 - 3e-7) < series(k) < exact * (1 + 1e-12)


def test_each_series_adds_up_to_one_at_most() -> None:
    upto = 4000
    rest = 10 * (upto + 0.5) ** -0.1 / zeta(1.1, 2000)  # no less than what is beyond: it is convex
    numbers = math.fsum(float(series(k)) for k in range(1, upto + 1)) + rest
    assert 0.999 < numbers < 1
    for expected in (1, 4, 100):
        of_all = range(1, upto + expected + 1)
        places = math.fsum(float(share_of_operator(p, expected)) for p in of_all)
        assert 0.999 < places + rest / 4 < 1
    keys = math.fsum(float(share_of_key(j)) for j in range(1, upto + 2))
    assert 0.999 < keys + rest / 4 < 1


# --- any life ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 10**9))
def test_weights_add_up_to_one_at_most_in_any_history_of_rosters(seed: int) -> None:
    """Newcomers, turnover, lost keys, rotations, operators of several keys, new names."""
    rng = random.Random(seed)
    books = Books(ALPHA, ALPHA, expected=rng.choice([1, 3, 8]))
    members = {digest("first"): "op0"}
    keys = 0
    levels: dict[tuple[bytes, str, bytes], list[Fraction]] = {}
    for _ in range(rng.randint(1, 30)):
        for _ in range(rng.randint(0, 4)):
            keys += 1
            new, old = digest(str(keys)), rng.choice(sorted(members))
            act = rng.random()
            if act < 0.3:
                members[new] = f"op{rng.randint(0, 9)}"
            elif act < 0.6:
                books.rotate(old, new)
                members[new] = members.pop(old)
            elif act < 0.8 and len(members) > 1:
                del members[old]
            else:
                members[old] = f"op{rng.randint(0, 20)}"
        books.open(members.items())
        for key in rng.choices(sorted(members), k=rng.randint(0, 20)):
            books.claim(key, 0)
            target = digest(f"target {rng.randint(0, 1)}")
            at_level = books.contradict(key, target)
            levels.setdefault((target, "", b""), []).append(at_level)
    assert 0 <= books.spent <= 1
    assert all(sum(found) <= ALPHA for found in levels.values())


def test_a_bad_life_spends_nearly_what_there_is_and_no_more() -> None:
    """The bound is one that is reached: a hundred operators, each with hundreds of claims."""
    books = Books(ALPHA, ALPHA, expected=4)
    members = {digest(f"{op}"): f"op{op}" for op in range(4)}
    books.open(members.items())
    for key in members:
        for _ in range(500):
            books.claim(key, 0)
    assert 0.25 < books.spent < 1


def test_a_level_does_not_move_with_what_comes_later() -> None:
    swarm = SmallSwarm(researchers=3)
    first = swarm.claim(swarm.researchers[0], b"x = 1\n")
    before = swarm.quarantine.state().claims[first.id].level
    tip = swarm.quarantine.state().rules.epochs[1].id  # type: ignore[union-attr]
    for number in range(2, 6):
        swarm.researchers.append(KeyPair.from_seed(digest(f"late {number}")))
        tip = swarm.open_epoch(number, tip).id
        for slot, author in enumerate(swarm.researchers):
            swarm.write(author, swarm.claim_payload(b"x = 2\n", slot % 4), epoch=number)
    assert swarm.quarantine.state().claims[first.id].level == before == level_of_claim(1, 0)


# --- claims ever ---------------------------------------------------------------------------------


def numbers(swarm: SmallSwarm, records: list[Record]) -> list[int]:
    state = swarm.quarantine.state()
    return [state.claims[record.id].number for record in records]


def test_an_epoch_gives_slots_and_no_alpha() -> None:
    swarm = SmallSwarm()
    author, other = swarm.researchers
    tip = swarm.quarantine.state().rules.epochs[1].id  # type: ignore[union-attr]
    claims, others = [], []
    for number in range(1, 7):
        if number > 1:
            tip = swarm.open_epoch(number, tip).id
        for slot in range(2):
            payload = swarm.claim_payload(b"x = 1\n", slot)
            claims.append(swarm.write(author, payload, epoch=number))
        others.append(swarm.write(other, swarm.claim_payload(b"x = 2\n"), epoch=number))
    assert numbers(swarm, claims) == list(range(1, 13))
    assert numbers(swarm, others) == list(range(1, 7))
    levels = [swarm.quarantine.state().claims[one.id].level for one in claims]
    assert levels == [level_of_claim(k, 0) for k in range(1, 13)]
    assert fold(swarm.swarm, swarm.records[::-1], no_screen) == swarm.quarantine.state()


def test_claims_held_back_have_been_made_all_the_same() -> None:
    """Nobody saw a claim of epochs 1 to 5 when epoch 6 was opened; then all come at once."""
    swarm = SmallSwarm()
    author = swarm.researchers[0]
    late = Quarantine(swarm.swarm, no_screen)
    tip = swarm.quarantine.state().rules.epochs[1].id  # type: ignore[union-attr]
    claims = []
    for number in range(1, 7):
        if number > 1:
            tip = swarm.open_epoch(number, tip).id
        claims.append(swarm.write(author, swarm.claim_payload(b"x = 1\n"), epoch=number))
    hidden = {record.id for record in claims}
    for record in swarm.records:
        if record.id not in hidden:
            late.add(record)
    for record in reversed(claims):
        late.add(record)
    assert late.state() == swarm.quarantine.state()
    assert numbers(swarm, claims) == [1, 2, 3, 4, 5, 6]


def test_a_claim_waits_for_the_feed_below_it() -> None:
    swarm = SmallSwarm()
    author = swarm.researchers[0]
    first, second = (swarm.claim(author, b"x = 1\n", slot=slot) for slot in range(2))
    without = Quarantine(swarm.swarm, no_screen)
    for record in swarm.records:
        if record.id != first.id:
            without.add(record)
    state = without.state().claims[second.id]
    assert (state.stage, state.reason) == (Stage.RECEIVED, "part_of_its_feed_is_missing")
    without.add(first)
    assert without.state() == swarm.quarantine.state()
    assert numbers(swarm, [first, second]) == [1, 2]


def test_both_branches_of_a_fork_count_what_is_below_them() -> None:
    from swarm.envelope import seal_record

    swarm = SmallSwarm()
    author = swarm.researchers[0]
    first, second = (swarm.claim(author, b"x = 1\n", slot=slot) for slot in range(2))
    fork = seal_record(
        author, swarm.claim_payload(b"x = 9\n", 2), swarm=swarm.swarm, seq=1, prev=first.id,
        epoch=1, day=20_000,
    )  # fmt: skip
    proof = prove_equivocation(second, fork)
    assert proof is not None
    swarm.write(swarm.verifiers[0], proof)
    assert numbers(swarm, [first, second, fork]) == [1, 2, 2]
    shuffled = random.Random(1).sample(swarm.records, len(swarm.records))
    assert fold(swarm.swarm, shuffled, no_screen) == swarm.quarantine.state()


def test_a_ledger_with_a_log_forgets_most_of_it_and_reads_it_again() -> None:
    """Feeds of many records that spend nothing, forked at random places, in order of arrival."""
    swarm = SmallSwarm()
    author = swarm.researchers[0]
    for number in range(150):
        if number % 40 == 7:
            swarm.claim(author, b"x = 1\n", slot=number % 4)
        else:
            swarm.write(author, Contradiction(digest("block"), 0, 5, "scored again"))
    own = [record for record in swarm.records if record.author == author.public]
    log = {record.id: record for record in own}
    kept, whole = Ledger(log.__getitem__), Ledger()
    for record in own:
        kept.note(record)
        whole.note(record)
    assert kept.at(own[100].id) is None
    for place in (3, 70, 100, 149):
        parted = digest(f"parted at {place}")
        for ledger in (kept, whole):
            ledger.enter(parted, own[place].id, True)
        found = kept.at(parted)
        assert found == whole.at(parted)
        assert found is not None
        assert found.claims == 1 + sum(place >= at for at in (7, 47, 87, 127))


def test_adopted_ancestors_of_earlier_epochs_count() -> None:
    swarm = SmallSwarm()
    author, other = swarm.researchers
    first = swarm.claim(author, b"x = 1\n")
    swarm.run(measure(30_000_000))
    assert swarm.quarantine.state().claims[first.id].stage is Stage.ADOPTED
    tip = swarm.quarantine.state().rules.epochs[1].id  # type: ignore[union-attr]
    swarm.open_epoch(2, tip)
    payload = swarm.claim_payload(b"x = 2\n", base=first.id)
    record = swarm.write(other, payload, epoch=2)
    second = swarm.quarantine.state().claims[record.id]
    assert second.r_ids == (first.id,)
    assert second.level == level_of_claim(1, 1)


# --- keys ----------------------------------------------------------------------------------------


def rotated(store: Store, old: KeyPair, name: str) -> KeyPair:
    new = KeyPair.from_seed(digest(name))
    proof = sign(new.private, rotation_bytes(store.swarm, old.public, new.public)).signature
    store.append(old, Rotation(new.public, proof))
    return new


def test_a_new_key_goes_on_with_the_number_of_the_old_one(tmp_path: Path) -> None:
    """Changed twice within an epoch, too; and by the real epochs of a governor."""
    swarm = SmallSwarm(sizes={"slots": 4, "folds": 16})
    with Store(tmp_path / "log.sqlite", swarm.swarm) as store:
        store.ingest([record.signed.to_bytes() for record in swarm.records])
        key, claims = swarm.researchers[0], []
        for change in range(4):
            claims += [
                store.append(key, swarm.claim_payload(b"x = 1\n", slot)).id for slot in range(2)
            ]
            for step in range(1 + change % 2):
                key = rotated(store, key, f"key {change} {step}")
            epochs.open_epoch(store, swarm.founder)
        quarantine = Quarantine(swarm.swarm, no_screen, log=store.get)
        for _, record in store.records():
            quarantine.add(record)
        found = [quarantine.state().claims[claim] for claim in claims]
        assert [one.number for one in found] == list(range(1, 9))
        assert [one.level for one in found] == [level_of_claim(k, 0) for k in range(1, 9)]
        records = [record for _, record in store.records()]
        assert fold(swarm.swarm, records[::-1], no_screen) == quarantine.state()


def test_another_key_of_an_operator_has_another_part_of_the_same_share() -> None:
    books = Books(ALPHA, ALPHA, expected=RESEARCHERS)
    mine, lent, again = (digest(name) for name in ("mine", "lent", "again"))
    books.open([(mine, "ada"), (digest("bob"), "bob")])
    first = books.claim(mine, 0)
    books.open([(mine, "ada"), (lent, "ada"), (digest("bob"), "bob")])
    vouched = books.claim(lent, 0)
    books.open([(again, "ada"), (digest("bob"), "bob")])  # the others were removed
    after = books.claim(again, 0)
    assert float(first) == pytest.approx(float(ALPHA * SHARE * series(1)))
    assert float(vouched / first) == pytest.approx(float(series(1) / 3))
    assert float(after / first) == pytest.approx(float(series(2) / 3))
    books.open([(mine, "ada")])
    assert books.claim(mine, 0) < first, "who comes back goes on where it was"


def test_operators_beyond_the_expected_ones_share_a_quarter() -> None:
    books = Books(ALPHA, ALPHA, expected=2)
    everybody = [(digest(str(place)), f"op{place}") for place in range(9)]
    levels = []
    for count in range(1, 10):
        books.open(everybody[:count])
        levels.append(books.claim(everybody[count - 1][0], 0))
    assert levels[0] == levels[1]
    assert levels[2:] == sorted(levels[2:], reverse=True)
    ratio = share_of_operator(3, 2) / share_of_operator(1, 2)
    assert float(levels[2] / levels[0]) == pytest.approx(float(ratio))

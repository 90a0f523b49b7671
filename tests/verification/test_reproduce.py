"""Benches, nonces, seeds, folds and turns: nobody concerned can choose them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.charter import EpochView
from swarm.records import Member
from tests.verification.small_swarm import TIER
from verification import reproduce as rp
from verification.errors import BenchError


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def member(name: str, operator: str = "", roles: tuple[str, ...] = ("verifier",)) -> Member:
    return Member(
        key=key(name),
        operator=operator or name,
        voucher_root=key("founder"),
        roles=roles,
        tiers=("quick",),
        hw_class="cpu",
        slots=4,
        gamma_num=1,
        gamma_den=10,
    )


def epoch(*members: Member, number: int = 1, beacon: bytes | None = key("beacon")) -> EpochView:
    return EpochView(
        id=key("epoch"),
        number=number,
        roster={item.key: item for item in members},
        removed=frozenset(),
        active_folds=(0, 1, 2),
        beacon=beacon,
    )


AUTHOR = member("author", roles=("researcher", "verifier"))
OTHERS = tuple(member(f"v{i}") for i in range(12))


def test_no_fold_is_drawn_again_while_another_was_drawn_less_often() -> None:
    used: list[int] = []
    for index in range(12):
        fold = rp.fold_index((9, 4, 7), key("b"), key("c"), key(f"s{index}"), key("n"), 0, used)
        used.append(fold)
    assert all(sorted(used[start : start + 3]) == [4, 7, 9] for start in range(0, 12, 3))


def test_a_bench_is_full_distinct_and_without_the_author() -> None:
    view = epoch(AUTHOR, *OTHERS)
    for slot in range(40):
        bench = rp.draw_bench(view, AUTHOR.key, slot, "quick", 5)
        assert [seat.rank for seat in bench.seats] == [0, 1, 2, 3, 4]
        assert len({seat.key for seat in bench.seats}) == 5
        assert bench.rank_of(AUTHOR.key) is None
        assert bench.rank_of(bench.seats[3].key) == 3
        assert not bench.waiting


def test_every_verifier_is_drawn_about_equally_often() -> None:
    view = epoch(AUTHOR, *OTHERS)
    seats = Counter(
        seat.key
        for slot in range(1200)
        for seat in rp.draw_bench(view, AUTHOR.key, slot, "quick", 3).seats
    )
    assert set(seats) == {item.key for item in OTHERS}
    assert all(220 < count < 380 for count in seats.values())  # 300 expected, SD 15


def test_the_bench_depends_on_beacon_epoch_slot_and_operator_and_on_nothing_else() -> None:
    view = epoch(AUTHOR, *OTHERS)
    first = rp.draw_bench(view, AUTHOR.key, 0, "quick", 5)
    assert rp.draw_bench(view, AUTHOR.key, 0, "quick", 5) == first
    assert rp.draw_bench(epoch(*reversed(OTHERS), AUTHOR), AUTHOR.key, 0, "quick", 5) == first
    others = [
        rp.draw_bench(view, AUTHOR.key, 1, "quick", 5),
        rp.draw_bench(replace(view, beacon=key("other")), AUTHOR.key, 0, "quick", 5),
        rp.draw_bench(replace(view, number=2), AUTHOR.key, 0, "quick", 5),
    ]
    assert all(other != first for other in others)
    # A second key of the same operator buys no second draw.
    twin = member("twin", operator="author", roles=("researcher",))
    assert rp.draw_bench(epoch(AUTHOR, twin, *OTHERS), twin.key, 0, "quick", 5) == first


def test_one_seat_per_operator_and_none_for_the_author_s() -> None:
    sock_puppets = [member(f"p{i}", operator="puppeteer") for i in range(20)]
    mine = [member(f"m{i}", operator="author") for i in range(20)]
    view = epoch(AUTHOR, *sock_puppets, *mine, OTHERS[0], OTHERS[1])
    bench = rp.draw_bench(view, AUTHOR.key, 0, "quick", 3)
    assert sorted(seat.operator for seat in bench.seats) == ["puppeteer", "v0", "v1"]
    short = rp.draw_bench(view, AUTHOR.key, 0, "quick", 4)
    assert short.seats == ()
    assert short.waiting == "too_few_verifiers (3 of 4 operators)"


def test_only_present_verifiers_of_the_tier_are_eligible() -> None:
    wrong_tier = replace(OTHERS[1], tiers=("gpu",))
    no_verifier = replace(OTHERS[2], roles=("researcher", "archivist"))
    view = epoch(AUTHOR, OTHERS[0], wrong_tier, no_verifier, OTHERS[3])
    view = replace(view, removed=frozenset({OTHERS[3].key}))
    bench = rp.draw_bench(view, AUTHOR.key, 0, "quick", 1)
    assert [seat.key for seat in bench.seats] == [OTHERS[0].key]
    assert rp.draw_bench(view, AUTHOR.key, 0, "quick", 2).waiting


def test_no_beacon_no_bench_and_no_author_no_bench() -> None:
    hidden = epoch(AUTHOR, *OTHERS, beacon=None)
    assert rp.draw_bench(hidden, AUTHOR.key, 0, "quick", 1).waiting == "beacon_not_revealed"
    with pytest.raises(BenchError) as caught:
        rp.draw_bench(epoch(*OTHERS), AUTHOR.key, 0, "quick", 1)
    assert caught.value.cure


def test_each_round_opens_what_the_round_before_was_sealed_with() -> None:
    chain = rp.nonce_chain(bytes(32), key("claim"), "seed", 8)
    known = chain.anchor
    for reveal in chain.reveals:
        assert rp.step(reveal) == known
        known = reveal
    assert len({chain.anchor, *chain.reveals}) == 9
    assert rp.nonce_chain(bytes(32), key("claim"), "seed", 8) == chain
    others = [
        rp.nonce_chain(bytes(32), key("claim"), "fold", 8),
        rp.nonce_chain(bytes(32), key("other"), "seed", 8),
        rp.nonce_chain(bytes(31) + b"\1", key("claim"), "seed", 8),
    ]
    assert len({chain.anchor, *(other.anchor for other in others)}) == 4
    for bad in [(b"short", 8), (bytes(32), 0)]:
        with pytest.raises(BenchError):
            rp.nonce_chain(bad[0], key("claim"), "seed", bad[1])


@given(st.binary(min_size=32, max_size=32), st.integers(0, 63))
def test_seeds_are_in_range_and_differ_by_every_input(nonce: bytes, pair: int) -> None:
    inputs: list[tuple[bytes, bytes, bytes, bytes, int]] = [
        (key("b"), key("c"), key("v"), nonce, pair),
        (key("B"), key("c"), key("v"), nonce, pair),
        (key("b"), key("C"), key("v"), nonce, pair),
        (key("b"), key("c"), key("V"), nonce, pair),
        (key("b"), key("c"), key("v"), rp.step(nonce), pair),
        (key("b"), key("c"), key("v"), nonce, pair + 1),
    ]
    seeds = [rp.training_seed(*one) for one in inputs] + [rp.scoring_seed(*one) for one in inputs]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_folds_are_drawn_evenly() -> None:
    nonces = [key(f"n{i}") for i in range(3000)]
    folds = Counter(rp.fold_index((9, 4, 7), key("b"), key("c"), key("seal"), n, 0) for n in nonces)
    assert set(folds) == {4, 7, 9}
    assert all(850 < count < 1150 for count in folds.values())
    assert rp.fold_index((9, 4, 7), key("b"), key("c"), key("s"), nonces[0], 0) == rp.fold_index(
        (4, 7, 9), key("b"), key("c"), key("s"), nonces[0], 0
    )


def test_another_seal_is_another_fold() -> None:
    folds = {
        rp.fold_index(range(1000), key("b"), key("c"), key(f"seal{i}"), key("n"), 0)
        for i in range(50)
    }
    assert len(folds) > 40


def test_no_active_fold_is_an_error_with_a_cure() -> None:
    with pytest.raises(BenchError) as caught:
        rp.fold_index((), key("b"), key("c"), key("s"), key("n"), 0)
    assert "epoch" in caught.value.cure


def test_turns_go_round_and_what_comes_after_acceptance_is_counted() -> None:
    turns = [rp.position(i, 3) for i in range(6)]
    assert turns == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    policy = replace(TIER, n=3, max_pairs=2, effect_pairs=4)
    assert (rp.positions_of(policy), rp.rounds_of(policy)) == (10, 4)
    lying = replace(policy, f=1, effect_pairs=2)  # four of each at least
    assert (rp.effect_positions(lying), rp.rounds_of(lying)) == (12, 6)
    assert rp.position(rp.positions_of(policy) - 1, 3)[0] == rp.rounds_of(policy) - 1


def test_a_link_is_told_by_its_place_alone() -> None:
    chain = rp.nonce_chain(bytes(32), key("claim"), "fold", 8)
    for place, link in enumerate(chain.reveals):
        assert rp.anchored(link, place, chain.anchor)
        assert not rp.anchored(link, place + 1, chain.anchor)
    assert not rp.anchored(key("x"), 3, chain.anchor)


def test_parts_cannot_be_shifted_into_one_another() -> None:
    assert rp.digest("x", b"ab", b"c") != rp.digest("x", b"a", b"bc")
    assert rp.digest("x", b"") != rp.digest("x")
    assert rp.digest("x", b"a") != rp.digest("y", b"a")

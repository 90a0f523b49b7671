"""Evidence from benches with liars: floats agree with decimals, no veto, no bought adoption."""

import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import combinations

import pytest

from tests.verification.test_verdict import TERMS, TIER, pair
from verification import approximate, bounded, evidence, pooling
from verification.pooling import MemberTally
from verification.verdict import Deliberation, Reproduction

UNIT = 10_000_000
FLOOR = 3_000_000
LEVEL = Fraction(1, 100)


def of_all(bench: list[MemberTally]) -> Decimal:
    return pooling._of_set(*pooling.together(bench), FLOOR)


def member(rng: random.Random, mean: float, pairs: int, sigma0: int | None = None) -> MemberTally:
    result = MemberTally(sigma0)
    for _ in range(pairs):
        lost = rng.random() < 0.05
        result = result.add(None if lost else int(rng.gauss(mean, 1) * UNIT), 3000)
    return result


@pytest.mark.parametrize("seed", range(40))
def test_floats_agree_with_decimals(seed: int) -> None:
    rng = random.Random(seed)
    n, f = rng.choice([(1, 0), (3, 1), (5, 1), (5, 2), (7, 3)])
    sigma0 = rng.choice([None, UNIT, 2 * UNIT])
    bench = [member(rng, rng.choice([-1, 0, 2, 9]), rng.randint(0, 8), sigma0) for _ in range(n)]
    exact = pooling.evidence(bench, f, FLOOR)
    assert pooling.log_evidence(bench, f, FLOOR) == pytest.approx(float(exact.ln()), abs=1e-6)
    one = pooling.together(bench)[0]
    sums = one.sums(FLOOR)
    expected = float(evidence.evidence_of_sums(*sums).ln())
    assert approximate.log_evidence_of_sums(*sums) == pytest.approx(expected, abs=1e-6)


def test_with_f_0_all_but_one_have_half_of_it_whoever_that_is() -> None:
    bench = [member(random.Random(seed), 1, 5, UNIT) for seed in range(3)]
    without = [[one for one in bench if one is not other] for other in bench]
    rest = min(float(of_all(each)) for each in without)
    whole = float(of_all(bench))
    assert float(pooling.evidence(bench, 0, FLOOR)) == pytest.approx(min(whole, rest**2))
    assert pooling.evidence(bench[:1], 0, FLOOR) == of_all(bench[:1])


def test_subset_sizes_by_hand() -> None:
    # C(2,1) = 2 > 3/2; C(4,2) = 6 > 10/2; C(3,1) = 3 > 5/2 and C(3,2) = 3 < 10/2; C(4,1) > 7/2
    sizes = [pooling.subset_size(*bench) for bench in ((3, 1), (5, 1), (5, 2), (7, 3), (4, 0))]
    assert sizes == [1, 2, 1, 1, 4]


@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 1), (5, 2), (7, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_liars_cannot_lift_it_above_what_the_honest_say(n: int, f: int, seed: int) -> None:
    rng = random.Random(seed)
    honest = [member(rng, 0, 6) for _ in range(n - f)]
    size = pooling.subset_size(n, f)
    sets = [list(chosen) for chosen in combinations(honest, size)]
    alone = [float(of_all(chosen)) for chosen in sets]
    # the argument of verification.pooling, with the honest sets alone
    bound = (float(of_all(honest)) + sum(alone) / len(alone)) / 2
    for lie in (-50, 0, 3, 50):
        bench = honest + [member(rng, lie, 6) for _ in range(f)]
        assert float(pooling.evidence(bench, f, FLOOR)) <= bound * (1 + 1e-12)


@pytest.mark.parametrize(("n", "f", "rounds"), [(3, 1, 24), (5, 1, 12), (5, 2, 24)])
def test_liars_who_report_losses_cannot_veto(n: int, f: int, rounds: int) -> None:
    policy = replace(TIER, n=n, f=f, max_pairs=rounds)
    adopted = 0
    for seed in range(8):
        rng = random.Random(seed)
        walk = Deliberation(replace(TERMS, policy=policy, level=LEVEL))
        liars = set(rng.sample(range(n), f))
        for index in range(n * rounds):
            round_, rank = divmod(index, n)
            mean = -5 if rank in liars else 4
            said = pair(int(rng.gauss(mean, 1) * UNIT))
            if walk.add(Reproduction(round_, rank, bytes(32), bytes(32), said)) != "pending":
                break
        adopted += walk.outcome == "adopt"
    assert adopted >= 7


@pytest.mark.parametrize("gain", [2, 100])
def test_liars_who_report_gains_buy_nothing_and_cost_little(gain: int) -> None:
    policy = replace(TIER, n=3, f=1, max_pairs=24)
    weighed = []
    for seed in range(30):
        rng = random.Random(seed)
        walk = Deliberation(replace(TERMS, policy=policy, level=LEVEL))
        liar = rng.randrange(3)
        for index in range(72):
            round_, rank = divmod(index, 3)
            said = pair(int(rng.gauss(gain if rank == liar else 0, 1) * UNIT))
            if walk.add(Reproduction(round_, rank, bytes(32), bytes(32), said)) != "pending":
                break
        assert walk.outcome == "reject"
        weighed.append(walk.verdict().pairs)
    assert sum(weighed) / len(weighed) < 20


def test_silence_is_a_loss_only_after_the_seat_was_taken() -> None:
    walk = Deliberation(TERMS)
    assert walk.add(Reproduction(0, 0, None, bytes(32), None, committed=False)) == "pending"
    assert walk.verdict().pairs == 0
    walk.add(Reproduction(0, 1, None, bytes(32), None))
    assert (walk.verdict().pairs, walk.verdict().lost) == (1, 1)


def test_bounded_evidence_by_hand() -> None:
    z = bounded.Standardised().add(5 * UNIT, UNIT, 3000).add(-UNIT // 2, UNIT, 3000)
    # z: clipped to 3, and -.5 - .25. Over c = .75, 1.5, 3 with c^2 + 1.5^2 = 2.8125, 4.5, 11.25
    first = (0.1 + 0.9 * 14.0625 / 2.8125, 0.1 + 0.9 * 20.25 / 4.5, 0.1 + 0.9 * 36 / 11.25)
    second = (0.1, 0.1 + 0.9 * 0.5625 / 4.5, 0.1 + 0.9 * 5.0625 / 11.25)
    expected = sum(one * two for one, two in zip(first, second, strict=True)) / 3
    assert float(bounded.evidence(z)) == pytest.approx(expected, rel=1e-12)
    assert bounded.evidence(bounded.Standardised()) == 1
    lost = bounded.Standardised().add(None, UNIT, 3000)
    assert float(bounded.evidence(lost)) == pytest.approx(0.1, rel=1e-12)
    assert lost == bounded.Standardised().add(-50 * UNIT, UNIT, 3000)


def test_one_probe_failure_of_f_liars_does_not_end_a_claim_and_two_of_any_kind_do() -> None:
    walk = Deliberation(replace(TERMS, policy=replace(TIER, n=3, f=1), level=LEVEL))
    said = [pair(status="non_causal"), pair(50 * UNIT), pair(status="not_repeatable")]
    outcomes = [
        walk.add(Reproduction(0, rank, bytes(32), bytes(32), one)) for rank, one in enumerate(said)
    ]
    assert outcomes == ["pending", "pending", "reject"]
    assert walk.verdict().reason == "not_repeatable"


SHAPES: dict[str, Callable[[random.Random, int], float]] = {
    "two values": lambda rng, _: rng.choice((-1.0, 1.0)),
    "two values, as large as may be": lambda rng, _: rng.choice((-1.5, 1.5)),
    "rare losses": lambda rng, _: 0.5 if rng.random() < 0.8 else -2.0,
    "three values": lambda rng, _: rng.choice((-1.2247, 0.0, 1.2247)),
    "skewed": lambda rng, _: 1 - rng.expovariate(1),
    "one machine favours it": lambda rng, rank: rng.gauss(rank == 0, 1),
}


@pytest.mark.parametrize(("n", "f"), [(2, 0), (3, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_noise_of_no_shape_within_its_bound_has_a_claim_adopted(shape: str, n: int, f: int) -> None:
    """At level .017; noise taken for normal let some of these adopt .1 to .9 of all claims."""
    level, claims = Fraction(17, 1000), 60
    policy = replace(TIER, n=n, f=f, max_pairs=24, min_effect_nano=1, noise_nano=UNIT)
    adopted = 0
    for seed in range(claims):
        rng = random.Random(seed)
        walk = Deliberation(replace(TERMS, policy=policy, level=level))
        for index in range(24 * n):
            round_, rank = divmod(index, n)
            said = pair(int(SHAPES[shape](rng, rank) * UNIT))
            if walk.add(Reproduction(round_, rank, bytes(32), bytes(32), said)) != "pending":
                break
        adopted += walk.outcome == "adopt"
    assert adopted <= 4  # 60 x .017 = 1: more has a chance of .003

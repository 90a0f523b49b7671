"""Effects from pairs after acceptance, and what the frontier makes of them."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest

from swarm.records import Pair
from tests.verification.small_swarm import TIER, SmallSwarm, digest, measure, no_screen
from verification.effect import T_MILLI, effect_of
from verification.quarantine import fold
from verification.states import Stage
from verification.verdict import Reproduction

MEASURED = replace(TIER, effect_pairs=6)


def positions(gains: list[tuple[int, int]], sitting: int = 0) -> list[Reproduction]:
    """Settled positions from (rank, gain in nano), and one absence of each of ``sitting`` ranks."""
    made = [Reproduction(99, rank, None, digest(f"m{rank}"), None) for rank in range(sitting)]
    for index, (rank, gain) in enumerate(gains):
        pair = Pair(0, 0, "base_first", gain, "ok", 10**9, 10**9 - gain, 1, 1, 1)
        made.append(Reproduction(index, rank, digest(f"{index}"), digest(f"m{rank}"), pair))
    return made


def test_the_interval_is_students() -> None:
    gains = [10_000_000, 14_000_000, 9_000_000, 13_000_000]
    effect = effect_of(positions([(i % 2, gain) for i, gain in enumerate(gains)]), 0)
    assert effect is not None
    half = T_MILLI[2] / 1000 * statistics.stdev(gains) / 2
    assert effect.mean_nano == 11_500_000
    assert abs(effect.high_nano - effect.mean_nano - half) < 2
    assert abs(effect.mean_nano - effect.low_nano - half) < 2
    assert (effect.pairs, effect.members, effect.lost) == (4, 2, 0)
    assert effect.surely_nano == effect.low_nano


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(2000):
        gains = [round(rng.gauss(5e6, 2e6)) for _ in range(6)]
        effect = effect_of(positions([(i % 3, gain) for i, gain in enumerate(gains)]), 0)
        assert effect is not None
        held += effect.low_nano <= 5_000_000 <= effect.high_nano
    assert 0.93 < held / 2000 < 0.97


def test_liars_move_what_is_published_by_less_than_its_interval_and_take_no_rank() -> None:
    honest = [(rank, 10_000_000 + 100_000 * turn) for turn in range(4) for rank in (0, 2)]
    fair = effect_of(positions([*honest, *((1, gain) for rank, gain in honest if rank)]), 1)
    assert fair is not None
    for lie in ([900_000_000] * 4, [-900_000_000] * 4, [10_150_001] * 4, [900_000_000], []):
        effect = effect_of(positions([*honest, *((1, gain) for gain in lie)], sitting=3), 1)
        assert effect is not None
        assert 10_000_000 <= effect.mean_nano <= 10_300_000, "between what two honest members say"
        assert effect.low_nano < fair.mean_nano < effect.high_nano
        assert 9_000_000 < effect.surely_nano <= 10_150_000


def test_with_more_absent_than_may_lie_there_is_no_effect() -> None:
    alone = [(0, 10_000_000 + turn) for turn in range(4)]
    assert effect_of(positions(alone, sitting=3), 1) is None
    two = [(rank, gain) for rank in (0, 1) for _, gain in alone]
    assert effect_of(positions(two, sitting=5), 2) is None  # one of two may be the other liar


def test_the_interval_holds_the_truth_with_f_liars_too() -> None:
    rng = random.Random(9)
    held = 0
    for _ in range(500):
        gains = [int(rng.gauss(2, 1) * 1e7) for _ in range(12)]
        gains[::3] = [100_000_000] * 4  # the member of rank 0
        effect = effect_of(positions([(i % 3, gain) for i, gain in enumerate(gains)]), 1)
        assert effect is not None
        held += effect.low_nano <= 20_000_000 <= effect.high_nano
    assert held / 500 > 0.91


def test_too_little_is_no_effect() -> None:
    assert effect_of([], 0) is None
    assert effect_of(positions([(0, 5)]), 0) is None
    assert effect_of(positions([(0, 5), (0, 7)]), 1) is None


@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 1), (5, 2)])
@pytest.mark.parametrize("lie", ["high", "low", "just inside", "absent"])
def test_whatever_liars_say_the_truth_is_in_the_interval(n: int, f: int, lie: str) -> None:
    rng = random.Random(n + f)
    held = 0
    for _ in range(300):
        honest = {rank: [int(rng.gauss(2, 1) * 1e7) for _ in range(4)] for rank in range(f, n)}
        edge = min(sum(found) // 4 for found in honest.values())
        said = {"high": 10**9, "low": -(10**9), "just inside": edge}.get(lie)
        told = [] if said is None else [(rank, said) for rank in range(f) for _ in range(4)]
        told += [(rank, gain) for rank, found in honest.items() for gain in found]
        effect = effect_of(positions(told, sitting=n), f)
        assert effect is not None
        held += effect.low_nano <= 20_000_000 <= effect.high_nano
    assert held / 300 > 0.92  # .95 is proven; four standard errors


def test_an_adopted_claim_is_measured_again_and_only_then_has_an_effect() -> None:
    swarm = SmallSwarm(tier=MEASURED)
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    while (state := swarm.quarantine.state().claims[claim.id]).stage is not Stage.ADOPTED:
        assert swarm.step(measure(30_000_000))
    verdict = state.verdict
    assert state.effect is None
    assert state.turn is not None
    assert state.turn.purpose == "effect"
    swarm.run(measure(12_000_000))  # what it is really worth
    state = swarm.quarantine.state().claims[claim.id]
    assert state.verdict == verdict
    assert state.effect is not None
    assert state.effect.pairs == 6
    assert 11_000_000 < state.effect.mean_nano < 13_000_000
    assert swarm.quarantine.state().ignored == {}


def test_the_frontier_is_the_leaf_that_is_surely_worth_the_most() -> None:
    swarm = SmallSwarm(tier=MEASURED)
    one, other = swarm.researchers
    small = swarm.claim(one, b"x = 1\n")
    swarm.run(measure(20_000_000))
    tall = swarm.claim(one, b"x = 2\n", slot=1, base=small.id)
    swarm.run(measure(20_000_000))
    assert swarm.quarantine.state().frontier == {"quick": tall.id}
    large = swarm.claim(other, b"x = 3\n")
    while swarm.quarantine.state().claims[large.id].stage is not Stage.ADOPTED:
        assert swarm.step(measure(90_000_000))
    assert swarm.quarantine.state().frontier == {"quick": tall.id}  # its effect is not there yet
    swarm.run(measure(90_000_000))
    assert swarm.quarantine.state().frontier == {"quick": large.id}
    backward = fold(swarm.swarm, reversed(swarm.records), no_screen)
    assert backward.frontier == {"quick": large.id}

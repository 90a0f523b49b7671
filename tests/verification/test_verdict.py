"""The verdict on given pairs: what adopts, what rejects, and that later pairs change nothing."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.records import Pair
from tests.verification.small_swarm import TIER, digest
from verification import pooling
from verification import verdict as vd
from verification.errors import EvidenceError, ProfileError
from verification.evidence import crosses
from verification.pooling import MemberTally
from verification.reproduce import position

if TYPE_CHECKING:
    from decimal import Decimal

LEVEL = Fraction(1, 80)
TERMS = vd.Terms(digest("claim"), "improvement", TIER, 1500, LEVEL)


def pair(d_nano: int = 0, status: str = "ok", cpu: tuple[int, int] = (1000, 1000)) -> Pair:
    return Pair(
        index=0,
        fold=0,
        order="base_first",
        d_nano=d_nano,
        status=status,
        base_nano=0,
        candidate_nano=0,
        base_cost_ms=cpu[0],
        candidate_cost_ms=cpu[1],
        tokens=1,
    )


def reproductions(*pairs: Pair, n: int = 2) -> tuple[vd.Reproduction, ...]:
    made = []
    for index, item in enumerate(pairs):
        round_, rank = position(index, n)
        made.append(vd.Reproduction(round_, rank, digest(f"b{index}"), digest(f"v{rank}"), item))
    return tuple(made)


def judge(*pairs: Pair, terms: vd.Terms = TERMS) -> vd.Verdict:
    return vd.verdict(terms, reproductions(*pairs, n=terms.policy.n))


GOOD = [
    pair(40_000_000 + wobble)
    for wobble in (0, 900_000, -700_000, 400_000, 100_000, -200_000, 600_000, -900_000)
]


def test_nothing_yet_is_pending() -> None:
    verdict = judge()
    assert (verdict.outcome, verdict.reason, verdict.e_value) == ("pending", "reproducing", "1")
    assert verdict.crossing is None


def test_a_true_gain_is_adopted_at_the_first_crossing() -> None:
    gains = [item.d_nano - TIER.min_effect_nano for item in GOOD]
    path: list[Decimal] = []
    for count in range(1, len(GOOD) + 1):
        members = [MemberTally(TIER.noise_bound_nano) for _ in range(2)]
        for index, gain in enumerate(gains[:count]):
            members[index % 2] = members[index % 2].add(gain, TIER.clip_milli)
        path.append(pooling.evidence(members, 0, TIER.min_effect_nano))
    at = next(i for i, e in enumerate(path) if crosses(e, LEVEL))
    verdict = judge(*GOOD)
    assert verdict.outcome == "adopt"
    assert verdict.reason == "evidence"
    assert verdict.pairs == at + 1
    assert verdict.e_value == str(path[at])
    assert verdict.crossing == (*position(at, 2), digest(f"b{at}"))
    assert verdict.mean_nano == sum(item.d_nano for item in GOOD[: at + 1]) // (at + 1)
    assert verdict.trust.startswith("trusts every verifier (f = 0)")
    assert judge(*GOOD[:at]).outcome == "pending"


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(-50_000_000, 60_000_000), st.sampled_from(["ok", "ok", "ok", "crashed"])
        ),
        max_size=12,
    ),
    st.lists(st.integers(-(10**9), 10**9), max_size=4),
)
def test_a_decision_is_final(first: list[tuple[int, str]], later: list[int]) -> None:
    pairs = [pair(d if status == "ok" else 0, status) for d, status in first]
    verdict = judge(*pairs)
    if verdict.outcome != "pending":
        more = judge(*pairs, *(pair(d) for d in later), pair(status="non_causal"))
        assert more == verdict


def test_no_gain_is_rejected_early_and_a_gain_below_the_minimum_too() -> None:
    nothing = judge(pair(200_000), pair(-900_000), *GOOD)
    assert (nothing.outcome, nothing.reason, nothing.pairs) == ("reject", "not_reproduced", 2)
    tiny = judge(*[pair(2_000_000 + i) for i in range(20)])
    assert (tiny.outcome, tiny.reason, tiny.pairs) == ("reject", "not_reproduced", 2)


@pytest.mark.parametrize("status", sorted(vd.PROBE_FAILURES))
def test_one_probe_failure_ends_a_claim_at_once(status: str) -> None:
    verdict = judge(pair(300_000_000), pair(status=status), *GOOD)
    assert (verdict.outcome, verdict.reason) == ("reject", status)
    assert verdict.crossing == (0, 1, digest("b1"))


def test_failures_are_losses_and_name_the_reason() -> None:
    crashed = judge(*[pair(status="crashed")] * 6)
    assert (crashed.outcome, crashed.reason, crashed.lost) == ("reject", "crashed", 2)
    once = judge(GOOD[0], pair(status="timeout"), *GOOD)
    assert once.outcome != "adopt" or once.pairs > 3  # one loss costs pairs, and is not left out
    assert once.lost == 1


def test_a_gain_bought_with_compute_is_no_gain() -> None:
    dear = [replace(item, candidate_cost_ms=1501) for item in GOOD]
    assert judge(*dear).reason == "too_costly"
    just = [replace(item, candidate_cost_ms=1500) for item in GOOD]
    assert judge(*just).outcome == "adopt"
    free = [replace(item, base_cost_ms=0) for item in GOOD]
    assert judge(*free).reason == "too_costly"


def test_a_failing_base_says_nothing() -> None:
    passed_over = judge(pair(status="base_crashed"), *GOOD)
    straight = judge(*GOOD)
    assert passed_over.outcome == "adopt"
    assert passed_over.e_value == straight.e_value
    assert passed_over.pairs == straight.pairs
    assert passed_over.positions_digest != straight.positions_digest
    assert judge(*[pair(status="base_timeout")] * 19).outcome == "pending"
    ended = judge(*[pair(status="base_timeout")] * 20)
    assert (ended.outcome, ended.reason, ended.pairs) == ("reject", "base_failed", 0)


def test_the_grid_ends_in_a_decision() -> None:
    for gain in range(3_000_000, 40_000_000, 4_000_000):
        noisy = [pair(gain + (-1) ** i * 15_000_000) for i in range(20)]
        assert judge(*noisy).outcome in ("adopt", "reject")
        assert judge(*noisy).pairs <= 20


def test_a_level_that_cannot_be_reached_costs_nobody_a_pair() -> None:
    for level in (Fraction(0), Fraction(1, 10**60)):
        verdict = judge(*GOOD, terms=replace(TERMS, level=level))
        assert (verdict.outcome, verdict.reason, verdict.pairs) == ("reject", "no_level", 0)


def test_simplification_is_not_worse_and_economy_is_cheaper() -> None:
    equal = [pair(100_000 * (-1) ** (i // 2)) for i in range(16)]
    assert judge(*equal).outcome == "reject"
    assert judge(*equal, terms=replace(TERMS, kind="simplification")).outcome == "adopt"
    economy = replace(TERMS, kind="economy")
    assert judge(*equal, terms=economy).reason == "too_costly"
    cheaper = [replace(item, candidate_cost_ms=900) for item in equal]
    assert judge(*cheaper, terms=economy).outcome == "adopt"
    worse = [pair(-3_000_000 + item.d_nano, cpu=(1000, 500)) for item in equal]
    assert judge(*worse, terms=economy).reason == "not_reproduced"


def test_positions_out_of_order_are_refused() -> None:
    proper = reproductions(*GOOD)
    with pytest.raises(EvidenceError):
        vd.verdict(TERMS, proper[1:])


@pytest.mark.parametrize("profile", [(0, 0, 0), (2, 1, 0), (4, 2, 0), (3, 0, 1), (5, 2, 2)])
def test_profiles_that_can_keep_no_promise_are_refused(profile: tuple[int, int, int]) -> None:
    with pytest.raises(ProfileError) as caught:
        vd.check_profile(*profile)
    assert caught.value.cure
    n, f, g = profile
    with pytest.raises(ProfileError):
        judge(terms=replace(TERMS, policy=replace(TIER, n=n, f=f, g=g)))


def test_supported_profiles() -> None:
    for n in (1, 2, 3, 15):
        vd.check_profile(n, 0, 0)
    vd.check_profile(3, 1, 0)
    vd.check_profile(5, 2, 1)


def test_the_digest_covers_claim_and_positions() -> None:
    walked = reproductions(*GOOD)
    first = vd.positions_digest(digest("claim"), walked)
    assert first != vd.positions_digest(digest("other"), walked)
    assert first != vd.positions_digest(digest("claim"), walked[:-1])
    assert first != vd.positions_digest(
        digest("claim"), (replace(walked[0], block=digest("x")), *walked[1:])
    )

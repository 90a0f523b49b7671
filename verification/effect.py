"""What an adopted discovery is worth: an effect from pairs that had no part in adopting it.

The pairs that carry a claim over its threshold flatter it: it stopped when they looked best. So
after acceptance the same bench measures ``effect_pairs`` more, in turn, and only those are
published, with a 95 % interval by Student's t. They carry no winner's curse, and it costs nothing
to wait for them: the discovery is already adopted.

Where f members may lie, each measures ``effect_pairs`` of its own (four at least), and every member
speaks with one mean and one interval, of its own pairs. Published is the mean of the members' means
without the f highest and the f lowest; as lower bound the (f+1)-th lowest lower bound, as upper
bound the (f+1)-th highest upper one. Liars who report nothing are counted among the f: with a of
them absent f - a are left out at either end, and with more than f there is no effect.

*Whatever f members report, the truth is in the interval with 95 %.* At most f bounds are not
honest; so for the (f+1)-th lowest lower bound of n to lie above the truth, those of n - 2f honest
members must, of n - f that there are. A bound that misses with chance p lets that happen with a
chance of at most C(n-f, n-2f) p^(n-2f); each member's p is the largest of ``TAILS`` for which that
is 2.5 % or less. And the mean that is published lies between honest means, so within the same
interval: f liars move it by less than that.

Ranking leaves of the frontier needs a number that liars can neither raise beyond an honest bound
nor bring to nothing: that lower bound. Whole numbers throughout, so that all machines rank alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.verdict import Reproduction

T_MILLI: Final = (
    12_706, 4_303, 3_182, 2_776, 2_571, 2_447, 2_365, 2_306, 2_262, 2_228, 2_201, 2_179, 2_160,
    2_145, 2_131, 2_120, 2_110, 2_101, 2_093, 2_086, 2_080, 2_074, 2_069, 2_064, 2_060, 2_056,
    2_052, 2_048, 2_045, 2_042,
)  # fmt: skip
"""Student's t at 97.5 %, in thousandths, for 1, 2, ... degrees of freedom; the last for more."""


TAILS: Final = (
    (100_000, (3_078, 1_886, 1_638, 1_534, 1_476, 1_440, 1_415, 1_397, 1_384, 1_373, 1_364, 1_357,
               1_351, 1_346, 1_341)),
    (50_000, (6_314, 2_920, 2_354, 2_132, 2_016, 1_944, 1_895, 1_860, 1_834, 1_813, 1_796, 1_783,
              1_771, 1_762, 1_754)),
    (25_000, T_MILLI),
    (12_500, (25_452, 6_206, 4_177, 3_496, 3_164, 2_969, 2_842, 2_752, 2_686, 2_634, 2_594, 2_561,
              2_533, 2_510, 2_490)),
    (6_250, (50_924, 8_861, 5_392, 4_315, 3_810, 3_522, 3_336, 3_206, 3_111, 3_039, 2_981, 2_935,
             2_897, 2_864, 2_837)),
    (3_125, (101_856, 12_590, 6_896, 5_262, 4_526, 4_116, 3_856, 3_677, 3_547, 3_448, 3_371, 3_308,
             3_257, 3_214, 3_178)),
)  # fmt: skip
"""Student's t for other tails, in millionths, the widest first; the last of each row for more."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A published effect: bpb(base) - bpb(candidate) in nano-bits per byte.

    ``mean_nano`` with its 95 % interval from ``low_nano`` to ``high_nano``, which f liars cannot
    take away from the truth: of ``pairs`` pairs of ``members`` verifiers; ``lost`` more pairs ended
    without a number (a failed candidate, an absent member). ``surely_nano`` is the lower bound, not
    below 0: what the frontier ranks by.
    """

    mean_nano: int
    low_nano: int
    high_nano: int
    pairs: int
    members: int
    lost: int
    surely_nano: int


def effect_of(positions: Sequence[Reproduction], f: int) -> Effect | None:
    """The effect that settled positions after acceptance give.

    None with fewer than two pairs, and where more than f members report less than that: then
    nobody could tell whom to leave out.
    """
    modest = _modest(positions)
    gains = [gain for found in modest for gain in found]
    lost = sum(item.committed for item in positions) - len(gains)
    if len(gains) < 2:
        return None
    if f == 0:
        mean, half = _interval(gains, T_MILLI)
        low, high = mean - half, mean + half
    else:
        sitting = len({item.rank for item in positions if item.committed})
        heard = [found for found in modest if len(found) >= 2]
        left_out = f - (sitting - len(heard))
        if left_out < 0 or len(heard) < max(2, 2 * left_out + 1):
            return None
        mean, low, high = _without(heard, left_out)
    return Effect(mean, low, high, len(gains), len(modest), lost, max(0, low))


def _without(heard: Sequence[Sequence[int]], f: int) -> tuple[int, int, int]:
    """Mean and interval of what members report, without f of them at either end."""
    n = len(heard)
    each = [_interval(found, _quantiles(n, f)) for found in heard]
    means = sorted(mean for mean, _ in each)[f : n - f]
    low = sorted(mean - half for mean, half in each)[f]
    high = sorted(mean + half for mean, half in each)[n - 1 - f]
    return sum(means) // len(means), low, high


def _quantiles(n: int, f: int) -> Sequence[int]:
    """The row of ``TAILS`` that keeps 2.5 % at either end, with f liars among n."""
    missed, ways = n - 2 * f, math.comb(n - f, n - 2 * f)
    return next(
        (row for tail, row in TAILS if 40 * ways * tail**missed <= 10 ** (6 * missed)),
        TAILS[-1][1],
    )


def modest_mean(positions: Sequence[Reproduction], f: int) -> int:
    """The mean gain of settled positions without the f members who report the most.

    At most what the honest ones found, whatever f liars add to it. At least one member is left, if
    any reported a number; 0 if none did.
    """
    modest = _modest(positions)
    gains = [gain for found in modest[: max(1, len(modest) - f)] for gain in found]
    return sum(gains) // len(gains) if gains else 0


def _modest(positions: Sequence[Reproduction]) -> list[list[int]]:
    """The gains that each member reports, those of the most modest first."""
    by_member: dict[int, list[int]] = {}
    for item in positions:
        if item.pair is not None and item.pair.status == "ok":
            by_member.setdefault(item.rank, []).append(item.pair.d_nano)
    return sorted(by_member.values(), key=lambda found: (sum(found) // len(found), found))


def _interval(gains: Sequence[int], table: Sequence[int]) -> tuple[int, int]:
    """Mean, and by the quantiles of ``table`` half the width of its interval, rounded up."""
    n, total = len(gains), sum(gains)
    left = n * sum(gain * gain for gain in gains) - total * total
    quantile = table[min(n - 1, len(table)) - 1]
    # half = t sqrt(left / (n (n - 1))) / sqrt n
    half = math.isqrt(quantile * quantile * left // (n * n * (n - 1))) // 1000 + 1
    return total // n, half if left else 0

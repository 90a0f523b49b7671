"""What an adopted discovery is worth: an effect from pairs that had no part in adopting it.

The pairs that carry a claim over its threshold flatter it: it stopped when they looked best. So
after acceptance the same bench measures ``effect_pairs`` more, in turn, and only those are
published, with a 95 % interval by Student's t. They carry no winner's curse, and it costs nothing
to wait for them: the discovery is already adopted.

Where f members may lie, the f who report the most and the f who report the least are left out of
the mean. Simulated at d = 2 with four pairs each, f members who invent ten SDs move it by 14 %
(N = 3, f = 1) or 21 % (5, 2) instead of 133 % and 160 %, and the interval still holds the truth in
.95 and .93 of cases (.98 and .99 where nobody lies).

Ranking leaves of the frontier needs a number that f liars cannot raise: the lower bound without the
f members who report the most. Whole numbers throughout, so that every machine ranks alike.
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


@dataclass(frozen=True, slots=True)
class Effect:
    """A published effect: bpb(base) - bpb(candidate) in nano-bits per byte.

    ``mean_nano`` with its 95 % interval from ``low_nano`` to ``high_nano``: of ``pairs`` pairs of
    ``members`` verifiers, without those of the f highest and the f lowest members; ``lost`` more
    pairs ended without a number (a failed candidate, an absent member). ``surely_nano`` is the
    lower bound without the f members who report the most, 0 where too little is left to tell: what
    the frontier ranks by.
    """

    mean_nano: int
    low_nano: int
    high_nano: int
    pairs: int
    members: int
    lost: int
    surely_nano: int


def effect_of(positions: Sequence[Reproduction], f: int) -> Effect | None:
    """The effect that settled positions after acceptance give; None with fewer than two pairs."""
    modest = _modest(positions)
    gains = [gain for found in modest for gain in found]
    lost = sum(item.committed for item in positions) - len(gains)
    if len(gains) < 2:
        return None
    cut = min(f, (len(modest) - 1) // 2)
    middle_ones = [gain for found in modest[cut : len(modest) - cut] for gain in found]
    mean, half = _interval(middle_ones if len(middle_ones) >= 2 else gains)
    kept = [gain for found in modest[: max(0, len(modest) - f)] for gain in found]
    surely = 0
    if len(kept) >= 2:
        middle, margin = _interval(kept)
        surely = max(0, middle - margin)
    return Effect(mean, mean - half, mean + half, len(gains), len(modest), lost, surely)


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


def _interval(gains: Sequence[int]) -> tuple[int, int]:
    """Mean, and half the width of its interval, rounded up."""
    n, total = len(gains), sum(gains)
    left = n * sum(gain * gain for gain in gains) - total * total
    quantile = T_MILLI[min(n - 1, len(T_MILLI)) - 1]
    # half = t sqrt(left / (n (n - 1))) / sqrt n
    half = math.isqrt(quantile * quantile * left // (n * n * (n - 1))) // 1000 + 1
    return total // n, half if left else 0

"""The pace of a machine: what one short training costs now, and what it cost then.

CPU time is not work. The same training takes more of it while others use the caches, the memory or
the other half of a core, and less on a quiet machine. Two runs that were not made together are
therefore compared by a third: a short training of the pair's *base*, right before and right after
each of them. It is the same work each time, in a sandbox of its own, and it is of the kind that is
compared, so what slows the base down slows it down alike. No candidate runs meanwhile, and none of
its threads is left: a candidate has no hand in it.

    cost of the base beside the candidate
        = its cost when it ran * pace beside the candidate / pace beside the base
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.challenge import TierSpec
    from training.runner import TrainedRun

PART: Final = 16
"""A short training has this part of the tokens."""
LEAST_MS: Final = 50
"""A short training that costs less says nothing, and such runs are compared as they are."""


class Pacer:
    """Measures the pace for the runs of one pair: before the first of them, and after each."""

    def __init__(
        self, base: bytes, tier: TierSpec, train: Callable[[TierSpec], TrainedRun]
    ) -> None:
        """``train`` trains ``base`` in the tier that it is given."""
        self._of = hashlib.sha256(base).digest()
        self._tier = replace(tier, budget_tokens=tier.budget_tokens // PART)
        self._train = train
        self._can = self._tier.budget_tokens > 0
        self._last = self._measure()

    def after(self, run: TrainedRun) -> TrainedRun:
        """The run that has just ended, with the pace before and after it."""
        before, self._last = self._last, self._measure()
        pace = before + self._last if before and self._last else 0
        return replace(run, pace_ms=pace, pace_of=self._of)

    def _measure(self) -> int:
        """Milliseconds on the tier's clock; 0 where that says nothing."""
        if not self._can:
            return 0
        run = self._train(self._tier)
        self._can = run.status == "ok" and run.cost_ms >= LEAST_MS
        return run.cost_ms if self._can else 0


def is_paced(run: TrainedRun, base: bytes) -> bool:
    """Whether a run can be compared with others that were paced by ``base``."""
    return run.pace_of == hashlib.sha256(base).digest()


def at_pace(cost_ms: int, then: TrainedRun, now: TrainedRun) -> int:
    """What cost so much beside ``then`` would have cost beside ``now``."""
    if not (then.pace_ms and now.pace_ms and then.pace_of == now.pace_of):
        return cost_ms
    return cost_ms * now.pace_ms // then.pace_ms

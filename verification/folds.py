"""How often each holdout fold was looked at, in public; folds that were looked at too often retire.

Every settled pair is a look at one fold: its result is published, and whoever reads results learns
a little about that fold. One fold is drawn for each pair, so looks spread evenly over the active
folds. Counting is a pure function of the state, so every node counts alike.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from verification.rechecks import settled_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from verification.states import State

MOST_USES: Final = 200
"""Looks at a fold before it retires. Each publishes a number that a later change may have been
chosen by; the cap on diffs bounds what can be carried in by bits, this bounds selection."""
LEAST_ACTIVE: Final = 8
"""An epoch keeps so many folds active, the least used ones, even if all of them are worn."""


def fold_uses(state: State) -> dict[int, int]:
    """How many settled pairs were scored on each fold, for the verdict or for the effect.

    All tiers of a challenge share its folds, and are counted together. A pair whose candidate or
    base left nothing to score used its fold all the same: that is a bound from above.
    """
    uses: Counter[int] = Counter()
    for claim in state.cases.values():
        for item in settled_blocks(claim):
            if item.pair is not None:
                uses[item.pair.fold] += 1
    return dict(sorted(uses.items()))


def fresh_folds(
    uses: Mapping[int, int], active: Iterable[int], limit: int = MOST_USES
) -> tuple[int, ...]:
    """The folds of ``active`` that the next epoch keeps: those used less than ``limit`` times.

    Never fewer than ``LEAST_ACTIVE`` of them (or all, where there are not so many): then the least
    used ones are kept, and ``worn`` tells that the challenge needs new text.
    """
    known = sorted(set(active))
    fresh = [fold for fold in known if uses.get(fold, 0) < limit]
    if len(fresh) < LEAST_ACTIVE:
        fresh = sorted(known, key=lambda fold: (uses.get(fold, 0), fold))[:LEAST_ACTIVE]
    return tuple(sorted(fresh))


def worn(uses: Mapping[int, int], active: Iterable[int], limit: int = MOST_USES) -> tuple[int, ...]:
    """The folds of ``active`` that were used ``limit`` times or more."""
    return tuple(sorted(fold for fold in set(active) if uses.get(fold, 0) >= limit))

"""What a researcher keeps at home, what is worth a claim, and when it is claimed.

Edits that help are kept at home, one on top of the other (``Stack``), as in a greedy loop but on
two seeds each. A claim takes verifiers several times as long as an edit takes its author, so the
edits are claimed together, once enough research went into them (``is_due``), and only where the
whole stack is better than the frontier on further seeds, which chose nothing (``judge_stack``).

Pairs on the public dev text decide what is *worth a claim*; they are never evidence. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.proposers import Change, Proposal
from node.proposers.protocol import MAX_HYPOTHESIS
from verification.reproduce import effect_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.records import Experiment, TierPolicy

KEEP_PAIRS: Final = 2
"""Seeds on which an edit is tried before it is kept at home; the same ones for all edits."""
MIN_PAIRS: Final = 3
MAX_PAIRS: Final = 5
MIN_T: Final = 6.0
LEAST_SPREAD: Final = 3
"""Least standard deviation of a pair that is assumed, in units of ``min_effect``: dev text is one
text, and pairs on it are more alike than pairs on the folds of verifiers."""
MAX_AUTHOR: Final = 120
FURTHER: Final = "on further seeds: "
"""The hypothesis of a look at a whole stack begins so."""
EARLY_PART: Final = 8
"""A first look at an edit is a pair on this part of the budget."""
EARLY_MOST_MILLI: Final = 250
"""What a first look may cost of a whole run, in thousandths: two of five ideas end there."""
VERDICT_PAIRS: Final = 5
"""What a bench needs for a clear claim."""


def early_pays(train_ms: int, score_ms: int) -> bool:
    """Whether a first look is worth its price where a whole run costs so much: scoring is never
    shorter, so it is not in tiers of short runs."""
    return train_ms // EARLY_PART + score_ms <= EARLY_MOST_MILLI * (train_ms + score_ms) // 1000


def is_hopeless(gain: int, min_effect: int) -> bool:
    """Whether a first look at an edit, ``gain`` in nano-bits per byte, is enough to give it up.

    What it costs in good ideas: docs/how-it-works.md, ``python -m tests.benchmarks.early``.
    """
    return gain < -min_effect


def judge_edit(gains: Sequence[int], min_effect: int) -> str:
    """Whether an edit stays at home for others to be built on it: ``yes``, ``no`` or ``more``.

    ``gains`` are bpb(best) - bpb(candidate) on dev text, one per seed, in nano-bits per byte. All
    must be positive, and their mean above ``min_effect``. About one of six edits that do nothing
    passes, so this is no reason to claim anything.
    """
    if any(gain <= 0 for gain in gains):
        return "no"
    if len(gains) < KEEP_PAIRS:
        return "more"
    return "yes" if sum(gains) > min_effect * len(gains) else "no"


def judge_stack(gains: Sequence[int], min_effect: int) -> str:
    """Whether pairs against the frontier are worth a claim: ``yes``, ``no`` or ``more``.

    ``gains`` are bpb(frontier) - bpb(candidate) on dev text, one per seed, in nano-bits per byte. A
    claim takes three seeds or more, all better by more than ``min_effect``, and a mean beyond it by
    ``MIN_T`` standard errors, with a spread of at least ``LEAST_SPREAD``: such a claim is mostly
    true, and decided in a few pairs.
    """
    beyond = [gain - min_effect for gain in gains]
    if not beyond:
        return "more"
    if min(beyond) <= 0:
        return "no"
    if len(beyond) >= MIN_PAIRS:
        mean = sum(beyond) / len(beyond)
        variance = sum((value - mean) ** 2 for value in beyond) / (len(beyond) - 1)
        spread = max(math.sqrt(variance), LEAST_SPREAD * min_effect)
        if mean >= MIN_T * spread / math.sqrt(len(beyond)):
            return "yes"
    return "more" if len(beyond) < MAX_PAIRS else "no"


def runs_left(runs: int, policy: TierPolicy, verify_share_milli: int) -> int:
    """How many more runs of research on one frontier earn a claim, after ``runs``.

    A clear claim takes the bench two runs for each of ``VERDICT_PAIRS`` and ``effect_pairs``; they
    shall be at most ``verify_share_milli`` of all runs, in thousandths (1000: always due).
    """
    bench = 2 * (VERDICT_PAIRS + effect_positions(policy))
    return max(0, -(-1000 * bench // verify_share_milli) - bench - runs)


def is_due(runs: int, policy: TierPolicy, verify_share_milli: int) -> bool:
    """Whether so many runs of research on one frontier have earned a claim."""
    return not runs_left(runs, policy, verify_share_milli)


def is_look(said: Experiment) -> bool:
    """Whether an experiment was a look at a whole stack.

    A proposer could write that of an edit too; but an edit has ``KEEP_PAIRS`` at most, and fewer
    where it fails.
    """
    pairs = len(said.dev_pairs) + (said.outcome == "failed")
    return said.hypothesis.startswith(FURTHER) and pairs > KEEP_PAIRS


@dataclass(frozen=True, slots=True)
class Stack:
    """Edits kept at home, each on top of the one before; ``code`` is what has come of them.

    ``gains``: of ``code`` over ``base`` on each of the first ``KEEP_PAIRS`` seeds, nano-bits per
    byte. ``cost_ratio_milli``: cost of ``code`` over that of ``base``, in thousandths. ``cost_ms``:
    what measuring the kept edits cost, on the tier's clock.
    """

    base: bytes
    code: bytes
    edits: tuple[tuple[Proposal, int], ...] = ()
    gains: tuple[int, ...] = (0,) * KEEP_PAIRS
    cost_ratio_milli: int = 1000
    cost_ms: int = 0

    @classmethod
    def on(cls, base: bytes, cost_ratio_milli: int = 1000) -> Stack:
        """Nothing kept yet; a base that is dearer than the one before leaves less room."""
        return cls(base, base, cost_ratio_milli=cost_ratio_milli)

    def plus(
        self, edit: Proposal, gains: Sequence[int], cost_ratio_milli: int, cost_ms: int
    ) -> Stack:
        """With one more edit; ``gains`` and ``cost_ratio_milli`` are over ``code``."""
        return Stack(
            self.base,
            edit.code,
            (*self.edits, (edit, sum(gains) // len(gains))),
            tuple(before + gain for before, gain in zip(self.gains, gains, strict=True)),
            self.ratio_with(cost_ratio_milli),
            self.cost_ms + cost_ms,
        )

    def ratio_with(self, cost_ratio_milli: int) -> int:
        """Cost over the base's of an edit that has this cost ratio to ``code``, in thousandths."""
        return self.cost_ratio_milli * cost_ratio_milli // 1000

    @property
    def changes(self) -> tuple[Change, ...]:
        """What changed from ``base`` to ``code``, where all edits were to literals; else none."""
        first, last = dict[str, Change](), dict[str, Change]()
        for edit, _ in self.edits:
            if not edit.changes:
                return ()
            for change in edit.changes:
                first.setdefault(change.name, change)
                last[change.name] = change
        whole = (Change(name, first[name].old, last[name].new) for name in first)
        return tuple(change for change in whole if change.old != change.new)

    @property
    def hypothesis(self) -> str:
        """In one line."""
        if len(self.edits) == 1:
            return self.edits[0][0].hypothesis
        parts = [str(change) for change in self.changes]
        text = ", ".join(parts) or "; ".join(edit.hypothesis for edit, _ in self.edits)
        return text if len(text) <= MAX_HYPOTHESIS else f"{text[: MAX_HYPOTHESIS - 3]}..."

    @property
    def author(self) -> str:
        """Whose edits these are, who gained the most first; as many as a record has room for."""
        ranked = sorted(self.edits, key=lambda one: -one[1])
        return " + ".join(dict.fromkeys(edit.author for edit, _ in ranked))[:MAX_AUTHOR]

    @property
    def proposal(self) -> Proposal:
        """All of it as one edit."""
        return Proposal("", self.code, self.hypothesis, self.author, "", self.changes, self.merges)

    @property
    def merges(self) -> tuple[bytes, ...]:
        """Adopted claims whose changes are in it."""
        return tuple(dict.fromkeys(claim for edit, _ in self.edits for claim in edit.merges))

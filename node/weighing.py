"""What pairs measured at home would be worth in a swarm: the evidence, and the words for it.

The arithmetic is that of verdicts (``verification.evidence``), with the policy of the charter in
``configs/`` that has the tier, for the first claim of an only researcher. It is no verdict: that
takes independent verifiers, seeds that nobody could choose, and text that nobody has looked at.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import msgspec

from verification.evidence import Tally, crosses, evidence_of_sums, is_futile, level

if TYPE_CHECKING:
    from collections.abc import Sequence

NANO: Final = 1_000_000_000
NOTE: Final = (
    "a verdict in a swarm needs independent verifiers, on seeds and text that nobody chose"
)


@dataclass(frozen=True, slots=True)
class TierRules:
    """What decides in a tier: the smallest gain that counts, and the size of the bench."""

    name: str
    n: int
    max_pairs: int
    min_effect_nano: int

    @property
    def most_pairs(self) -> int:
        """Pairs that a whole bench measures at most."""
        return self.n * self.max_pairs


@dataclass(frozen=True, slots=True)
class _Charter:
    alpha_milli: int
    slots: int
    tiers: tuple[TierRules, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a tier, and the level of a first claim there."""

    tier: TierRules
    level: Fraction


@dataclass(frozen=True, slots=True)
class Weighed:
    """``outcome``: ``would_be_adopted``, ``not_yet``, ``not_better`` or ``refused``; ``words`` say
    it. ``e_value`` is the evidence after the pair that decided, or the last; ``needed`` what it has
    to reach; ``decided_by`` the number of pairs that decided, 0 while nothing is."""

    outcome: str
    words: str
    e_value: str
    needed: str
    decided_by: int


def rules_of(tier: str) -> Rules:
    """The rules of the charter in ``configs/`` that has this tier. Raises LookupError."""
    for source in sorted(files("configs").iterdir(), key=lambda item: item.name):
        if source.name.endswith(".toml"):
            data = tomllib.loads(source.read_text())
            if any(entry.get("name") == tier for entry in data.get("tiers", ())):
                charter = msgspec.convert(data, _Charter)
                rules = next(rules for rules in charter.tiers if rules.name == tier)
                alpha = Fraction(charter.alpha_milli, 1000)
                return Rules(rules, level(alpha, Fraction(1), charter.slots, 0))
    raise LookupError(tier)


def weigh(gains: Sequence[int | None], rules: Rules, refused: str = "") -> Weighed:
    """Weigh pairs in order: bpb(base) - bpb(candidate) in nano, None for a pair that was lost.

    ``refused`` is the status of a candidate whose score means nothing, and ends all.
    """
    tier, at_level = rules.tier, rules.level
    tally = Tally()
    outcome, decided_by = "not_yet", 0
    for count, gain in enumerate(gains[: tier.most_pairs], 1):
        tally = tally.add(None if gain is None else gain - tier.min_effect_nano)
        sums = tally.sums(tier.min_effect_nano)
        if crosses(evidence_of_sums(*sums), at_level):
            outcome, decided_by = "would_be_adopted", count
            break
        if is_futile(*sums, tier.most_pairs, at_level):
            outcome, decided_by = "not_better", count
            break
    if refused:
        outcome, decided_by = "refused", len(gains)
    e_value = tally.evidence(tier.min_effect_nano)
    words = _words(outcome, decided_by, tally, refused, tier.min_effect_nano)
    return Weighed(outcome, words, str(e_value), str(1 / at_level), decided_by)


def _words(outcome: str, decided_by: int, tally: Tally, refused: str, min_effect: int) -> str:
    effect = f"{min_effect / NANO:g} bits per byte"
    if outcome == "refused":
        return f"would be rejected: {refused.replace('_', ' ')}"
    if outcome == "would_be_adopted":
        return f"would be adopted, after {decided_by} pairs"
    if outcome == "not_better":
        return f"not better by more than {effect}, after {decided_by} pairs"
    pairs = "1 pair is" if tally.pairs == 1 else f"{tally.pairs} pairs are"
    if tally.failed:
        return f"not yet: {tally.failed} of {tally.pairs} pairs lost"
    if tally.total > 0:
        return f"not yet: better by more than {effect} so far, and {pairs} too few to tell"
    return f"not yet: not better by more than {effect} so far, and {pairs} too few to tell"

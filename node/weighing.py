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

from verification.budget import RESEARCHERS, series, share_of_key, share_of_operator
from verification.evidence import Tally, level
from verification.futility import is_hopeless
from verification.pooling import MemberTally, evidence, reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

NANO: Final = 1_000_000_000
REFUSED: Final = frozenset({"non_causal", "leaks_across_batch", "not_repeatable"})
"""Statuses that end a claim at once (``verification.verdict.PROBE_FAILURES``)."""
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
    clip_milli: int
    noise_nano: int = 0

    @property
    def most_pairs(self) -> int:
        """Pairs that a whole bench measures at most."""
        return self.n * self.max_pairs


@dataclass(frozen=True, slots=True)
class _Charter:
    alpha_milli: int
    tiers: tuple[TierRules, ...]
    researchers: int = RESEARCHERS


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a tier, and the level of a first claim there."""

    tier: TierRules
    level: Fraction


@dataclass(frozen=True, slots=True)
class Weighed:
    """``outcome``: ``would_be_adopted``, ``not_yet``, ``not_better``, ``lost`` (the candidate
    failed, and nothing was decided before) or ``refused`` (its score means nothing); ``words`` say
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
                share = share_of_operator(1, charter.researchers) * share_of_key(1) * series(1)
                return Rules(rules, level(alpha, share / len(charter.tiers), 1, 0))
    raise LookupError(tier)


def weigh(gains: Sequence[int], rules: Rules, failure: str = "") -> Weighed:
    """Weigh pairs in order: bpb(base) - bpb(candidate), in nano-bits per byte.

    ``failure`` is the status of one more pair, the last, in which the candidate failed.
    """
    tier, at_level = rules.tier, rules.level
    tally = Tally()
    nobody = MemberTally(tier.noise_nano or tier.min_effect_nano)  # is calibrated here
    bench = [nobody] * tier.n  # one after the other, as its members take turns
    outcome, decided_by = "not_yet", 0
    pairs: list[int | None] = [gain - tier.min_effect_nano for gain in gains]
    for index, gain in enumerate((*pairs, None) if failure else pairs):
        tally = tally.add(gain)
        bench[index % tier.n] = bench[index % tier.n].add(gain, tier.clip_milli)
        if gain is None and failure in REFUSED:
            outcome = "refused"
        elif reaches(bench, 0, tier.min_effect_nano, at_level):
            outcome = "would_be_adopted"
        elif (
            is_hopeless(bench, 0, tier.min_effect_nano)
            or not at_level
            or tally.pairs >= tier.most_pairs
        ):
            outcome = "not_better"
        elif gain is None:
            outcome = "lost"
            continue
        else:
            continue
        decided_by = tally.pairs
        break
    e_value = evidence(bench, 0, tier.min_effect_nano)
    words = _words(outcome, tally, failure, tier.min_effect_nano)
    return Weighed(outcome, words, str(e_value), f"{float(1 / at_level):.6g}", decided_by)


def _words(outcome: str, tally: Tally, failure: str, min_effect: int) -> str:
    effect = f"{min_effect / NANO:g} bits per byte"
    failure = failure.replace("_", " ")
    pairs = "1 pair is" if tally.pairs == 1 else f"{tally.pairs} pairs are"
    if outcome == "refused":
        return f"would be rejected: {failure}"
    if outcome == "lost":
        return f"not better: a candidate that fails ({failure}) loses the pair"
    if outcome == "would_be_adopted":
        return f"would be adopted, after {tally.pairs} pairs"
    if outcome == "not_better":
        return f"not better by more than {effect}, after {tally.pairs} pairs"
    if tally.total > 0:
        return f"not yet: better by more than {effect} so far, but {pairs} too few to tell"
    return f"not yet: not better by more than {effect} so far, and {pairs} too few to tell"

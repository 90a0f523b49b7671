"""What one row of a simulation is made of, and which rows keep what the promise assumes.

Light to import: the command line shows these fields as its options.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from swarm.records import TierPolicy

Noise = Literal[
    "normal", "t3", "scale", "two_values", "rare_losses", "three_values", "rounded", "skewed",
    "machine", "fold", "bank",
]  # fmt: skip
Liar = Literal["always-yes", "always-no", "copy", "invent", "silent", "colluding"]

SD_NANO: Final = 10_000_000
"""One standard deviation of a paired difference in a noise model: .01 bits per byte."""

MOST_NULL_SD: Final = 1.5
"""Up to how many times its bound noise may be that is not normal; see ``verification.bounded``."""

MOST_BENCH, MOST_PAIRS = 15, 64  # what a charter can say


# Not ``slots``: the command line reads the defaults off the class.
@dataclass(frozen=True)
class Setting:
    """One epoch of claims, the noise of its measurements, and who lies.

    Attributes:
        claims: Claims in the epoch.
        researchers: Members who make them, by lot; the charter expects as many.
        true_share: Share of claims that are truly better.
        effect: How much better those are, in SDs of a paired difference. A bank has its own.
        null_sd: SD of a false claim's differences, in SDs of a true one's.
        noise: Shape of the differences: normal, t3, scale (a mixture of scales over 25 times),
            two_values, rare_losses (two, one of them in a fifth of the pairs), three_values,
            rounded (to 1.5 SDs), skewed (few large losses), machine or fold (normal, and all pairs
            of one share an offset), or bank: measured ones.
        offset: SD of the offsets of machines or folds, in SDs of a pair.
        bench: Verifiers of a claim (N).
        liars_tolerated: How many of them may lie (f).
        liar_share: Share of the nodes that lie as verifiers.
        liar: What liars say. colluding: yes for their own claims, no for others.
        pairs: Pairs of each verifier, at most.
        nodes: Members from whom benches are drawn by lot; each is one operator.
        alpha: Share of false ones among adopted discoveries that is promised.
        calibrated: Verifiers have calibrated their machines; their bound is one SD.
        effect_pairs: Fresh pairs of each verifier after adoption, for the published effect.
        min_effect: Bits per byte by which a change must be better, for the bank only.
        epoch_hours: Claims come at random times within this.
        minutes_per_pair: What a pair takes on a node, which runs one at a time.
    """

    claims: int = 700
    researchers: int = 10
    true_share: float = 0.03
    effect: float = 2.0
    null_sd: float = 1.0
    noise: Noise = "normal"
    offset: float = 1.0
    bench: int = 3
    liars_tolerated: int = 1
    liar_share: float = 0.0
    liar: Liar = "always-yes"
    pairs: int = 16
    nodes: int = 100
    alpha: float = 0.1
    calibrated: bool = False
    effect_pairs: int = 4
    min_effect: float = 0.005
    epoch_hours: float = 168.0
    minutes_per_pair: float = 10.0

    @property
    def min_effect_nano(self) -> int:
        """The charter's minimum. In a noise model nulls lie on it: it is next to nothing."""
        return round(self.min_effect * 1e9) if self.noise == "bank" else 1

    @property
    def alpha_exact(self) -> Fraction:
        """Alpha in thousandths, as a charter says it."""
        return Fraction(round(self.alpha * 1000), 1000)

    @property
    def liars(self) -> int:
        """How many of the nodes lie."""
        return round(self.liar_share * self.nodes)

    def policy(self) -> TierPolicy:
        """The deciding half of a charter's tier. Agreement (g) is taken as reached."""
        from swarm.records import TierPolicy

        return TierPolicy(
            name="simulated", n=self.bench, f=self.liars_tolerated, g=0, max_pairs=self.pairs,
            effect_pairs=self.effect_pairs, clip_milli=3000, min_effect_nano=self.min_effect_nano,
            tolerance_nano=0, tolerance_total_nano=0, min_saving_milli=0, classes=(),
            noise_nano=SD_NANO,
        )  # fmt: skip

    def problem(self) -> str:
        """Why this cannot be simulated, in one line; empty where it can."""
        checks = {
            "claims must be 1 to 100000": 1 <= self.claims <= 100_000,
            "researchers must be 1 to 1000": 1 <= self.researchers <= 1000,
            "true-share and liar-share must be from 0 to 1": 0 <= self.true_share <= 1
            and 0 <= self.liar_share <= 1,
            "effect must be above 0 and at most 1000, null-sd from 0 to 1000": 0
            < self.effect
            <= 1000
            and 0 <= self.null_sd <= 1000,
            "offset must be from 0 to 1000": 0 <= self.offset <= 1000,
            f"bench must be 1 to {MOST_BENCH}": 1 <= self.bench <= MOST_BENCH,
            "liars-tolerated must be less than half of the bench": 0
            <= 2 * self.liars_tolerated
            < self.bench,
            f"pairs must be 1 to {MOST_PAIRS}": 1 <= self.pairs <= MOST_PAIRS,
            f"a bench of {self.bench} needs at least {self.bench + 1} nodes, and at most a "
            "million": self.bench < self.nodes <= 1_000_000,
            "alpha must be from .001 to .5": 0.001 <= self.alpha <= 0.5,
            "effect-pairs must be 0 to 64": 0 <= self.effect_pairs <= MOST_PAIRS,
            "min-effect must be above 0 and at most 1": 1e-9 <= self.min_effect <= 1,
            "epoch-hours and minutes-per-pair must be above 0 and at most a million": 0
            < self.epoch_hours
            <= 1e6
            and 0 < self.minutes_per_pair <= 1e6,
            "a bank has no calibration": not (self.calibrated and self.noise == "bank"),
        }
        return next((text for text, holds in checks.items() if not holds), "")

    def broken(self, captured: int) -> str:
        """Which assumption behind the promise does not hold in this row; empty where all do.

        ``captured``: benches on which there were more liars than are tolerated.
        """
        if captured:
            return "liars"
        if self.noise == "machine" and self.offset > 0.25:
            return "machines"
        if self.noise not in ("normal", "bank") and self.null_sd > MOST_NULL_SD:
            return "noise"
        return ""

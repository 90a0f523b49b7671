"""What the rules are worth before anybody trusts them: epochs of claims whose truth is known.

Three policies see claims of the same kind, number and truth (``Setting``):

- ``greedy``: keep what scores better than the best score so far, one run each. What a loop on one
  machine does. The noise of a score is that of a paired difference, so the best score on record is
  a lucky one, and luck is what the next claim has to beat.
- ``t-test``: five seeds each; keep where a one-sided paired t test at .05 says so.
- ``lazaretto``: benches, liars, levels and verdicts, by the code that judges real claims
  (``verification.simulate_swarm``).

The first two measure for themselves: nobody lies to them. That flatters them.

Everything is drawn from the seed, so a row can be had again, digit by digit.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean, median, quantiles
from typing import TYPE_CHECKING, Any, Final

from verification.simulate_noise import draw_claims
from verification.simulate_setting import Setting
from verification.simulate_swarm import Epoch, Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.simulate_noise import Bank, Claimed

POLICIES: Final = ("greedy", "t-test", "lazaretto")
SEEDS: Final = 5
CRITICAL_T: Final = 2.132
"""The upper .05 point of Student's t with four degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a policy came to, over all repeats. Shares are from 0 to 1; None: nothing adopted.

    ``fdr``: false ones among the adopted, averaged over repeats, with its standard error;
    ``fdr_within``: the same among claims whose bench was not captured; ``power``: true claims that
    were adopted; ``pairs``: per claim, ``null_pairs`` per false claim; ``inflation``: gains claimed
    with adoptions over true ones; ``published``: the same for effects measured afterwards;
    ``hours``: from a claim to its verdict, median, and for nine of ten.
    """

    policy: str
    adopted: int
    false: int
    fdr: float
    fdr_error: float
    fdr_within: float
    power: float | None
    pairs: float
    null_pairs: float | None
    inflation: float | None
    published: float | None
    hours: float
    hours_p90: float


@dataclass(frozen=True, slots=True)
class Row:
    """One setting and what came of it. ``benches``: drawn in all repeats; ``captured``: of them.

    ``broken`` names the assumption that does not hold here, empty where the promise stands.
    """

    setting: Setting
    repeats: int
    seed: int
    benches: int
    captured: int
    broken: str
    figures: tuple[Figures, ...]

    @property
    def kept(self) -> bool:
        """Whether the false discovery rate is within alpha, or no promise was made."""
        ours = self.figures[-1]
        return bool(self.broken) or ours.fdr <= self.setting.alpha

    def to_json(self) -> dict[str, Any]:
        """For programs; the table shows the same numbers, rounded."""
        return {**asdict(self), "keeps_assumptions": not self.broken, "fdr_kept": self.kept}


def simulate(
    setting: Setting,
    *,
    repeats: int,
    seed: int,
    bank: Bank | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Row:
    """Put ``repeats`` epochs through every policy; ``tell`` hears how many claims are decided.

    Raises EvidenceError for noise from a bank without one, ProfileError for a bench that cannot
    keep its promise. ``Setting.problem`` says beforehand what is wrong.
    """
    epochs: list[tuple[list[Fate], ...]] = []
    for repeat in range(repeats):
        name = f"{seed}/{repeat}"
        claims = draw_claims(setting, bank, Random(f"{name}/claims"))
        before = repeat * setting.claims
        ours = Epoch(setting, claims, f"{name}/swarm").run(
            lambda done, before=before: tell(before + done)  # type: ignore[misc]
        )
        epochs.append(
            (
                greedy(setting, claims, Random(f"{name}/greedy")),
                t_test(setting, claims, Random(f"{name}/t-test")),
                ours,
            )
        )
    figures = tuple(
        _figures(policy, [epoch[index] for epoch in epochs])
        for index, policy in enumerate(POLICIES)
    )
    captured = sum(fate.captured for epoch in epochs for fate in epoch[-1])
    benches = repeats * setting.claims
    broken = setting.broken(captured)
    return Row(setting, repeats, seed, benches, captured, broken, figures)


def greedy(setting: Setting, claims: Sequence[Claimed], rng: Random) -> list[Fate]:
    """Keep or revert: better than the best score on record, or gone."""
    truth = best = 0.0
    fates = []
    for claim in claims:
        score = truth + claim.nature.draw(rng)
        adopted = score > best
        fates.append(
            Fate(
                claim.better,
                adopted,
                claim.nature.mean,
                claimed=score - best if adopted else 0.0,
                hours=setting.minutes_per_pair / 120,
            )
        )
        if adopted:
            truth, best = truth + claim.nature.mean, score
    return fates


def t_test(setting: Setting, claims: Sequence[Claimed], rng: Random) -> list[Fate]:
    """Five seeds, mean over standard error beyond the critical point, nothing corrected."""
    fates = []
    for claim in claims:
        found = [claim.nature.draw(rng) for _ in range(SEEDS)]
        mean = fmean(found)
        gain = mean - setting.min_effect_nano
        variance = math.fsum((item - mean) ** 2 for item in found) / (SEEDS - 1)
        error = math.sqrt(variance / SEEDS)
        adopted = gain > CRITICAL_T * error
        fates.append(
            Fate(
                claim.better,
                adopted,
                claim.nature.mean,
                claimed=mean if adopted else 0.0,
                pairs=SEEDS,
                hours=SEEDS * setting.minutes_per_pair / 60,
            )
        )
    return fates


def _false_share(fates: Sequence[Fate]) -> float:
    adopted = [fate for fate in fates if fate.adopted]
    return sum(not fate.better for fate in adopted) / max(1, len(adopted))


def _worth(fates: Sequence[Fate]) -> float:
    return math.fsum(fate.truth for fate in fates)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _figures(policy: str, epochs: Sequence[Sequence[Fate]]) -> Figures:
    shares = [_false_share(fates) for fates in epochs]
    within = [_false_share([fate for fate in fates if not fate.captured]) for fates in epochs]
    mean = fmean(shares)
    spread = math.fsum((share - mean) ** 2 for share in shares) / max(1, len(shares) - 1)
    every = [fate for fates in epochs for fate in fates]
    adopted = [fate for fate in every if fate.adopted]
    retold = [fate for fate in adopted if fate.published is not None]
    better = [fate for fate in every if fate.better]
    nulls = [fate for fate in every if not fate.better]
    hours = [fate.hours for fate in every]
    return Figures(
        policy=policy,
        adopted=len(adopted),
        false=sum(not fate.better for fate in adopted),
        fdr=mean,
        fdr_error=math.sqrt(spread / len(shares)),
        fdr_within=fmean(within),
        power=_ratio(sum(fate.adopted for fate in better), len(better)),
        pairs=fmean(fate.pairs for fate in every),
        null_pairs=_ratio(sum(fate.pairs for fate in nulls), len(nulls)),
        inflation=_ratio(math.fsum(fate.claimed for fate in adopted), _worth(adopted)),
        published=_ratio(math.fsum(fate.published or 0.0 for fate in retold), _worth(retold)),
        hours=median(hours),
        hours_p90=quantiles(hours, n=10)[-1] if len(hours) > 1 else hours[0],
    )

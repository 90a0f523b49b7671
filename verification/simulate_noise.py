"""Claims with a known truth, and the paired differences that measuring them would give.

Differences are bpb(base) - bpb(candidate) in whole nano-bits per byte. In a noise model a false
claim is better by nothing, the hardest null there is, and a true one by ``effect`` SDs. In a bank
of measured differences a claim is one of its edits: a false one is worth less than the minimum
effect in either direction, a true one more; an edit that is worse by that much, read backwards, is
a true one. Its mean is kept and the rest of its differences is drawn again and again. Edits that
only draw other random numbers are worth nothing by symmetry, whatever their mean; other edits whose
mean is less than ``CERTAIN`` standard errors from the minimum effect are too near to call and are
left out.

The bank that is shipped, ``bank.json``, was measured by ``python -m tests.benchmarks.bank``: 36
edits of the ``quick`` baseline, trained and scored as in any experiment.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.resources import files
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

from verification.errors import EvidenceError
from verification.evidence import MAX_NANO
from verification.simulate_setting import SD_NANO, Noise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from verification.simulate_setting import Setting

CERTAIN: Final = 2.5
"""Standard errors by which a measured mean has to differ from the minimum effect."""

HUGE: Final = 10 * SD_NANO
CREDIBLE: Final = 3 * SD_NANO


@dataclass(frozen=True, slots=True)
class Nature:
    """What a claim is truly worth (``mean``) and how its measurements scatter, in nano-bits.

    ``spread`` is the SD of a model; ``residuals`` the scatter that was measured, instead of one.
    """

    mean: float
    spread: float
    shape: Noise
    residuals: tuple[float, ...] = ()

    def draw(self, rng: Random) -> int:
        """One paired difference."""
        if self.shape == "bank":
            return round(self.mean + rng.choice(self.residuals))
        return round(self.mean + self.spread * unit_noise(self.shape, rng))


@dataclass(frozen=True, slots=True)
class Claimed:
    """One claim of the epoch. ``better``: adopting it is right. ``dishonest``: a liar made it."""

    nature: Nature
    better: bool
    dishonest: bool


@dataclass(frozen=True, slots=True)
class Bank:
    """Edits that were measured: what each is worth, as false claims and as true ones.

    ``null`` and ``real`` are the numbers of edits behind them, ``unsure`` the names of those that
    are too near the minimum effect to call.
    """

    false: tuple[Nature, ...]
    true: tuple[Nature, ...]
    null: int = 0
    real: int = 0
    unsure: tuple[str, ...] = ()


def unit_noise(shape: Noise, rng: Random) -> float:
    """A draw with mean 0 and SD 1, without the offset of a machine or fold."""
    if shape == "t3":  # variance 3
        chi = rng.gauss(0, 1) ** 2 + rng.gauss(0, 1) ** 2 + rng.gauss(0, 1) ** 2
        return rng.gauss(0, 1) / math.sqrt(chi)
    if shape == "scale":  # scales over 25 times, log-uniform: E of s^2 = (5^2 - 5^-2) / (4 ln 5)
        scale = 5 ** rng.uniform(-1, 1)
        return rng.gauss(0, 1) * scale / math.sqrt((25 - 1 / 25) / (4 * math.log(5)))
    if shape == "two_values":
        return rng.choice((-1.0, 1.0))
    if shape == "rare_losses":
        return 0.5 if rng.random() < 0.8 else -2.0
    if shape == "three_values":
        return rng.choice((-1, 0, 1)) * math.sqrt(1.5)
    if shape == "rounded":  # variance of a normal draw rounded to 1.5: 1.1872
        return round(rng.gauss(0, 1) / 1.5) * 1.5 / 1.0896
    if shape == "skewed":
        return 1 - rng.expovariate(1)
    return rng.gauss(0, 1)


def shipped_bank() -> Any:
    """The document of the bank that comes with this package."""
    return json.loads(files("verification").joinpath("bank.json").read_text())


def read_bank(document: Any, min_effect_nano: int) -> Bank:
    """The bank in a parsed JSON ``document``: {"edits": [{"name", "d_nano": [whole numbers]}]}.

    An edit with ``"other_numbers": true`` is worth nothing by symmetry. Raises EvidenceError for a
    bank that cannot be read, or has no false or no true edit.
    """
    false: list[Nature] = []
    true: list[Nature] = []
    unsure: list[str] = []
    try:
        for edit in document["edits"]:
            found = [int(item) for item in edit["d_nano"]]
            if len(found) < 2 or any(abs(item) > MAX_NANO for item in found):
                raise ValueError
            mean = fmean(found)
            scatter = tuple(item - mean for item in found)
            error = stdev(found) / math.sqrt(len(found))
            worth = 0.0 if edit.get("other_numbers") is True else mean
            forwards = Nature(worth, 0.0, "bank", scatter)
            backwards = Nature(-worth, 0.0, "bank", tuple(-item for item in scatter))
            if not worth or abs(worth) + CERTAIN * error <= min_effect_nano:
                false += [forwards, backwards]
            elif abs(worth) - CERTAIN * error > min_effect_nano:
                true.append(forwards if worth > 0 else backwards)
            else:
                unsure.append(str(edit["name"]))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise EvidenceError(
            'A bank is {"edits": [{"name": ..., "d_nano": [two or more whole numbers]}]}.',
            cure="Check the file; nothing was simulated.",
        ) from None
    if not false or not true:
        raise EvidenceError(
            f"The bank has {len(false) // 2} edits that are surely below the minimum effect and "
            f"{len(true)} above; one of each is needed.",
            cure="Choose another --min-effect or another --bank.",
        )
    return Bank(tuple(false), tuple(true), len(false) // 2, len(true), tuple(unsure))


def draw_claims(setting: Setting, bank: Bank | None, rng: Random) -> list[Claimed]:
    """The claims of one epoch in their order of arrival.

    ``round(true_share * claims)`` are true. A claim is a liar's with the chance ``liar_share``
    where liars collude, and then it is false.
    """
    count = round(setting.true_share * setting.claims)
    true_ones = set(rng.sample(range(setting.claims), count))
    lying = setting.liar_share if setting.liar == "colluding" else 0.0
    claims = []
    for index in range(setting.claims):
        better = index in true_ones
        claims.append(
            Claimed(
                _nature(setting, bank, better, rng), better, not better and rng.random() < lying
            )
        )
    return claims


def _nature(setting: Setting, bank: Bank | None, better: bool, rng: Random) -> Nature:
    if setting.noise == "bank":
        if bank is None:
            raise EvidenceError("No bank was given.", cure="Read one with read_bank.")
        return rng.choice(bank.true if better else bank.false)
    if better:
        return Nature(setting.effect * SD_NANO, SD_NANO, setting.noise)
    # As good as it may be without being better: the minimum effect is a nano-bit here.
    return Nature(0.0, setting.null_sd * SD_NANO, setting.noise)


def lie(setting: Setting, claim: Claimed, so_far: Sequence[int], rng: Random) -> int | None:
    """What a liar reports, in nano-bits, after the pairs ``so_far``; None: it stays silent."""
    if setting.liar == "silent":
        return None
    if setting.liar == "always-yes":
        return round(HUGE * rng.uniform(0.9, 1.1))
    if setting.liar == "always-no":
        return round(-HUGE * rng.uniform(0.9, 1.1))
    if setting.liar == "colluding":  # credible numbers, so that nothing looks odd
        sign = 1 if claim.dishonest else -1
        return round(sign * CREDIBLE + rng.gauss(0, SD_NANO))
    if setting.liar == "copy" and so_far:
        return so_far[-1]
    return round(rng.gauss(0, CREDIBLE))

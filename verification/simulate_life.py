"""Whole lives of a swarm: what alpha is worth over hundreds of epochs, and to whom it may be lost.

A life is a chain of epochs in which members claim, rotate keys, come and go, and contradict what
was adopted. Of every claim the truth is known. Each claim is judged at its level of the moment
(:mod:`verification.simulate_books`) by the code that judges real ones; all of them stand on the
frontier, so R grows with every adoption, true or false.

The rate that counts is of the *whole life*: of all that was ever adopted, the false share, averaged
over lives. Each adopted discovery is contradicted too: a false one by members in turn until it is
retracted, and a true one by everybody who hopes for luck.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal

from verification.effect import modest_mean
from verification.reproduce import position
from verification.simulate_books import Books
from verification.simulate_noise import draw_claims
from verification.simulate_setting import SD_NANO
from verification.simulate_swarm import measured
from verification.verdict import CONTRADICTION, Deliberation, Reproduction, Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.simulate_noise import Bank, Nature
    from verification.simulate_setting import Setting

Change = Literal["nobody", "rotation", "turnover", "new key"]

ALPHA_RETRACT: Final = Fraction(1, 100)
ATTEMPTS: Final = 3
"""Contradictions of a discovery, each by another member."""


@dataclass(frozen=True, slots=True)
class Life:
    """What happens in a life.

    ``epochs`` with ``claims`` each, by ``researchers`` in turns; one claim is true in every
    ``true_every`` epochs, none for 0. ``expected``: researchers that the charter expects.
    ``change`` before every epoch: a member rotates its key (``rotation``), leaves for a newcomer
    (``turnover``), or loses its key and gets another one from the governors (``new key``).
    """

    label: str
    epochs: int
    claims: int
    researchers: int = 3
    expected: int = 8
    true_every: int = 50
    change: Change = "nobody"


LIVES: Final = (
    Life("200 epochs, 3 researchers", 200, 2),
    Life("epochs at will", 600, 1),
    Life("one author, null claims only", 1, 1500, researchers=1, true_every=0),
    Life("a key rotates every epoch", 200, 2, change="rotation"),
    Life("a newcomer for an old one every epoch", 200, 2, change="turnover"),
    Life("a lost key every epoch", 200, 2, change="new key"),
    Life("50 researchers where 8 are expected", 25, 50, researchers=50, true_every=1),
    Life("many true ones", 100, 4, true_every=1),
)


@dataclass(frozen=True, slots=True)
class Lived:
    """What came of a life, over all repeats. Shares are from 0 to 1, None where nothing was there.

    ``fdr``: of all that was ever adopted in a life the false share, averaged over lives, with its
    standard error; ``power``: true claims adopted; ``pairs``: per claim; ``null_pairs`` and
    ``true_pairs``: per claim of each kind; ``spent``: the largest part of alpha that a life gave
    away. ``wronged``: true discoveries that were retracted, ``mended``: false ones that were.
    """

    life: Life
    repeats: int
    claims: int
    adopted: int
    false: int
    fdr: float
    fdr_error: float
    power: float | None
    pairs: float
    null_pairs: float | None
    true_pairs: float | None
    spent: float
    wronged: float | None
    mended: float | None

    def kept(self, alpha: float) -> bool:
        """Whether the rate over the whole life is within ``alpha``."""
        return self.fdr <= alpha and self.spent <= 1

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict: whether it crossed, the pairs that it took, and what they say without f members.

    ``modest_nano``: the mean gain that a contradiction halves, in nano-bits per byte.
    """

    crossed: bool
    pairs: int
    modest_nano: int


def judge(
    setting: Setting,
    nature: Nature,
    at_level: Fraction,
    rng: Random,
    margin_nano: int | None = None,
) -> Judged:
    """Put a claim before an honest bench; with a margin, a contradiction of it."""
    policy = setting.policy()
    contradicts = margin_nano is not None
    walk = Deliberation(
        Terms(
            claim=bytes(32),
            kind=CONTRADICTION if contradicts else "improvement",
            policy=policy,
            max_cost_ratio_milli=1000,
            level=at_level,
            sigma0_nano=(SD_NANO,) * policy.n if setting.calibrated else (),
            margin_nano=margin_nano or 0,
        )
    )
    walked: list[Reproduction] = []
    while walk.outcome == "pending":
        round_, rank = position(len(walked), policy.n)
        pair = measured(nature.draw(rng))
        walked.append(Reproduction(round_, rank, bytes(32), bytes([rank]), pair))
        walk.add(walked[-1])
    return Judged(walk.outcome == "adopt", len(walked), modest_mean(walked, policy.f))


@dataclass(slots=True)
class _Count:
    """One life: claims and adoptions as [false, true], pairs as well, and what was retracted."""

    claims: list[int]
    adopted: list[int]
    pairs: list[int]
    retracted: list[int]
    spent: float = 0.0


def live(
    setting: Setting,
    lives: Sequence[Life] = LIVES,
    *,
    repeats: int,
    seed: int,
    bank: Bank | None = None,
    books: type[Books] = Books,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Lived]:
    """Live each of ``lives`` so often; ``tell`` hears how many claims are decided.

    ``setting`` says what claims, noise and benches are like; its own claims and liars are left out.
    """
    found, done = [], 0
    for life in lives:
        counts = []
        for repeat in range(repeats):
            name = f"{seed}/{life.label}/{repeat}"
            counts.append(_live_once(setting, life, bank, Random(name), books))
            done += life.epochs * life.claims
            tell(done)
        found.append(_summed(life, counts))
    return found


def _live_once(
    setting: Setting, life: Life, bank: Bank | None, rng: Random, kept: type[Books]
) -> _Count:
    books = kept(setting.alpha_exact, ALPHA_RETRACT, life.expected)
    count = _Count([0, 0], [0, 0], [0, 0], [0, 0])
    members = [(_key(place), f"op{place:06d}") for place in range(life.researchers)]
    keys = life.researchers
    for epoch in range(life.epochs):
        if epoch and life.change != "nobody":
            old, operator = members.pop(0)
            new = _key(keys)
            if life.change == "rotation":
                books.rotate(old, new)
            members.append((new, f"op{keys:06d}" if life.change == "turnover" else operator))
            keys += 1
        books.open(members)
        for place in range(life.claims):
            better = bool(life.true_every) and place == 0 and epoch % life.true_every == 0
            # who has just changed is the one that claims, where anybody hopes to gain by it
            turn = (epoch * life.claims + place) if life.change == "nobody" else -1 - place
            author, _ = members[turn % len(members)]
            _claim(setting, books, author, better, bank, rng, members, count)
    count.spent = books.spent
    return count


def _key(place: int) -> bytes:
    return place.to_bytes(32, "big")


def _claim(
    setting: Setting, books: Books, author: bytes, better: bool, bank: Bank | None, rng: Random,
    members: Sequence[tuple[bytes, str]], count: _Count,
) -> None:  # fmt: skip
    one = replace(setting, claims=1, true_share=float(better), liar_share=0.0)
    (claimed,) = draw_claims(one, bank, rng)
    found = judge(setting, claimed.nature, books.claim(author, sum(count.adopted)), rng)
    count.claims[better] += 1
    count.pairs[better] += found.pairs
    if not found.crossed:
        return
    target = sum(count.adopted).to_bytes(32, "little")
    count.adopted[better] += 1
    for key, _ in members[:ATTEMPTS]:
        at_level = books.contradict(key, target)
        margin = found.modest_nano // 2
        if judge(setting, claimed.nature, at_level, rng, margin).crossed:
            count.retracted[better] += 1
            return


def _summed(life: Life, lives: Sequence[_Count]) -> Lived:
    rates = [count.adopted[False] / max(1, sum(count.adopted)) for count in lives]
    mean = fmean(rates)
    spread = math.fsum((rate - mean) ** 2 for rate in rates) / max(1, len(rates) - 1)

    def all_of(name: str, better: bool) -> int:
        return sum(getattr(count, name)[better] for count in lives)

    def share(part: str, whole: str, better: bool) -> float | None:
        among = all_of(whole, better)
        return all_of(part, better) / among if among else None

    claims = all_of("claims", False) + all_of("claims", True)
    return Lived(
        life=life,
        repeats=len(lives),
        claims=claims,
        adopted=all_of("adopted", False) + all_of("adopted", True),
        false=all_of("adopted", False),
        fdr=mean,
        fdr_error=math.sqrt(spread / len(rates)),
        power=share("adopted", "claims", True),
        pairs=(all_of("pairs", False) + all_of("pairs", True)) / claims,
        null_pairs=share("pairs", "claims", False),
        true_pairs=share("pairs", "claims", True),
        spent=max(count.spent for count in lives),
        wronged=share("retracted", "adopted", True),
        mended=share("retracted", "adopted", False),
    )


def power_to_retract(
    setting: Setting, *, epochs: int, discoveries: int, seed: int, books: type[Books] = Books
) -> float:
    """The share of false discoveries that the first contradiction takes back, so many epochs later.

    Of discoveries that were adopted for a gain of ``setting.effect`` SDs and are worth nothing.
    """
    swarm = books(setting.alpha_exact, ALPHA_RETRACT, 8)
    members = [(_key(place), f"op{place}") for place in range(3)]
    for _ in range(epochs + 1):
        swarm.open(members)
    margin = round(setting.effect * SD_NANO) // 2
    false = replace(setting, claims=discoveries, true_share=0.0, noise="normal", liar_share=0.0)
    taken = 0
    for index, claimed in enumerate(draw_claims(false, None, Random(f"{seed}/nulls"))):
        at_level = swarm.contradict(members[index % 3][0], index.to_bytes(32, "little"))
        rng = Random(f"{seed}/retract/{index}")
        taken += judge(setting, claimed.nature, at_level, rng, margin).crossed
    return taken / discoveries

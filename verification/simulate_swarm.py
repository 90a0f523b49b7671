"""An epoch of claims through the very code that judges real ones, with a queue of busy nodes.

Every verdict comes from :class:`verification.verdict.Deliberation` and every level from the code
that gives real ones (:mod:`verification.simulate_books`); nothing of them is done again here. A
claim names the frontier of the moment at which it is made, so R counts only what was adopted by
then.

The queue, a model: claims are made at random times within the epoch. The members of a bench take
turns, and a node runs one pair at a time, in the order in which it was asked; its own research
waits meanwhile. A silent member holds a claim up for ``PATIENCE`` pairs before the others call it
absent. Messages take no time. Liars take as long as honest members do.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING, Final

from swarm.records import Pair
from verification.effect import effect_of
from verification.reproduce import fold_index, position
from verification.simulate_books import Books
from verification.simulate_noise import Claimed, lie
from verification.simulate_setting import SD_NANO
from verification.verdict import Deliberation, Reproduction, Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.simulate_setting import Setting

PATIENCE: Final = 3
FOLDS: Final = 8
"""Active folds: as few as an epoch keeps (``verification.folds``)."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What a policy made of a claim.

    ``claimed``: the gain that comes with an adoption; ``truth``: what the claim is really worth;
    ``published``: the effect measured afterwards, None without one (all nano-bits per byte).
    ``pairs``: pairs spent to decide. ``captured``: more liars on the bench than it tolerates.
    """

    better: bool
    adopted: bool
    truth: float
    claimed: float = 0.0
    published: float | None = None
    pairs: int = 0
    hours: float = 0.0
    captured: bool = False


@dataclass(slots=True)
class _Case:
    """A claim on its way to a verdict."""

    index: int
    claim: Claimed
    author: int
    bench: tuple[int, ...]
    rng: Random
    made: float
    depth: int = 0
    walk: Deliberation | None = None
    told: list[int] = field(default_factory=list)
    steps: int = 0
    offsets: dict[int, float] = field(default_factory=dict)
    folds: list[int] = field(default_factory=list)


def measured(d_nano: int) -> Pair:
    """A pair that ran well, at equal cost."""
    return Pair(
        index=0, fold=0, order="base_first", d_nano=d_nano, status="ok", base_nano=0,
        candidate_nano=0, base_cost_ms=1, candidate_cost_ms=1, tokens=1,
    )  # fmt: skip


def _researchers(setting: Setting) -> dict[bool, range]:
    """The nodes that make claims: honest ones (False), and liars (True) for claims of their own.

    As many as the setting says in all; liars have their share of them where they collude.
    """
    lying = 0
    if setting.liar == "colluding" and setting.liars:
        lying = min(setting.liars, max(1, round(setting.liar_share * setting.researchers)))
    first = setting.liars if setting.liars < setting.nodes else 0
    honest = range(first, min(setting.nodes, first + max(1, setting.researchers - lying)))
    return {False: honest, True: range(lying) if lying else honest}


class Epoch:
    """One simulated epoch; ``seed`` fixes every draw, whatever the order of events."""

    def __init__(self, setting: Setting, claims: Sequence[Claimed], seed: str) -> None:
        self._setting, self._policy = setting, setting.policy()
        self._free = [0.0] * setting.nodes
        self._frontier = 0
        self._members = tuple(b"node%08d" % node for node in range(setting.nodes))
        self._authors = _researchers(setting)
        everybody = sorted({*self._authors[False], *self._authors[True]})
        self._books = Books(setting.alpha_exact, Fraction(0), len(everybody))
        self._books.open((self._members[node], f"op{node}") for node in everybody)
        self._events: list[tuple[float, int]] = []
        self._cases: list[_Case] = []
        self._fates: dict[int, Fate] = {}
        clock = Random(f"{seed}/arrivals")
        times = sorted(clock.uniform(0, 60 * setting.epoch_hours) for _ in claims)
        for index, (claim, time) in enumerate(zip(claims, times, strict=True)):
            rng = Random(f"{seed}/claim/{index}")
            author = rng.choice(self._authors[claim.dishonest])
            self._cases.append(
                _Case(index, claim, author, self._draw_bench(author, rng), rng, time)
            )
            self._events.append((time, index))

    def _draw_bench(self, author: int, rng: Random) -> tuple[int, ...]:
        """Nodes by rank. Nodes below ``liars`` lie; the author has no seat on its own bench."""
        others = rng.sample(range(self._setting.nodes - 1), self._setting.bench)
        return tuple(node + (node >= author) for node in others)

    def run(self, tell: Callable[[int], None]) -> list[Fate]:
        """Judge every claim; ``tell`` hears how many are decided."""
        heapq.heapify(self._events)
        while self._events:
            now, index = heapq.heappop(self._events)
            case = self._cases[index]
            outcome = self._begin(case) if case.walk is None else self._add(case)
            if outcome == "pending":
                heapq.heappush(self._events, (self._next_pair(case, now), index))
            else:
                self._fates[index] = self._decided(case, outcome, now)
                case.walk = None
                tell(len(self._fates))
        return [self._fates[index] for index in range(len(self._cases))]

    def _begin(self, case: _Case) -> str:
        setting = self._setting
        case.depth = self._frontier
        case.walk = Deliberation(
            Terms(
                claim=case.index.to_bytes(32, "big"),
                kind="improvement",
                policy=self._policy,
                max_cost_ratio_milli=1000,
                level=self._books.claim(self._members[case.author], case.depth),
                sigma0_nano=(SD_NANO,) * setting.bench if setting.calibrated else (),
            )
        )
        return case.walk.outcome

    def _is_liar(self, node: int) -> bool:
        return node < self._setting.liars

    def _next_pair(self, case: _Case, now: float) -> float:
        """When the pair whose turn it is will be there, in minutes."""
        setting = self._setting
        node = case.bench[position(case.steps, setting.bench)[1]]
        if self._is_liar(node) and setting.liar == "silent":
            return now + PATIENCE * setting.minutes_per_pair
        done = max(now, self._free[node]) + setting.minutes_per_pair
        self._free[node] = done
        return done

    def _offset(self, case: _Case, node: int) -> int:
        """What a pair shares with all others of the claim on its machine, or on its fold."""
        setting = self._setting
        if setting.noise not in ("machine", "fold"):
            return 0
        where = node if setting.noise == "machine" else self._fold(case)
        if where not in case.offsets:
            case.offsets[where] = case.rng.gauss(0, setting.offset * SD_NANO)
        return round(case.offsets[where])

    def _fold(self, case: _Case) -> int:
        """The next fold, drawn by the code that draws real ones."""
        seal = len(case.folds).to_bytes(32, "big")
        claim = case.index.to_bytes(32, "big")
        fold = fold_index(
            range(FOLDS), bytes(32), claim, seal, case.rng.randbytes(32), 0, case.folds
        )
        case.folds.append(fold)
        return fold

    def _report(self, case: _Case, node: int) -> int | None:
        if self._is_liar(node):
            return lie(self._setting, case.claim, case.told, case.rng)
        return case.claim.nature.draw(case.rng) + self._offset(case, node)

    def _add(self, case: _Case) -> str:
        assert case.walk is not None
        round_, rank = position(case.steps, self._setting.bench)
        node = case.bench[rank]
        d_nano = self._report(case, node)
        pair = None if d_nano is None else measured(d_nano)
        if d_nano is not None:
            case.told.append(d_nano)
        case.steps += 1
        block = None if pair is None else case.steps.to_bytes(32, "big")
        return case.walk.add(Reproduction(round_, rank, block, self._members[node], pair))

    def _decided(self, case: _Case, outcome: str, now: float) -> Fate:
        adopted = outcome == "adopt"
        claimed, published = 0.0, None
        if adopted:
            assert case.walk is not None
            claimed = float(case.walk.verdict().mean_nano)
            published = self._publish(case)
            self._frontier = max(self._frontier, case.depth + 1)
        return Fate(
            better=case.claim.better,
            adopted=adopted,
            truth=case.claim.nature.mean,
            claimed=claimed,
            published=published,
            pairs=len(case.told),
            hours=(now - case.made) / 60,
            captured=sum(map(self._is_liar, case.bench)) > self._setting.liars_tolerated,
        )

    def _publish(self, case: _Case) -> float | None:
        """The effect of fresh pairs, by the code that publishes real ones."""
        found = []
        for round_ in range(self._setting.effect_pairs):
            for rank, node in enumerate(case.bench):
                d_nano = self._report(case, node)
                pair = None if d_nano is None else measured(d_nano)
                found.append(Reproduction(round_, rank, None, self._members[node], pair))
        effect = effect_of(found, self._setting.liars_tolerated)
        return None if effect is None else float(effect.mean_nano)

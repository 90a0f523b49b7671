"""Levels for a lifetime: what part of alpha a claim may spend, fixed beforehand for all times.

e-LOND bounds the false discovery rate by alpha where claims are judged at alpha * weight * (R + 1)
with weights that were fixed beforehand and add up to at most 1 over *all claims that are ever
judged*. Here that is the whole life of the swarm: epochs, newcomers, new keys and removals refill
nothing. The weight of a claim is

    w(p) * v(j) * g(k) / T

- p, the place of its operator in the order in which operators came to research (those of one epoch
  by name). A charter says how many it expects (``researchers``, M): w(p) = 3/4 / M for the first M,
  and 1/4 * g(p - M) for those beyond.
- j, the place of its key among those that the operator ever had for research. A key that was handed
  over is the same one. v(1) = 3/4, v(j) = 1/4 * g(j - 1) for others: keys that are vouched for,
  strangers of an ``open`` swarm, a new key after a loss.
- k, how many claims the key has made, this one included, and those that it took over from
  (:mod:`verification.ledger`). g(k) = k^-1.1 / zeta(1.1), where zeta(1.1) = 10.58444...
- T, the charter's tiers: who signs two claims in one place of its feed has one number for both, and
  benches settle one for each slot and tier.

Each of the three adds up to at most 1, whatever is chosen and whenever, so their products do. What
they depend on, the chain of epochs and the author's feed up to the claim, is settled before the
claim can be judged; a level never moves.

A contradiction has a budget for each target: w(p) * v(j) / (k (k + 1)), k the author's
contradictions of this target. However many epochs a discovery lives through, the first
contradiction of somebody has the same level.

In rational numbers, rounded down, so that all machines agree.
"""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from swarm.charter import EpochView, Rules
    from swarm.records import Charter, Handover
    from verification.ledger import Ledger, Spent

RESEARCHERS: Final = 4
"""Operators who research that a charter expects where it says nothing (``sizes``)."""

_FIRST, _LATER = Fraction(3, 4), Fraction(1, 4)
_UNIT: Final = 10**9
_ZETA_E5: Final = 1_058_445
"""zeta(1.1) = 10.584448..., times 10^5, rounded up."""


def _root10(n: int) -> int:
    """The largest whole x with x^10 <= n, by Newton's method from above."""
    x = 1 << -(-n.bit_length() // 10)
    while (y := (9 * x + n // x**9) // 10) < x:
        x = y
    return x


@lru_cache(maxsize=1 << 16)
def series(k: int) -> Fraction:
    """g(k) = k^-1.1 / zeta(1.1) for k >= 1, rounded down by less than 3e-7 of it."""
    power = _root10(k**11 * _UNIT**10) + 1  # more than 10^9 * k^1.1
    return Fraction(_UNIT * 10**5, power * _ZETA_E5)


def share_of_operator(place: int, expected: int) -> Fraction:
    """w(p): the share of the operator that was the ``place``-th to research, from 1 on."""
    return _FIRST / expected if place <= expected else _LATER * series(place - expected)


def share_of_key(place: int) -> Fraction:
    """v(j): what a key has of its operator's share, the ``place``-th for research, from 1 on."""
    return _FIRST if place == 1 else _LATER * series(place - 1)


def expected(charter: Charter) -> int:
    """How many operators the charter expects to research."""
    return max(1, charter.sizes.get("researchers", RESEARCHERS))


class Budget:
    """The weights of a swarm's claims and contradictions, by its epochs and a ledger of its feeds.

    Args:
        epochs: the chain, in order.
        expected: operators that the charter expects to research (M).
        tiers: how many there are (T).
    """

    def __init__(
        self, epochs: Iterable[EpochView], expected: int, tiers: int, ledger: Ledger
    ) -> None:
        self._ledger = ledger
        self._tiers = max(1, tiers)
        self._handed: dict[bytes, Handover] = {}
        self._shares: dict[tuple[str, bytes], Fraction] = {}
        firsts: dict[bytes, bytes] = {}
        operators: dict[str, int] = {}
        keys: dict[str, dict[bytes, int]] = defaultdict(dict)
        for epoch in epochs:
            for change in epoch.handovers:
                self._handed.setdefault(change.new, change)
                firsts.setdefault(change.new, firsts.get(change.old, change.old))
            able = (
                (line.operator, key)
                for key, line in epoch.roster.items()
                if line.slots and (line.operator, key) not in self._shares
            )
            for operator, key in sorted(able):
                place = operators.setdefault(operator, len(operators) + 1)
                own = keys[operator]
                among = own.setdefault(firsts.get(key, key), len(own) + 1)
                share = share_of_operator(place, expected) * share_of_key(among)
                self._shares[operator, key] = share

    @classmethod
    def of(cls, rules: Rules, ledger: Ledger) -> Budget:
        """The budget by the rules of a swarm."""
        charter = rules.charter
        return cls(rules.epochs.values(), expected(charter), len(charter.tiers), ledger)

    @property
    def shares(self) -> Mapping[tuple[str, bytes], Fraction]:
        """w(p) * v(j), by operator and key."""
        return self._shares

    def share(self, epoch: EpochView, author: bytes) -> Fraction:
        """w(p) * v(j) of a member in ``epoch``; 0 of who has no share there."""
        line = epoch.roster.get(author)
        if line is None or not line.gamma_num:
            return Fraction(0)
        return self._shares.get((line.operator, author), Fraction(0))

    def number(self, record: bytes, author: bytes, target: bytes | None = None) -> int | None:
        """k of a claim, or of a contradiction of ``target``; None while part of a feed is missing.

        ``record`` is its id; the feeds of keys that ``author`` took over from count too.
        """
        count, at = 0, record
        seen = {author}
        while True:
            spent = self._ledger.at(at)
            if spent is None:
                return None
            count += _count(spent, target)
            change = self._handed.get(author)
            if change is None or change.old in seen:
                return count
            author, at = change.old, change.last_id
            seen.add(author)

    def weight(self, epoch: EpochView, author: bytes, number: int) -> Fraction:
        """The weight of the ``number``-th claim of ``author``."""
        return self.share(epoch, author) * series(number) / self._tiers

    def weight_against(self, epoch: EpochView, author: bytes, number: int) -> Fraction:
        """The weight of the ``number``-th contradiction that ``author`` makes of one target."""
        return self.share(epoch, author) / (number * (number + 1))


def _count(spent: Spent, target: bytes | None) -> int:
    return spent.claims if target is None else spent.against(target)

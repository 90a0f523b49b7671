"""The epochs, feeds and keys of a simulated swarm, and the levels that follow, by the real code.

Rosters come from ``swarm.roster.share_alpha``, numbers from :mod:`verification.ledger`, weights
from :mod:`verification.budget`, levels from :func:`verification.evidence.level`: what judges real
claims. Only signatures are left out, and records have nothing but an id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.charter import EpochView
from swarm.records import Handover, Member
from swarm.roster import share_alpha
from verification.budget import Budget
from verification.evidence import level
from verification.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction


class Books:
    """Who researches, what each has spent, and at which level its next claim is judged.

    Args:
        alpha, alpha_retract: what the charter promises.
        expected: operators that it expects to research.
        slots: claims that an operator may make in an epoch; nobody is held to it here.
    """

    def __init__(
        self, alpha: Fraction, alpha_retract: Fraction, expected: int, slots: int = 4
    ) -> None:
        self._alpha, self._alpha_retract = alpha, alpha_retract
        self._expected, self._slots = expected, slots
        self._ledger = Ledger()
        self._views: list[EpochView] = []
        self._budget: Budget | None = None
        self._heads: dict[bytes, bytes] = {}
        self._handovers: list[Handover] = []
        self._count = 0
        self.spent = 0.0
        """The weights of all claims so far: at most 1, whatever happens."""

    @property
    def epoch(self) -> EpochView:
        """The newest epoch."""
        return self._views[-1]

    def open(self, researchers: Iterable[tuple[bytes, str]]) -> None:
        """Open an epoch with these keys and operators, and with the keys handed over since."""
        lines = [
            Member(key, operator, bytes(32), ("researcher",), ("simulated",), "cpu", 0, 0, 1)
            for key, operator in researchers
        ]
        number = len(self._views) + 1
        self._views.append(
            EpochView(
                id=number.to_bytes(32, "big"),
                number=number,
                roster={line.key: line for line in share_alpha(lines, self._slots)},
                removed=frozenset(),
                active_folds=(0,),
                beacon=bytes(32),
                handovers=tuple(self._handovers),
            )
        )
        self._handovers = []
        self._budget = Budget(self._views, self._expected, 1, self._ledger)

    def rotate(self, old: bytes, new: bytes) -> None:
        """A key hands over to another one, which the next epoch takes in."""
        self._handovers.append(Handover(old, new, 0, self._say(old, False)))

    def claim(self, author: bytes, adopted_ancestors: int) -> Fraction:
        """The level of the next claim of ``author``, which stands on so many adopted ones."""
        record = self._say(author, True)
        assert self._budget is not None
        number = self._budget.number(record, author)
        assert number is not None
        weight = self._budget.weight(self.epoch, author, number)
        self.spent += float(weight)
        return level(self._alpha, weight, 1, adopted_ancestors)

    def contradict(self, author: bytes, target: bytes) -> Fraction:
        """The level of the next contradiction that ``author`` makes of ``target``."""
        record = self._say(author, target)
        assert self._budget is not None
        number = self._budget.number(record, author, target)
        assert number is not None
        weight = self._budget.weight_against(self.epoch, author, number)
        return level(self._alpha_retract, weight, 1, 0)

    def _say(self, author: bytes, spends: bytes | bool) -> bytes:
        self._count += 1
        record = self._count.to_bytes(32, "big")
        self._ledger.enter(record, self._heads.get(author), spends)
        self._heads[author] = record
        return record

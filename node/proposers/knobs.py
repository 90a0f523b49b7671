"""The literals at the top of a train.py as a search space.

Each knob has a range around its present value: floats on a log scale from a third to three times,
shares close below one (decays, momenta) by their distance from one, whole numbers from half to
double, switches by flipping. Text is left alone, as nothing says what else it could be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.proposers.protocol import Change
from training.source import SourceError, ast_hash, literals, replace_literals

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from node.proposers.protocol import ProposalContext, Value

SPREAD = 3.0
NEAR_ONE = 0.85
SMALL = 4


@dataclass(frozen=True, slots=True)
class Knob:
    """One literal with its range, in a coordinate ``u`` in [-1, 1] where 0 is the present value."""

    name: str
    value: bool | int | float

    def at(self, u: float) -> bool | int | float:
        """The value at ``u``, rounded to what a person would write."""
        value = self.value
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return self._whole(u)
        if value == 0.0:
            return _short(10 ** (2 * u - 2))
        sign = math.copysign(1.0, value)
        size = abs(value)
        if NEAR_ONE <= size < 1.0:
            return sign * round(1.0 - _short((1.0 - size) * SPREAD**-u), 9)
        return sign * _short(size * SPREAD**u)

    def where(self, value: Value) -> float | None:
        """The coordinate of ``value``, None where it is outside the range or of another type."""
        if type(value) is not type(self.value) or isinstance(value, bool | str):
            return None
        assert isinstance(value, int | float)
        here = float(self.value)
        there = float(value)
        if here == 0.0 or there == 0.0 or (here < 0) != (there < 0):
            return None
        here, there = abs(here), abs(there)
        if isinstance(self.value, float) and NEAR_ONE <= here < 1.0:
            if there >= 1.0:
                return None
            u = -math.log((1.0 - there) / (1.0 - here), SPREAD)
        elif isinstance(self.value, int) and here <= SMALL:
            u = (there - here) / 2
        else:
            u = math.log(there / here, 2.0 if isinstance(self.value, int) else SPREAD)
        return u if -1.0 <= u <= 1.0 else None

    def _whole(self, u: float) -> int:
        value = int(self.value)
        size = abs(value)
        if size <= SMALL:
            moved = size + round(2 * u) if size else round(1.5 + u)
            return int(math.copysign(max(1, moved), value or 1))
        step = 8 if size % 8 == 0 and size >= 16 else 1
        moved = max(step, round(size * 2.0**u / step) * step)
        return int(math.copysign(moved, value))


def knobs(code: bytes) -> tuple[Knob, ...]:
    """The knobs of a program, in order; empty where it cannot be read or has none."""
    try:
        found = literals(code)
    except SourceError:
        return ()
    return tuple(Knob(item.name, item.value) for item in found if not isinstance(item.value, str))


def edited(code: bytes, changes: Sequence[Change]) -> tuple[bytes, bytes] | None:
    """(program, syntax hash) with ``changes`` made; None where that changes nothing or fails."""
    try:
        program = replace_literals(code, {change.name: change.new for change in changes})
        identity = ast_hash(program)
        return None if identity == ast_hash(code) else (program, identity)
    except SourceError:
        return None


def within(context: ProposalContext, program: bytes, changes: Sequence[Change]) -> bool:
    """Whether a program keeps to the limits of the tier that can be seen without running it."""
    if len(program) > context.tier.max_code_bytes:
        return False
    values = {knob.name: knob.value for knob in knobs(program)}
    rows, length = values.get("BATCH_SIZE"), values.get("SEQ_LEN")
    if isinstance(rows, int) and isinstance(length, int):
        return 0 < rows * length <= context.tier.max_batch_tokens
    return bool(changes)


def random_change(space: Sequence[Knob], random: random.Random) -> Change:
    """A knob and a value, both drawn evenly."""
    knob = random.choice(space)
    return Change(knob.name, knob.value, knob.at(random.uniform(-1.0, 1.0)))


def sentence(changes: Sequence[Change]) -> str:
    """The hypothesis of an edit to literals, in plain ASCII."""
    text = ", ".join(str(change) for change in changes)
    return text.encode("ascii", "replace").decode()[:500]


def _short(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")

"""How much of this node's CPU a peer may use: measured while it works for them, and slowed.

Whatever a task does is charged to whom it does it for: the connection's tasks carry a ``Share`` in
their context (``working_for``), tasks that they start inherit it, and an instrument of trio adds up
the CPU time of each step. Who has used more than its share is read from later
(``Share.pause``): nothing is dropped, nothing is held against it, and nobody else waits.

Not counted: what runs in worker threads. That is bounded by count, where it is asked for.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_payer: ContextVar[Share | None] = ContextVar("payer", default=None)

LONGEST_STEP_S = 0.005
MAX_DEBT_S = 2.0
"""No pause is longer, however dear the last thing was."""


class Share:
    """A budget of CPU time.

    Args:
        rate: CPU seconds a second, in the long run.
        burst: CPU seconds at once.
        within: a share of several together, which is charged too.
    """

    def __init__(
        self,
        rate: float,
        burst: float,
        within: Share | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        self.within = within
        self.used = 0.0
        """CPU seconds in all."""
        self._burst = burst
        self._settled = 0.0
        self._level = burst
        self._clock = clock
        self._seen = clock()

    def charge(self, seconds: float) -> None:
        """Take CPU time that was used."""
        self.used += seconds
        if self.within is not None:
            self.within.charge(seconds)

    def wait(self) -> float:
        """Seconds until this share, and those that it is within, have something left."""
        now = self._clock()
        level = min(self._burst, self._level + (now - self._seen) * self.rate)
        level -= self.used - self._settled
        self._level = max(-MAX_DEBT_S * self.rate, level)
        self._seen, self._settled = now, self.used
        own = max(0.0, -self._level / self.rate)
        return own if self.within is None else max(own, self.within.wait())

    async def pause(self) -> None:
        """Wait until something is left. A checkpoint only if there is nothing."""
        while (seconds := self.wait()) > 0:  # noqa: ASYNC110 - somebody else may have paid
            await trio.sleep(seconds + 0.001)


class _Meter(trio.abc.Instrument):
    """Charges each step of a task to whom the task works for.

    By the clock on the wall, which costs a tenth of what the thread's own does: a step is too short
    to be interrupted often, and one that was is not charged beyond ``LONGEST_STEP_S``.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self.users = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        share = task.context.get(_payer)
        if share is not None:
            share.charge(min(LONGEST_STEP_S, time.perf_counter() - self._began))


_meter: trio.lowlevel.RunVar[_Meter | None] = trio.lowlevel.RunVar("meter", default=None)


@contextmanager
def metered() -> Iterator[None]:
    """Measure the tasks of this trio run for the length of the block; blocks may overlap."""
    meter = _meter.get()
    if meter is None:
        meter = _Meter()
        _meter.set(meter)
        trio.lowlevel.add_instrument(meter)
    meter.users += 1
    try:
        yield
    finally:
        meter.users -= 1
        if not meter.users:
            _meter.set(None)
            trio.lowlevel.remove_instrument(meter)


@contextmanager
def working_for(share: Share | None) -> Iterator[None]:
    """Charge this task, and those that it starts in the block, to ``share``."""
    token = _payer.set(share)
    try:
        yield
    finally:
        _payer.reset(token)

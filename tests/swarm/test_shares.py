"""CPU time is charged to whom it is used for."""

from __future__ import annotations

import pytest
import trio

from swarm.shares import Share, metered, working_for


def test_a_share_is_spent_and_comes_back():
    now = [0.0]
    all_of_them = Share(1.0, 1.0, clock=lambda: now[0])
    one = Share(0.5, 0.5, all_of_them, clock=lambda: now[0])
    other = Share(0.5, 0.5, all_of_them, clock=lambda: now[0])
    one.charge(1.0)
    assert one.wait() == pytest.approx(1.0)
    assert other.wait() == 0
    other.charge(0.25)
    assert other.wait() == pytest.approx(0.25)  # what they have together is spent
    now[0] = 1.0
    assert one.wait() == other.wait() == 0
    one.charge(1000.0)
    assert one.wait() <= 2.0


async def test_work_is_charged_to_whom_it_is_for_and_tasks_inherit_it():
    mine = Share(1.0, 1.0)

    async def work() -> None:
        sum(range(200_000))
        await trio.lowlevel.checkpoint()

    with metered():
        await work()
        assert mine.used == 0
        async with trio.open_nursery() as nursery:
            with working_for(mine):
                nursery.start_soon(work)
        assert mine.used > 0

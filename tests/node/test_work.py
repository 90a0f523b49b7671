"""The loops of a node live on after what can fail, and end for nothing but a fault of ours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from node.errors import NodeError
from node.work import guarded
from swarm.errors import StoreError
from training.errors import TrainingError


class Failing:
    """A loop whose tasks fail, each time with the next of ``errors``, and which ends then."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.troubles: list[Exception] = []

    def trouble(self, _: str, error: Exception) -> None:
        self.troubles.append(error)

    async def work(self, _: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deeper)

    async def _deeper(self) -> None:
        async with trio.open_nursery():
            if self.errors:
                raise self.errors.pop(0)


async def test_what_fails_in_a_task_of_a_loop_is_written_down_and_waited_out(monkeypatch):
    monkeypatch.setattr("node.work.RETRY_SECONDS", 0)
    errors = [NodeError("a"), StoreError("b"), TrainingError("c"), OSError(28, "d")]
    loop = Failing(*errors)
    await guarded(loop, "a loop", loop.work)
    assert loop.troubles == errors


async def test_a_fault_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr("node.work.RETRY_SECONDS", 0)
    loop = Failing(KeyError("a fault"))
    with pytest.raises(KeyError):
        await guarded(SimpleNamespace(trouble=loop.trouble), "a loop", loop.work)
    assert not loop.troubles

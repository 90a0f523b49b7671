"""What a member of a bench does where a pair cannot be measured: it says so, and goes on."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import trio

from node.reproducing import LentMemorySpent, SealedWeightsLost
from node.verifying import _Member
from swarm.keys import KeyPair
from verification.duty import PairDuty
from verification.states import State


def pair(claim: bytes) -> PairDuty:
    return PairDuty(
        claim, None, claim, "quick", 0, 0, "verdict", 1, None, (), b"", None, "", b"", ()
    )


@pytest.mark.parametrize("error", [SealedWeightsLost, LentMemorySpent])
async def test_a_pair_that_would_fail_again_is_left_to_the_others(error, monkeypatch):
    """The second pair is measured, the first one is not tried again."""
    told, asked, both = [], [], [pair(b"a" * 32), pair(b"b" * 32)]
    over = trio.Event()

    async def caught_up():
        await trio.lowlevel.checkpoint()
        if {duty.claim for duty in both} <= set(asked):
            over.set()
            await trio.sleep_forever()
        return State(None)

    async def advance(node, duty, hardware):
        asked.append(duty.claim)
        if duty.claim == both[0].claim:
            raise error("it is gone", cure="nothing to do")

    node = SimpleNamespace(
        key=KeyPair.generate(), swarm=b"s" * 32, changed=trio.Event(), caught_up=caught_up,
        journal=SimpleNamespace(write=lambda event, **facts: told.append((event, facts["error"]))),
    )  # fmt: skip
    monkeypatch.setattr("node.verifying._precedence", lambda state, duty: duty.claim)
    member = _Member(node, advance)
    monkeypatch.setattr(member, "_class", lambda tier: "cpu")
    monkeypatch.setattr(member, "_duties", lambda state: [
        duty for duty in both if (duty.claim, "pair", 0, None) not in member._done
    ])  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member._fill, Counter())
        with trio.fail_after(10):
            await over.wait()
        nursery.cancel_scope.cancel()
    assert asked == [both[0].claim, both[1].claim]
    assert told == [
        ("trouble", f"claim {'61' * 6} is left to the others: it is gone; nothing to do")
    ]

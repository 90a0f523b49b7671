"""Merges: by lines, offered once, and nothing assumed of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from node.judging import Stack
from node.merging import MAX_MERGES, Merges, three_way
from node.proposers import Proposal
from swarm.records import Experiment
from tests.verification.small_swarm import TIER, SmallSwarm, measure
from training.source import ast_hash
from verification.frontier import unmerged
from verification.states import Stage

if TYPE_CHECKING:
    from swarm.envelope import Record

BASE = b"A = 1\n\nB = 2\n\nC = 3\n"
A = b"A = 9\n\nB = 2\n\nC = 3\n"
C = b"A = 1\n\nB = 2\n\nC = 7\n"
BOTH = b"A = 9\n\nB = 2\n\nC = 7\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        (A, C, BOTH),
        (C, A, BOTH),
        (A, A, A),
        (A, BASE, A),
        (BASE, C, C),
        (A, b"A = 8\n\nB = 2\n\nC = 3\n", None),
        (b"", C, None),
    ],
)
def test_three_ways(ours: bytes, theirs: bytes, merged: bytes | None) -> None:
    assert three_way(BASE, ours, theirs) == merged


class Lone:
    """As much of a node as merging looks at, over the real fold."""

    def __init__(self, swarm: SmallSwarm, own: list[Record]) -> None:
        self.swarm, self.own = swarm, own

    @property
    def state(self):
        return self.swarm.quarantine.state()

    def own_records(self) -> list[Record]:
        return self.own

    async def code_of(self, claim: bytes | None) -> bytes:
        code = self.swarm.quarantine.code(claim)
        assert code is not None
        return code

    def trials(self):
        at = self.state.frontier["quick"]
        code = self.swarm.quarantine.code(at)
        tier = SimpleNamespace(name="quick")
        return SimpleNamespace(stack=Stack.on(code), base_id=at, tier=tier)


def forked() -> tuple[SmallSwarm, Record, Record]:
    """Two adopted claims on one base: the frontier, and the one that was left."""
    swarm = SmallSwarm(tier=replace(TIER, effect_pairs=4), base_code=BASE)
    one = swarm.claim(swarm.researchers[0], A)
    other = swarm.claim(swarm.researchers[1], C)
    swarm.run(measure(30_000_000))
    state = swarm.quarantine.state()
    assert {state.claims[c.id].stage for c in (one, other)} == {Stage.ADOPTED}
    at = state.frontier["quick"]
    return (swarm, one, other) if at == one.id else (swarm, other, one)


async def test_a_sibling_of_the_frontier_is_offered_once() -> None:
    swarm, frontier, left = forked()
    assert unmerged(swarm.quarantine.state(), "quick") == [(left.id, None)]
    node = Lone(swarm, [])
    merges = Merges(node)
    offered = await merges.offer(node.trials())
    assert offered is not None
    assert (offered.code, offered.merges, offered.proposer) == (BOTH, (left.id,), "merge")
    assert await merges.offer(node.trials()) is None
    assert node.trials().base_id == frontier.id


async def test_what_was_tried_before_a_restart_is_not_offered_again() -> None:
    swarm, _, _ = forked()
    experiment = Experiment(
        tier="quick", base=None, ast_hash=ast_hash(BOTH), hypothesis="merge", proposer="merge",
        outcome="not_better", reason="noise", dev_pairs=(), cost_ms=1,
    )  # fmt: skip
    told = swarm.write(swarm.researchers[0], experiment)
    node = Lone(swarm, [told])
    assert await Merges(node).offer(node.trials()) is None


async def test_a_find_that_the_frontier_left_behind_is_brought_along() -> None:
    swarm, frontier, _left = forked()
    mine = BASE.replace(b"B = 2", b"B = 5")
    node = Lone(swarm, [])
    merges = Merges(node)
    proposal = Proposal("p", mine, "a larger B", "tpe", "", ())
    merges.leave(BASE, proposal)
    merges.leave(BASE, proposal)
    offered = await merges.offer(node.trials())
    assert offered is not None
    assert offered.hypothesis == "a larger B"
    assert b"B = 5" in offered.code
    ours = swarm.quarantine.code(frontier.id)
    assert ours is not None
    assert offered.code == ours.replace(b"B = 2", b"B = 5")
    siblings = await merges.offer(node.trials())
    assert siblings is not None
    assert siblings.proposer == "merge"  # and the find not again


async def test_changes_of_one_line_are_left_to_people() -> None:
    swarm, _, _ = forked()
    node = Lone(swarm, [])
    merges = Merges(node)
    await merges.offer(node.trials())
    clash = BASE.replace(b"A = 1", b"A = 4").replace(b"C = 3", b"C = 4")
    merges.leave(BASE, Proposal("p", clash, "", "tpe", "", ()))
    assert await merges.offer(node.trials()) is None


async def test_what_another_tier_adopted_is_tried_in_this_one() -> None:
    swarm, frontier, left = forked()
    node = Lone(swarm, [])
    trials = node.trials()
    trials.tier, trials.stack = (
        SimpleNamespace(name="cpu"),
        Stack.on(BASE),
    )  # nothing is adopted there yet
    merges = Merges(node)
    offered = [await merges.offer(trials) for _ in range(3)]
    assert [one.merges for one in offered if one] == [(c,) for c in sorted([frontier.id, left.id])]
    assert {one.code for one in offered if one} == {A, C}
    assert all("adopted in tier quick" in one.hypothesis for one in offered if one)


async def test_no_more_is_merged_than_a_claim_can_name() -> None:
    swarm, _, _ = forked()
    node = Lone(swarm, [])
    trials = node.trials()
    names = tuple(bytes([at]) * 32 for at in range(MAX_MERGES))
    full = Proposal("p", trials.stack.code, "", "merge", "", (), names)
    trials.stack = trials.stack.plus(full, [1, 1], 1000, 1)
    assert await Merges(node).offer(trials) is None
    assert await Merges(node).offer(node.trials()) is not None

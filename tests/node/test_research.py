"""The research loop of a real node, with real training: edits on edits, claims of several."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from node import programs
from node.judging import FURTHER, MIN_PAIRS, Stack
from node.proposers import Proposal
from node.research import OVERTAKEN, _Research, research_forever
from node.settings import Home
from node.trials import Trials
from swarm.records import Claim, DevPair, Experiment
from tests.node.test_rechecking import until, up, working
from tests.node.tiny import BASE, tiny_swarm
from training.source import ast_hash

STEPS = (b"lr=0.01", b"lr=0.00001", b"lr=0.1")
"""Better, much worse, better still."""


class Steps:
    """Each step once, put into whatever is best."""

    name = "steps"

    def __init__(self):
        self.left = list(STEPS)
        self.seen = []

    def propose(self, context):
        self.seen.append(context.code)
        if not self.left:
            return None
        step = self.left.pop(0)
        head, tail = context.code.split(b"lr=", 1)
        code = head + step + tail[tail.index(b")") :]
        return Proposal(step.decode(), code, step.decode(), self.name, "", ())

    def observe(self, proposal_id, outcome):
        assert outcome.status in ("measured", "abandoned")


def with_rate(rate: bytes) -> bytes:
    return BASE.replace(b"lr=0.001", rate)


def said(node, kind):
    return [record.payload for record in node.own_records() if isinstance(record.payload, kind)]


@pytest.mark.sandbox
async def test_edits_are_built_on_edits_also_after_a_restart_and_claimed_together(
    tmp_path, monkeypatch
):
    proposers = []

    def open_proposer(*_, **__):
        proposers.append(Steps())
        return proposers[-1]

    monkeypatch.setattr("node.proposers.open_proposer", open_proposer)
    parts = {"ada": ("researcher", "governor"), "bob": ("verifier",), "eve": ("verifier",)}
    home = tiny_swarm(tmp_path, parts)["ada"]
    home.save(replace(home.load(), verify_share_milli=1))  # never due while there are ideas
    async with up(home) as (node, _):
        async with working((research_forever, node)):
            await until(node, lambda _: len(said(node, Experiment)) >= 2)
            await until(node, lambda _: node.kept)
        assert node.kept.startswith("one edit, +")
        assert "more runs" in node.kept
        first, second, *_ = said(node, Experiment)
    assert (first.outcome, first.reason) == ("better", "kept on top of the frontier")
    assert second.outcome == "not_better"
    assert proposers[0].seen[:2] == [BASE, with_rate(STEPS[0])]
    proposers.clear()
    async with up(home) as (node, _):
        async with working((research_forever, node)):
            await until(node, lambda _: said(node, Claim))
        kept = [one for one in said(node, Experiment)[2:] if one.outcome == "better"]
        (claim,) = said(node, Claim)
    assert kept[0].hypothesis.startswith("kept before a restart")
    assert kept[0].ast_hash == first.ast_hash
    assert claim.code == with_rate(STEPS[2])
    assert claim.ast_hash == ast_hash(claim.code)
    assert len(claim.dev_pairs) >= 3
    assert claim.hypothesis == f"{kept[0].hypothesis}; lr=0.1"


PLAIN = b"A = 1\n\nB = 2\n\nC = 3\n"


@pytest.mark.parametrize("claim", ["", "looked at", "too costly", "first", "last"])
async def test_what_a_claim_holds_is_not_taken_up_again(claim, tmp_path):
    """Three programs kept one on the other, and a fourth that came too late; one may be claimed.

    Whether the last is worth a claim is not asked again where it was answered.
    """
    home = Home(tmp_path)
    codes = [PLAIN.replace(b"A = 1", b"A = 9")]
    codes.append(codes[0].replace(b"B = 2", b"B = 9"))
    codes.append(codes[1].replace(b"C = 3", b"C = 9"))
    own = []
    for code, reason in [*((code, "kept") for code in codes), (PLAIN + b"D = 1\n", OVERTAKEN)]:
        tree = ast_hash(code)
        programs.keep(home, tree, None, programs.Tried(0.0, PLAIN.decode(), code.decode()))
        own.append(Experiment("quick", None, tree, "idea", "tpe", "better", reason, (), 1))
    looks = {"looked at": ("not_better", "unclear"), "too costly": ("failed", "too_costly")}
    if claim in looks:
        outcome, reason = looks[claim]
        look = {"hypothesis": FURTHER + "idea", "outcome": outcome, "reason": reason}
        own.append(replace(own[2], **look, dev_pairs=(DevPair(1, 1),) * MIN_PAIRS))
    elif claim:
        at = 1 if claim == "first" else 3
        said = {field.name: None for field in fields(Claim)}
        own.insert(at, Claim(**{**said, "tier": "quick", "base": None, "code": codes[at - 1]}))
    node = SimpleNamespace(home=home, own_records=lambda: [SimpleNamespace(payload=p) for p in own])
    left = []
    merges = SimpleNamespace(leave=lambda base, edit: left.append((base, edit.code)))
    tier = SimpleNamespace(name="quick")
    trials = SimpleNamespace(base=PLAIN, base_id=None, tier=tier, looked_at=PLAIN)
    await _Research._take_up(SimpleNamespace(node=node, merges=merges), trials)
    anchor = {"": PLAIN, "looked at": PLAIN, "first": codes[0]}
    assert left == ([(anchor[claim], codes[2])] if claim in anchor else [])
    assert trials.looked_at == (codes[2] if claim == "looked at" else PLAIN)


async def test_a_stack_that_costs_too_much_beside_the_frontier_is_given_up(tmp_path):
    """The product of what its edits cost was below the limit; what it costs as a whole is not."""
    tier = SimpleNamespace(name="quick", max_cost_ratio_milli=1500)
    costs = iter((1490, 1510))
    gains = iter((40_000_000, 90_000_000))

    async def pair(*_):
        one = SimpleNamespace(cost_ratio_milli=next(costs), d_nano=next(gains))
        return one, "ok", 7

    stack = replace(Stack.on(PLAIN), code=PLAIN + b"D = 1\n", gains=(90_000_000, 91_000_000))
    stub = SimpleNamespace(_pair=pair, tier=tier, min_effect=3_000_000, seed=lambda index: index)
    measured = await Trials.confirm(stub, stack)
    assert (measured.status, measured.cost_ms, len(measured.gains)) == ("too_costly", 14, 3)

    signed = []

    async def nothing(*_):
        return None

    async def sign(_job, _tree, _author, outcome, reason, _measured):
        signed.append((outcome, reason))

    trials = SimpleNamespace(stack=stack, base_id=None, base=PLAIN, min_effect=3_000_000)
    node = SimpleNamespace(caught_up=nothing)
    for status, given_up in (("memory_lent", False), ("too_costly", True)):
        research = SimpleNamespace(node=node, trials=trials, _sign=sign)
        job = SimpleNamespace(trials=trials, stack=stack)
        await _Research._claim(research, job, replace(measured, status=status))
        assert (research.trials is None) == given_up
        assert signed[-1] == ("failed", status)

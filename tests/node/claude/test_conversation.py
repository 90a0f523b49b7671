"""A conversation with a model: the real SDK, a server on this machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.proposers import (
    Outcome,
    PastResult,
    Paused,
    ProposalContext,
)
from node.proposers import claude as claude_module
from node.proposers.prompts import fenced
from tests.node.claude.talking import CHANGE, CONTEXT, KEY
from tests.node.messages_server import (
    USAGE,
    Answer,
    in_turns,
    results,
    submit,
    use,
)
from training.baselines import QUICK, load


def test_a_conversation(talk, home):
    history = (
        PastResult("MOMENTUM 0.95 -> 0.99", (), Outcome("measured", -2_000_000)),
        PastResult("a wider layer", (), Outcome("failed")),
    )
    text = {"type": "text", "text": "Let me look."}
    node = talk(in_turns([text, use("view", first=30, last=33)], [CHANGE], [submit(0.002)]))
    proposal = node.propose(replace(CONTEXT, history=history))
    assert proposal is not None
    assert proposal.code == load("quick").replace(b"MOMENTUM = 0.95 ", b"MOMENTUM = 0.9 ")
    assert proposal.hypothesis == "a change; a reason (expected +0.0020 bpb)"
    assert proposal.author == "claude claude-test-1"
    assert [str(change) for change in proposal.changes] == ["MOMENTUM 0.95 -> 0.9"]

    first, second, third = node.requests
    headers = node.server.headers[0]  # SDKs differ in which one
    assert headers.get("authorization") == f"Bearer {KEY}" or headers.get("x-api-key") == KEY
    assert first["model"] == "claude-test"
    assert {tool["name"] for tool in first["tools"]} == {
        "view", "replace", "check", "submit", "give_up"
    }  # fmt: skip
    assert "Prefer simpler optimisers." in first["system"][0]["text"]
    task = first["messages"][0]["content"][0]["text"]
    assert fenced("train.py", CONTEXT.code.decode()) in task
    assert "-0.00200 bpb  MOMENTUM 0.95 -> 0.99" in task
    assert "failed  a wider layer" in task
    assert results(second) == [(results(second)[0][0], False)]
    assert "  32 MOMENTUM = 0.95" in results(second)[0][0]
    assert results(third) == [("replaced", False)]
    assert third["messages"][: len(second["messages"]) - 1] == second["messages"][:-1]


def test_what_stays_the_same_is_marked_for_the_cache(talk):
    node = talk(in_turns([use("view")], [CHANGE], [submit()]))
    node.propose()
    for request in node.requests:
        marked = [request["system"][0], request["messages"][0]["content"][-1]]
        marked.append(request["messages"][-1]["content"][-1])
        assert all(block["cache_control"] == {"type": "ephemeral"} for block in marked)
        text = str(request)
        assert text.count("cache_control") == len({id(block) for block in marked})


def test_giving_up_gives_none_and_costs_what_was_used(talk):
    node = talk(in_turns([use("give_up", reason="no idea")]))
    assert node.propose() is None
    assert node.booked.tokens == sum(USAGE.values())
    price = (1000 + 200 * 1.25 + 300 * 0.1) * 1500 + 50 * 7500
    assert node.booked.micro_cents == pytest.approx(price, abs=5)


def test_the_model_that_goes_on_for_ever_is_ended(talk):
    node = talk(lambda _: [use("view", first=1, last=1)])
    assert node.propose() is None
    assert len(node.requests) == claude_module.MAX_TURNS


def test_the_model_that_only_talks_is_ended(talk):
    node = talk(lambda _: Answer([{"type": "text", "text": "Hm."}], stop_reason="end_turn"))
    assert node.propose() is None
    assert len(node.requests) == claude_module.MAX_IDLE_TURNS
    assert "Call a tool" in node.requests[1]["messages"][-1]["content"][0]["text"]


def test_a_rest_after_fruitless_conversations(talk):
    node = talk(in_turns([use("give_up", reason="no idea")]))
    for _ in range(claude_module.MAX_FRUITLESS):
        assert node.propose() is None
    with pytest.raises(Paused, match="nothing to try"):
        node.propose()
    assert len(node.requests) == claude_module.MAX_FRUITLESS


@pytest.mark.parametrize("code", [b"", b"x = 1\n", b"\xff", b"def f(:"])
def test_a_frontier_that_is_no_train_py_costs_nothing(talk, code):
    node = talk(in_turns())
    assert node.propose(ProposalContext(code, QUICK)) is None
    assert not node.requests

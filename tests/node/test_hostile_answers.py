"""Whatever a server streams and a model calls: a clear error or an answer, and nothing else."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.proposers import CheckReport, ProposalContext
from node.proposers.assembly import Assembly, NonsenseError
from node.proposers.drafting import Draft, tools
from tests.node.messages_server import USAGE, Answer, encoded, events, submit, use
from training.baselines import QUICK, load

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KINDS = st.sampled_from(
    "message_start content_block_start content_block_delta content_block_stop message_delta "
    "message_stop error ping text_delta input_json_delta tool_use text usage".split()
)
NAMES = st.sampled_from("type index message content_block delta usage text id name input".split())
EVENTS = st.dictionaries(NAMES, VALUES | KINDS | st.dictionaries(NAMES, VALUES | KINDS))
HONEST = Answer(
    [{"type": "text", "text": "Let me see.\nSo: é"}, use("view", 1, first=3, last=9), submit()]
)


def bytes_of(answer: Answer) -> bytes:
    return b"".join(map(encoded, events(answer)))


@given(st.lists(st.integers(1, 90)), st.sampled_from([b"\n", b"\r\n"]))
@settings(max_examples=60)
def test_an_answer_is_the_same_however_it_is_cut(sizes, line_end):
    data = bytes_of(HONEST).replace(b"\n", line_end)
    answer = Assembly()
    for size in sizes:
        answer.feed(data[:size])
        data = data[size:]
    answer.feed(data)
    assert answer.ended
    assert answer.blocks == HONEST.blocks
    assert answer.usage == USAGE
    assert (answer.model, answer.stop_reason) == (HONEST.model, "tool_use")


@given(st.lists(EVENTS, max_size=6) | st.binary(max_size=200), st.integers(0, 5))
@settings(max_examples=100)
def test_bytes_from_anywhere_are_an_answer_or_nonsense(stream, honest):
    answer = Assembly()
    start = [encoded(event) for event in events(HONEST)[:honest]]
    wild = [stream] if isinstance(stream, bytes) else [
        b"data: " + json.dumps(event).encode() + b"\n\n" for event in stream
    ]  # fmt: skip
    try:
        for data in (*start, *wild):
            answer.feed(data)
    except NonsenseError:
        answer.feed(bytes_of(HONEST))  # and so it stays
        assert not answer.ended
    assert all(isinstance(block, dict) for block in answer.blocks)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([tool["name"] for tool in tools()]) | VALUES,
            st.dictionaries(
                st.sampled_from("first last old new change reason expected_gain_bpb".split()),
                VALUES | st.sampled_from(["MOMENTUM = 0.95", "0.9", "\n", "def train("]),
            )
            | VALUES,
        ),
        max_size=8,
    )
)
@settings(max_examples=50)
def test_a_draft_answers_every_call(calls):
    ran = []

    async def run(code):
        ran.append(code)
        return CheckReport("ok")

    async def talk():
        context = ProposalContext(load("quick"), QUICK)
        draft = Draft(context, lambda _: False, run)
        for name, given_ in calls:
            text, wrong = await draft.call(name, given_)
            assert text
            assert isinstance(wrong, bool)
        assert draft.submission is None or draft.submission.code in ran

    trio.run(talk)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 100_000, '{"a":' * 50_000])
def test_deep_or_long_tool_input_is_no_input(text):
    block = {"type": "tool_use", "id": "toolu_1", "name": "view", "input": {}}
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    delta = {"type": "input_json_delta", "partial_json": text}
    answer = Assembly()
    answer.feed(encoded(start))
    answer.feed(encoded({"type": "content_block_delta", "index": 0, "delta": delta}))
    assert not isinstance(answer.blocks[0]["input"], dict)

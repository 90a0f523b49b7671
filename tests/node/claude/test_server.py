"""The server misbehaves."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from node.proposers import (
    Paused,
)
from node.proposers import messages as messages_module
from tests.node.claude.talking import CHANGE, FREE, GOOD, PAID
from tests.node.messages_server import (
    USAGE,
    encoded,
    events,
    in_turns,
    submit,
)


@pytest.mark.parametrize("name", [*FREE, *PAID])
def test_one_bad_answer_is_survived_and_paid_for_if_it_may_have_cost(talk, name):
    misdeeds = [{**FREE, **PAID}[name]]
    node = talk(lambda _: misdeeds.pop() if misdeeds else GOOD)
    assert node.propose() is not None
    assert len(node.requests) == 2
    good = sum(USAGE.values())
    if name in FREE:
        assert node.booked.tokens == good
    else:
        assert node.booked.tokens >= good + node.settings.max_output_tokens


@pytest.mark.parametrize("name", ["529", "cut in a tool call"])
def test_only_bad_answers_make_it_rest(talk, name):
    misdeed = {**FREE, **PAID}[name]
    node = talk(lambda _: misdeed)
    with pytest.raises(Paused, match="no answer in 4 attempts") as caught:
        node.propose()
    assert caught.value.seconds >= 60
    assert len(node.requests) == messages_module.ATTEMPTS
    with pytest.raises(Paused, match="no answer"):
        node.propose()
    assert len(node.requests) == messages_module.ATTEMPTS


@pytest.mark.parametrize("rest", [b"", b"event: x\ndata: {nonsense\n\n", b"x" * 50_000])
def test_what_follows_a_whole_answer_does_not_matter(talk, rest):
    def misdeed(handler):
        handler.start_stream()
        for event in events(GOOD):
            handler.send_event(event)
        if rest:
            handler.send_chunk(rest)
        handler.hang_up()

    node = talk(lambda _: misdeed)
    assert node.propose() is not None
    assert len(node.requests) == 1
    assert node.booked.tokens == sum(USAGE.values())


def test_a_server_that_is_down_costs_nothing(talk):
    node = talk(in_turns())
    node.server.shutdown()
    node.server.server_close()
    with pytest.raises(Paused, match="no answer"):
        node.propose()
    assert node.booked.tokens == 0


def test_retry_after_is_honoured(talk):
    started = []

    def model(_):
        started.append(time.monotonic())
        if len(started) == 1:
            return lambda handler: handler.send_status(429, retry_after="1")
        return GOOD

    assert talk(model).propose() is not None
    assert started[1] - started[0] >= 0.9


def test_a_long_retry_after_is_waited_out_elsewhere(talk):
    node = talk(lambda _: lambda handler: handler.send_status(429, retry_after="900"))
    with pytest.raises(Paused, match="patience") as caught:
        node.propose()
    assert caught.value.seconds == 900
    assert len(node.requests) == 1


@pytest.mark.parametrize(("status", "cure"), [(401, "ANTHROPIC_API_KEY"), (400, "base_url")])
def test_what_will_not_change_is_not_tried_again(talk, status, cure):
    node = talk(lambda _: lambda handler: handler.send_status(status))
    with pytest.raises(Paused) as caught:
        node.propose()
    assert cure in caught.value.told
    assert len(node.requests) == 1
    assert node.booked.tokens == 0


def endless(piece):
    def misdeed(handler):
        handler.start_stream()
        handler.send_event(events(GOOD)[0])
        block = {"type": "text", "text": ""}
        handler.send_event({"type": "content_block_start", "index": 0, "content_block": block})
        while not handler.server.closing.is_set():
            handler.send_chunk(piece)

    return misdeed


DELTA = {"type": "content_block_delta", "index": 0}
ENDLESS = {
    "events": encoded({**DELTA, "delta": {"type": "text_delta", "text": "x" * 1000}}),
    "one line": b"x" * 10_000,
    "empty events": b"\n\n" * 5000,
}


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_endless_output_is_cut_off(talk, name, monkeypatch):
    monkeypatch.setattr(messages_module, "ATTEMPTS", 1)
    node = talk(lambda _: endless(ENDLESS[name]), max_output_tokens=256)
    with pytest.raises(Paused, match="no answer"):
        node.propose()


def test_endless_silence_is_cut_off(talk, monkeypatch):
    monkeypatch.setattr(messages_module, "ATTEMPTS", 1)
    monkeypatch.setattr(messages_module, "CALL_SECONDS", 0.5)
    node = talk(lambda _: lambda handler: handler.server.closing.wait(20))
    with pytest.raises(Paused, match="no answer"):
        node.propose()


async def test_stopping_the_node_ends_a_conversation_at_once(talk):
    asked = threading.Event()

    def hang(handler):
        asked.set()
        handler.server.closing.wait(60)

    node = talk(lambda _: hang)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, node.propose)
            await trio.to_thread.run_sync(asked.wait)
            nursery.cancel_scope.cancel()
    assert node.booked.tokens > node.settings.max_output_tokens


async def test_it_talks_within_the_loop_of_the_node(talk):
    node = talk(in_turns([CHANGE], [submit()]))
    assert await trio.to_thread.run_sync(node.propose) is not None

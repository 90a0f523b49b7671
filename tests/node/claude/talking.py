"""A proposer and a model of the test that talk, well or badly."""

from __future__ import annotations

from node.proposers import (
    ProposalContext,
    open_proposer,
)
from node.proposers.claude import ClaudeProposer
from node.settings import ClaudeSettings
from tests.node.messages_server import (
    Answer,
    encoded,
    events,
    submit,
    use,
)
from training.baselines import QUICK, load

KEY = "sk-test-0123456789-secret"
CONTEXT = ProposalContext(load("quick"), QUICK)
CHANGE = use("replace", old="MOMENTUM = 0.95 ", new="MOMENTUM = 0.9 ")


class Node:
    """A proposer that talks to a model of the test."""

    def __init__(self, server, home, **settings):
        self.server = server
        self.settings = ClaudeSettings(model="claude-test", base_url=server.url, **settings)
        self.proposer = open_proposer("claude", home, seed=0, claude=self.settings)
        assert isinstance(self.proposer, ClaudeProposer)

    def propose(self, context=CONTEXT):
        return self.proposer.propose(context)

    @property
    def requests(self):
        return self.server.requests

    @property
    def booked(self):
        return self.proposer.ledger.spent()


GOOD = Answer([CHANGE, submit()])


def cut(count):
    """Hang up after ``count`` events."""

    def misdeed(handler):
        handler.start_stream()
        for event in events(GOOD)[:count]:
            handler.send_event(event)
        handler.hang_up()

    return misdeed


def end_early(handler):
    """End the stream in good order, but before the message is over."""
    handler.start_stream()
    for event in events(GOOD)[:-3]:
        handler.send_event(event)
    handler.send_chunk(b"")


def raw(data):
    def misdeed(handler):
        handler.start_stream()
        for piece in (data, b"") if data else (b"",):
            handler.send_chunk(piece)

    return misdeed


def error_within(handler):
    handler.start_stream()
    handler.send_event(events(GOOD)[0])
    error = {"type": "overloaded_error", "message": "busy"}
    handler.send_event({"type": "error", "error": error})
    handler.send_chunk(b"")


FREE = {
    "429": lambda handler: handler.send_status(429, retry_after="0"),
    "429 with nonsense": lambda handler: handler.send_status(429, retry_after="soon"),
    "529": lambda handler: handler.send_status(529),
    "500": lambda handler: handler.send_status(500),
}
PAID = {
    "cut at once": lambda handler: handler.hang_up(),
    "cut after the start": cut(1),
    "cut in a tool call": cut(3),
    "ended early": end_early,
    "error within": error_within,
    "no events": raw(b""),
    "not JSON": raw(b"event: message_start\ndata: {nonsense\n\n"),
    "not UTF-8": raw(b"event: message_start\ndata: \xff\xfe\n\n"),
    "wrong order": raw(encoded(events(GOOD)[-1])),
    "a list": raw(b"event: message_start\ndata: [1, 2]\n\n"),
    "types": raw(b"".join(encoded({**event, "index": "x", "delta": 5}) for event in events(GOOD))),
    "block of nothing": raw(
        encoded(events(GOOD)[0])
        + encoded({"type": "content_block_start", "index": 0, "content_block": None})
        + encoded({"type": "message_stop"})
    ),
}

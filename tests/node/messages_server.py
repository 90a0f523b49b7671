"""A server on 127.0.0.1 that speaks the Messages API, as well or as badly as a test asks.

A *model* is a function from a request's JSON to an answer: a list of content blocks (or an
``Answer``), or a function that is given the HTTP handler and writes what it likes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Blocks = list[dict[str, Any]]
USAGE = {
    "input_tokens": 1000,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 300,
    "output_tokens": 50,
}


@dataclass
class Answer:
    """An honest answer, or one with some parts replaced."""

    blocks: Blocks
    stop_reason: Any = "tool_use"
    usage: Any = field(default_factory=lambda: dict(USAGE))
    model: Any = "claude-test-1"


Misdeed = Callable[["Handler"], None]
Model = Callable[[dict[str, Any]], Blocks | Answer | Misdeed]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: Model) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = model
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """Clients go away; that is no error here."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/messages"
        assert body["stream"] is True
        self.server.requests.append(body)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        answer = self.server.model(body)
        if callable(answer):
            answer(self)
            return
        self.start_stream()
        for event in events(answer if isinstance(answer, Answer) else Answer(answer)):
            self.send_event(event)
        self.send_chunk(b"")

    def start_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def send_event(self, event: dict[str, Any]) -> None:
        self.send_chunk(encoded(event))

    def send_status(self, status: int, **headers: str) -> None:
        kind = {429: "rate_limit_error", 529: "overloaded_error"}.get(status, "api_error")
        error = {"type": "error", "error": {"type": kind, "message": "no"}}
        body = json.dumps(error).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """Close the connection in the middle of whatever was being said."""
        self.close_connection = True


def encoded(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def events(answer: Answer) -> list[dict[str, Any]]:
    """The events of an answer, tool inputs in two pieces."""
    start = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": answer.usage,
    }
    result: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(answer.blocks):
        if block.get("type") == "tool_use":
            empty = {**block, "input": {}}
            text = json.dumps(block["input"])
            parts = [text[: len(text) // 2], text[len(text) // 2 :]]
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        elif block.get("type") == "text":
            empty = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": block["text"]}]
        else:
            empty, deltas = block, []
        result.append({"type": "content_block_start", "index": index, "content_block": empty})
        result += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        result.append({"type": "content_block_stop", "index": index})
    output = answer.usage.get("output_tokens") if isinstance(answer.usage, dict) else None
    result.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": answer.stop_reason, "stop_sequence": None},
            "usage": {"output_tokens": output},
        }
    )
    return [*result, {"type": "message_stop"}]


def use(name: str, number: int = 1, /, **given: Any) -> dict[str, Any]:
    """A tool call of an answer."""
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}


def submit(gain: float = 0.001) -> dict[str, Any]:
    return use("submit", 9, change="a change", reason="a reason", expected_gain_bpb=gain)


def turn(request: dict[str, Any]) -> int:
    """How often the model has answered in this conversation so far."""
    return sum(message["role"] == "assistant" for message in request["messages"])


def results(request: dict[str, Any]) -> list[tuple[str, bool]]:
    """What the tools said to the last answer: text, and whether it is an error."""
    return [
        (block["content"][0]["text"], block["is_error"])
        for block in request["messages"][-1]["content"]
        if block["type"] == "tool_result"
    ]


def in_turns(*answers: Any) -> Model:
    """A model that gives these answers in every conversation; then it gives up."""

    def model(request: dict[str, Any]) -> Any:
        number = turn(request)
        return answers[number] if number < len(answers) else [use("give_up", reason="done")]

    return model


@contextmanager
def serving(model: Model):
    """Serve ``model`` until the end of the block."""
    server = Server(model)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)

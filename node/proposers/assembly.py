"""A streamed answer of a Messages API, put together from bytes of which nothing is believed.

Server-sent events, each with a JSON object: ``message_start``, then for each block a
``content_block_start``, deltas and a ``content_block_stop``, then ``message_delta`` and
``message_stop``. Events and deltas of other kinds are passed over. No I/O here; whoever feeds it
bounds the bytes.
"""

from __future__ import annotations

import json
from typing import Any, Final

MAX_BLOCKS: Final = 64
_TEXTS: Final = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}


class NonsenseError(Exception):
    """Bytes that are not a streamed answer, or an error that was told in one."""


class Assembly:
    """One answer so far.

    Attributes:
        ended: whether the server has said that the message is whole.
        model: who the server says has answered; of any type, like all of the following.
        stop_reason: why the answer ended.
        usage: what the server says was used.
    """

    def __init__(self) -> None:
        self.ended = False
        self.model: Any = None
        self.stop_reason: Any = None
        self.usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._parts: dict[tuple[int, str], list[str]] = {}
        self._broken = False
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take in more bytes; passed over once the answer has ended, or was nonsense.

        Raises:
            NonsenseError: this will not become an answer.
        """
        if self.ended or self._broken:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif not line and self._data and not self.ended:
                event, self._data = b"\n".join(self._data), []
                self._broken = True
                self._take(_object(event))
                self._broken = False

    @property
    def blocks(self) -> list[dict[str, Any]]:
        """The blocks in order; what came in pieces is whole. A tool's input may be of any type."""
        return [self._whole(index) for index in sorted(self._blocks)]

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start":
            message = _map(event, "message")
            self.model = message.get("model")
            self._use(message)
        elif kind == "content_block_start":
            index = event.get("index")
            if type(index) is not int or not 0 <= index < MAX_BLOCKS or index in self._blocks:
                raise NonsenseError("a block out of order")
            self._blocks[index] = _map(event, "content_block")
        elif kind == "content_block_delta":
            self._add(event.get("index"), _map(event, "delta"))
        elif kind == "message_delta":
            self.stop_reason = _map(event, "delta").get("stop_reason")
            self._use(event)
        elif kind == "message_stop":
            self.ended = True
        elif kind == "error":
            raise NonsenseError("the server reports an error")

    def _use(self, event: dict[str, Any]) -> None:
        """Counts are totals: later ones replace earlier ones, those left out stay."""
        if event.get("usage") is not None:
            counts = _map(event, "usage")
            self.usage.update({k: v for k, v in counts.items() if v is not None})

    def _add(self, index: Any, delta: dict[str, Any]) -> None:
        name = _TEXTS.get(str(delta.get("type")))
        if name is None:
            return
        text = delta.get(name)
        if type(index) is not int or index not in self._blocks or not isinstance(text, str):
            raise NonsenseError("a piece of no block")
        self._parts.setdefault((index, name), []).append(text)

    def _whole(self, index: int) -> dict[str, Any]:
        block = dict(self._blocks[index])
        for name in ("text", "thinking", "signature"):
            if (index, name) in self._parts:
                block[name] = "".join(self._parts[index, name])
        text = "".join(self._parts.get((index, "partial_json"), ()))
        if text:
            try:
                block["input"] = json.loads(text)
            except (ValueError, RecursionError):
                block["input"] = text
        return block


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise NonsenseError("an event that is not JSON") from None
    if not isinstance(value, dict):
        raise NonsenseError("an event that is not an object")
    return value


def _map(event: dict[str, Any], name: str) -> dict[str, Any]:
    value = event.get(name)
    if not isinstance(value, dict):
        raise NonsenseError("an event without its content")
    return value

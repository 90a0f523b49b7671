"""Requests to a Messages API that are paid for in advance, bounded, and tried again with patience.

The SDK's own retries are off: each attempt is booked in the ledger before it is sent, and only one
that was surely not charged (an error status) is taken off it again. An answer is bounded in bytes
and in time while it streams, whatever the server does. The SDK's own reader of streams is not used:
it takes values of any type, and leaves readers behind when it stumbles. Needs trio; the SDK is
imported on first use (seconds).
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from node.errors import Paused, UsageError
from node.proposers.assembly import Assembly, NonsenseError
from node.spending import Amount, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from node.settings import ClaudeSettings

log = logging.getLogger(__name__)

KEY_VARIABLE: Final = "ANTHROPIC_API_KEY"
KEYRING: Final = ("lazaretto", "anthropic")
ATTEMPTS: Final = 4
CALL_SECONDS: Final = 600.0
SILENCE_SECONDS: Final = 120.0
LINGER_SECONDS: Final = 2.0
"""For the end of a stream whose message is whole: then the connection can be used again."""
LONGEST_WAIT: Final = 120.0
PAUSE_SECONDS: Final = 60.0
BYTES_PER_TOKEN: Final = 256
"""Of an answer on the wire: a token may come as an event of its own."""
_TEMPORARY: Final = (408, 409, 429)
_NEVER_SENT: Final = ("ConnectError", "ConnectTimeout")
_CUT_SHORT: Final = ("max_tokens", "model_context_window_exceeded", "refusal", "pause_turn")
_WORD = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


def find_key(settings: ClaudeSettings) -> str:
    """The API key, from the environment or the keyring. It is never written anywhere.

    Raises:
        UsageError: there is none, and the server is Anthropic's.
    """
    if key := os.environ.get(KEY_VARIABLE) or _from_keyring():
        return key
    if settings.base_url:
        return "none"  # local servers ask for no key, but the SDK sends one
    raise UsageError(
        "the proposer claude needs an API key",
        cure=f"export {KEY_VARIABLE}=...   (or: keyring set {' '.join(KEYRING)})",
    )


def _from_keyring() -> str | None:
    try:
        import keyring
    except ImportError:
        return None
    try:
        key: str | None = keyring.get_password(*KEYRING)
        return key
    except Exception as error:  # backends raise what they like, also where there is none
        log.info("the keyring cannot be read: %s", type(error).__name__)
        return None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One use of a tool. ``name`` and ``given`` are of any type."""

    id: str
    name: object
    given: object


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. ``content`` goes back to the server as it is; ``whole``: it was not cut off."""

    content: list[dict[str, Any]]
    calls: tuple[ToolCall, ...]
    whole: bool
    model: str


class Messages:
    """A Messages API under the caps of a ledger.

    Args:
        settings: model, server, prices.
        key: the API key.
        ledger: is asked before anything is sent.
    """

    def __init__(self, settings: ClaudeSettings, key: str, ledger: Ledger) -> None:
        self._settings = settings
        self._key = key
        self._ledger = ledger

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Connections for one conversation."""
        responses: list[Any] = []

        async def remember(response: Any) -> None:
            responses[:] = [response]

        def connect() -> Any:  # imports (seconds) and certificates (a tenth of one)
            import anthropic

            return anthropic, anthropic.AsyncAnthropic(
                api_key=self._key,
                base_url=self._settings.base_url or None,
                max_retries=0,
                timeout=SILENCE_SECONDS,
                http_client=anthropic.DefaultAsyncHttpxClient(
                    event_hooks={"response": [remember]}, timeout=SILENCE_SECONDS
                ),
            )

        sdk, client = await trio.to_thread.run_sync(connect)
        async with client:
            yield Session(self._settings, self._ledger, sdk, client, responses)


class Session:
    """One conversation's connection; see ``Messages``."""

    def __init__(
        self,
        settings: ClaudeSettings,
        ledger: Ledger,
        sdk: Any,
        client: Any,
        responses: list[Any],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._sdk = sdk
        self._client = client
        self._responses = responses

    async def ask(
        self, system: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> Reply:
        """Send a request and return the answer, trying again where that makes sense.

        Raises:
            Paused: a cap is reached, the service does not answer, or it refuses the request.
        """
        request = {
            "model": self._settings.model,
            "max_tokens": self._settings.max_output_tokens,
            "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
            "messages": _with_breakpoints(messages),
            "tools": tools,
        }
        most = self._most(request)
        wait = 0.0
        for attempt in range(ATTEMPTS):
            await trio.sleep(wait)
            ticket = await trio.to_thread.run_sync(self._ledger.reserve, most)
            try:
                answer = await self._send(request)
                reply, cost = _reply(answer), self._cost(answer, most)
            except Exception as error:  # cut, silent, endless, or not what the SDK can read
                log.info("an answer did not arrive whole: %s", type(error).__name__)
                if self._was_free(error):
                    await trio.to_thread.run_sync(self._ledger.settle, ticket, Amount(0, 0))
                wait = self._patience(error, attempt)
            else:
                await trio.to_thread.run_sync(self._ledger.settle, ticket, cost)
                return reply
        raise Paused(
            f"the model's service gave no answer in {ATTEMPTS} attempts",
            seconds=max(PAUSE_SECONDS, wait),
            cure="nothing to do; it is tried again by itself",
        )

    async def _send(self, request: dict[str, Any]) -> Assembly:
        """Stream one answer.

        Whatever ends it early ends it by cancellation: that alone unwinds the library's readers.
        """
        self._responses.clear()
        answer, failure = Assembly(), None
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + CALL_SECONDS
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                await self._read(request, answer, nursery.cancel_scope)
            except Exception as error:  # raised below: the nursery would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
        if answer.ended:
            return answer
        raise failure or NonsenseError("the answer did not arrive whole")

    async def _read(
        self, request: dict[str, Any], answer: Assembly, scope: trio.CancelScope
    ) -> None:
        streamed = self._client.messages.with_streaming_response
        async with streamed.create(**request, stream=True) as response:
            async for data in response.iter_bytes():
                try:
                    answer.feed(data)
                except NonsenseError as error:
                    log.info("an answer of the model's service makes no sense: %s", error)
                    scope.cancel()
                if answer.ended:
                    scope.deadline = min(scope.deadline, trio.current_time() + LINGER_SECONDS)

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End an answer, also one to a refused request, that has more bytes than is honest."""
        most = BYTES_PER_TOKEN * self._settings.max_output_tokens + 65_536
        while True:
            await trio.sleep(0.05)
            if any(response.num_bytes_downloaded > most for response in self._responses):
                scope.cancel()
                return

    def _was_free(self, error: Exception) -> bool:
        """Whether a request that failed was surely not charged."""
        if isinstance(error, self._sdk.APIStatusError):
            return True
        return type(error.__cause__).__name__ in _NEVER_SENT

    def _patience(self, error: Exception, attempt: int) -> float:
        """Seconds to wait before the next attempt; raises ``Paused`` where there should be none."""
        backoff = random.uniform(0.5, 1.0) * 2.0**attempt
        if not isinstance(error, self._sdk.APIStatusError):
            return backoff
        status = error.response.status_code
        if status not in _TEMPORARY and status < 500:
            raise _refusal(status) from None
        try:
            asked = float(error.response.headers.get("retry-after", ""))
        except ValueError:
            return backoff
        if asked > LONGEST_WAIT:
            raise Paused("the model's service asks for patience", seconds=min(asked, 3600.0))
        return asked if asked >= 0 else backoff  # not a number compares as false

    def _most(self, request: dict[str, Any]) -> Amount:
        """The most that a request can cost: a token has one byte or more, and may be cached."""
        entered = len(json.dumps(request).encode()) + 1024
        return self._priced(entered, 0, 0, self._settings.max_output_tokens)

    def _cost(self, answer: Assembly, most: Amount) -> Amount:
        """What the server says it charges; the whole booking where it does not say so sensibly."""
        fresh, written, read, output = (
            answer.usage.get(name, 0)
            for name in (
                "input_tokens",
                "cache_creation_input_tokens",
                "cache_read_input_tokens",
                "output_tokens",
            )
        )
        counts = (fresh, written, read, output)
        if not all(type(number) is int and number >= 0 for number in counts):
            return most
        if fresh + written + read == 0 or sum(counts) > 2 * most.tokens:
            return most
        return self._priced(written, fresh, read, output)

    def _priced(self, written: int, fresh: int, read: int, output: int) -> Amount:
        """Writing to the cache costs 1.25 times as much as plain input, reading from it a tenth."""
        price = self._settings.input_cents_per_mtok
        cost = written * price * 5 // 4 + fresh * price + read * price // 10 + 2
        cost = (cost if price else 0) + output * self._settings.output_cents_per_mtok
        return Amount(written + fresh + read + output, cost)


def _with_breakpoints(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cache the task, and all up to the last message: each request extends the one before."""
    marked = [dict(message) for message in messages]
    for message in (marked[0], marked[-1]):
        *blocks, last = message["content"]
        message["content"] = [*blocks, {**last, "cache_control": {"type": "ephemeral"}}]
    return marked


def _refusal(status: int) -> Paused:
    cure = "set model and base_url under [claude] in node.toml"
    if status in (401, 403):
        cure = f"set {KEY_VARIABLE} to a key that is valid"
    elif status == 402:
        cure = "add credit to the account of the key"
    return Paused(
        f"the model's service refuses the request (status {status})", seconds=600.0, cure=cure
    )


def _reply(answer: Assembly) -> Reply:
    """Keep of an answer what can be used and sent back."""
    content: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    for block in answer.blocks:
        kind = block.get("type")
        if kind == "tool_use":
            call = _call(block, len(calls), {call.id for call in calls})
            calls.append(call)
            name = call.name if isinstance(call.name, str) and _WORD.match(call.name) else "none"
            given = call.given if isinstance(call.given, dict) else {}
            content.append({"type": "tool_use", "id": call.id, "name": name, "input": given})
        elif kind == "text" and isinstance(text := block.get("text"), str) and text.strip():
            content.append({"type": "text", "text": text})
        elif kind in ("thinking", "redacted_thinking"):
            content.append(block)
    model = answer.model if isinstance(answer.model, str) else ""
    whole = answer.stop_reason not in _CUT_SHORT
    return Reply([_sendable(block) for block in content], tuple(calls), whole, model)


def _sendable(block: dict[str, Any]) -> dict[str, Any]:
    """A block without what JSON or UTF-8 cannot carry: numbers that are none, half characters."""
    text = json.dumps(block, ensure_ascii=False).encode("utf-8", "replace")
    clean: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return clean


def _call(block: dict[str, Any], number: int, taken: set[str]) -> ToolCall:
    sent = block.get("id")
    if not isinstance(sent, str) or not _WORD.match(sent) or sent in taken:
        sent = f"call_{number}_{len(taken)}"
    return ToolCall(sent, block.get("name"), block.get("input"))

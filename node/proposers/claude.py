"""A language model that edits train.py: Claude, or any model behind a server of the Messages API.

One proposal is one conversation. The model sees the adopted train.py, this node's own notebook and
the operator's ``program.md``, and has tools to view, replace, check and submit. Its code is hostile
like a peer's: screened before anything runs, and run in the sandbox only.

``propose`` is called in a worker thread of the node's event loop. The conversation runs in that
loop (``trio.from_thread``), so that stopping the node ends it at once; outside of trio it gets a
loop of its own.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from node.errors import Paused
from node.escaping import escaped
from node.proposers.drafting import Draft, tools
from node.proposers.messages import Messages, Reply, find_key
from node.proposers.prompts import read_program, system, task
from node.proposers.protocol import Proposal
from node.spending import DAY, FOR_EVER, HOUR, Cap, Ledger
from node.work import cancellable
from training.errors import TrainingError
from training.source import ast_hash
from verification.screen import screen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from node.proposers.memory import Memory
    from node.proposers.protocol import CheckReport, Outcome, ProposalContext
    from node.settings import ClaudeSettings

MAX_TURNS: Final = 30
MAX_IDLE_TURNS: Final = 3
"""Answers without a call of a tool, after which a conversation is ended."""
MAX_CALLS: Final = 8
MAX_FRUITLESS: Final = 3
"""Conversations without a proposal on one frontier, after which there is a rest."""
REST_SECONDS: Final = 600.0


def caps_of(settings: ClaudeSettings) -> tuple[Cap, ...]:
    """The caps that a node's settings ask for."""
    return (
        Cap("per hour", HOUR, settings.tokens_per_hour, settings.cents_per_hour),
        Cap("per day", DAY, settings.tokens_per_day, settings.cents_per_day),
        Cap("total", FOR_EVER, settings.tokens_total, settings.cents_total),
    )


class ClaudeProposer:
    """Proposes what a model submits.

    Args:
        memory: what was tried.
        settings: model, server, prices and caps.
        folder: the node's home: ``program.md`` is read there, ``spending.sqlite`` kept.

    Raises:
        UsageError: there is no key.
    """

    name = "claude"

    def __init__(self, memory: Memory, settings: ClaudeSettings, folder: Path) -> None:
        self._memory = memory
        self._settings = settings
        self._program = folder / "program.md"
        self.ledger = Ledger(folder / "spending.sqlite", caps_of(settings))
        self._messages = Messages(settings, find_key(settings), self.ledger)
        self._resting = ("", 0.0)
        self._fruitless = self._failures = 0

    def propose(self, context: ProposalContext) -> Proposal | None:
        """Hold a conversation; None where the frontier is no train.py or the model gives up."""
        if screen(context.code, context.code, context.scope).reasons != ("no_change",):
            return None
        reason, until = self._resting
        if (left := until - time.monotonic()) > 0:
            raise Paused(reason, seconds=left)
        try:
            proposal = self._converse(context)
        except Paused as pause:
            pause.seconds = max(pause.seconds, min(HOUR, 15.0 * 2**self._failures))
            self._failures = min(self._failures + 1, 10)
            self._rest(str(pause), pause.seconds)
            raise
        except sqlite3.Error as error:  # a full disk: what cannot be booked is not spent
            raise Paused(
                f"spending cannot be booked: {error}", seconds=60.0, cure="free disk space"
            ) from None
        self._failures = 0
        self._fruitless = 0 if proposal else self._fruitless + 1
        if self._fruitless >= MAX_FRUITLESS:
            self._fruitless = 0
            self._rest("the model found nothing to try", REST_SECONDS)
        return proposal

    def _rest(self, reason: str, seconds: float) -> None:
        self._resting = (reason, time.monotonic() + seconds)

    def observe(self, proposal_id: str, outcome: Outcome) -> None:
        """Remembers the outcome; the model reads it in the notebook."""
        self._memory.settle(proposal_id, outcome)

    def close(self) -> None:
        """Closes the memory."""
        self._memory.close()

    def _converse(self, context: ProposalContext) -> Proposal | None:
        draft = Draft(context, self._memory.knows, _runner(context))
        model = _in_trio(self._talk, context, draft)
        if draft.submission is None:
            return None
        made = draft.submission
        proposal = Proposal(
            secrets.token_hex(8), made.code, made.hypothesis, self.name, model, made.changes
        )
        self._memory.add(proposal, ast_hash(context.code), made.identity)
        return proposal

    async def _talk(self, context: ProposalContext, draft: Draft) -> str:
        """Let the model work on the draft until it is over; return who the model says it is."""
        told = system(read_program(self._program))
        messages = [_user([{"type": "text", "text": task(context)}])]
        idle = 0
        model = self._settings.model
        async with self._messages.session() as session:
            for _ in range(MAX_TURNS):
                reply = await session.ask(told, messages, tools())
                model = escaped(reply.model or model, 60)
                idle = 0 if reply.calls else idle + 1
                if idle >= MAX_IDLE_TURNS:
                    break
                results = await _carry_out(reply, draft)
                if draft.over:
                    break
                if reply.content:
                    messages.append({"role": "assistant", "content": reply.content})
                    messages.append(_user(results))
        return model


async def _carry_out(reply: Reply, draft: Draft) -> list[dict[str, Any]]:
    """Do what an answer asks for, in order, and return what the model is told."""
    results: list[dict[str, Any]] = []
    for number, call in enumerate(reply.calls):
        if not reply.whole:
            text, wrong = "your answer was cut off; nothing of it was done", True
        elif number >= MAX_CALLS:
            text, wrong = f"at most {MAX_CALLS} calls at a time", True
        else:
            text, wrong = await draft.call(call.name, call.given)
        results.append(
            {
                "type": "tool_result",
                "tool_use_id": call.id,
                "content": [{"type": "text", "text": text}],
                "is_error": wrong,
            }
        )
    return results or [{"type": "text", "text": "Call a tool: submit or give_up if you are done."}]


def _user(content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _runner(context: ProposalContext) -> Callable[[bytes], Awaitable[CheckReport]] | None:
    check = context.check
    if check is None:
        return None

    async def run(code: bytes) -> CheckReport:
        try:
            return await cancellable(lambda cancel: check(code, cancel))
        except TrainingError as error:  # no sandbox: nothing is run without one
            raise Paused(str(error), seconds=60.0, cure=error.cure) from None

    return run


def _in_trio(function: Callable[..., Awaitable[str]], *arguments: Any) -> str:
    """Run an async function from a thread: in the loop that it belongs to, or in a new one."""
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:  # not a thread of trio's
        return trio.run(function, *arguments)
    return trio.from_thread.run(function, *arguments)

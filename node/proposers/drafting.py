"""One train.py being edited by a model, through tools, with nothing believed.

Whatever a tool is called with is hostile: any type, any size. A call gives text for the model, and
whether that is an error. Nothing is run but through ``check``, which runs in the sandbox, and only
after size, syntax and scope were screened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from node.escaping import escaped, escaped_lines
from node.proposers.knobs import within
from node.proposers.prompts import fenced
from node.proposers.protocol import MAX_HYPOTHESIS, Change
from training.source import SourceError, ast_hash, literals, replace_literals
from verification.screen import screen

if TYPE_CHECKING:
    from node.proposers.protocol import CheckReport, ProposalContext

MAX_TRACES: Final = 2
MAX_CHECKS: Final = 6
MAX_TRACE_BYTES: Final = 4000
MAX_EFFECT: Final = 1.0
"""Largest effect that can be expected, in bits per byte: beyond it somebody jokes."""

Run = Callable[[bytes], Awaitable["CheckReport"]]


def tools() -> list[dict[str, Any]]:
    """The tools as the Messages API describes them."""

    def tool(name: str, text: str, required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": fields, "required": list(required)}
        return {"name": name, "description": text, "input_schema": schema}

    text, line = {"type": "string"}, {"type": "integer", "minimum": 1}
    return [
        tool("view", "Show the draft with line numbers, or a part of it.", first=line, last=line),
        tool(
            "replace",
            "Replace `old`, which must occur exactly once in the draft, by `new`.",
            ("old", "new"), old=text, new=text,
        ),
        tool("check", "Run the draft in the sandbox for a moment: does it train at all?"),
        tool(
            "submit",
            "Hand the draft in as this experiment. It is checked first if it was not.",
            ("change", "reason", "expected_gain_bpb"),
            change={"type": "string", "description": "what is changed, one sentence"},
            reason={"type": "string", "description": "why that should help, one sentence"},
            expected_gain_bpb={
                "type": "number", "description": "bits per byte gained, positive = better"
            },
        ),
        tool(
            "give_up", "End without an experiment; nothing is measured.", ("reason",), reason=text
        ),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Submission:
    """A draft that was handed in. ``identity`` is its syntax hash."""

    code: bytes
    identity: bytes
    hypothesis: str
    changes: tuple[Change, ...]


class Draft:
    """The edits of one conversation.

    Args:
        context: what is edited, and within which bounds.
        known: tells whether a program of this syntax hash was tried before.
        run: runs a program in the sandbox for a moment; None where there is none.

    Attributes:
        submission: what was handed in, None so far.
        given_up: whether the model wants no more.
    """

    def __init__(
        self, context: ProposalContext, known: Callable[[bytes], bool], run: Run | None
    ) -> None:
        self._context = context
        self._known = known
        self._run = run
        self._code = context.code
        self._passed: bytes | None = None
        self._traces = MAX_TRACES
        self._checks = MAX_CHECKS
        self._warned: set[bytes] = set()
        self.submission: Submission | None = None
        self.given_up = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do."""
        return self.given_up or self.submission is not None

    async def call(self, name: object, given: object) -> tuple[str, bool]:
        """Do what a tool call asks. Return the answer, and whether it is an error."""
        if self.over:
            return "this experiment has been handed in or given up", True
        try:
            arguments = given if isinstance(given, dict) else {}
            match name:
                case "view":
                    return self._view(arguments), False
                case "replace":
                    return self._replace(arguments), False
                case "check":
                    return await self._check(), False
                case "submit":
                    return await self._submit(arguments), False
                case "give_up":
                    self.given_up = True
                    return "given up", False
        except _Refused as error:
            return str(error), True
        return "there is no such tool", True

    def _view(self, given: dict[str, Any]) -> str:
        lines = self._code.decode().split("\n")
        first, last = given.get("first", 1), given.get("last", len(lines))
        if type(first) is not int or type(last) is not int or first < 1:
            raise _Refused("first and last are line numbers, from 1")
        shown = enumerate(lines[first - 1 : max(last, 0)], first)
        return fenced("train.py", "\n".join(f"{number:4} {line}" for number, line in shown))

    def _replace(self, given: dict[str, Any]) -> str:
        old, new = (_bytes(given, name) for name in ("old", "new"))
        if not old:
            raise _Refused("old is empty")
        found = self._code.count(old)
        if found != 1:
            raise _Refused(f"old occurs {found} times in the draft, it must occur exactly once")
        code = self._code.replace(old, new)
        if len(code) > self._context.tier.max_code_bytes:
            raise _Refused(f"the program may have {self._context.tier.max_code_bytes} bytes")
        self._code = code
        return "replaced"

    def _screened(self) -> bytes:
        """The syntax hash of the draft, if it may be run at all."""
        result = screen(self._context.code, self._code, self._context.scope)
        if not result.ok:
            raise _Refused(f"not in scope: {', '.join(result.reasons)}")
        if not within(self._context, self._code, (Change("", 0, 0),)):
            raise _Refused("BATCH_SIZE * SEQ_LEN is beyond the tier's limit")
        return ast_hash(self._code)

    async def _check(self) -> str:
        identity = self._screened()
        if self._run is None:
            return "there is no sandbox here; the draft is in scope"
        if self._checks <= 0:
            raise _Refused("no checks are left: submit what has passed one, or give up")
        self._checks -= 1
        report = await self._run(self._code)
        if report.status == "ok":
            self._passed = identity
            return "it trains"
        text = f"it does not train: {report.status}. {report.detail}"
        if report.trace and self._traces > 0:
            self._traces -= 1
            trace = "\n".join(escaped_lines(report.trace[-MAX_TRACE_BYTES:]))
            text += "\n" + fenced("traceback", trace)
        raise _Refused(text)

    async def _submit(self, given: dict[str, Any]) -> str:
        change, reason = (_bytes(given, name).decode() for name in ("change", "reason"))
        gain = given.get("expected_gain_bpb")
        if not change.strip() or not reason.strip():
            raise _Refused("change and reason are one sentence each")
        if isinstance(gain, bool) or not isinstance(gain, int | float):
            raise _Refused("expected_gain_bpb is a number")
        if not abs(gain) <= MAX_EFFECT:  # false for NaN as well
            raise _Refused(f"expected_gain_bpb is between -{MAX_EFFECT} and {MAX_EFFECT}")
        identity = self._screened()
        if self._known(identity):
            raise _Refused("this very program was tried before")
        if self._context.elsewhere(identity) and identity not in self._warned:
            self._warned.add(identity)
            raise _Refused(
                "other members say that they tried this very program on this base; "
                "try another idea, or submit it again all the same"
            )
        if self._run is not None and self._passed != identity:
            await self._check()
        end = f" (expected {gain:+.4f} bpb)"
        said = f"{change.strip()}; {reason.strip()}"
        hypothesis = escaped(said, MAX_HYPOTHESIS - len(end)) + end
        changes = changed_literals(self._context.code, self._code)
        self.submission = Submission(self._code, identity, hypothesis, changes)
        return "handed in"


def changed_literals(base: bytes, candidate: bytes) -> tuple[Change, ...]:
    """The literals that changed, if that is all that changed; else nothing."""
    try:
        before = {item.name: item.value for item in literals(base)}
        after = {item.name: item.value for item in literals(candidate)}
        new = {name: after[name] for name in before.keys() & after if after[name] != before[name]}
        if ast_hash(replace_literals(base, new)) != ast_hash(candidate):
            return ()
    except SourceError:
        return ()
    return tuple(Change(name, before[name], value) for name, value in new.items())


class _Refused(Exception):
    """A tool call that cannot be done; the text is for the model."""


def _bytes(given: dict[str, Any], name: str) -> bytes:
    value = given.get(name)
    if not isinstance(value, str):
        raise _Refused(f"{name} is missing, or not text")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise _Refused(f"{name} is not valid text") from None

"""A train.py as text: its identity, its size against a base, and the literals at its top.

Nothing here runs the code. Every function takes bytes from anybody and raises ``SourceError`` (and
nothing else) where they are not a program that this module is ready to read.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SOURCE_BYTES = 48 << 10
MAX_NESTING = 60
MAX_NODES = 40_000
MAX_LINE_CHARS = 400
MAX_LINES = 2000

# Linear: the scan below never looks back, whatever the text.
_MARKS = re.compile(r"""\"\"\"|\'\'\'|\"|\'|\#|\n|\\.|[()\[\]{}]""", re.DOTALL)
_KNOB = re.compile(r"[A-Z][A-Z0-9_]*\Z")


class SourceError(TrainingError):
    """Bytes that are not a Python program of the size and shape that a train.py may have."""


@dataclass(frozen=True, slots=True)
class Literal:
    """One upper-case name at the top level, bound once to a number, a bool or a short text.

    ``start`` and ``end`` are the byte offsets of the value in the source.
    """

    name: str
    value: bool | int | float | str
    start: int
    end: int


def parse(code: bytes) -> ast.Module:
    """The syntax tree of ``code``; bounded in memory and depth, also for hostile bytes."""
    text = _text(code)
    _check_shape(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, "train.py", feature_version=(3, 11))
    except SyntaxError as error:
        raise SourceError(f"not a Python 3.11 program (line {error.lineno or 0})") from None
    except (ValueError, RecursionError, MemoryError, OverflowError):
        raise SourceError("not a Python program that can be read safely") from None
    if _larger_than(tree, MAX_NODES):
        raise SourceError(f"the program has more than {MAX_NODES} syntax nodes")
    return tree


def ast_hash(code: bytes) -> bytes:
    """Raw SHA-256 of the program's syntax tree, without comments, layout and docstrings."""
    tree = parse(code)
    try:
        for node in ast.walk(tree):
            _strip_docstring(node)
        text = ast.dump(tree, annotate_fields=False)
    except RecursionError:
        raise SourceError("the program is nested too deeply") from None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def compressed_diff_bytes(base: bytes, candidate: bytes) -> int:
    """Bytes that ``candidate`` takes when compressed by somebody who has ``base``.

    Raw DEFLATE with the base as dictionary, less what the base itself takes that way: an upper
    bound, near enough, on the information that a change carries.
    """
    return max(0, _deflated(base, candidate) - _deflated(base, base))


def added_lines(base: bytes, candidate: bytes) -> tuple[bytes, ...]:
    """Lines of ``candidate`` that are not in ``base`` at their place, in order."""
    old, new = base.splitlines(), candidate.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return tuple(
        line
        for tag, _, _, start, end in matcher.get_opcodes()
        if tag in ("insert", "replace")
        for line in new[start:end]
    )


def literals(code: bytes) -> tuple[Literal, ...]:
    """The knobs of a train.py: its upper-case top-level assignments of plain literals, in order.

    A name that is assigned twice is left out, and so is text of more than 40 characters.
    """
    tree = parse(code)
    offsets = _line_offsets(code)
    found: list[Literal] = []
    times: dict[str, int] = {}
    for name, value in _assignments(tree):
        times[name] = times.get(name, 0) + 1
        plain = _plain(value)
        if plain is None or not _KNOB.match(name):
            continue
        assert value.end_lineno is not None
        assert value.end_col_offset is not None
        start = offsets[value.lineno - 1] + value.col_offset
        end = offsets[value.end_lineno - 1] + value.end_col_offset
        found.append(Literal(name, plain, start, end))
    return tuple(item for item in found if times[item.name] == 1)


def replace_literals(code: bytes, changes: Mapping[str, bool | int | float | str]) -> bytes:
    """``code`` with the values of some literals replaced and every other byte kept.

    Raises ``SourceError`` where a name is not one of ``literals(code)`` or a type would change.
    """
    known = {item.name: item for item in literals(code)}
    edited = code
    for name in sorted(changes, key=lambda key: -known[key].start if key in known else 0):
        if name not in known:
            raise SourceError(f"the program has no literal {name[:40]!r} at its top")
        item = known[name]
        if type(changes[name]) is not type(item.value):
            raise SourceError(f"{name} is {type(item.value).__name__} and has to stay so")
        edited = edited[: item.start] + repr(changes[name]).encode() + edited[item.end :]
    return edited


def _text(code: bytes) -> str:
    if len(code) > MAX_SOURCE_BYTES:
        raise SourceError(f"the program is {len(code)} bytes, at most {MAX_SOURCE_BYTES} are read")
    try:
        text = code.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"the program is not UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise SourceError("the program holds a NUL byte")
    if "\r" in text or "\f" in text or text.startswith("\ufeff"):
        raise SourceError("the program holds a carriage return, form feed or byte order mark")
    return text


def _check_shape(text: str) -> None:
    """Refuses, before the parser sees it, what could exhaust the parser."""
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise SourceError(f"the program has more than {MAX_LINES} lines")
    for line in lines:
        if len(line) > MAX_LINE_CHARS:
            raise SourceError(f"a line is longer than {MAX_LINE_CHARS} characters")
        if len(line) - len(line.lstrip(" \t")) > 4 * MAX_NESTING:
            raise SourceError(f"blocks are nested more than {MAX_NESTING} deep")
    depth = 0
    inside = ""
    for match in _MARKS.finditer(text):
        mark = match.group()
        if inside:
            ended = mark == inside or (mark == "\n" and len(inside) == 1)
            inside = "" if ended else inside
        elif mark in ("'", '"', "'''", '"""'):
            inside = mark
        elif mark == "#":
            inside = "\n"
        elif mark in ("(", "[", "{"):
            depth += 1
            if depth > MAX_NESTING:
                raise SourceError(f"brackets are nested more than {MAX_NESTING} deep")
        elif mark in (")", "]", "}"):
            depth -= 1


def _larger_than(tree: ast.AST, limit: int) -> bool:
    return any(count >= limit for count, _ in enumerate(ast.walk(tree)))


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                yield target.id, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            if isinstance(statement.target, ast.Name):
                yield statement.target.id, statement.value


def _plain(node: ast.expr) -> bool | int | float | str | None:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    if not isinstance(inner, ast.Constant):
        return None
    value = inner.value
    if isinstance(value, bool):
        return None if negative else value
    if isinstance(value, int) and abs(value) < 2**63:
        return -value if negative else value
    if isinstance(value, float) and abs(value) < float("inf"):
        return -value if negative else value
    if isinstance(value, str) and len(value) <= 40 and not negative:
        return value
    return None


def _line_offsets(code: bytes) -> list[int]:
    offsets = [0]
    for line in code.split(b"\n"):
        offsets.append(offsets[-1] + len(line) + 1)
    return offsets


def _deflated(base: bytes, text: bytes) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, base[-32768:])
    return len(packer.compress(text) + packer.flush())


def _strip_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not isinstance(body, list) or not body:
        return
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    kept = [
        item
        for item in body
        if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
    ]
    node.body = kept or [ast.Pass()]

"""A train.py as text: its identity, its size against a base, and the literals at its top.

Nothing here runs the code. Every function takes bytes from anybody and raises ``SourceError`` (and
nothing else) where they are not a program that this module is ready to read.

Answers do not depend on the machine: nodes with Python 3.11 to 3.13 and any zlib must agree. So the
size of a diff is counted by our own code, limits are well below those of any interpreter, and
f-strings, whose grammar changed in 3.12, are refused.
"""

from __future__ import annotations

import ast
import hashlib
import re
import threading
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SOURCE_BYTES = 48 << 10
MAX_NESTING = 60
MAX_DEPTH = 100
MAX_NODES = 40_000
MAX_LINE_CHARS = 400
MAX_LINES = 2000

# Linear: the scan below never looks back, whatever the text.
_MARKS = re.compile(r"""\"\"\"|\'\'\'|\"|\'|\#|\n|\\.|[()\[\]{}]""", re.DOTALL)
_OPENERS = {"#": "\n", "'": "'", '"': '"', "'''": "'''", '"""': '"""'}
_KNOB = re.compile(r"[A-Z][A-Z0-9_]*\Z")
_PREFIX = re.compile(r"[A-Za-z]{0,3}\Z")
_PARSING = threading.Lock()  # two threads at once upset Python's own count of depth (SystemError)
_GRAM = 6
_NEAR = 3
_TRIES = 4


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


@dataclass(frozen=True, slots=True)
class Shape:
    """What a scan of the text alone shows, before any parser sees it."""

    comments: tuple[str, ...]
    f_strings: bool
    ascii_code: bool
    """Whether all characters outside strings and comments are ASCII."""


def scan(code: bytes) -> Shape:
    """Reads ``code`` once, in linear time; refuses what could exhaust a parser."""
    text = _text(code)
    _check_lines(text)
    depth = start = opened = 0
    inside = ""
    comments: list[str] = []
    f_strings, ascii_code = False, True
    for match in _MARKS.finditer(text):
        mark = match.group()
        if inside:
            if mark == inside or (mark == "\n" and len(inside) == 1):
                if inside == "\n":
                    comments.append(text[opened : match.start()])
                inside, start = "", match.end()
        elif mark in _OPENERS:
            inside, opened = _OPENERS[mark], match.start()
            code_before = text[start:opened]
            ascii_code = ascii_code and code_before.isascii()
            prefix = _PREFIX.search(code_before[-3:])
            if mark != "#" and prefix and prefix.group().lower() in ("f", "fr", "rf"):
                f_strings = True
        elif mark in ("(", "[", "{"):
            depth += 1
            if depth > MAX_NESTING:
                raise SourceError(f"brackets are nested more than {MAX_NESTING} deep")
        elif mark in (")", "]", "}"):
            depth -= 1
    if inside == "\n":
        comments.append(text[opened:])
    elif not inside:
        ascii_code = ascii_code and text[start:].isascii()
    return Shape(tuple(comments), f_strings, ascii_code)


def parse(code: bytes) -> ast.Module:
    """The syntax tree of ``code``; bounded in memory and depth, also for hostile bytes."""
    if scan(code).f_strings:
        raise SourceError("the program has f-strings, which Python versions read differently")
    if rb"\N{" in code:
        raise SourceError("the program names characters, which Python versions know differently")
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code.decode(), "train.py", feature_version=(3, 11))
    except SyntaxError as error:
        raise SourceError(f"not a Python 3.11 program (line {error.lineno or 0})") from None
    except (ValueError, RecursionError, MemoryError, OverflowError):
        raise SourceError("not a Python program that can be read safely") from None
    _check_tree(tree)
    return tree


@lru_cache(maxsize=64)
def ast_hash(code: bytes) -> bytes:
    """Raw SHA-256 of the program's syntax tree, without comments, layout and docstrings."""
    tree = parse(code)
    for node in ast.walk(tree):
        _strip_docstring(node)
    return hashlib.sha256("".join(_canonical(tree)).encode("utf-8", "surrogatepass")).digest()


def changed_regions(base: bytes, candidate: bytes) -> tuple[str, ...]:
    """Names of the top-level functions, classes and assignments that differ, sorted.

    Everything else at the top level counts together, as ``<top>``. Comments do not count.
    """
    old, new = _blocks(base), _blocks(candidate)
    return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def compressed_diff_bytes(base: bytes, candidate: bytes) -> int:
    """Bytes that suffice to tell ``candidate`` to somebody who has ``base``; 0 where they agree.

    The length of a real code, so an upper bound on the information that the change carries: copies
    from the base (Elias gamma codes for the jump from where the last one ended and for the length)
    and single bytes (by how common they are in the base), one bit in front of each to tell which.
    Integers only. Takes linear time.
    """
    if base == candidate:
        return 0
    index: dict[bytes, list[int]] = {}
    for place in range(len(base) - _GRAM + 1):
        places = index.setdefault(base[place : place + _GRAM], [])
        if len(places) < _TRIES:
            places.append(place)
    counts = Counter(base)
    total = len(base) + 256
    bits = here = expected = 0
    while here < len(candidate):
        length, place = _common(base, expected, candidate, here), expected
        for other in index.get(candidate[here : here + _GRAM], ()):
            if (reach := _common(base, other, candidate, here)) > length + _NEAR:
                length, place = reach, other
        if length >= (_NEAR if place == expected else _GRAM):
            jump = place - expected
            bits += 1 + _gamma(2 * abs(jump) + (jump < 0) + 1) + _gamma(length)
            here, expected = here + length, place + length
        else:
            bits += 1 + (total // (counts[candidate[here]] + 1)).bit_length()
            here, expected = here + 1, expected + 1
    return (bits + 7) // 8


def added_lines(base: bytes, candidate: bytes) -> tuple[bytes, ...]:
    """Lines of ``candidate`` that ``base`` has not, or not as often, in order."""
    left = Counter(base.split(b"\n"))
    added = []
    for line in candidate.split(b"\n"):
        if left[line] > 0:
            left[line] -= 1
        else:
            added.append(line)
    return tuple(added)


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


def _check_lines(text: str) -> None:
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise SourceError(f"the program has more than {MAX_LINES} lines")
    for line in lines:
        if len(line) > MAX_LINE_CHARS:
            raise SourceError(f"a line is longer than {MAX_LINE_CHARS} characters")


def _check_tree(tree: ast.Module) -> None:
    """Refuses trees that a recursive walk could not take, whatever the interpreter's limits."""
    level: list[ast.AST] = [tree]
    nodes = depth = 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise SourceError("the program is nested too deeply, or too large")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


@lru_cache(maxsize=16)
def _blocks(code: bytes) -> dict[str, str]:
    blocks: dict[str, str] = {}
    for node in parse(code).body:
        name = "<top>"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        _strip_docstring(node)
        blocks[name] = blocks.get(name, "") + "".join(_canonical(node))
    return blocks


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


def _common(base: bytes, place: int, text: bytes, here: int) -> int:
    """Length of the common prefix of ``base[place:]`` and ``text[here:]``."""
    limit = min(len(base) - place, len(text) - here)
    length, step = 0, 16
    while (
        length < limit
        and base[place + length : place + length + step]
        == (text[here + length : here + length + step])
    ):
        length, step = length + step, step * 2
    while step > 1:
        step //= 2
        if (
            base[place + length : place + length + step]
            == (text[here + length : here + length + step])
        ):
            length += step
    return max(0, min(length, limit))


def _gamma(value: int) -> int:
    """Bits of the Elias gamma code of ``value`` >= 1."""
    return 2 * value.bit_length() - 1


def _canonical(value: object) -> Iterator[str]:
    """The tree as text that is the same on every supported Python (``ast.dump`` is not)."""
    if isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for name in sorted(set(value._fields) - {"type_params", "type_comment", "kind"}):
            yield f" {name}="
            yield from _canonical(getattr(value, name, None))
        yield ")"
    elif isinstance(value, list):
        yield "["
        for item in value:
            yield from _canonical(item)
            yield ","
        yield "]"
    else:
        yield f"{type(value).__name__}:{value!r}"


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

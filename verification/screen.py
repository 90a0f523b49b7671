"""Scope rules: what a claim's diff may look like before anybody spends a run on it.

``screen`` reads, it never runs. It is a pure function of base, candidate and the charter's rules,
the same on every supported Python, and bounded in time and memory for any bytes.

What is covered: size, syntax, what the contract requires, hidden characters, and the channels that
could carry a table of the holdout past a glance (compressed size of the diff, added bytes, distinct
new identifiers, numbers, long texts). What is not: what the code does. That is for the sandbox.
"""

from __future__ import annotations

import ast
import unicodedata
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING

from training.source import (
    SourceError,
    added_lines,
    ast_hash,
    changed_regions,
    compressed_diff_bytes,
    parse,
    scan,
)
from verification.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUIRED = {"build_model": 2, "train": 3}
_CODE_LIMIT = 48 << 10


class ScreenRulesError(VerificationError):
    """Scope rules in a charter that cannot be read; no claim of that swarm is screened."""


@dataclass(frozen=True, slots=True)
class ScreenRules:
    """The charter's limits on one diff, all in whole numbers. A missing rule has its default."""

    max_code_bytes: int = 24 << 10
    """Largest program, bytes."""
    max_diff_bytes: int = 512
    """Largest compressed diff against the base, bytes."""
    max_added_bytes: int = 4096
    """Bytes of all lines that are added or changed."""
    max_new_identifiers: int = 40
    """Distinct names that the base does not have."""
    max_new_numbers: int = 40
    """Distinct number literals that the base does not have."""
    max_text_bytes: int = 600
    """Longest string or comment that the base does not have, bytes."""

    @classmethod
    def from_map(cls, value: Mapping[str, object]) -> ScreenRules:
        """Reads the charter's map; unknown or impossible rules raise ``ScreenRulesError``."""
        names = {field.name for field in fields(cls)}
        given: dict[str, int] = {}
        for name, limit in value.items():
            if name not in names:
                raise ScreenRulesError(
                    "the charter has a scope rule that this version does not know",
                    cure="update this program, or use the rules in the manual",
                )
            if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= 1 << 20:
                raise ScreenRulesError(
                    f"the scope rule {name} is not a whole number from 0 to {1 << 20}",
                    cure=f"correct {name} in the charter",
                )
            given[name] = limit
        rules = cls(**given)
        if not 1 <= rules.max_code_bytes <= _CODE_LIMIT:
            raise ScreenRulesError(
                f"the scope rule max_code_bytes is not between 1 and {_CODE_LIMIT}",
                cure="correct max_code_bytes in the charter",
            )
        return rules

    def to_map(self) -> dict[str, int]:
        """The rules as a plain map for a charter."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class ScreenResult:
    """``ok``, or the ``reasons`` out of a closed vocabulary (never words of the candidate).

    ``diff_bytes`` is the compressed size of the diff, ``added_bytes`` that of its lines, and
    ``regions`` the top-level names whose text changed (for rules on touched regions).
    """

    reasons: tuple[str, ...]
    diff_bytes: int = 0
    added_bytes: int = 0
    regions: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the diff is in scope."""
        return not self.reasons


def screen(
    base_code: bytes, candidate_code: bytes, rules: ScreenRules | Mapping[str, object]
) -> ScreenResult:
    """Checks the diff from ``base_code`` to ``candidate_code``; runs neither.

    ``rules`` may be the charter's map. Raises ``ScreenRulesError`` for rules that cannot be read;
    any candidate, however hostile, gives a result.
    """
    if not isinstance(rules, ScreenRules):
        rules = ScreenRules.from_map(rules)
    if len(candidate_code) > min(rules.max_code_bytes, _CODE_LIMIT):
        return ScreenResult(("code_too_large",))
    if reason := _odd_bytes(candidate_code):
        return ScreenResult((reason,))
    try:
        shape = scan(candidate_code)
        if shape.f_strings:
            return ScreenResult(("f_string",))
        if not shape.ascii_code:
            return ScreenResult(("non_ascii_code",))
        tree = parse(candidate_code)
        same = ast_hash(candidate_code) == ast_hash(base_code)
        old, new = _words(base_code), _words(candidate_code)
        regions = changed_regions(base_code, candidate_code)
    except SourceError:
        return ScreenResult(("not_a_program",))
    reasons = ["no_change"] if same else []
    reasons.extend(_contract(tree))
    added = sum(len(line) + 1 for line in added_lines(base_code, candidate_code))
    diff = compressed_diff_bytes(base_code, candidate_code)
    if diff > rules.max_diff_bytes:
        reasons.append("diff_too_large")
    if added > rules.max_added_bytes:
        reasons.append("added_too_much")
    if len(new.names - old.names) > rules.max_new_identifiers:
        reasons.append("too_many_new_identifiers")
    if len(new.numbers - old.numbers) > rules.max_new_numbers:
        reasons.append("too_many_new_numbers")
    if any(
        len(text.encode(errors="surrogatepass")) > rules.max_text_bytes
        for text in new.texts - old.texts
    ):
        reasons.append("text_too_long")
    return ScreenResult(tuple(reasons), diff, added, regions)


class _Words:
    """Identifiers, numbers and texts (strings and comments) of a program."""

    def __init__(self, code: bytes) -> None:
        self.names: set[str] = set()
        self.numbers: set[str] = set()
        self.texts: set[str] = set(scan(code).comments)
        for node in ast.walk(parse(code)):
            if isinstance(node, ast.Constant):
                if isinstance(node.value, str | bytes):
                    self.texts.add(str(node.value))
                elif isinstance(node.value, int | float | complex):
                    self.numbers.add(repr(node.value))
                continue
            for name in _NAME_FIELDS:
                value = getattr(node, name, None)
                self.names.update([value] if isinstance(value, str) else [])
            if isinstance(node, ast.Global | ast.Nonlocal):
                self.names.update(node.names)


@lru_cache(maxsize=16)
def _words(code: bytes) -> _Words:
    return _Words(code)


# Fields of syntax nodes that hold an identifier: names, attributes, arguments, imports, handlers.
_NAME_FIELDS = ("id", "name", "attr", "arg", "asname", "module", "rest")


def _odd_bytes(code: bytes) -> str:
    """A reason where the text holds what a reader cannot see; "" otherwise."""
    try:
        text = code.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    for char in set(text):
        if char in "\n\t" or " " <= char <= "~":
            continue
        # Control, format (bidirectional marks, zero width), private use and unassigned characters,
        # combining marks, every separator but the plain blank, and compatibility forms.
        if _UCD.category(char)[0] in "CMZ" or _UCD.normalize("NFKC", char) != char:
            return "odd_characters"
        if char in _BLANK:
            return "odd_characters"
    return ""


# A fixed version of the Unicode tables, so that all nodes judge alike.
_UCD = unicodedata.ucd_3_2_0
# Characters that are letters or symbols by category and yet show nothing.
_BLANK = "\u115f\u1160\u2800"


def _contract(tree: ast.Module) -> list[str]:
    """Whether both functions are there, once, at the top, callable with positions alone."""
    found: dict[str, list[ast.stmt]] = {name: [] for name in REQUIRED}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name in found:
                found[node.name].append(node)
    reasons = []
    for name, count in REQUIRED.items():
        if not found[name]:
            reasons.append(f"lacks_{name}")
        elif len(found[name]) > 1:
            reasons.append(f"defines_{name}_twice")
        elif not _takes(found[name][0], count):
            reasons.append(f"{name}_has_wrong_arguments")
    return reasons


def _takes(node: ast.stmt, count: int) -> bool:
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return False
    arguments = node.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    return (
        positional - len(arguments.defaults) <= count <= positional
        and arguments.vararg is None
        and arguments.kwarg is None
        and len(arguments.kwonlyargs) == sum(item is not None for item in arguments.kw_defaults)
    )

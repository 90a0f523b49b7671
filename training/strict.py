"""Strict readers for the plain maps that challenges travel as.

A charter carries its challenges as maps of ``str``, ``int``, ``bytes``, lists and maps, because
canonical msgpack holds nothing else. Such a map comes from a peer, so every reader here names the
field that is wrong and accepts neither unknown nor missing keys, nor ``bool`` in place of ``int``.
The error type is the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from training.errors import TrainingError

INT_MAX = 2**63 - 1


class Reader:
    """Reads the fields of one map; raises ``error`` with the path of the first bad field."""

    def __init__(
        self,
        value: object,
        keys: Collection[str],
        error: type[TrainingError],
        where: str,
    ) -> None:
        if not isinstance(value, dict):
            raise error(f"{where} is not a map")
        if any(not isinstance(key, str) for key in value):
            raise error(f"{where} has a key that is not text")
        missing = sorted(set(keys) - set(value))
        unknown = sorted(set(value) - set(keys))
        if missing:
            raise error(f"{where} lacks {', '.join(missing)}")
        if unknown:
            raise error(f"{where} has {len(unknown)} unknown field(s)")
        self._map: Mapping[str, object] = value
        self._error = error
        self._where = where

    def fail(self, name: str, why: str) -> TrainingError:
        """An error about the field ``name``, to be raised by the caller."""
        return self._error(f"{self._where}.{name} {why}")

    def integer(self, name: str, low: int, high: int = INT_MAX) -> int:
        """An ``int`` in [low, high]; ``bool`` is refused."""
        value = self._map[name]
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fail(name, "is not an integer")
        if not low <= value <= high:
            raise self.fail(name, f"is not between {low} and {high}")
        return value

    def text(self, name: str, max_chars: int, choices: Collection[str] | None = None) -> str:
        """Printable ASCII of 1 to ``max_chars`` characters, out of ``choices`` where given."""
        value = self._map[name]
        if not isinstance(value, str):
            raise self.fail(name, "is not text")
        if not 1 <= len(value) <= max_chars or not value.isascii() or not value.isprintable():
            raise self.fail(name, f"is not 1 to {max_chars} printable ASCII characters")
        if choices is not None and value not in choices:
            raise self.fail(name, f"is not one of {', '.join(sorted(choices))}")
        return value

    def blob(self, name: str, low: int, high: int) -> bytes:
        """``bytes`` of ``low`` to ``high`` bytes."""
        value = self._map[name]
        if not isinstance(value, bytes):
            raise self.fail(name, "is not bytes")
        if not low <= len(value) <= high:
            raise self.fail(name, f"is not {low} to {high} bytes long")
        return value

    def items(self, name: str, low: int, high: int) -> list[object]:
        """A list (or tuple) of ``low`` to ``high`` items."""
        value = self._map[name]
        if not isinstance(value, list | tuple):
            raise self.fail(name, "is not a list")
        if not low <= len(value) <= high:
            raise self.fail(name, f"does not hold {low} to {high} items")
        return list(value)

    def raw(self, name: str) -> object:
        """The value as it is, for a nested reader."""
        return self._map[name]

"""Field types of records, and the strict mapping between maps and frozen dataclasses.

Bounds are part of the type (``msgspec.Meta``); a value outside them refuses the whole record.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from swarm.errors import RecordError

MAX_CODE = 48 * 1024
MAX_REFS = 32

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Nano = Annotated[int, Meta(ge=-(10**12), le=10**12)]
"""Nano-bits per byte: 1_000_000_000 is one bit per byte. Bounded at a thousand bits per byte."""
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
Text = Annotated[str, Meta(max_length=2000)]
Code = Annotated[bytes, Meta(max_length=MAX_CODE)]
Short = Annotated[str, Meta(max_length=120)]


T = TypeVar("T")
_sorted = msgspec.msgpack.Encoder(order="sorted")


def to_map(value: Any) -> dict[str, Any]:
    """A dataclass as a map of plain values, ready for :func:`swarm.wire.encode`."""
    plain: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return plain


def from_map(kind: type[T], data: Any) -> T:
    """Build ``kind`` from a map that :func:`swarm.wire.decode` returned, strictly.

    Raises:
        RecordError: a field is unknown, missing, of the wrong type or out of range.
    """
    try:
        value = msgspec.convert(data, kind, builtin_types=(bytes,), strict=True)
        same = _sorted.encode(value) == _sorted.encode(data)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise RecordError(f"{kind.__name__.lower()}: {_plain(str(error))}") from None
    if not same:
        raise RecordError(f"{kind.__name__.lower()}: unknown or missing fields")
    return value


def _plain(text: str) -> str:
    return "".join(char if 32 <= ord(char) < 127 else "?" for char in text)[:200]

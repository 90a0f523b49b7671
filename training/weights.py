"""Weights as bytes: safetensors in one canonical form, packed in the sandbox, checked outside it.

The layout is that of safetensors: u64 length of a JSON header, the header, the tensors' bytes.
safetensors allows many files for the same tensors, and its reader accepts duplicate names and NaN;
here there is exactly one form (names sorted, no gaps, compact JSON, padded with spaces to eight
bytes, no metadata) and ``unpack`` accepts nothing else. Standard library only: it runs on both
sides of the border.

Names, dtypes and shapes can hold data, too. So the header is told before a run has seen a token and
must stay as it is (``training.runner``), and its bytes count like numbers.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Final, NamedTuple

WIDTHS: Final[dict[str, int]] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_HEADER_BYTES: Final = 1 << 20
MAX_TENSORS: Final = 1 << 13
MAX_EMPTY: Final = 64
"""Tensors without a number: a few buffers that are not filled yet."""
MAX_NAME: Final = 256
MAX_DIMENSIONS: Final = 8
MAX_EXTENT: Final = 1 << 40
_LENGTH: Final = struct.Struct("<Q")


class WeightsError(ValueError):
    """Bytes that are not weights in canonical form."""


class TensorBytes(NamedTuple):
    """One tensor: name (printable ASCII), dtype (a key of ``WIDTHS``), shape, row-major bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def pack(tensors: list[TensorBytes]) -> bytes:
    """The canonical file of these tensors; raises WeightsError where one cannot be in it."""
    tensors = sorted(tensors, key=lambda tensor: tensor.name)
    header = _header(tensors)
    return b"".join((_LENGTH.pack(len(header)), header, *(tensor.data for tensor in tensors)))


def unpack(data: bytes) -> list[TensorBytes]:
    """Reads a canonical file; raises WeightsError for anything else. ``data`` is not copied."""
    view = memoryview(data)
    raw = header_of(data)[_LENGTH.size :]
    try:
        header = json.loads(raw.decode("ascii"))
    except (ValueError, RecursionError):
        raise WeightsError("the header is not JSON") from None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise WeightsError("the header is not a map of tensors")
    tensors = []
    at = _LENGTH.size + len(raw)
    for name, entry in header.items():
        dtype, shape = _entry(entry)
        end = at + WIDTHS[dtype] * math.prod(shape)
        if end > len(data):
            raise WeightsError("a tensor reaches past the end")
        if dtype == "BOOL" and bytes(view[at:end]).strip(b"\0\1"):
            raise WeightsError("a truth value that is neither")
        tensors.append(TensorBytes(name, dtype, shape, view[at:end]))
        at = end
    # Sizes now follow from the shapes. That offsets, order, names and spelling are canonical, and
    # that no name occurs twice, follows from writing the header again.
    if at != len(data) or _header(sorted(tensors, key=lambda tensor: tensor.name)) != raw:
        raise WeightsError("not in canonical form")
    return tensors


def elements(tensors: list[TensorBytes]) -> int:
    """Numbers in all tensors together, buffers included."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def weight(tensors: list[TensorBytes]) -> int:
    """What counts against a tier's ``max_params``: numbers, or float32 numbers that would take as
    many bytes as the whole file, names and shapes included, whichever is more. So whatever is kept
    is counted, as what it could hold."""
    stored = len(_header(sorted(tensors, key=lambda tensor: tensor.name)))
    stored += sum(len(tensor.data) for tensor in tensors)
    return max(elements(tensors), -(-stored // 4))


def size_cap(max_params: int) -> int:
    """The largest file that is read in a tier with ``max_params``: the widest type and a header. It
    is then counted by ``weight``."""
    return max_params * max(WIDTHS.values()) + MAX_HEADER_BYTES


def header_of(data: bytes) -> bytes:
    """The first part of a canonical file, which holds names, dtypes and shapes; raises
    WeightsError."""
    if len(data) < _LENGTH.size:
        raise WeightsError("too short")
    (length,) = _LENGTH.unpack_from(data)
    if length > MAX_HEADER_BYTES - _LENGTH.size or _LENGTH.size + length > len(data):
        raise WeightsError("the header does not fit")
    return data[: _LENGTH.size + length]


def _entry(entry: object) -> tuple[str, tuple[int, ...]]:
    if not isinstance(entry, dict):
        raise WeightsError("a tensor is not described by a map")
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise WeightsError("an unknown dtype")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise WeightsError("a shape that is not one")
    for extent in shape:
        if type(extent) is not int or not 0 <= extent <= MAX_EXTENT:
            raise WeightsError("an extent that is not one")
    return dtype, tuple(shape)


def _header(tensors: list[TensorBytes]) -> bytes:
    """The canonical header of tensors that are sorted by name."""
    header: dict[str, object] = {}
    at = 0
    for name, dtype, shape, data in tensors:
        if not 1 <= len(name) <= MAX_NAME or not name.isascii() or not name.isprintable():
            raise WeightsError("a name that is not 1 to 256 printable ASCII characters")
        if dtype not in WIDTHS or len(data) != WIDTHS[dtype] * math.prod(shape):
            raise WeightsError("a tensor whose bytes do not fit its shape")
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    if len(header) != len(tensors) or len(tensors) > MAX_TENSORS:
        raise WeightsError("a name twice, or too many tensors")
    if sum(not data for _, _, _, data in tensors) > MAX_EMPTY:
        raise WeightsError("too many empty tensors")
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    return text + b" " * (-len(text) % 8)

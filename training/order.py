"""A permutation that needs no memory: the seed's order of any number of documents.

A balanced Feistel network of eight rounds over the next power of four, with cycle walking, on
64-bit integers. It spreads documents well; it hides nothing, and need not.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_ROUNDS: Final = 8
_BLOCK: Final = 4096


class Order:
    """The numbers 0 to ``count - 1`` in an order drawn from ``seed`` and ``round_trip``.

    Iteration yields each number once. ``count`` is 1 to 2**40.
    """

    def __init__(self, count: int, seed: int, round_trip: int) -> None:
        self._count = count
        self._half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        material = seed.to_bytes(8, "little") + round_trip.to_bytes(8, "little")
        drawn = hashlib.sha512(b"lazaretto order" + material).digest()
        self._keys = np.frombuffer(drawn, "<u8", _ROUNDS).astype(np.uint64)

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self._count, _BLOCK):
            block = np.arange(start, min(start + _BLOCK, self._count), dtype=np.uint64)
            yield from self._at(block).tolist()

    def _at(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        found = self._network(places)
        while (outside := found >= self._count).any():
            found[outside] = self._network(found[outside])
        return found

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit of a value moves every bit of the result."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

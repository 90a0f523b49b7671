"""Fingerprints of text: which documents share passages, quickly and whatever their format.

Text is normalised (ASCII lower case, runs of white space become one blank). Every window of
``WINDOW`` bytes that begins at a word is hashed, and the windows whose hash falls below a limit are
kept, about one in ``KEEP`` words. The choice depends on the window's own bytes alone, so two texts
that share a passage keep the same windows of it, wherever it stands. Used to keep near-duplicates
out of different splits (``training.corpus``) and to find the corpus on disk
(``training.leakscan``). The hash resists accidents, not an adversary: both uses look at this
machine's own files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WINDOW = 48
KEEP = 8
COMMON = 8
"""A window found in more documents than this is boilerplate and relates nobody."""

_CHUNK = 1 << 18
_BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _power_table() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    size = _CHUNK + WINDOW
    forward = np.full(size, _BASE, dtype=np.uint64)
    forward[0] = 1
    backward = np.full(size, pow(_BASE, -1, 1 << 64), dtype=np.uint64)
    backward[0] = 1
    return np.multiply.accumulate(forward), np.multiply.accumulate(backward)


_POWERS, _INVERSES = _power_table()


def fingerprints(text: bytes) -> NDArray[np.uint64]:
    """The sorted, distinct fingerprints of a text; empty for less than ``WINDOW`` bytes of it."""
    data = np.frombuffer(b" " + b" ".join(text.lower().split()), dtype=np.uint8)
    found = [
        _chunk(data[start : start + _CHUNK + WINDOW])
        for start in range(0, max(1, len(data) - WINDOW), _CHUNK)
    ]
    return np.unique(np.concatenate(found))


def _chunk(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    if len(data) <= WINDOW:
        return np.empty(0, dtype=np.uint64)
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * _POWERS[: len(data)], out=sums[1:])
    starts = np.flatnonzero(data[: len(data) - WINDOW] == 32) + 1
    hashes = (sums[starts + WINDOW] - sums[starts]) * _INVERSES[starts]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    return hashes[hashes < np.uint64(_MASK // KEEP)]


def shared(prints: Sequence[NDArray[np.uint64]]) -> list[tuple[int, int, int]]:
    """Pairs (i, j, n), i < j: documents i and j share n fingerprints that few others have."""
    if not prints:
        return []
    values = np.concatenate(prints)
    owners = np.repeat(np.arange(len(prints)), [len(item) for item in prints])
    order = np.lexsort((owners, values))
    values, owners = values[order], owners[order]
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    rare = counts[inverse] <= COMMON
    values, owners = values[rare], owners[rare]
    codes = []
    for step in range(1, COMMON):
        same = values[:-step] == values[step:]
        codes.append(owners[:-step][same] * len(prints) + owners[step:][same])
    pairs, times = np.unique(np.concatenate(codes), return_counts=True)
    return [
        (int(pair) // len(prints), int(pair) % len(prints), int(count))
        for pair, count in zip(pairs, times, strict=True)
    ]


def seen_elsewhere(prints: Sequence[NDArray[np.uint64]]) -> list[float]:
    """For each document the share of its fingerprints that another document has too."""
    if not prints:
        return []
    values, counts = np.unique(np.concatenate(prints), return_counts=True)
    twice = values[counts > 1]
    return [float(np.isin(item, twice).mean()) if len(item) else 0.0 for item in prints]

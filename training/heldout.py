"""Which text is held out, and which text may then not be trained on.

The pool is a sample of the documents, in memory. From those that share passages with no other one,
excerpts are taken for the dev split and the folds. After that a document may be trained on only if
it shares no passage with an excerpt.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from training.fingerprint import COMMON, fingerprints, seen_elsewhere, shared

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

KIB = 1 << 10
MIN_DOCUMENT_BYTES = 256
EXCERPT_BYTES = 8 * KIB
POOL_EXCERPTS = 8
"""Documents longer than so many excerpts are not held out: too much of them would be lost."""
MIN_SHARED = 3
"""A document of the train split shares fewer windows than this with any excerpt held out."""


class HeldOut:
    """The excerpts of ``dev`` and of each fold. Both are empty where the pool is too small.

    ``used`` are the documents of the pool that excerpts were taken from, ``copies`` those that
    say what a longer one says: neither may be trained on.
    """

    def __init__(
        self,
        texts: Sequence[bytes],
        *,
        seed: int,
        folds: int,
        fold_bytes: int,
        dev_bytes: int,
        spare: int,
        excerpt_bytes: int,
        known: Collection[int] = (),
    ) -> None:
        """Chooses at most ``folds`` folds out of ``texts``, none of it from the ``known``; the
        documents taken have at most ``spare`` bytes in all."""
        prints = [fingerprints(text) for text in texts]
        related = _related(prints)
        self.copies = {index for index, word in enumerate(related) if word == "copy"}
        self._salt = seed.to_bytes(8, "little")
        self._texts = texts
        self.order = sorted(range(len(texts)), key=self._drawn)
        alone = {at for at, word in enumerate(related) if word == "alone" and at not in known}
        pool = self._pool(alone, spare, excerpt_bytes)
        longest = excerpt_bytes
        if sum(min(len(texts[at]), longest) for at in pool) < dev_bytes + folds * fold_bytes:
            longest *= 2  # text is scarce: longer excerpts, of fewer documents to a fold
        self.used: set[int] = set()
        self.dev = self._excerpts(pool, dev_bytes, longest)
        self.folds: list[list[bytes]] = []
        while self.dev and len(self.folds) < folds:
            fold = self._excerpts(pool, fold_bytes, longest)
            if not fold:
                break
            self.folds.append(fold)
        self._index_excerpts(np.concatenate([*prints, np.empty(0, np.uint64)]))

    def shares(self, text: bytes) -> bool:
        """Whether ``text`` shares passages with an excerpt that is held out."""
        prints = fingerprints(text)
        left = np.searchsorted(self._values, prints, side="left")
        right = np.searchsorted(self._values, prints, side="right")
        hit = np.flatnonzero(right > left)
        if len(hit) < MIN_SHARED:
            return False
        owners = np.concatenate([self._owners[left[at] : right[at]] for at in hit])
        return bool(np.unique(owners, return_counts=True)[1].max() >= MIN_SHARED)

    def _drawn(self, index: int) -> bytes:
        return hashlib.sha256(self._salt + self._texts[index]).digest()

    def _index_excerpts(self, everything: NDArray[np.uint64]) -> None:
        """Which windows are held out, without those that many documents of the pool have."""
        excerpts = [item for split in (self.dev, *self.folds) for item in split]
        prints = [fingerprints(item) for item in excerpts]
        windows, times = np.unique(everything, return_counts=True)
        values = np.concatenate([*prints, np.empty(0, np.uint64)])
        owners = np.repeat(np.arange(len(prints)), [len(item) for item in prints])
        rare = ~np.isin(values, windows[times > COMMON])
        order = np.argsort(values[rare], kind="stable")
        self._values, self._owners = values[rare][order], owners[rare][order]

    def _pool(self, alone: set[int], spare: int, excerpt: int) -> list[int]:
        """Documents to hold out, in order, with at most ``spare`` bytes in all.

        Those that an excerpt uses up for the most part come first, so that little text is lost.
        """
        picked: set[int] = set()
        for limit in (2 * excerpt, POOL_EXCERPTS * excerpt):
            for index in self.order:
                size = len(self._texts[index])
                if index in alone and index not in picked and size <= min(limit, spare):
                    picked.add(index)
                    spare -= size
        return [index for index in self.order if index in picked]

    def _excerpts(self, pool: Sequence[int], size: int, longest: int) -> list[bytes]:
        """Excerpts of documents of ``pool`` with ``size`` bytes in all; [] where there are too few.

        The documents taken are added to ``used``, all or none of them.
        """
        taken: list[int] = []
        excerpts: list[bytes] = []
        room = size
        for index in pool:
            if index in self.used:
                continue
            taken.append(index)
            excerpts.append(_excerpt(self._texts[index], min(longest, room), self._salt))
            room -= len(excerpts[-1])
            if room < MIN_DOCUMENT_BYTES:
                self.used.update(taken)
                return excerpts
        return []


def boundary(text: bytes, wanted: int) -> int:
    """The end of a line near ``wanted``, else of a character, at or before it and above 0."""
    if wanted >= len(text):
        return len(text)
    line = text.rfind(b"\n", wanted - 4 * KIB if wanted > 4 * KIB else 0, wanted) + 1
    if line > 0 and line > wanted - 4 * KIB:
        return line
    while text[wanted] & 0xC0 == 0x80:
        wanted -= 1
    return wanted


def _related(prints: Sequence[NDArray[np.uint64]]) -> list[str]:
    """For each text ``copy`` (of a longer one), ``kin`` (shares passages) or ``alone``."""
    verdict = [
        "alone" if len(item) >= 2 and share <= 0.1 else "kin"
        for item, share in zip(prints, seen_elsewhere(prints), strict=True)
    ]
    for left, right, count in shared(prints):
        small, large = sorted((left, right), key=lambda index: (len(prints[index]), index))
        if count >= 0.6 * len(prints[small]):
            verdict[small] = "copy"
            verdict[large] = "kin" if verdict[large] == "alone" else verdict[large]
        elif count >= max(3, 0.02 * len(prints[small])):
            for index in (small, large):
                verdict[index] = "kin" if verdict[index] == "alone" else verdict[index]
    return verdict


def _excerpt(text: bytes, size: int, salt: bytes) -> bytes:
    """At most ``size`` bytes of ``text``, from the start of a line picked by hash."""
    if len(text) <= size:
        return text
    draw = int.from_bytes(hashlib.sha256(salt + b"start" + text).digest()[:8], "little")
    start = text.rfind(b"\n", 0, draw % (len(text) - size) + 1) + 1
    while text[start] & 0xC0 == 0x80:
        start += 1
    return text[start : boundary(text, start + size)]

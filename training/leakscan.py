"""Does any file that the sandbox can read hold the corpus?

Text that candidate code can read is free training data, and where it is the corpus it is the
holdout. The scan compares fingerprints of every readable file with those of every document.

What is covered: whole documents, documents inside larger files, and longer passages of them, in
any plain-text form, also with other white space or letter case, and the strings in compiled Python.
What is not: compressed or encrypted files, machine code (ELF files are passed over), and passages
below a few hundred bytes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.errors import TrainingError
from training.fingerprint import COMMON, fingerprints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from training.documents import Documents

MIN_SHARED = 4
SHARE = 0.15
_BLOCK = 32 << 20


class LeakError(TrainingError):
    """A file that the sandbox can read holds text of the corpus. ``path`` names the file."""

    def __init__(self, path: Path, shared: int) -> None:
        super().__init__(
            f"{path}, which the sandbox can read, holds text of the corpus "
            f"({shared} passages of one document)",
            cure="leave that text out of the corpus, or keep the file out of the sandbox",
        )
        self.path = path
        self.shared = shared


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What a scan without findings has read."""

    files: int
    text_bytes: int


def leak_scan(splits: Iterable[Documents], readable: Iterable[Path]) -> LeakReport:
    """Compares the documents of ``splits`` with all files below the paths ``readable``.

    Raises ``LeakError`` for the first file that shares at least ``MIN_SHARED`` fingerprints, and
    ``SHARE`` of all, with one document. Links are not followed: give the paths that are bound.
    """
    prints = [fingerprints(document) for split in splits for document in split]
    if not prints:
        return LeakReport(0, 0)
    values = np.concatenate(prints)
    owners = np.repeat(np.arange(len(prints)), [len(item) for item in prints])
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    limits = np.array([max(MIN_SHARED, SHARE * len(item)) for item in prints])
    files = total = 0
    for path in _walk(readable):
        files += 1
        for block in _blocks(path):
            total += len(block)
            worst = _most_shared(fingerprints(block), values, owners, limits)
            if worst:
                raise LeakError(path, worst)
    return LeakReport(files, total)


def _most_shared(
    found: NDArray[np.uint64],
    values: NDArray[np.uint64],
    owners: NDArray[np.int64],
    limits: NDArray[np.float64],
) -> int:
    """Passages shared with the document that is hit hardest, 0 where all are below their limit."""
    left = np.searchsorted(values, found, side="left")
    right = np.searchsorted(values, found, side="right")
    counts = right - left
    rare = (counts > 0) & (counts <= COMMON)
    if not rare.any():
        return 0
    hits = [owners[a:b] for a, b in zip(left[rare], right[rare], strict=True)]
    per_document = np.bincount(np.concatenate(hits), minlength=len(limits))
    over = per_document >= limits
    return int(per_document[over].max()) if over.any() else 0


def _walk(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_dir():
            for folder, folders, names in os.walk(root, followlinks=False):
                folders.sort()
                yield from (Path(folder, name) for name in sorted(names))
        else:
            yield root


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in blocks that overlap a little; nothing for links, devices and ELF files."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # gone, a link, or not readable by us: the sandbox runs with fewer rights than we do
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return
        tail = b""
        while block := file.read(_BLOCK):
            if not tail and block.startswith(b"\x7fELF"):
                return
            yield tail + block
            tail = block[-4096:]

"""Does any file that the sandbox can read hold the corpus?

Text that candidate code can read is free training data, and where it is the corpus it is the
holdout. The scan compares fingerprints of every readable file with those of every document.

What is covered: whole documents, documents inside larger files, and longer passages of them, in
any plain-text form, also with other white space or letter case, and the strings in compiled Python.
What is not: compressed or encrypted files, machine code (ELF files and archives of them are passed
over), and passages below a few hundred bytes.
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
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from training.documents import Documents

MIN_SHARED = 4
SHARE = 0.15
_BLOCK = 32 << 20
_MACHINE_CODE = (b"\x7fELF", b"!<arch>\n")
"""How programs, libraries, and archives of compiled objects begin."""


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


def sandbox_files(devices: Iterable[str]) -> Iterator[Path]:
    """What lies readable in a sandbox of one of these devices, before candidate code starts or
    later, and what its process holds in memory; raises ``LayoutError`` where that cannot be found
    out on this machine."""
    from training.residue import text_in_memory

    for device in sorted(set(devices)):
        if device == "cpu":
            from training.layout import readable_files

            yield from readable_files()
            yield text_in_memory()
        else:
            from training.toolchain import device_layout

            yield from device_layout().readable()


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
    index = _Index([document for split in splits for document in split])
    limits = np.maximum(MIN_SHARED, SHARE * index.sizes)
    files: set[Path] = set()
    total = 0
    for path, block in _read(readable):
        shared = index.shared(block, common=COMMON)
        if (shared >= limits).any():
            raise LeakError(path, int(shared[shared >= limits].max()))
        files.add(path)
        total += len(block)
    return LeakReport(len(files), total)


def found_in(
    documents: Sequence[bytes], readable: Iterable[Path], *, common: int | None = None
) -> set[int]:
    """Which of ``documents`` share ``MIN_SHARED - 1`` passages or more with one readable file.

    Stricter than ``leak_scan``: what is left passes it, whatever excerpts are made of it. With
    ``common``, passages in more documents than that are boilerplate, a licence say, and no leak.
    """
    index = _Index(documents)
    found: set[int] = set()
    for _, block in _read(readable):
        found.update(np.flatnonzero(index.shared(block, common=common) >= MIN_SHARED - 1).tolist())
    return found


class _Index:
    """Fingerprints of many documents, to look blocks of other text up in."""

    def __init__(self, documents: Sequence[bytes]) -> None:
        prints = [fingerprints(document) for document in documents]
        self.sizes = np.array([len(item) for item in prints], dtype=np.int64)
        values = np.concatenate([*prints, np.empty(0, dtype=np.uint64)])
        owners = np.repeat(np.arange(len(prints)), self.sizes)
        order = np.argsort(values, kind="stable")
        self._values, self._owners = values[order], owners[order]

    def shared(self, block: bytes, *, common: int | None) -> NDArray[np.int64]:
        """How many fingerprints of ``block`` each document has; without those too ``common``."""
        prints = fingerprints(block)
        left = np.searchsorted(self._values, prints, side="left")
        right = np.searchsorted(self._values, prints, side="right")
        hit = right > left
        if common is not None:
            hit &= right - left <= common
        ranges = [self._owners[a:b] for a, b in zip(left[hit], right[hit], strict=True)]
        owners = np.concatenate([*ranges, np.empty(0, dtype=np.int64)])
        return np.bincount(owners, minlength=len(self.sizes))


def _read(roots: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    for path in _walk(roots):
        for block in _blocks(path):
            yield path, block


def _walk(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_dir():
            for folder, folders, names in os.walk(root, followlinks=False):
                folders.sort()
                yield from (Path(folder, name) for name in sorted(names))
        else:
            yield root


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in blocks that overlap a little; nothing for links, devices and machine code."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # gone, a link, or not readable by us: the sandbox runs with fewer rights than we do
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return
        tail = b""
        while block := file.read(_BLOCK):
            if not tail and block.startswith(_MACHINE_CODE):
                return
            yield tail + block
            tail = block[-4096:]

"""Text as it travels: one split is one canonical file, named by its hash.

A split (train, dev, or one holdout fold) is a list of documents. ``Documents.to_bytes`` has exactly
one form for a given list and ``Documents.from_bytes`` accepts nothing else, so the SHA-256 of the
file names the text. Layout, all integers unsigned little-endian:

    8 bytes   magic  b"LZDOCS1\\n"
    4 bytes   number of documents, 1 to MAX_DOCUMENTS
    4 bytes   length of each document, 1 to MAX_DOCUMENT_BYTES
    ...       the documents, one after the other, nothing behind them

A document is valid UTF-8 without NUL, so byte 0 is free to mark a boundary between documents.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.strict import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAGIC = b"LZDOCS1\n"
MAX_DOCUMENTS = 1 << 17
MAX_DOCUMENT_BYTES = 4 << 20
MAX_SPLIT_BYTES = 256 << 20
MAX_FOLDS = 512


class CorpusError(TrainingError):
    """Text that is not a valid split, or a manifest that does not describe one."""


@dataclass(frozen=True, slots=True)
class SplitRef:
    """What a manifest says about one split file.

    ``sha256`` is the raw hash of the file, ``size`` its length in bytes, ``documents`` the number
    of documents and ``text_bytes`` the sum of their lengths in UTF-8 bytes.
    """

    sha256: bytes
    size: int
    documents: int
    text_bytes: int

    def to_map(self) -> dict[str, int | bytes]:
        """The reference as a plain map."""
        return {
            "sha256": self.sha256,
            "size": self.size,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
        }

    @classmethod
    def from_map(cls, value: object, where: str = "split") -> SplitRef:
        """Reads a map; raises ``CorpusError`` unless every field is there, typed and consistent."""
        read = Reader(value, ("sha256", "size", "documents", "text_bytes"), CorpusError, where)
        ref = cls(
            sha256=read.blob("sha256", 32, 32),
            size=read.integer("size", 1, MAX_SPLIT_BYTES),
            documents=read.integer("documents", 1, MAX_DOCUMENTS),
            text_bytes=read.integer("text_bytes", 1, MAX_SPLIT_BYTES),
        )
        if ref.size != len(MAGIC) + 4 + 4 * ref.documents + ref.text_bytes:
            raise read.fail("size", "does not follow from documents and text_bytes")
        return ref

    @classmethod
    def of(cls, data: bytes) -> SplitRef:
        """The reference of a split file's bytes; raises ``CorpusError`` where they are not one."""
        documents = Documents.from_bytes(data)
        return cls(hashlib.sha256(data).digest(), len(data), len(documents), documents.text_bytes)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The splits of one corpus: public ``train`` and ``dev``, and holdout ``folds`` in order."""

    train: SplitRef
    dev: SplitRef
    folds: tuple[SplitRef, ...]

    def __iter__(self) -> Iterator[SplitRef]:
        yield self.train
        yield self.dev
        yield from self.folds

    @property
    def holdout_bytes(self) -> int:
        """Text bytes of all holdout folds together: what limits how much a diff may carry."""
        return sum(fold.text_bytes for fold in self.folds)

    def to_map(self) -> dict[str, object]:
        """The manifest as a plain map."""
        return {
            "train": self.train.to_map(),
            "dev": self.dev.to_map(),
            "folds": [fold.to_map() for fold in self.folds],
        }

    @classmethod
    def from_map(cls, value: Mapping[str, object] | object) -> Manifest:
        """Reads a map; raises ``CorpusError``. Two splits with one hash are refused."""
        read = Reader(value, ("train", "dev", "folds"), CorpusError, "manifest")
        manifest = cls(
            train=SplitRef.from_map(read.raw("train"), "manifest.train"),
            dev=SplitRef.from_map(read.raw("dev"), "manifest.dev"),
            folds=tuple(
                SplitRef.from_map(item, f"manifest.folds[{index}]")
                for index, item in enumerate(read.items("folds", 1, MAX_FOLDS))
            ),
        )
        hashes = [ref.sha256 for ref in manifest]
        if len(set(hashes)) != len(hashes):
            raise read.fail("folds", "name the same split twice")
        return manifest


class Documents:
    """The documents of one split, read-only. ``len`` counts documents, iteration yields bytes."""

    __slots__ = ("_data", "_offsets")

    def __init__(self, documents: Iterable[bytes]) -> None:
        """Takes the documents in order; raises ``CorpusError`` where one breaks the format."""
        items = list(documents)
        if not 1 <= len(items) <= MAX_DOCUMENTS:
            raise CorpusError(f"a split holds 1 to {MAX_DOCUMENTS} documents, not {len(items)}")
        for item in items:
            _check_document(item)
        self._data = b"".join(items)
        self._offsets = (0, *accumulate(len(item) for item in items))
        if self._header_bytes() + len(self._data) > MAX_SPLIT_BYTES:
            raise CorpusError(f"a split is at most {MAX_SPLIT_BYTES} bytes")

    @classmethod
    def from_bytes(cls, data: bytes) -> Documents:
        """Reads a split file. Raises ``CorpusError`` unless it is exactly the canonical form."""
        if len(data) > MAX_SPLIT_BYTES:
            raise CorpusError(f"a split is at most {MAX_SPLIT_BYTES} bytes, this has {len(data)}")
        start = len(MAGIC) + 4
        if data[: len(MAGIC)] != MAGIC or len(data) < start:
            raise CorpusError("not a split file: the first bytes are wrong")
        (count,) = struct.unpack_from("<I", data, len(MAGIC))
        if not 1 <= count <= MAX_DOCUMENTS or len(data) < start + 4 * count:
            raise CorpusError("the split's table of documents does not fit the file")
        lengths = struct.unpack_from(f"<{count}I", data, start)
        body = start + 4 * count
        if body + sum(lengths) != len(data):
            raise CorpusError("the split's lengths do not add up to the file")
        ends = list(accumulate(lengths, initial=body))
        return cls(data[left:right] for left, right in pairwise(ends))

    def to_bytes(self) -> bytes:
        """The one canonical file of these documents."""
        lengths = [right - left for left, right in pairwise(self._offsets)]
        return b"".join(
            (MAGIC, struct.pack(f"<{len(lengths) + 1}I", len(lengths), *lengths), self._data)
        )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._data[self._offsets[index] : self._offsets[index + 1]]

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Documents):
            return NotImplemented
        return self._data == other._data and self._offsets == other._offsets

    def __hash__(self) -> int:
        return hash((self._data, self._offsets))

    @property
    def text_bytes(self) -> int:
        """Sum of the documents' lengths in UTF-8 bytes: the denominator of bits per byte."""
        return len(self._data)

    def _header_bytes(self) -> int:
        return len(MAGIC) + 4 * len(self._offsets)


def _check_document(item: bytes) -> None:
    if not 1 <= len(item) <= MAX_DOCUMENT_BYTES:
        raise CorpusError(f"a document is 1 to {MAX_DOCUMENT_BYTES} bytes, not {len(item)}")
    if b"\0" in item:
        raise CorpusError("a document holds a NUL byte")
    try:
        item.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"a document is not UTF-8 (byte {error.start})") from None

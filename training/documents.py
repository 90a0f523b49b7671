"""Text as it travels: one split is one canonical file, named by its hash.

A split (one shard of train, dev, or one holdout fold) is a list of documents.
``Documents.to_bytes`` has exactly one form for a given list and ``Documents.from_bytes`` accepts
nothing else, so the SHA-256 of the file names the text. Layout, all integers unsigned
little-endian:

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
from typing import TYPE_CHECKING, TypeAlias

from training.errors import TrainingError
from training.strict import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

MAGIC = b"LZDOCS1\n"
MAX_DOCUMENTS = 1 << 17
MAX_DOCUMENT_BYTES = 4 << 20
MAX_SPLIT_BYTES = 256 << 20
MAX_FOLDS = 512
MAX_SHARDS = 512
_REF = struct.Struct("<32sII")


class CorpusError(TrainingError):
    """Text that is not a valid split, or a manifest that does not describe one."""


@dataclass(frozen=True, slots=True)
class SplitRef:
    """What a manifest says about one split file.

    ``sha256`` is the raw hash of the file, ``size`` its length in bytes, ``documents`` the number
    of documents.
    """

    sha256: bytes
    size: int
    documents: int

    @property
    def text_bytes(self) -> int:
        """Sum of the documents' lengths in UTF-8 bytes: it follows from the other two."""
        return self.size - len(MAGIC) - 4 - 4 * self.documents

    @classmethod
    def of(cls, data: bytes) -> SplitRef:
        """The reference of a split file's bytes; raises ``CorpusError`` where they are not one."""
        documents = Documents.from_bytes(data)
        return cls(hashlib.sha256(data).digest(), len(data), len(documents))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The splits of one corpus: public ``train`` (in one or more files, the shards) and ``dev``,
    and holdout ``folds`` in order."""

    train: tuple[SplitRef, ...]
    dev: SplitRef
    folds: tuple[SplitRef, ...]

    def __iter__(self) -> Iterator[SplitRef]:
        yield from self.train
        yield self.dev
        yield from self.folds

    @property
    def holdout_bytes(self) -> int:
        """Text bytes of all holdout folds together: what limits how much a diff may carry."""
        return sum(fold.text_bytes for fold in self.folds)

    def to_map(self) -> dict[str, object]:
        """The manifest as a plain map. References are packed, 40 bytes each, because a charter
        has to hold hundreds of them: hash, size (u32), documents (u32), little-endian."""
        return {
            "train": _pack(self.train),
            "dev": _pack((self.dev,)),
            "folds": _pack(self.folds),
        }

    @classmethod
    def from_map(cls, value: Mapping[str, object] | object) -> Manifest:
        """Reads a map; raises ``CorpusError``. Two splits with one hash are refused."""
        read = Reader(value, ("train", "dev", "folds"), CorpusError, "manifest")
        manifest = cls(
            train=_unpack(read, "train", MAX_SHARDS),
            dev=_unpack(read, "dev", 1)[0],
            folds=_unpack(read, "folds", MAX_FOLDS),
        )
        hashes = [ref.sha256 for ref in manifest]
        if len(set(hashes)) != len(hashes):
            raise read.fail("folds", "name the same split twice")
        return manifest


def _pack(refs: Iterable[SplitRef]) -> bytes:
    return b"".join(_REF.pack(ref.sha256, ref.size, ref.documents) for ref in refs)


def _unpack(read: Reader, name: str, most: int) -> tuple[SplitRef, ...]:
    data = read.blob(name, _REF.size, most * _REF.size)
    if len(data) % _REF.size:
        raise read.fail(name, f"is not a multiple of {_REF.size} bytes")
    refs = tuple(SplitRef(*fields) for fields in _REF.iter_unpack(data))
    for ref in refs:
        if not (1 <= ref.documents <= MAX_DOCUMENTS and ref.documents <= ref.text_bytes):
            raise read.fail(name, "names a split with an impossible number of documents")
        if ref.size > MAX_SPLIT_BYTES:
            raise read.fail(name, f"names a split of more than {MAX_SPLIT_BYTES} bytes")
    return refs


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


class Shards:
    """A text in several split files, read one at a time when it is needed.

    ``read`` gives the documents of a reference and raises ``CorpusError`` where it cannot; the
    caller of this class has checked that the references are of one text.
    """

    def __init__(self, refs: Sequence[SplitRef], read: Callable[[SplitRef], Documents]) -> None:
        self.refs = tuple(refs)
        self._read = read

    @classmethod
    def of(cls, documents: Documents) -> Shards:
        """A text of one file, which is here already."""
        return cls([SplitRef.of(documents.to_bytes())], lambda _: documents)

    def shard(self, index: int) -> Documents:
        """The documents of one file."""
        return self._read(self.refs[index])

    def __len__(self) -> int:
        return sum(ref.documents for ref in self.refs)

    def __iter__(self) -> Iterator[bytes]:
        return (item for index in range(len(self.refs)) for item in self.shard(index))

    @property
    def text_bytes(self) -> int:
        """Sum of the documents' lengths in UTF-8 bytes."""
        return sum(ref.text_bytes for ref in self.refs)


Text: TypeAlias = Documents | Shards
"""What can be trained on."""


def _check_document(item: bytes) -> None:
    if not 1 <= len(item) <= MAX_DOCUMENT_BYTES:
        raise CorpusError(f"a document is 1 to {MAX_DOCUMENT_BYTES} bytes, not {len(item)}")
    if b"\0" in item:
        raise CorpusError("a document holds a NUL byte")
    try:
        item.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"a document is not UTF-8 (byte {error.start})") from None

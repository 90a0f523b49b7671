"""The tokens of a train text, made once and kept on disk, so that a run only reads what it needs.

One file for each split file, in ``<cache>/tokens``, named by a hash of the split and the tokenizer.
It is written under another name, made durable and then renamed: after a kill the finished ones are
there, and nothing else counts. Every document has a checksum, which is checked each time that it is
read. A file that nobody has used for ``KEEP_DAYS`` days is removed when the next one is made.
Text of at most ``SMALL_BYTES`` is kept in memory instead.

Layout, all integers unsigned little-endian: magic, number of documents n (u32), bytes of a token
(u32), number of tokens (u64); n ends of documents in tokens (u32), n checksums (u32); the tokens,
with a boundary before each document.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from training.cache import cache_root, locked
from training.documents import CorpusError, Shards
from training.tokenizer import BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from training.documents import Documents, Text
    from training.tokenizer import Tokenizer

SMALL_BYTES: Final = 1 << 20
KEEP_DAYS: Final = 14
_MAGIC: Final = b"LZTOKS1\n"
_HEAD: Final = struct.Struct("<8sIIQ")
_BOUNDARY: Final = bytes([BOUNDARY])


class TokenPart(Protocol):
    """The tokens of one split file: documents by number, each with its boundary before it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[Any]: ...


def open_tokens(
    text: Text,
    tokenizer: Tokenizer,
    progress: Callable[[int, int], None] | None = None,
) -> list[TokenPart]:
    """The tokens of ``text``, made now where they are not there yet.

    ``progress`` is told (bytes done, bytes in all). Raises ``CorpusError`` where text cannot be
    read, and ``TrainingError`` where there is no room or no directory for a cache.
    """
    if text.text_bytes <= SMALL_BYTES:
        return [_Memory(text, tokenizer)]
    shards = text if isinstance(text, Shards) else Shards.of(text)
    folder = cache_root() / "tokens"
    folder.mkdir(exist_ok=True)
    parts: list[TokenPart] = []
    done = 0
    for index, ref in enumerate(shards.refs):
        key = hashlib.sha256(b"lazaretto tokens 1" + ref.sha256 + tokenizer.name).hexdigest()
        path = folder / f"{key}.tokens"
        if not path.is_file():
            with locked(folder / "lock"):
                if not path.is_file():  # another process may have made it meanwhile
                    _forget(folder)
                    _make(path, shards.shard(index), tokenizer)
        parts.append(_File(path, ref.documents, np.dtype(tokenizer.dtype)))
        done += ref.text_bytes
        if progress is not None:
            progress(done, shards.text_bytes)
    return parts


class _Memory:
    """Tokens of a small text."""

    def __init__(self, text: Text, tokenizer: Tokenizer) -> None:
        self._documents = [_tokens(item, tokenizer) for item in text]

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self._documents[index]


class _File:
    """Tokens in a file of ours, mapped into memory."""

    def __init__(self, path: Path, documents: int, dtype: np.dtype[Any]) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD.size)
            size = path.stat().st_size
            os.utime(path)
            magic, count, width, tokens = _HEAD.unpack(head)
            start = _HEAD.size + 8 * count
            if (magic, count, width) != (_MAGIC, documents, dtype.itemsize):
                raise ValueError
            if size != start + width * tokens:
                raise ValueError
            tables = np.fromfile(path, "<u4", 2 * count, offset=_HEAD.size)
            self._tokens: NDArray[Any] = np.memmap(path, dtype, "r", start, tokens)
        except (OSError, ValueError, struct.error):
            raise self._damaged() from None
        self._ends, self._sums = tables[:count], tables[count:]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> NDArray[Any]:
        start = int(self._ends[index - 1]) if index else 0
        found = np.asarray(self._tokens[start : int(self._ends[index])])
        if not len(found) or zlib.crc32(found.data) != self._sums[index]:
            raise self._damaged()
        return found

    def _damaged(self) -> CorpusError:
        with contextlib.suppress(OSError):
            self._path.unlink()
        return CorpusError(
            "tokens that were kept on disk are damaged; they were removed, the text is untouched",
            cure="run the same command again: they are made anew (and check the disk)",
        )


def _tokens(document: bytes, tokenizer: Tokenizer) -> NDArray[Any]:
    if tokenizer.vocab_size == 256:
        return np.frombuffer(_BOUNDARY + document, "u1")
    found = np.empty(0, tokenizer.dtype)
    return np.concatenate([np.full(1, BOUNDARY, found.dtype), tokenizer.encode(document)])


def _make(path: Path, documents: Documents, tokenizer: Tokenizer) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.part")
    ends: list[int] = []
    sums: list[int] = []
    total = 0
    width = np.dtype(tokenizer.dtype).itemsize
    try:
        with scratch.open("wb") as file:
            file.seek(_HEAD.size + 8 * len(documents))
            for document in documents:
                tokens = _tokens(document, tokenizer)
                file.write(tokens.data)
                total += len(tokens)
                ends.append(total)
                sums.append(zlib.crc32(tokens.data))
            file.seek(0)
            file.write(_HEAD.pack(_MAGIC, len(ends), width, total))
            file.write(np.array(ends + sums, "<u4").data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CorpusError(
            f"the tokens of the train text cannot be kept in {path.parent}: {error.strerror}",
            cure="free some space there, or set XDG_CACHE_HOME to a directory with room",
        ) from None


def _forget(folder: Path) -> None:
    """Removes what a killed process left, and what nobody has used for long; holds the lock."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime > KEEP_DAYS * 24 * 3600
            if path.suffix == ".part" or (old and path.suffix == ".tokens"):
                path.unlink()

"""Where text comes from: folders and files of text, JSON lines and Parquet, and the Hub.

A ``Source`` yields documents one at a time, as (name, UTF-8 text without NUL), in an order that
depends on nothing but their names, and can be read again. What is no text is passed over and
counted, never fatal; only a source without any text is an error. Memory is bounded by
``MAX_TEXT_BYTES`` for a document, and by one batch of rows for Parquet.

    ends in                            a document is
    .jsonl .jsonl.gz .jsonl.zst        the field ``text`` of a line
    .parquet                           a row of the column ``text``
    anything else                      a file, or a piece of 4 MiB of a larger one
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from training.documents import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXT_BYTES: Final = 64 << 20
"""A document of JSON lines or Parquet that is larger is passed over."""
MAX_FILES: Final = 1_000_000
BLOCK_BYTES: Final = 4 << 20
ROWS: Final = 256
JSON_LINES: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_PASSED_BY: Final = frozenset({"__pycache__", ".git"})


class Source:
    """The documents of the files that ``files`` names. Each iteration reads from the start.

    ``name`` is what a person is told; ``passed_over`` counts by reason what the latest iteration
    could not use.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.passed_over: Counter[str] = Counter()

    def files(self) -> Iterator[tuple[str, Path]]:
        """The name of each file and where it lies, in the order in which they are read."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        self.passed_over.clear()
        found = False
        for name, path in self.files():
            for document in read_file(path, name, self.passed_over):
                found = True
                yield document
        if not found:
            raise CorpusError(
                f"{self.name} holds no text{self.report()}",
                cure="give UTF-8 text files, .jsonl or .parquet files with a field called text, "
                "or a folder of them",
            )

    def report(self) -> str:
        """What was passed over, as the end of a sentence; empty where nothing was."""
        if not self.passed_over:
            return ""
        parts = [f"{count} {reason}" for reason, count in sorted(self.passed_over.items())]
        return f" (passed over: {', '.join(parts)})"


class Local(Source):
    """One file, or all files below a folder, in the order of a hash of their names.

    So the first files are a fair sample of all, whatever the folders are called. Symbolic links
    and special files are not followed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def files(self) -> Iterator[tuple[str, Path]]:
        if not self.path.is_dir():
            yield self.path.name, self.path
            return
        names = [path.relative_to(self.path).as_posix() for path in _walk(self.path)]
        for name in sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest()):
            yield name, self.path / name


def open_source(spec: str) -> Source:
    """The source that a user means: a path, or ``hf://datasets/OWNER/NAME[/PATH][@REVISION]``.

    Raises ``CorpusError`` where there is no such thing.
    """
    if spec.startswith("hf://"):
        from training.hub import Hub

        return Hub(spec)
    path = Path(spec)
    if not path.exists():
        raise CorpusError(
            f"there is no {spec}",
            cure="give a folder, a file, or hf://datasets/OWNER/NAME",
        )
    return Local(path)


def read_file(path: Path, name: str, passed_over: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """The documents of one file, by its name's ending; counts what cannot be used."""
    file = _open(path)
    if file is None:
        passed_over["files that cannot be opened or are none"] += 1
        return
    with file:
        try:
            if name.endswith(JSON_LINES):
                yield from _json_lines(file, name, passed_over)
            elif name.endswith(".parquet"):
                yield from _parquet(file, name, passed_over)
            else:
                yield from _plain(file, name, passed_over)
        except (OSError, EOFError):  # damaged archives, disks that fail
            passed_over["files that are damaged or cannot be read"] += 1


def _plain(file: IO[bytes], name: str, passed_over: Counter[str]) -> Iterator[tuple[str, bytes]]:
    rest = b""
    while block := file.read(BLOCK_BYTES - len(rest)):
        text = rest + block
        end = len(text)
        if len(text) == BLOCK_BYTES:  # there may be more: cut at a line, or at a character
            end = text.rfind(b"\n") + 1 or _character(text)
        text, rest = text[:end], text[end:]
        if not _is_text(text):
            passed_over["files that are not UTF-8 text"] += 1
            return
        yield name, text
    if rest and _is_text(rest):
        yield name, rest


def _character(text: bytes) -> int:
    """Where the last character begins that may be cut off."""
    return next(at for at in range(len(text) - 1, len(text) - 5, -1) if text[at] & 0xC0 != 0x80)


def _json_lines(
    file: IO[bytes], name: str, passed_over: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    lines = file
    if name.endswith(".gz"):
        lines = gzip.open(file)  # type: ignore[assignment]
    elif name.endswith(".zst"):
        lines = _zstandard(file)
    number = 0
    while line := lines.readline(MAX_TEXT_BYTES):
        number += 1
        if not line.endswith(b"\n") and len(line) == MAX_TEXT_BYTES:
            while (more := lines.readline(BLOCK_BYTES)) and not more.endswith(b"\n"):
                pass
            passed_over["lines that are too long"] += 1
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            item = None
        text = item.get("text") if isinstance(item, dict) else None
        yield from _document(f"{name}:{number}", text, passed_over, "lines without a text")


def _zstandard(file: IO[bytes]) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise CorpusError(
            "reading .zst files needs the package zstandard",
            cure="pip install 'lazaretto[zstd]'   (or decompress the files)",
        ) from None
    return io.BufferedReader(_Decompressed(zstandard.ZstdDecompressor().stream_reader(file)))


class _Decompressed(io.RawIOBase):
    """A zstandard stream as a file: its errors are those of a damaged file."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import zstandard

        try:
            data = self._stream.read(len(buffer))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from None
        buffer[: len(data)] = data
        return len(data)


def _parquet(file: IO[bytes], name: str, passed_over: Counter[str]) -> Iterator[tuple[str, bytes]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CorpusError(
            "reading .parquet files needs the package pyarrow",
            cure="pip install 'lazaretto[parquet]'",
        ) from None
    number = 0
    try:
        table = parquet.ParquetFile(file)
        index = table.schema_arrow.get_field_index("text")
        kind = table.schema_arrow.field(index).type if index >= 0 else None
        if kind not in (pyarrow.string(), pyarrow.large_string()):
            passed_over["Parquet files without a column of text called text"] += 1
            return
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(ROWS, row_groups=[group], columns=["text"]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    label = f"{name}:{number}"
                    yield from _document(label, value, passed_over, "rows without a text")
    except (pyarrow.ArrowException, UnicodeDecodeError):
        passed_over["files that are damaged or cannot be read"] += 1


def _document(
    name: str, text: object, passed_over: Counter[str], reason: str
) -> Iterator[tuple[str, bytes]]:
    """The document, if it is one."""
    try:
        data = text.encode() if isinstance(text, str) else b""
    except UnicodeEncodeError:  # lone surrogates, which JSON can spell
        data = b""
    if not data or b"\0" in data:
        passed_over[reason] += 1
    elif len(data) > MAX_TEXT_BYTES:
        passed_over["documents that are too long"] += 1
    else:
        yield name, data


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _open(path: Path) -> IO[bytes] | None:
    """The file, if it is a regular one and no link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    file = os.fdopen(handle, "rb")
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return file
    file.close()
    return None


def _walk(root: Path) -> list[Path]:
    """Files below ``root``, no link followed; raises ``CorpusError`` above ``MAX_FILES``."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = [name for name in folders if name not in _PASSED_BY]
        found.extend(Path(folder, name) for name in names)
        if len(found) > MAX_FILES:
            raise CorpusError(
                f"{root} holds more than {MAX_FILES} files", cure="give a smaller folder"
            )
    return found

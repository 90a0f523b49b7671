"""Content-addressed blobs on the local disk. No network, no libp2p.

A blob is named by its sha256 (32 bytes). It becomes visible under its name only when it is whole,
verified and durable: temporary file, fsync, rename, fsync of the folder. An unfinished blob that is
being fetched is a ``.part`` file, which survives an interruption; nothing of it is used before the
hash is right.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from swarm.errors import SwarmError

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

CHUNK = 256 * 1024
MAX_BLOB = 4 * 1024**3
WEEK_S = 7 * 86_400.0


class BlobError(SwarmError):
    """A blob is missing, too large or damaged."""


class BlobStore:
    """Blobs in a folder, as ``ab/<sha256 in hex>``. Blocking; cheap but for ``put`` of much data.

    Args:
        folder: made if missing. Several stores, also of several processes, may share it.
        max_total: bytes that all blobs together may take.
    """

    def __init__(self, folder: Path, *, max_total: int = 64 * 1024**3) -> None:
        self._folder = folder
        self._parts = folder / "parts"
        self._max_total = max_total
        self._parts.mkdir(parents=True, exist_ok=True)
        self._total = 0
        for left in self._parts.glob("*.tmp"):  # of a process that was killed
            with suppress(OSError), left.open("r+b") as file:
                if _lock(file):
                    left.unlink()

    def path(self, digest: bytes) -> Path:
        """Return where the blob is, or would be."""
        name = digest.hex()
        if len(name) != 64:
            raise BlobError("a blob is named by 32 bytes")
        return self._folder / name[:2] / name

    def has(self, digest: bytes) -> bool:
        """Say whether the blob is held."""
        return self.path(digest).is_file()

    def size(self, digest: bytes) -> int:
        """Return the size of a held blob in bytes.

        Raises:
            BlobError: not held.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise _missing(digest) from None

    def open(self, digest: bytes) -> BinaryIO:
        """Open a held blob for reading.

        Raises:
            BlobError: not held.
        """
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise _missing(digest) from None

    def get(self, digest: bytes, max_size: int = 1024**3) -> bytes:
        """Return a held blob, verified again. A damaged one is removed, so that it is fetched anew.

        Raises:
            BlobError: not held, larger than ``max_size``, or damaged on disk.
        """
        with self.open(digest) as file:
            data = file.read(max_size + 1)
        if len(data) > max_size:
            raise BlobError(f"blob {digest.hex()[:12]} is larger than {max_size} bytes")
        if hashlib.sha256(data).digest() != digest:
            self.remove(digest)
            raise BlobError(
                f"blob {digest.hex()[:12]} was damaged on disk and has been removed",
                cure="it is fetched from a peer again; check the disk",
            )
        return data

    def put(self, data: bytes) -> bytes:
        """Store bytes, return their sha256. They are durable when this returns.

        Raises:
            BlobError: no room, or the disk refuses.
        """
        digest = hashlib.sha256(data).digest()
        if not self.has(digest):
            part = self.part(digest, fresh=True)
            try:
                part.write(data)
                part.commit()
            finally:
                part.close()
        return digest

    def put_file(self, path: Path) -> bytes:
        """Store a copy of a file, return its sha256.

        Raises:
            BlobError: no room, the disk refuses, or the file changed while it was read.
        """
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").digest()
            if self.has(digest):
                return digest
            source.seek(0)
            part = self.part(digest, fresh=True)
            try:
                while chunk := source.read(CHUNK):
                    part.write(chunk)
                part.commit()
            finally:
                part.close()
        return digest

    def remove(self, digest: bytes) -> None:
        """Remove a blob, if held."""
        path = self.path(digest)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self._total -= size

    def total(self) -> int:
        """Bytes that all blobs take now."""
        self._total = sum(path.stat().st_size for path in self._folder.glob("??/*"))
        return self._total

    def collect(self, keep: Set[bytes], target: int, *, min_age_s: float = 3600.0) -> int:
        """Drop blobs, the oldest first, until at most ``target`` bytes are left; return what went.

        Never one of ``keep``, and none younger than ``min_age_s``: its record may not be signed
        yet. Unfinished parts that nobody has touched for a week go first.
        """
        now = time.time()
        freed = 0
        for path in self._parts.glob("*.part"):
            with suppress(OSError):
                if now - path.stat().st_mtime > WEEK_S:
                    freed += path.stat().st_size
                    path.unlink()
        total = self.total()
        ages = sorted((path.stat().st_mtime, path) for path in self._folder.glob("??/*"))
        for changed, path in ages:
            if total <= target or now - changed < min_age_s:
                break
            if bytes.fromhex(path.name) in keep:
                continue
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                total -= size
                freed += size
        self._total = total
        return freed

    def part(self, digest: bytes, *, fresh: bool = False) -> Part:
        """Open the unfinished blob of this name, going on where it was left.

        ``fresh``, or if somebody else is writing it: a part of its own, which is not kept.
        """
        self.total()
        return Part(self, digest, self._parts / f"{digest.hex()}.part", fresh)

    def _make_room(self, size: int) -> None:
        if self._total + size > self._max_total:
            raise BlobError(
                f"the blob store is full ({self._max_total} bytes); nothing stored was lost",
                cure="raise its limit, or remove blobs that are no longer needed",
            )

    def _adopt(self, part: Path, digest: bytes, size: int) -> None:
        target = self.path(digest)
        target.parent.mkdir(exist_ok=True)
        os.replace(part, target)
        for folder in (target.parent, self._folder):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._total += size


class Part:
    """A blob on its way. Write in order, then ``commit``; ``close`` in any case.

    Attributes:
        offset: bytes held so far.
    """

    _file: BinaryIO

    def __init__(self, store: BlobStore, digest: bytes, path: Path, fresh: bool) -> None:
        self._store = store
        self._digest = digest
        self._path = path
        self._hash = hashlib.sha256()
        self.offset = 0
        self._committed = False
        self._kept = not fresh
        if self._kept:
            self._file = _open_or_make(path)
            if not _lock(self._file):
                self._file.close()
                self._kept = False
        if not self._kept:
            self._path = path.with_name(f"{os.urandom(8).hex()}.tmp")
            self._file = _open_or_make(self._path)
            _lock(self._file)
        while chunk := self._file.read(CHUNK):
            self._hash.update(chunk)
            self.offset += len(chunk)

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            BlobError: no room, or the disk refuses.
        """
        if self.offset + len(chunk) > MAX_BLOB:
            raise BlobError(f"a blob is at most {MAX_BLOB} bytes")
        self._store._make_room(self.offset + len(chunk))
        try:
            self._file.write(chunk)
        except OSError as error:
            raise BlobError(f"the disk refuses: {error.strerror}", cure="free some space") from None
        self._hash.update(chunk)
        self.offset += len(chunk)

    def right(self) -> bool:
        """Say whether what is held so far is the whole blob."""
        return self._hash.digest() == self._digest

    def commit(self) -> None:
        """Make the blob durable and visible.

        Raises:
            BlobError: the hash is wrong (the part is emptied), or the disk refuses.
        """
        if not self.right():
            self.empty()
            raise BlobError(f"the content is not that of blob {self._digest.hex()[:12]}")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._store._adopt(self._path, self._digest, self.offset)
            self._committed = True
        except OSError as error:
            raise BlobError(f"the disk refuses: {error.strerror}", cure="free some space") from None

    def empty(self) -> None:
        """Throw away what is held."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.offset = 0

    def close(self) -> None:
        """Close the file; an unfinished part stays for the next attempt unless it is empty."""
        if not self._committed and not (self._kept and self.offset):
            self._path.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk, said before: what is left to be written is lost
            self._file.close()


def _open_or_make(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")


def _lock(file: BinaryIO) -> bool:
    """Lock an open file; return False if another holds it. The lock ends when it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _missing(digest: bytes) -> BlobError:
    return BlobError(f"blob {digest.hex()[:12]} is not held here", cure="fetch it from a peer")

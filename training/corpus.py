"""Text -> train tokens, dev split, sealed holdout folds.

What is covered: exact duplicates are dropped; a document goes into one split only; folds and dev
are made of excerpts of several unrelated documents each; no document of the train split shares
passages with an excerpt that is held out. The same source, seed and sizes give the same files.

What is not: translations, paraphrases, and renamed copies of code; near-duplicates inside the train
split where it is larger than the pool.

The source is read once for the pool, a fair sample of at most ``POOL_BYTES`` (or three times what
is held out) among the text that is needed; and, where the pool does not hold all of that, once more
for the train split, whose shards are written as they fill. Memory: about six times the pool, one
shard, and 16 bytes for each document read. Reading stops when there is enough.

The default text is the part of the running Python's standard library that the sandbox does not
carry, because training never imports it; every machine has it without a network.
"""

from __future__ import annotations

import hashlib
import heapq
import sysconfig
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from training.documents import MAX_FOLDS, CorpusError, Documents, Manifest, SplitRef
from training.fingerprint import COMMON
from training.heldout import EXCERPT_BYTES, KIB, MIN_DOCUMENT_BYTES, HeldOut, boundary
from training.leakscan import found_in
from training.readers import read_file
from training.shardfile import MAX_PIECE_BYTES, write_shards, write_split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Progress = Callable[[str, int, int], None]

MIN_DEFAULT_BYTES: Final = 2_500_000
PIECE_BYTES: Final = 16 * KIB
"""Longer documents than ``MAX_PIECE_BYTES`` are cut into pieces of this size."""
POOL_BYTES: Final = 96 << 20
MIN_FOLDS: Final = 8
MAX_TRAIN_BYTES: Final = 30 << 30


def default_documents() -> Iterator[tuple[str, bytes]]:
    """Python sources of the standard library that no sandbox carries, as (name, text), by name.

    Files that share passages with what a sandbox does carry, in files or in memory, are passed
    over. Raises ``CorpusError`` where too little is left (about 2.5 MB are needed),
    or ``LayoutError`` where it cannot be found out what the sandbox carries.
    """
    from training.layout import hidden_stdlib
    from training.leakscan import sandbox_files

    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, bytes]] = []
    for part in hidden_stdlib():
        for path in [part] if part.is_file() else part.rglob("*.py"):
            if path.suffix == ".py":
                found.extend(read_file(path, path.relative_to(root).as_posix(), Counter()))
    known = found_in([text for _, text in found], sandbox_files(["cpu"]))
    found = [item for index, item in enumerate(found) if index not in known]
    total = sum(len(text) for _, text in found)
    if total < MIN_DEFAULT_BYTES:
        raise CorpusError(
            f"this Python's standard library holds only {total} bytes of text beyond what training "
            f"needs; {MIN_DEFAULT_BYTES} are needed",
            cure="give a folder of text with --corpus DIR, or install the package with the "
            "standard library's tests (Debian: libpython3-testsuite)",
        )
    yield from sorted(found)


def build(
    source: Iterable[tuple[str, bytes]],
    out: Path,
    *,
    seed: int,
    folds: int = 96,
    fold_bytes: int = 48 * KIB,
    dev_bytes: int = 64 * KIB,
    train_bytes: int = 8 << 20,
    excerpt_bytes: int = EXCERPT_BYTES,
    readable: Callable[[], Iterable[Path]] = tuple,
    progress: Progress = lambda stage, done, total: None,
) -> Manifest:
    """Splits the documents of ``source`` and writes each split to ``out/<sha256 hex>``.

    ``source`` gives (name, text) and can be iterated twice, always alike; an iterator is read into
    memory. ``folds`` is the number wanted; fewer (at least ``MIN_FOLDS``) are made where two thirds
    of the text do not suffice for them. Every fold has about ``fold_bytes`` bytes of text, dev has
    ``dev_bytes``, train at most ``train_bytes``. A document gives ``excerpt_bytes`` to them, twice
    as much where text is scarce: several contexts, or much of a window is filled up in vain. No
    document is held out that one of the ``readable`` files holds. ``progress`` is told (stage,
    done, total), in bytes.

    Cut off, even by a kill, it goes on where it was when it is called again with the same
    arguments. Raises ``CorpusError`` for too little text, or too many folds.
    """
    if not MIN_FOLDS <= folds <= MAX_FOLDS:
        raise CorpusError(f"a corpus has {MIN_FOLDS} to {MAX_FOLDS} folds, not {folds}")
    if not 1 <= train_bytes <= MAX_TRAIN_BYTES:
        raise CorpusError(f"a train split has at most {MAX_TRAIN_BYTES >> 30} GiB of text")
    documents = list(source) if iter(source) is source else source
    held_bytes = dev_bytes + folds * fold_bytes
    pool = _Pool(seed, max(POOL_BYTES, 3 * held_bytes))
    for key, piece in _distinct(documents):
        pool.add(key, piece)
        if pool.seen_bytes >= train_bytes + pool.limit:
            break
        if pool.seen % 256 == 0:
            progress("reading", pool.seen_bytes, train_bytes + pool.limit)
    progress("reading", pool.seen_bytes, pool.seen_bytes)
    keys, texts = pool.contents()
    total = pool.seen_bytes
    held = HeldOut(
        texts,
        seed=seed,
        folds=folds,
        fold_bytes=fold_bytes,
        dev_bytes=dev_bytes,
        spare=total - min(train_bytes, total // 3),
        excerpt_bytes=excerpt_bytes,
        known=found_in(texts, readable(), common=COMMON),
    )
    if len(held.folds) < MIN_FOLDS:
        raise CorpusError(
            f"{total} bytes of distinct text make only {len(held.folds)} holdout folds of "
            f"{fold_bytes} bytes; at least {MIN_FOLDS} are needed",
            cure="give more text (2.5 MB or more, in many unrelated files)",
        )
    out.mkdir(parents=True, exist_ok=True)
    dev = write_split(out, Documents(held.dev))
    made = tuple(write_split(out, Documents(fold)) for fold in held.folds)
    never = {keys[index] for index in held.used | held.copies}

    def offered() -> Iterator[tuple[bytes, bytes]]:
        pooled = ((keys[index], texts[index]) for index in held.order)
        found = pooled if pool.whole else _distinct(documents)
        return ((key, text) for key, text in found if key not in never)

    identity = hashlib.sha256(
        b"".join(ref.sha256 for ref in (dev, *made)) + train_bytes.to_bytes(8, "big")
    ).digest()
    train = write_shards(
        out,
        identity,
        train_bytes,
        offered,
        lambda text: not held.shares(text),
        lambda done, wanted: progress("writing train text", done, wanted),
    )
    if not train:
        raise CorpusError(
            f"all of {total} bytes of text are held out, or like what is held out",
            cure="give more text, in many unrelated files",
        )
    return Manifest(train, dev, made)


def load(directory: Path, ref: SplitRef) -> Documents:
    """Reads the split ``ref`` from ``directory/<sha256 hex>``; raises ``CorpusError``."""
    path = directory / ref.sha256.hex()
    try:
        with path.open("rb") as file:
            data = file.read(ref.size + 1)
    except OSError as error:
        raise CorpusError(
            f"the split {path.name[:12]} cannot be read: {error.strerror}",
            cure="fetch it again from a peer",
        ) from None
    if len(data) != ref.size or hashlib.sha256(data).digest() != ref.sha256:
        raise CorpusError(
            f"the split {path.name[:12]} is damaged: its bytes do not have its hash",
            cure=f"delete {path} and fetch it again from a peer",
        )
    documents = Documents.from_bytes(data)
    if len(documents) != ref.documents:
        raise CorpusError(f"the split {path.name[:12]} is not what the manifest says it is")
    return documents


class _Pool:
    """The documents with the lowest hashes of all that are added: a fair sample, bounded.

    ``whole`` says whether it holds all of them; ``seen`` and ``seen_bytes`` count all.
    """

    def __init__(self, seed: int, limit: int) -> None:
        self.limit = limit
        self.seen = self.seen_bytes = 0
        self._salt = seed.to_bytes(8, "little")
        self._held: list[tuple[int, bytes, bytes]] = []
        self._size = 0

    def add(self, key: bytes, text: bytes) -> None:
        self.seen += 1
        self.seen_bytes += len(text)
        self._size += len(text)
        drawn = int.from_bytes(hashlib.sha256(self._salt + key).digest()[:8], "big")
        heapq.heappush(self._held, (-drawn, key, text))  # the highest hash comes out first
        while self._size > self.limit:
            self._size -= len(heapq.heappop(self._held)[2])

    @property
    def whole(self) -> bool:
        return len(self._held) == self.seen

    def contents(self) -> tuple[list[bytes], list[bytes]]:
        """Keys and texts, in the order of the texts."""
        held = sorted((text, key) for _, key, text in self._held)
        return [key for _, key in held], [text for text, _ in held]


def _distinct(documents: Iterable[tuple[str, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Documents as (key, text): long ones in pieces, short ones and exact copies left out.

    A key is a hash of the text, the same for any white space.
    """
    seen = _Seen()
    for _, text in documents:
        for piece in _pieces(text):
            if len(piece) >= MIN_DOCUMENT_BYTES:
                key = hashlib.sha256(b" ".join(piece.split())).digest()[:8]
                if seen.add(int.from_bytes(key, "big")):
                    yield key, piece


class _Seen:
    """Numbers below 2**64 that were met: 16 bytes each at most, for any number of them."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._older = np.empty(0, np.uint64)

    def add(self, value: int) -> bool:
        """Whether ``value`` is new; from now on it is not."""
        if value in self._recent:
            return False
        at = int(np.searchsorted(self._older, np.uint64(value)))
        if at < len(self._older) and int(self._older[at]) == value:
            return False
        self._recent.add(value)
        if len(self._recent) == 1 << 16:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._older = np.sort(np.concatenate([self._older, recent]), kind="stable")
            self._recent.clear()
        return True


def _pieces(text: bytes) -> Iterator[bytes]:
    if len(text) <= MAX_PIECE_BYTES:
        yield text
        return
    start = 0
    while start < len(text):
        end = boundary(text, start + PIECE_BYTES)
        yield text[start:end]
        start = end

"""Text -> train tokens, dev split, sealed holdout folds.

What is covered: exact duplicates and near-duplicates are dropped, and documents that share
passages stay together in the train split, so that no fold holds text that was trained on. A
document goes into one split only. Folds and dev are made of excerpts of several unrelated
documents each. The same documents, seed and sizes give the same files.

What is not: translations, paraphrases, and renamed copies of code.

The default text is the part of the running Python's standard library that the sandbox does not
carry, because training never imports it; every machine has it without a network.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from training.documents import (
    MAX_FOLDS,
    CorpusError,
    Documents,
    Manifest,
    SplitRef,
)
from training.fingerprint import fingerprints, seen_elsewhere, shared
from training.leakscan import LeakError, LeakReport, found_in, leak_scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "CorpusError",
    "Documents",
    "LeakError",
    "LeakReport",
    "Manifest",
    "SplitRef",
    "build",
    "default_documents",
    "directory_documents",
    "leak_scan",
    "load",
]

KIB = 1 << 10
MIN_DEFAULT_BYTES = 2_500_000
MIN_DOCUMENT_BYTES = 256
MAX_FILE_BYTES = 64 << 20
MAX_FILES = 200_000
MAX_TEXT_BYTES = 512 << 20
LONG_FILE_BYTES = 256 * KIB
PIECE_BYTES = 16 * KIB
POOL_EXCERPTS = 8
"""Documents longer than so many excerpts are not held out: too much of them would be lost."""
EXCERPT_BYTES = 8 * KIB
MIN_FOLDS = 8


def default_documents() -> Iterator[tuple[str, bytes]]:
    """Python sources of the standard library that no sandbox carries, as (name, text), by name.

    Files that share passages with one that a sandbox does carry are passed over. Raises
    ``CorpusError`` where too little is left (about 2.5 MB are needed),
    or ``LayoutError`` where it cannot be found out what the sandbox carries.
    """
    from training.layout import hidden_stdlib, readable_files

    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, bytes]] = []
    for part in hidden_stdlib():
        files = [part] if part.is_file() else _files(part)
        for path in files:
            if path.suffix == ".py" and (text := _text(path)) is not None:
                found.append((path.relative_to(root).as_posix(), text))
    known = found_in([text for _, text in found], readable_files())
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


def directory_documents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every UTF-8 text file below ``path``, as (relative name, text), sorted by name.

    Symbolic links, special files, binary files (a NUL byte, or not UTF-8) and files above
    ``MAX_FILE_BYTES`` are passed over. Raises ``CorpusError`` where ``path`` is not a folder, holds
    no text, or holds more than this module's limits.
    """
    if not path.is_dir():
        raise CorpusError(f"{path} is not a folder", cure="give a folder of text files")
    total = count = 0
    for file in _files(path):
        if (text := _text(file)) is None:
            continue
        count += 1
        total += len(text)
        if total > MAX_TEXT_BYTES:
            raise CorpusError(
                f"{path} holds more than {MAX_TEXT_BYTES >> 20} MiB of text",
                cure="give a smaller folder: a train split of 8 MiB is all that is used",
            )
        yield file.relative_to(path).as_posix(), text
    if not count:
        raise CorpusError(f"{path} holds no text files", cure="give a folder of UTF-8 text files")


def build(
    documents: Iterable[tuple[str, bytes]],
    out: Path,
    *,
    seed: int,
    folds: int = 96,
    fold_bytes: int = 48 * KIB,
    dev_bytes: int = 64 * KIB,
    train_bytes: int = 8 << 20,
    excerpt_bytes: int = EXCERPT_BYTES,
) -> Manifest:
    """Splits ``documents`` and writes each split to ``out/<sha256 hex>``.

    ``folds`` is the number wanted; fewer (at least ``MIN_FOLDS``) are made where two thirds of the
    text do not suffice for them. Every fold has about ``fold_bytes`` bytes of text, dev has
    ``dev_bytes``, train at most ``train_bytes``. A document gives ``excerpt_bytes`` to them, twice
    as much where text is scarce: several contexts, or much of a window is filled up in vain.
    Raises ``CorpusError`` for too little text.
    """
    if not MIN_FOLDS <= folds <= MAX_FOLDS:
        raise CorpusError(f"a corpus has {MIN_FOLDS} to {MAX_FOLDS} folds, not {folds}")
    texts = _distinct(documents)
    related = _related(texts)
    texts = [text for text, group in zip(texts, related, strict=True) if group != "copy"]
    alone = [group == "alone" for group in related if group != "copy"]
    total = sum(len(text) for text in texts)

    salt = seed.to_bytes(8, "little")
    order = sorted(
        range(len(texts)), key=lambda index: hashlib.sha256(salt + texts[index]).digest()
    )
    pool = _pool(texts, alone, order, total - min(train_bytes, total // 3), excerpt_bytes)
    wanted = dev_bytes + folds * fold_bytes
    longest = excerpt_bytes
    if sum(min(len(texts[index]), longest) for index in pool) < wanted:
        longest *= 2  # text is scarce: longer excerpts, of fewer documents to a fold
    used: set[int] = set()
    dev = _excerpts(texts, pool, used, dev_bytes, longest, salt)
    holdout: list[list[bytes]] = []
    while dev and len(holdout) < folds:
        fold = _excerpts(texts, pool, used, fold_bytes, longest, salt)
        if not fold:
            break
        holdout.append(fold)
    if len(holdout) < MIN_FOLDS:
        raise CorpusError(
            f"{total} bytes of distinct text make only {len(holdout)} holdout folds of "
            f"{fold_bytes} bytes; at least {MIN_FOLDS} are needed",
            cure="give more text (2.5 MB or more, in many unrelated files)",
        )

    train: list[bytes] = []
    room = train_bytes
    for index in order:
        if index not in used and len(texts[index]) <= room:
            train.append(texts[index])
            room -= len(texts[index])
    out.mkdir(parents=True, exist_ok=True)
    return Manifest(
        train=(_write(out, train),),
        dev=_write(out, dev),
        folds=tuple(_write(out, fold) for fold in holdout),
    )


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


def _distinct(documents: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Texts in a fixed order, long files cut into pieces, short ones and exact copies dropped."""
    seen: set[bytes] = set()
    texts: list[bytes] = []
    for _, text in documents:
        for piece in _pieces(text):
            key = hashlib.sha256(b" ".join(piece.split())).digest()
            if len(piece) >= MIN_DOCUMENT_BYTES and key not in seen:
                seen.add(key)
                texts.append(piece)
    return sorted(texts)


def _pieces(text: bytes) -> Iterator[bytes]:
    if len(text) <= LONG_FILE_BYTES:
        yield text
        return
    start = 0
    while start < len(text):
        end = _boundary(text, start + PIECE_BYTES)
        yield text[start:end]
        start = end


def _boundary(text: bytes, wanted: int) -> int:
    """The end of a line near ``wanted``, else of a character, at or before it and above 0."""
    if wanted >= len(text):
        return len(text)
    line = text.rfind(b"\n", wanted - 4 * KIB if wanted > 4 * KIB else 0, wanted) + 1
    if line > 0 and line > wanted - 4 * KIB:
        return line
    while text[wanted] & 0xC0 == 0x80:
        wanted -= 1
    return wanted


def _related(texts: list[bytes]) -> list[str]:
    """For each text ``copy`` (of a longer one), ``kin`` (shares passages) or ``alone``."""
    prints = [fingerprints(text) for text in texts]
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


def _pool(
    texts: list[bytes], alone: list[bool], order: list[int], spare: int, excerpt: int
) -> list[int]:
    """Documents to hold out, in ``order``, with at most ``spare`` bytes in all.

    Those that an excerpt uses up for the most part come first, so that little text is lost.
    """
    picked: set[int] = set()
    for limit in (2 * excerpt, POOL_EXCERPTS * excerpt):
        for index in order:
            size = len(texts[index])
            if alone[index] and index not in picked and size <= min(limit, spare):
                picked.add(index)
                spare -= size
    return [index for index in order if index in picked]


def _excerpts(
    texts: list[bytes], pool: list[int], used: set[int], size: int, longest: int, salt: bytes
) -> list[bytes]:
    """Excerpts of documents of ``pool`` with ``size`` bytes in all; [] where there are too few.

    An excerpt has at most ``longest`` bytes. The documents taken are added to ``used``, all or
    none of them.
    """
    taken: list[int] = []
    excerpts: list[bytes] = []
    room = size
    for index in pool:
        if index in used:
            continue
        taken.append(index)
        excerpts.append(_excerpt(texts[index], min(longest, room), salt))
        room -= len(excerpts[-1])
        if room < MIN_DOCUMENT_BYTES:
            used.update(taken)
            return excerpts
    return []


def _excerpt(text: bytes, size: int, salt: bytes) -> bytes:
    """At most ``size`` bytes of ``text``, from the start of a line picked by hash."""
    if len(text) <= size:
        return text
    draw = int.from_bytes(hashlib.sha256(salt + b"start" + text).digest()[:8], "little")
    start = text.rfind(b"\n", 0, draw % (len(text) - size) + 1) + 1
    while text[start] & 0xC0 == 0x80:
        start += 1
    return text[start : _boundary(text, start + size)]


def _write(out: Path, documents: list[bytes]) -> SplitRef:
    data = Documents(documents).to_bytes()
    ref = SplitRef.of(data)
    path = out / ref.sha256.hex()
    scratch = path.with_suffix(f".{os.getpid()}.part")
    scratch.write_bytes(data)
    scratch.replace(path)
    return ref


def _files(root: Path) -> list[Path]:
    """Regular files below ``root``, sorted, no symbolic link followed; bounded."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found.extend(Path(folder, name) for name in names)
        if len(found) > MAX_FILES:
            raise CorpusError(
                f"{root} holds more than {MAX_FILES} files", cure="give a smaller folder"
            )
    return sorted(found)


def _text(path: Path) -> bytes | None:
    """The file's bytes where it is a regular UTF-8 file without NUL, else None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_FILE_BYTES:
            return None
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES or b"\0" in data:
        return None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return data

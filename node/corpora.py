"""Text for experiments at home: cut into splits once, kept in the cache, found again by hash.

A corpus is named by the listing of its source (paths, sizes, times), by how it is cut, and by the
text of the modules that cut it. It is built in a folder under another name and then renamed, so one
that was cut off is never used. Its splits are named by their hashes, which are checked whenever one
is read. When another one is built, what nobody has used for ``KEEP_DAYS`` is removed, and there
are never more than ``KEEP_MOST``.

The splits are others than those of a swarm on the same text (another seed): what somebody learns
here by looking often, they do not learn about the folds that verifiers measure on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

import training
from node.errors import UsageError
from node.runs import experiments_root
from node.settings import write_atomic
from training.cache import locked
from training.corpus import CorpusError, build, default_documents, directory_documents, load
from training.documents import Documents, Manifest, Shards
from training.fingerprint import COMMON
from training.leakscan import found_in, leak_scan
from training.tokenizer import BYTES, BpeTokenizer, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from training.documents import SplitRef

Entry = tuple[bytes, int, int]
SEED: Final = 1
MIN_FOLD_BYTES: Final = 48 << 10
KEEP_DAYS: Final = 14
KEEP_MOST: Final = 6
_MANIFEST: Final = "manifest"
_TOKENIZER: Final = "tokenizer"
_MODULES: Final = ("corpus", "documents", "fingerprint", "leakscan", "tokenizer")


@dataclass(frozen=True, slots=True)
class Shape:
    """How a corpus is cut: number of holdout folds, bytes of each at most, bytes to train on at
    most, bytes that a document gives to a fold, and the tokens of its vocabulary (256: bytes).
    ``device``: what its sandbox can read is compared."""

    folds: int
    fold_bytes: int
    train_bytes: int
    excerpt_bytes: int
    vocab_size: int
    device: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus that lies in ``folder``. ``source`` is its name as it was given."""

    source: str
    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    def train(self) -> Shards:
        """The training text; its files are read when they are needed."""
        return Shards(self.manifest.train, self._split)

    def fold(self, index: int) -> Documents:
        """The holdout fold ``index``."""
        return self._split(self.manifest.folds[index])

    def _split(self, ref: SplitRef) -> Documents:
        try:
            return load(self.folder, ref)
        except CorpusError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise CorpusError(
                "The corpus that was kept in the cache is damaged; it was removed. "
                "The text that it was made of is untouched.",
                cure="Run the same command again: it is cut anew.",
            ) from None


def prepare(source: str | None, shape: Shape, tell: Callable[[str], None]) -> Corpus:
    """The corpus of ``source`` (a folder; None: the standard library), built if it is not kept.

    Raises UsageError where the source cannot be had, and TrainingError for too little text or text
    that a candidate could read in the sandbox.
    """
    root = experiments_root() / "corpora"
    root.mkdir(exist_ok=True)
    listing = list(_listing(_roots(source)))
    shape = _fitting(shape, listing)
    folder = root / _key(listing, shape)
    name = source or "the standard library"
    with locked(root / "lock"):
        corpus = _open(name, folder)
        if corpus is not None:
            os.utime(folder)
            return corpus
        shutil.rmtree(folder, ignore_errors=True)
        _forget(root)
        with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as scratch:
            built = Path(scratch) / "built"
            _build(source, shape, built, tell)
            os.rename(built, folder)
    corpus = _open(name, folder)
    assert corpus is not None
    return corpus


def _build(source: str | None, shape: Shape, out: Path, tell: Callable[[str], None]) -> None:
    tell("reading the corpus (kept for next time)")
    if source is None:
        documents = list(default_documents())
    else:
        documents = list(directory_documents(Path(source)))
        tell("leaving out what can be read in the sandbox")
        texts = [text for _, text in documents]
        known = found_in(texts, _readable(shape.device), common=COMMON)
        documents = [item for index, item in enumerate(documents) if index not in known]
        tell(f"{len(known):,} documents left out, {len(documents):,} kept")
    manifest = build(
        documents, out, seed=SEED, folds=shape.folds, fold_bytes=shape.fold_bytes,
        train_bytes=shape.train_bytes, excerpt_bytes=shape.excerpt_bytes,
    )  # fmt: skip
    if source is None:
        tell("checking that no holdout text can be read in the sandbox")
        leak_scan([load(out, fold) for fold in manifest.folds], _readable(shape.device))
    if shape.vocab_size != BYTES.vocab_size:
        from training.tokenizer import train_bpe

        tell(f"learning a vocabulary of {shape.vocab_size} tokens")
        text = Shards(manifest.train, lambda ref: load(out, ref))
        write_atomic(out / _TOKENIZER, train_bpe(text, shape.vocab_size).to_bytes())
    write_atomic(out / _MANIFEST, msgspec.msgpack.encode(manifest.to_map()))


def _open(name: str, folder: Path) -> Corpus | None:
    try:
        manifest = Manifest.from_map(msgspec.msgpack.decode((folder / _MANIFEST).read_bytes()))
        tokenizer: Tokenizer = BYTES
        if (folder / _TOKENIZER).exists():
            tokenizer = BpeTokenizer.from_bytes((folder / _TOKENIZER).read_bytes())
    except (OSError, msgspec.MsgspecError, training.errors.TrainingError):
        return None
    return Corpus(name, folder, manifest, tokenizer)


def _readable(device: str) -> Iterator[Path]:
    """What lies readable in a sandbox of this device, when candidate code starts or later."""
    if device == "cpu":
        from training.layout import readable_files

        return readable_files()
    from training.toolchain import device_layout

    return device_layout().readable()


def _roots(source: str | None) -> list[Path]:
    if source is None:
        from training.layout import hidden_stdlib

        return list(hidden_stdlib())
    root = Path(source).absolute()
    if not root.exists():
        raise UsageError(
            f"there is no {source}", cure="name a folder of text: --corpus DIR (or leave it)"
        )
    return [root]


def _fitting(shape: Shape, listing: list[Entry]) -> Shape:
    """The shape with folds that a tenth of the text suffices for: of a document only an excerpt
    is held out, and not of every one."""
    tenth = sum(size for _, size, _ in listing) // 10
    return replace(
        shape, fold_bytes=max(MIN_FOLD_BYTES, min(shape.fold_bytes, tenth // shape.folds))
    )


def _key(listing: list[Entry], shape: Shape) -> str:
    digest = hashlib.sha256()
    for module in _MODULES:
        digest.update((Path(training.__file__).with_name(f"{module}.py")).read_bytes())
    digest.update(msgspec.msgpack.encode([SEED, asdict(shape), listing], order="sorted"))
    return digest.hexdigest()[:32]


def _listing(roots: list[Path]) -> Iterator[Entry]:
    """Path, size and time of every file, in a fixed order."""
    for root in roots:
        folders = os.walk(root) if root.is_dir() else [(str(root.parent), [], [root.name])]
        for folder, inside, names in folders:
            inside[:] = sorted(name for name in inside if name != "__pycache__")
            for name in sorted(names):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    yield os.fsencode(path), status.st_size, status.st_mtime_ns


def _forget(root: Path) -> None:
    """Removes what killed processes left, what nobody has used for long, and the longest unused
    so that there is room for one more."""
    kept: list[tuple[float, Path]] = []
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            used = folder.stat().st_mtime
            if not folder.is_dir():
                continue
            if folder.name.startswith(".building-") or time.time() - used > KEEP_DAYS * 24 * 3600:
                shutil.rmtree(folder)
            else:
                kept.append((used, folder))
    for _, folder in sorted(kept)[: max(0, len(kept) - KEEP_MOST + 1)]:
        shutil.rmtree(folder, ignore_errors=True)

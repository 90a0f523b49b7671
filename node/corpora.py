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
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

import training
from node.progress import lines
from node.runs import experiments_root
from node.settings import check_corpus, write_atomic
from training.cache import locked
from training.corpus import build, default_documents, load
from training.documents import CorpusError, Documents, Manifest, Shards
from training.layout import hidden_stdlib
from training.leakscan import leak_scan, sandbox_files
from training.readers import Local, Source, open_source
from training.tokenizer import BYTES, BpeTokenizer, Tokenizer, learn_bpe

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
_MODULES: Final = (
    "corpus", "documents", "fingerprint", "heldout", "leakscan", "readers", "residue", "shardfile",
    "startup", "tokenizer",
)  # fmt: skip


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
    """The corpus of ``source`` (a folder, a file or an ``hf://`` name; None: the standard library),
    built if it is not kept. A build that was cut off goes on.

    Raises UsageError where the source cannot be had, and TrainingError for too little text or text
    that a candidate could read in the sandbox.
    """
    check_corpus(source)
    root = experiments_root() / "corpora"
    root.mkdir(exist_ok=True)
    given = None if source is None else open_source(source)
    listing = list(_listing(given))
    shape = _fitting(shape, listing)
    folder = root / _key(listing, shape)
    name = source or "the standard library"
    with locked(root / "lock"):
        corpus = _open(name, folder)
        if corpus is not None:
            os.utime(folder)
            return corpus
        shutil.rmtree(folder, ignore_errors=True)
        building = root / f".building-{folder.name}"
        _forget(root, building)
        _build(given, shape, building, tell)
        os.rename(building, folder)
    corpus = _open(name, folder)
    assert corpus is not None
    return corpus


def _build(source: Source | None, shape: Shape, out: Path, tell: Callable[[str], None]) -> None:
    tell(f"reading {source.name if source else 'the corpus'} (kept for next time)")
    # of the standard library only what no sandbox on cpu can read is read at all
    compared = {shape.device} - ({"cpu"} if source is None else set())
    manifest = build(
        default_documents() if source is None else source, out, seed=SEED, folds=shape.folds,
        fold_bytes=shape.fold_bytes, train_bytes=shape.train_bytes,
        excerpt_bytes=shape.excerpt_bytes, readable=lambda: sandbox_files(compared),
        progress=lines(tell),
    )  # fmt: skip
    if source is not None and source.passed_over:
        tell(f"read{source.report()}")
    if source is None:
        tell("checking that no holdout text can be read in the sandbox")
        leak_scan([load(out, fold) for fold in manifest.folds], sandbox_files({shape.device}))
    if shape.vocab_size != BYTES.vocab_size:
        tell(f"learning a vocabulary of {shape.vocab_size} tokens")
        text = Shards(manifest.train, lambda ref: load(out, ref))
        write_atomic(out / _TOKENIZER, learn_bpe(text, shape.vocab_size).to_bytes())
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


def _listing(source: Source | None) -> Iterator[Entry]:
    """Path, size and time of every file, in a fixed order; of a data set its commit, which says
    all, and that there is text enough."""
    if isinstance(source, Local):
        roots = [source.path.absolute()]
    elif source is None:
        roots = list(hidden_stdlib())
    else:
        yield source.name.encode(), 1 << 50, 0
        return
    for root in roots:
        folders = os.walk(root) if root.is_dir() else [(str(root.parent), [], [root.name])]
        for folder, inside, names in folders:
            inside[:] = sorted(name for name in inside if name != "__pycache__")
            for name in sorted(names):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    yield os.fsencode(path), status.st_size, status.st_mtime_ns


def _forget(root: Path, building: Path | None = None) -> None:
    """Removes what killed processes left, but for ``building``, what nobody has used for long, and
    the longest unused so that there is room for one more."""
    kept: list[tuple[float, Path]] = []
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            used = folder.stat().st_mtime
            if not folder.is_dir() or folder == building:
                continue
            if folder.name.startswith(".building-") or time.time() - used > KEEP_DAYS * 24 * 3600:
                shutil.rmtree(folder)
            else:
                kept.append((used, folder))
    for _, folder in sorted(kept)[: max(0, len(kept) - KEEP_MOST + 1)]:
        shutil.rmtree(folder, ignore_errors=True)

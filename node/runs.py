"""Finished runs and scores of this machine, so that a killed experiment goes on where it was.

    RUNS/<key>.run      a training run, without its weights
    RUNS/<key>.score    a score
    RUNS/weights/<sha256>

A key is the hash of all that decides a measurement: code, base, tier, text, tokenizer, seed,
software, device, and the text of this package. A file holds the digest of its content and is there
whole or not at all (written under another name, made durable, renamed): what was cut off or damaged
is thrown away and measured again. Only what ended well is kept, because a failure may be the
machine's. A run whose score is known needs no weights any more. What nobody has used for
longest goes first when ``CAP_BYTES`` are exceeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

import training
from node.environment import environment
from node.settings import write_atomic
from training.cache import cache_root, locked
from training.evaluator import Score
from training.runner import TrainedRun

if TYPE_CHECKING:
    from collections.abc import Iterable

    from training.challenge import TierSpec

T = TypeVar("T", TrainedRun, Score)

CAP_BYTES: Final = 4 << 30
MAGIC: Final = b"LZRUNS1\n"
_HEAD: Final = len(MAGIC) + hashlib.sha256().digest_size


def experiments_root() -> Path:
    """``<cache>/experiments``, made if missing. Raises TrainingError."""
    root = cache_root() / "experiments"
    root.mkdir(mode=0o700, exist_ok=True)
    return root


@cache
def harness_digest() -> bytes:
    """sha256 over this program's own measuring code: another version measures anew."""
    digest = hashlib.sha256()
    for path in sorted(Path(training.__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def device_name(device: str) -> str:
    """What computes: the GPU, or the processor and its number of cores."""
    from training import accelerator

    if device != "cpu":
        return accelerator.name() or "an unknown GPU"
    name = "an unknown processor"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:
        named = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
        name = next(named, name)
    return f"{name}, {os.cpu_count()} cores"


def run_key(
    code: bytes, base: bytes, tier: TierSpec, text: Iterable[bytes], tokenizer: bytes, seed: int
) -> bytes:
    """Names a training run; ``base``: the program that it was paced by (``training.pace``);
    ``text``: the hashes of the split files it is trained on."""
    return _hash(
        "run",
        hashlib.sha256(code).digest(),
        hashlib.sha256(base).digest(),
        tier.to_map(),
        list(text),
        tokenizer,
        seed,
        environment(),
        device_name(tier.device),
        harness_digest(),
    )


def score_key(run: bytes, weights: bytes, fold: bytes, seed: int) -> bytes:
    """Names the score of the run ``run`` that ended with ``weights``, on the split ``fold``."""
    return _hash("score", run, weights, fold, seed)


def _hash(*parts: Any) -> bytes:
    encoded = msgspec.msgpack.encode(["lazaretto/experiment/1", *parts], order="sorted")
    return hashlib.sha256(encoded).digest()


class Runs:
    """What is kept in one folder. Several processes may use it."""

    def __init__(self, folder: Path, cap_bytes: int = CAP_BYTES) -> None:
        """Raises OSError where the folder cannot be made."""
        self.folder = folder
        self.cap_bytes = cap_bytes
        self._weights = folder / "weights"
        self._weights.mkdir(parents=True, exist_ok=True)

    def run(self, key: bytes) -> TrainedRun | None:
        """A run that was kept, without its weights; None where there is none."""
        return self._load(key, TrainedRun)

    def score(self, key: bytes) -> Score | None:
        """A score that was kept; None where there is none."""
        return self._load(key, Score)

    def whole(self, run: TrainedRun) -> TrainedRun | None:
        """The run with its weights; None where they are gone or damaged."""
        path = self._weights / run.weights_digest.hex()
        try:
            weights = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(weights).digest() != run.weights_digest:
            path.unlink(missing_ok=True)
            return None
        _touch(path)
        return replace(run, weights=weights)

    def keep(self, key: bytes, found: TrainedRun | Score) -> None:
        """Keep what ended well, durably; does nothing with a failure. Raises OSError."""
        if found.status != "ok":
            return
        bare = replace(found, weights=None) if isinstance(found, TrainedRun) else found
        body = msgspec.msgpack.encode((key, bare))
        with locked(self.folder / "lock"):
            if isinstance(found, TrainedRun) and found.weights is not None:
                write_atomic(self._weights / found.weights_digest.hex(), found.weights)
            write_atomic(self._path(key, type(found)), MAGIC + hashlib.sha256(body).digest() + body)
            self._forget()

    def _path(self, key: bytes, kind: type) -> Path:
        return self.folder / f"{key.hex()}.{'run' if kind is TrainedRun else 'score'}"

    def _load(self, key: bytes, kind: type[T]) -> T | None:
        path = self._path(key, kind)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        body = data[_HEAD:]
        if data[:_HEAD] == MAGIC + hashlib.sha256(body).digest():
            with contextlib.suppress(msgspec.MsgspecError):
                named, found = msgspec.msgpack.decode(body, type=tuple[bytes, kind])  # type: ignore[valid-type]
                if named == key:
                    _touch(path)
                    return found
        path.unlink(missing_ok=True)
        return None

    def _forget(self) -> None:
        """Removes what a killed process left, and the longest unused while there is too much."""
        files: list[tuple[float, int, Path]] = []
        for path in (*self.folder.iterdir(), *self._weights.iterdir()):
            with contextlib.suppress(OSError):
                if path.name.startswith("."):  # only the holder of the lock writes these
                    path.unlink()
                elif path.is_file() and path.name != "lock":
                    status = path.stat()
                    files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda file: file[0]):
            if total <= self.cap_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)

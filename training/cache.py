"""Where this machine keeps what it can make again: ``$XDG_CACHE_HOME/lazaretto``."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator


def cache_root() -> Path:
    """The directory, made if missing. Nobody else may write it: what lies there is trusted.

    Raises ``TrainingError`` where it cannot be had, or where others could write it.
    """
    wanted = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = Path(wanted) / "lazaretto"
    try:
        root.mkdir(parents=True, exist_ok=True)
        stat = root.stat()
    except OSError:
        raise TrainingError(
            f"The cache directory {root} cannot be made.",
            cure="Set XDG_CACHE_HOME to a directory that you can write.",
        ) from None
    if stat.st_uid != os.getuid() or stat.st_mode & 0o022:
        raise TrainingError(
            f"Somebody else could write {root}.",
            cure=f"Run: chmod go-w {root} (and make it yours).",
        )
    return root


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however that ends."""
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

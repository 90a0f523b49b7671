"""kill -9 of a real node, again and again, at any moment: ``python -m tests.soak kill``.

One node signs all the time, another listens. After every kill, all that the first had signed and
all that the second has of it must be in the first one's log, and no number may be used twice.
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from node.demo.local import LocalSwarm, Part
from swarm.keys import KeyPair

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.settings import Home

PARTS = (
    Part("founder", ("archivist", "governor")),
    Part("scribe", ("archivist",), module="tests.soak.scribbler"),
)
SECONDS = 120.0


def feed_of(home: Home, author: bytes) -> dict[bytes, int]:
    """Record id -> number, of one author, branches included, as it lies on disk."""
    with closing(sqlite3.connect(f"{home.log.as_uri()}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT id, seq FROM records WHERE author = ?", (author,)))


def said(home: Home) -> dict[bytes, int]:
    """What the scribe says that it has signed."""
    path = home.path / "said"
    data = path.read_bytes() if path.exists() else b""
    whole = len(data) - len(data) % 40
    return {
        data[at : at + 32]: int.from_bytes(data[at + 32 : at + 40]) for at in range(0, whole, 40)
    }


def kill_often(folder: Path, kills: int, progress: Callable[[str], None]) -> str:
    """Kill the scribe ``kills`` times; return a line about it. Raises ``AssertionError``."""
    start = time.monotonic()
    early = 0
    with LocalSwarm(folder, PARTS, progress=progress) as swarm:
        swarm.start()
        founder, scribe = swarm["founder"], swarm["scribe"]
        author = KeyPair.load(scribe.home.key).public

        def main(kills: int = 100) -> str:
    """Run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return kill_often(Path(folder), kills, lambda line: print(line, flush=True))

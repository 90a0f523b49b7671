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

        def wait(ready: Callable[[], bool], what: str) -> None:
            deadline = time.monotonic() + SECONDS
            while not ready():
                ended = [f"{one.part.name}: {one.last_output()}" for one in swarm.ended()]
                assert not ended, ended
                assert time.monotonic() < deadline, f"waited in vain for {what}"
                time.sleep(0.02)

        wait(lambda: len(said(scribe.home)) > 3, "the first records")
        for number in range(kills):
            before = len(said(scribe.home))
            if number % 4:  # at work; every fourth time anywhere, start included
                wait(lambda before=before: len(said(scribe.home)) > before, "a record")
                time.sleep(random.uniform(0, 0.3))
            else:
                time.sleep(random.uniform(0, 4))
            scribe.kill()
            early += len(said(scribe.home)) == before
            held = feed_of(scribe.home, author)
            assert said(scribe.home).items() <= held.items(), "a signed record is lost"
            assert feed_of(founder.home, author).items() <= held.items(), "an announced one is lost"
            assert sorted(held.values()) == list(range(len(held))), "a number is missing or twice"
            scribe.start()
            if number % 10 == 9:
                progress(f"{number + 1} kills, {len(held)} records")
        before = len(said(scribe.home))
        wait(lambda: len(said(scribe.home)) > before, "a record after the last kill")
        (scribe.home.path / "stop").touch()
        wait(lambda: feed_of(founder.home, author).keys() >= said(scribe.home).keys(), "the peer")
        held = feed_of(scribe.home, author)
        assert feed_of(founder.home, author) == held
    seconds = time.monotonic() - start
    return (
        f"{kills} kills in {seconds:.0f} s ({early} before the node had signed anything anew), "
        f"{len(held)} records signed, none lost, no number used twice, the peer holds the same"
    )


def main(kills: int = 100) -> str:
    """Run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return kill_often(Path(folder), kills, lambda line: print(line, flush=True))

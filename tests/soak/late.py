"""A late joiner: ``python -m tests.soak late [RECORDS]``. Two processes, real streams, one kill -9.

The joiner is killed once on its way and started again; what it had is kept and not fetched anew.
"""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from node.network import open_network
from node.settings import Home, Settings
from swarm.keys import KeyPair
from swarm.log import SwarmLog
from swarm.store import Store
from tests.benchmarks.records import experiment, raw_verification_rate
from tests.swarm.founding import Feed, found_with

if TYPE_CHECKING:
    from collections.abc import Iterator

AUTHORS = 20
BATCH = 500


def keys() -> list[KeyPair]:
    return [KeyPair.from_seed(bytes([index + 1]) * 32) for index in range(AUTHORS)]


def fill(path: Path, records: int) -> None:
    """A log with that many records of ``AUTHORS`` authors."""
    swarm, wires = found_with(keys())
    feeds = [Feed(key, swarm) for key in keys()]
    with Store(path, swarm) as store:
        store.ingest(wires)
        for at in range(0, records, BATCH):
            numbers = range(at, min(at + BATCH, records))
            said = [feeds[number % AUTHORS].say(experiment(number)) for number in numbers]
            store.ingest([record.signed.to_bytes() for record in said])
            for feed in feeds:
                feed.records.clear()


async def serve(folder: Path, index: int, bootstrap: tuple[str, ...], records: int) -> None:
    """Member ``index``; with ``records``, until it holds that many more than the founder's."""
    swarm, wires = found_with(keys())
    home = Home(folder)
    home.create()
    settings = Settings("late", swarm.hex(), "op", bootstrap=bootstrap)
    key = keys()[index]
    with Store(home.log, swarm) as store:
        store.ingest(wires)
        log = SwarmLog(store, key, lambda _: None)
        had = total(store)
        async with open_network(home, settings, key, log) as network:
            print(json.dumps({"address": network.transport.addresses[0], "had": had}), flush=True)
            while records and not network.transport.peers():  # noqa: ASYNC110
                await trio.sleep(0.01)
            start = time.perf_counter()
            while not records or total(store) < records:  # noqa: ASYNC110
                await trio.sleep(0.02)
            took = time.perf_counter() - start
            cpu = resource.getrusage(resource.RUSAGE_SELF)
            found = {
                "rate": (records - had) / took,
                "peak_mib": cpu.ru_maxrss / 1024,
                "raw": raw_verification_rate(),
            }
            print(json.dumps(found), flush=True)


def total(store: Store) -> int:
    return sum(head.seq + 1 for key, head in store.heads().items() if key in OWN)


OWN = {key.public for key in keys()}


def start(folder: Path, index: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.soak.late", "serve", str(folder), str(index), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "a process ended by itself"
    return json.loads(line)


def count(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute("SELECT COUNT(*) FROM records").fetchone()[0]


def join_late(folder: Path, records: int, *, kill: bool) -> dict[str, float]:
    """Fill a log, serve it, and let a newcomer fetch it; return rates and peak memory."""
    (folder / "old").mkdir()
    fill(folder / "old" / "log.sqlite", records)
    processes = [start(folder / "old", 0)]
    try:
        address = said(processes[0])["address"]
        more = (str(records), address)
        had = 0
        if kill:
            processes.append(start(folder / "new", 1, *more))
            said(processes[-1])
            while count(folder / "new" / "log.sqlite") < records // 3:
                assert processes[-1].poll() is None
                time.sleep(0.02)
            processes[-1].kill()
            processes[-1].wait()
            had = count(folder / "new" / "log.sqlite")
        processes.append(start(folder / "new", 1, *more))
        assert said(processes[-1])["had"] >= had - 3
        found = said(processes[-1])
        assert count(folder / "new" / "log.sqlite") == records + 3
        return {**found, "had": had}
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def main(records: int = 100_000) -> str:
    """Run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = join_late(Path(folder), records, kill=True)
    return (
        f"{records} records from one peer: {found['rate']:.0f}/s, "
        f"{found['rate'] / found['raw']:.2f} of raw Ed25519 ({found['raw']:.0f}/s), "
        f"peak {found['peak_mib']:.0f} MiB; killed at {found['had']:.0f} and gone on from there"
    )


def _arguments() -> Iterator[Any]:
    folder, index, *more = sys.argv[2:]
    yield Path(folder)
    yield int(index)
    yield tuple(more[1:])
    yield int(more[0]) if more else 0


if __name__ == "__main__":
    trio.run(serve, *_arguments())

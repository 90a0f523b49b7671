"""Records: checking and durable storing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.records import Experiment
from swarm.store import Store
from tests.benchmarks.rows import Row
from tests.swarm.founding import make_founded

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS = 3000


def experiment(number: int) -> Experiment:
    """A record of the common size."""
    return Experiment(
        tier="quick",
        base=None,
        ast_hash=number.to_bytes(32, "big"),
        hypothesis="LEARNING_RATE 0.002 -> 0.0037",
        proposer="tpe",
        outcome="not_better",
        reason="no more than noise or min_effect on 2 seeds",
        dev_pairs=(),
        cost_ms=9000,
    )


def raw_verification_rate() -> float:
    """Ed25519 verifications per second of ``cryptography`` alone, on records of that size."""
    from swarm import wire

    founded = make_founded()
    record = founded.feeds[1].say(experiment(0))
    start = time.perf_counter()
    for _ in range(RECORDS):
        wire.verify(record.author, record.signed)
    return RECORDS / (time.perf_counter() - start)


def ingest_rows() -> Iterator[Row]:
    """Durable ingest in batches of 100 (as sync does) and one by one (as gossip does)."""
    raw = raw_verification_rate()
    for batch, count in ((100, RECORDS), (1, 300)):
        founded = make_founded()
        feed = founded.feeds[1]
        wires = [feed.say(experiment(number)).signed.to_bytes() for number in range(count)]
        with (
            tempfile.TemporaryDirectory() as folder,
            Store(Path(folder) / "log.sqlite", founded.swarm) as store,
        ):
            store.ingest(founded.wire[:3])
            start = time.perf_counter()
            for at in range(0, count, batch):
                store.ingest(wires[at : at + batch])
            rate = count / (time.perf_counter() - start)
        yield Row(
            f"records ingested, durable, batches of {batch}",
            f"{rate:.0f}/s = {rate / raw:.2f} of raw verify",
            f"{count} records, fsync each batch; Ed25519 alone {raw:.0f}/s",
        )

"""Records: checking, durable storing, and how long an announcement takes to be quarantined."""

from __future__ import annotations

import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from node.network import open_network
from node.settings import Home, Settings
from swarm.keys import KeyPair
from swarm.log import SwarmLog
from swarm.records import Experiment
from swarm.store import Store
from tests.benchmarks.rows import Row, percentile
from tests.swarm.founding import found_with, make_founded
from verification.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS = 3000
MESSAGES = 60


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


async def _latency(nodes: int) -> list[float]:
    """Seconds from signing on one node until each other node's fold has the record."""
    founded = make_founded()
    keys = [feed.key for feed in founded.feeds]
    keys += [KeyPair.generate() for _ in range(nodes - len(keys))]
    swarm, wires = found_with(keys)
    signed: dict[bytes, float] = {}
    delays: list[float] = []
    done = trio.Event()

    async with AsyncExitStack() as stack:
        logs = []
        addresses: tuple[str, ...] = ()
        for index in range(nodes):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            store = stack.enter_context(Store(folder / "log.sqlite", swarm))
            store.ingest(wires)
            quarantine = Quarantine(swarm)

            def hear(records: list, quarantine: Quarantine = quarantine) -> None:
                for record in records:
                    quarantine.add(record)
                quarantine.state()
                now = time.perf_counter()
                delays.extend(now - signed[r.id] for r in records if r.id in signed)
                if len(delays) >= MESSAGES * (nodes - 1):
                    done.set()

            log = SwarmLog(store, keys[index], hear)
            settings = Settings("bench", swarm.hex(), "bench", bootstrap=addresses)
            network = await stack.enter_async_context(
                open_network(Home(folder), settings, keys[index], log)
            )
            addresses = addresses or tuple(network.transport.addresses)
            logs.append((log, network))
        with trio.fail_after(60):
            while any(not net.transport.peers() for _, net in logs):  # noqa: ASYNC110
                await trio.sleep(0.1)
        await trio.sleep(3)  # meshes form at the first heartbeats
        author, _ = logs[0]
        with trio.move_on_after(120):
            for number in range(MESSAGES):
                head = author.store.heads()[author.key.public]
                record = _sign(author, number)
                assert record.envelope.seq == head.seq + 1
                signed[record.id] = time.perf_counter()
                assert author.announce is not None
                await author.announce(record.signed.to_bytes())
                await trio.sleep(0.1)
            await done.wait()
    return delays


def _sign(log: SwarmLog, number: int):
    return log.store.append(log.key, experiment(number))


def latency_rows() -> Iterator[Row]:
    """Real libp2p on loopback, all nodes in this process."""
    for nodes in (2, 5):
        delays = trio.run(_latency, nodes)
        expected = MESSAGES * (nodes - 1)
        yield Row(
            f"announce to quarantined, {nodes} nodes",
            f"p50 {1000 * percentile(delays, 0.5):.0f} ms, "
            f"p99 {1000 * percentile(delays, 0.99):.0f} ms",
            f"{len(delays)} of {expected} deliveries, 10 records/s, one process",
        )

"""The network beside bare py-libp2p: delay, CPU, late joiners, blobs, and healing.

python -m tests.benchmarks.network [NODES ...]      only the delays, for these numbers of nodes

CPU for each delivery is that of the whole process while records are said, less what it takes in the
same time while nobody says anything: that is upkeep (heartbeats, liveness, sync), and has a row of
its own. All hosts share one process: what they hold once they have met is kept from the garbage
collector (ours and bare alike), which would stop all of them at once to walk the heap of fifty.
"""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from node.network import open_network
from node.settings import Home, Settings
from swarm.blobs import Blobs, BlobStore
from swarm.keys import KeyPair
from swarm.log import SwarmLog
from swarm.store import Store
from tests.benchmarks.records import experiment
from tests.benchmarks.rows import Row, percentile, show
from tests.soak.hosts import why_not
from tests.soak.late import join_late
from tests.soak.partition import fall_apart_and_heal
from tests.swarm.founding import found_with
from tests.swarm.network import bare
from verification.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

NEIGHBOURS = 12
SETTLE_S, IDLE_S = 4.0, 8.0
PLAN = {2: (60, 0.1), 5: (60, 0.1), 20: (20, 0.5), 50: (8, 2.0)}
"""Nodes -> records said, seconds between two."""
LATE_RECORDS = 5000
BLOB_MIB = 192


@dataclass
class Measured:
    """Delays in seconds, deliveries expected, CPU seconds of the whole process meanwhile, how long
    that was, and CPU seconds per second while nobody says anything."""

    expected: int
    delays: list[float] = field(default_factory=list)
    cpu: float = 0.0
    seconds: float = 0.0
    idle: float = 0.0

    @property
    def cpu_ms(self) -> float:
        return 1000 * (self.cpu - self.idle * self.seconds) / max(1, len(self.delays))

    @property
    def all_cpu_ms(self) -> float:
        return 1000 * self.cpu / max(1, len(self.delays))

    def ms(self, share: float) -> float:
        return 1000 * percentile(self.delays, share) if self.delays else float("nan")


async def _say_all(
    nodes: int, measured: Measured, say: Callable[[int], Awaitable[None]]
) -> Measured:
    """Let ``say`` speak as planned, and wait until all is delivered or half a minute has passed."""
    count, pause = PLAN[nodes]
    await trio.sleep(SETTLE_S + nodes / 2)
    gc.collect()
    gc.freeze()
    cpu = time.process_time()
    await trio.sleep(IDLE_S)
    measured.idle = (time.process_time() - cpu) / IDLE_S
    gc.collect()
    cpu, start = time.process_time(), time.perf_counter()
    for number in range(count):
        await say(number)
        await trio.sleep(pause)
    with trio.move_on_after(30):
        while len(measured.delays) < measured.expected:  # noqa: ASYNC110
            await trio.sleep(0.02)
    measured.cpu = time.process_time() - cpu
    measured.seconds = time.perf_counter() - start
    gc.unfreeze()
    return measured


async def ours(nodes: int) -> Measured:
    """From signing on one node until each other node's fold has the record in quarantine."""
    keys = [KeyPair.generate() for _ in range(nodes)]
    swarm, wires = found_with(keys)
    measured = Measured(PLAN[nodes][0] * (nodes - 1))
    signed: dict[bytes, float] = {}
    async with AsyncExitStack() as stack:
        logs = []
        networks: list[Any] = []
        for key in keys:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            store = stack.enter_context(Store(folder / "log.sqlite", swarm))
            store.ingest(wires)
            quarantine = Quarantine(swarm)

            def hear(records: list[Any], quarantine: Quarantine = quarantine) -> None:
                for record in records:
                    quarantine.add(record)
                quarantine.state()
                now = time.perf_counter()
                measured.delays.extend(now - signed[r.id] for r in records if r.id in signed)

            log = SwarmLog(store, key, hear)
            known = random.sample(networks, min(len(networks), NEIGHBOURS // 2))
            bootstrap = tuple(network.transport.addresses[0] for network in known)
            settings = Settings("bench", swarm.hex(), "bench", bootstrap=bootstrap)
            networks.append(
                await stack.enter_async_context(open_network(Home(folder), settings, key, log))
            )
            logs.append(log)
        with trio.fail_after(60 + 10 * nodes):
            while any(not network.transport.peers() for network in networks):  # noqa: ASYNC110
                await trio.sleep(0.1)
        author = logs[0]

        async def say(number: int) -> None:
            record = author.store.append(author.key, experiment(number))
            signed[record.id] = time.perf_counter()
            assert author.announce is not None
            await author.announce(record.signed.to_bytes())

        return await _say_all(nodes, measured, say)


@asynccontextmanager
async def bare_peer() -> AsyncIterator[tuple[Any, Pubsub]]:
    """A host of py-libp2p with GossipSub, set as ours is, and nothing of ours."""
    listen = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
    host = new_host(key_pair=create_new_key_pair(random.randbytes(32)), listen_addrs=listen)
    router = GossipSub(
        [PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        spam_protection_enabled=False,
        adaptive_gossip_enabled=False,
    )
    pubsub = Pubsub(host, router, strict_signing=True)
    async with (
        host.run(listen_addrs=listen),
        background_trio_service(pubsub),
        background_trio_service(router),
    ):
        await pubsub.wait_until_ready()
        yield host, pubsub


async def _connect(host: Any, to: Any) -> None:
    """Bare py-libp2p does not try again by itself; on a busy machine a handshake may time out."""
    for attempt in range(5):
        try:
            await host.connect(to)
            return
        except Exception:
            if attempt == 4:
                raise
            await trio.sleep(1.0)


async def theirs(nodes: int) -> Measured:
    """From publishing bytes of the same size until each other host's subscription has them."""
    measured = Measured(PLAN[nodes][0] * (nodes - 1))
    said: dict[bytes, float] = {}
    size = 492
    async with AsyncExitStack() as stack:
        peers: list[tuple[Any, Pubsub]] = []
        subscriptions = []
        for _ in range(nodes):
            host, pubsub = await stack.enter_async_context(bare_peer())
            subscriptions.append(await pubsub.subscribe("bench"))
            for other, _pubsub in random.sample(peers, min(len(peers), NEIGHBOURS // 2)):
                await _connect(host, info_from_p2p_addr(other.get_addrs()[0]))
            peers.append((host, pubsub))

        async def read(subscription: Any, own: bool) -> None:
            while True:
                message = await subscription.get()
                if not own:
                    measured.delays.append(time.perf_counter() - said[message.data])

        async def say(number: int) -> None:
            data = number.to_bytes(8, "big").ljust(size, b".")
            said[data] = time.perf_counter()
            await peers[0][1].publish("bench", data)

        async with trio.open_nursery() as nursery:
            for index, subscription in enumerate(subscriptions):
                nursery.start_soon(read, subscription, index == 0)
            await _say_all(nodes, measured, say)
            nursery.cancel_scope.cancel()
    return measured


def delay_rows(numbers: tuple[int, ...] = (2, 5, 20, 50)) -> Iterator[Row]:
    """Ours and bare py-libp2p, one after the other, all hosts in this process."""
    for nodes in numbers:
        base, mine = trio.run(theirs, nodes), trio.run(ours, nodes)
        for name, one in (("bare pubsub", base), ("quarantined", mine)):
            yield Row(
                f"{nodes} nodes, announced until {name}",
                f"p50 {one.ms(0.5):.1f} ms, p99 {one.ms(0.99):.0f} ms",
                f"{len(one.delays)} of {one.expected} deliveries, {one.cpu_ms:.2f} ms CPU each "
                f"({one.all_cpu_ms:.2f} with upkeep), {1 / PLAN[nodes][1]:.1f} records/s",
            )
        yield Row(
            f"{nodes} nodes, ours over bare pubsub",
            f"x {mine.ms(0.5) / base.ms(0.5):.2f} delay, x {mine.cpu_ms / base.cpu_ms:.2f} CPU",
            "medians; ours checks, stores and folds what bare pubsub hands on; with upkeep "
            f"x {mine.all_cpu_ms / base.all_cpu_ms:.2f} CPU",
            "1.3",
        )
        yield Row(
            f"{nodes} nodes, upkeep",
            f"{1000 * mine.idle / nodes:.1f} ms CPU/s and node",
            f"while nobody says anything; bare pubsub {1000 * base.idle / nodes:.1f}",
        )


def late_rows() -> Iterator[Row]:
    """A late joiner in a process of its own (``make soak`` has 100,000 records and a kill)."""
    with tempfile.TemporaryDirectory() as folder:
        found = join_late(Path(folder), LATE_RECORDS, kill=False)
    yield Row(
        "late joiner, records over real streams",
        f"{found['rate']:.0f}/s = {found['rate'] / found['raw']:.2f} of raw verify",
        f"{LATE_RECORDS} records, durable, two processes; peak {found['peak_mib']:.0f} MiB",
        "1500/s",
    )


SERVER = """
import sys, trio
from pathlib import Path
from swarm.blobs import Blobs, BlobStore
from tests.swarm.network import bare

async def main():
    async with bare(sys.argv[2]) as transport:
        Blobs(transport, BlobStore(Path(sys.argv[1])))
        print(transport.addresses[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def _fetch(folder: Path, digest: bytes, addresses: list[str]) -> float:
    async with bare("fetcher") as transport:
        for address in addresses:
            await transport.dial(address)
        blobs = Blobs(transport, BlobStore(folder))
        start = time.perf_counter()
        await blobs.fetch(digest, 1 << 32)
        return BLOB_MIB * 2**20 / 1e6 / (time.perf_counter() - start)


def blob_rows() -> Iterator[Row]:
    """One large blob from processes on this machine: fetched, hashed, made durable."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = BlobStore(folder / "held").put(random.randbytes(BLOB_MIB * 2**20))
        servers = []
        try:
            for number in range(2):
                command = [sys.executable, "-c", SERVER, str(folder / "held"), f"server {number}"]
                servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            addresses = [_line(server) for server in servers]
            for count in (1, 2):
                rate = trio.run(_fetch, folder / f"from{count}", digest, addresses[:count])
                yield Row(
                    f"blob of {BLOB_MIB} MiB from {count} peer{'s' if count > 1 else ''}",
                    f"{rate:.0f} MB/s",
                    "loopback, a process each, hashed and fsynced",
                    "40 MB/s",
                )
        finally:
            for server in servers:
                server.kill()
                server.wait()
                if server.stdout is not None:
                    server.stdout.close()


def _line(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline().strip()


def healing_rows() -> Iterator[Row]:
    """Two networks of hosts in network namespaces, apart for ten seconds."""
    what = "one state after a partition of 10 s"
    reason = why_not()
    if reason:
        yield Row(what, "not measured", reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = fall_apart_and_heal(Path(folder), 10)
    yield Row(
        what,
        f"{found['seconds to heal']:.1f} s",
        f"4 hosts, {found['records missed']:.0f} records missed",
    )


if __name__ == "__main__":
    for row in delay_rows(tuple(map(int, sys.argv[1:])) or (2, 5, 20, 50)):
        show([row])

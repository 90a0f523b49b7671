"""Doubles and helpers for the network tests: a log in memory, and real hosts on 127.0.0.1."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from swarm.gossip import Gossip, topic_of
from swarm.peers import Everybody, Ingested
from swarm.safe_libp2p import peer_id_of
from swarm.sync import Sync
from swarm.transport import Transport, TransportSettings

SWARM = b"s" * 32
TOPIC = topic_of(SWARM)
MARK = b"rec:"
LOCAL = ["/ip4/127.0.0.1/tcp/0"]
FAST = TransportSettings(alive_s=0.5, unadmitted_s=1.0, refuse_s=3.0, dial_s=5.0)


def seed(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def author(name: str) -> bytes:
    return hashlib.sha256(b"author" + name.encode()).digest()


def record(by: bytes, seq: int, size: int = 200) -> bytes:
    return (by + seq.to_bytes(8, "big") + MARK).ljust(size, b"x")


def mark_of(item: bytes) -> bytes:
    return hashlib.sha256(item).digest()


class MemoryLog:
    """Feeds in memory. A record is author (32) | seq (8) | "rec:" | filling.

    ``strangers``: authors whose records can never be placed (reported as gaps).
    """

    def __init__(self, strangers: frozenset[bytes] = frozenset()) -> None:
        self.feeds: dict[bytes, list[bytes]] = {}
        self.strangers = strangers
        self.batches: list[tuple[int, bytes]] = []
        self.changed = trio.Event()

    async def marks(self):
        return {
            who: ((len(feed) - 1, mark_of(feed[-1])),) for who, feed in self.feeds.items() if feed
        }

    async def beyond(self, by, marks, skip, max_records, max_bytes):
        found, size = [], 0
        start = skip + (marks[-1][0] + 1 if marks else 0)
        for item in self.feeds.get(by, [])[start : start + max_records]:
            size += len(item)
            if found and size > max_bytes:
                break
            found.append(item)
        return found

    async def ingest(self, records, sender):
        await trio.lowlevel.checkpoint()
        self.batches.append((len(records), sender))
        new = known = 0
        gaps, refused = set(), []
        for item in records:
            by, seq = item[:32], int.from_bytes(item[32:40], "big")
            if item[40:44] != MARK:
                refused.append("not a record")
                continue
            feed = self.feeds.get(by, [])
            if by in self.strangers or seq > len(feed):
                gaps.add(by)
            elif seq < len(feed):
                known += 1
            else:
                self.feeds.setdefault(by, []).append(item)
                new += 1
        self.changed.set()
        self.changed = trio.Event()
        return Ingested(new, known, tuple(sorted(gaps)), tuple(refused))

    def add(self, by: bytes, count: int, size: int = 200) -> None:
        feed = self.feeds.setdefault(by, [])
        start = len(feed)
        feed.extend(record(by, start + i, size) for i in range(count))

    def records(self) -> set[bytes]:
        return {item for feed in self.feeds.values() for item in feed}

    async def until(self, reached, seconds: float = 20.0) -> None:
        with trio.fail_after(seconds):
            while not reached(self):
                await self.changed.wait()


class Members:
    """Admits the keys it holds."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = set(keys)

    def may_connect(self, key: bytes) -> bool:
        return key in self.keys


@dataclass
class Node:
    transport: Transport
    log: MemoryLog
    sync: Sync
    gossip: Gossip

    @property
    def key(self) -> bytes:
        return self.transport.key

    @property
    def address(self) -> str:
        return self.transport.addresses[0]

    async def say(self, seq: int, size: int = 200) -> bytes:
        """Append a record to the own feed and announce it."""
        item = record(self.key, seq, size)
        await self.log.ingest([item], self.key)
        await self.gossip.publish(item)
        return item


@asynccontextmanager
async def node(name, *, admission=None, log=None, listen=None, settings=FAST, interval=600.0):
    """A whole networking node. Periodic sync is off unless ``interval`` says otherwise."""
    transport = Transport(
        seed(name),
        listen or LOCAL,
        admission=admission or Everybody(),
        topic=TOPIC,
        settings=settings,
    )
    log = log or MemoryLog()
    sync = Sync(transport, log, interval=interval)
    gossip = Gossip(transport, log, sync)
    async with trio.open_nursery() as nursery:
        async with transport:
            nursery.start_soon(sync.run)
            yield Node(transport, log, sync, gossip)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def bare(name, *, admission=None, settings=FAST):
    """A transport without a topic."""
    transport = Transport(seed(name), LOCAL, admission=admission or Everybody(), settings=settings)
    async with trio.open_nursery() as nursery, transport:
        yield transport
        nursery.cancel_scope.cancel()  # a quick end; test_transport has the orderly ones


async def eventually(condition, seconds: float = 20.0) -> None:
    """Wait until ``condition()`` holds."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - real hosts have no event for it
            await trio.sleep(0.02)


async def meshed(*nodes: Node) -> None:
    """Wait until every connected pair of ``nodes`` hears one another and is in one mesh."""
    keys = {one.key for one in nodes}

    def ready() -> bool:
        for one in nodes:
            router = one.transport._pubsub.router
            for key in one.transport.peers() & keys:
                if not one.transport.hears(key):
                    return False
                if peer_id_of(key) not in router.mesh.get(TOPIC, ()):
                    return False
        return all(one.transport.peers() & keys for one in nodes)

    await eventually(ready)


async def poke(transport: Transport, peer: bytes, protocol: str, data: bytes):
    """Open a stream and write ``data``, whether or not the peer puts up with it."""
    try:
        stream = await raw_stream(transport, peer, protocol)
        await stream.write(data)
    except Exception:  # the library's errors have no common root
        return None
    return stream


async def raw_stream(transport: Transport, peer: bytes, protocol: str):
    """An outbound libp2p stream on which anything can be written."""
    return await transport._host.new_stream(peer_id_of(peer), [protocol])

"""Repair: pull the records that a peer has and this node lacks. ``/lazaretto/sync/1``.

The puller sends marks of what it holds for a range of author keys (``swarm.forks``: the head of
each feed, more for feeds known to be forked); the other side answers with the records that it
lacks, in an order in which they can be stored, in bounded batches, and says whether there is more.
Two nodes that pull from one another end with the union of their logs, whatever subsets they started
with. A fork that only one of them has seen shows here too: a head that the other side does not hold
is answered with the record that contradicts it. Nothing is kept between two requests.

    request  = first author (32) | last author (32) | n (u16) | n * mark
    mark     = author (32) | seq (u64) | record id (32)
    batch    = 0x01 | n (u16) | n * (length (u32) | record)
    end      = 0x02                     nothing more in the range
             | 0x03 | author (32)       the response is full; it stopped at this author

Numbers are big-endian. Marks ascend strictly by author, number and id, and lie within the range; an
author that is not listed is one of whom the puller has nothing. A puller that could use nothing of
a full response goes on behind the author at which it stopped, so that one feed full of records that
cannot be placed does not keep it from the others.
"""

from __future__ import annotations

import logging
import math
import random
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from swarm.forks import MAX_MARKS, Mark
from swarm.peers import MAX_RECORD_BYTES
from swarm.penalties import TokenBucket
from swarm.streams import FramedStream, Misbehaviour, NetworkError

if TYPE_CHECKING:
    from swarm.peers import Log
    from swarm.transport import Transport

log = logging.getLogger(__name__)

PROTOCOL = "/lazaretto/sync/1"
FIRST, LAST = bytes(32), b"\xff" * 32
MAX_ENTRIES = 2048
MAX_BATCH_RECORDS = 256
MAX_BATCH_BYTES = 256 * 1024
MAX_RECORDS = 2048
MAX_BYTES = 4 * 1024 * 1024
MAX_REQUEST = 66 + 72 * MAX_ENTRIES
MAX_FRAME = 3 + MAX_BATCH_BYTES + MAX_RECORD_BYTES + 4 * (MAX_BATCH_RECORDS + 1)
MAX_SWEEPS = 100
MAX_PULL_SECONDS = 300.0
PATIENCE_S = 15.0
"""Seconds of one pull in which a peer may bring nothing new."""
NEWS_RATE = 4 * 1024
"""Bytes of new records for which a peer gets one more of them."""
MAX_SLOWDOWN = 5.0

_MARK = struct.Struct("!32sQ32s")
_BATCH, _END, _FULL = 1, 2, 3


@dataclass(frozen=True, slots=True)
class MarksRequest:
    """What the puller has: marks of the authors from ``first`` to ``last``, both included."""

    first: bytes
    last: bytes
    marks: dict[bytes, tuple[Mark, ...]]

    def encode(self) -> bytes:
        """Return the request frame."""
        entries = [
            _MARK.pack(author, seq, record)
            for author, marks in sorted(self.marks.items())
            for seq, record in marks
        ]
        return b"".join((self.first, self.last, len(entries).to_bytes(2, "big"), *entries))

    @classmethod
    def decode(cls, data: bytes) -> MarksRequest:
        """Parse a request frame.

        Raises:
            Misbehaviour: not canonical.
        """
        if len(data) < 66 or len(data) != 66 + 72 * int.from_bytes(data[64:66], "big"):
            raise Misbehaviour("a sync request of a wrong length")
        first, last = data[:32], data[32:64]
        found: dict[bytes, list[Mark]] = {}
        before = (b"", 0, b"")
        for entry in _MARK.iter_unpack(data[66:]):
            author, seq, record = entry
            if entry <= before or not first <= author <= last or seq >= 1 << 63:
                raise Misbehaviour("a sync request out of order")
            found.setdefault(author, []).append((seq, record))
            before = entry
        if (
            len(data) > MAX_REQUEST
            or first > last
            or max(map(len, found.values()), default=0) > MAX_MARKS
        ):
            raise Misbehaviour("a sync request beyond its limits")
        return cls(first, last, {author: tuple(marks) for author, marks in found.items()})


def marks_within(marks: dict[bytes, tuple[Mark, ...]], first: bytes, last: bytes) -> MarksRequest:
    """Return the request for the range, cut behind an author if there are too many marks."""
    asked: dict[bytes, tuple[Mark, ...]] = {}
    left = MAX_ENTRIES
    for author in sorted(author for author in marks if first <= author <= last):
        left -= len(marks[author])
        if left < 0:
            return MarksRequest(first, max(asked), asked)
        asked[author] = marks[author]
    return MarksRequest(first, last, asked)


def _behind(author: bytes) -> bytes:
    return (int.from_bytes(author, "big") + 1).to_bytes(32, "big")


def encode_batch(records: list[bytes]) -> bytes:
    """Return the frame of one batch of records."""
    parts = [bytes((_BATCH,)), len(records).to_bytes(2, "big")]
    for record in records:
        parts += (len(record).to_bytes(4, "big"), record)
    return b"".join(parts)


def decode_batch(data: bytes) -> list[bytes]:
    """Parse the frame of one batch.

    Raises:
        Misbehaviour: not canonical, or beyond the limits.
    """
    count = int.from_bytes(data[1:3], "big")
    if len(data) < 3 or data[0] != _BATCH or not 0 < count <= MAX_BATCH_RECORDS:
        raise Misbehaviour("not a batch of records")
    records: list[bytes] = []
    at = 3
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "big")
        record = data[at + 4 : at + 4 + size]
        if not 0 < size <= MAX_RECORD_BYTES or len(record) != size:
            raise Misbehaviour("a batch with a broken record")
        records.append(record)
        at += 4 + size
    if at != len(data):
        raise Misbehaviour("a batch with something behind it")
    return records


class Sync:
    """Serves the protocol and pulls: on connect, on a gap, and every ``interval`` seconds or so.

    Run ``run()`` in a nursery as long as the transport is up.

    Args:
        transport: the node's transport.
        log: the node's log.
        interval: seconds between two periodic pulls, from a random member each time, +-33 %. While
            they bring nothing the pauses grow, up to ``MAX_SLOWDOWN`` times that.
    """

    def __init__(self, transport: Transport, log: Log, *, interval: float = 3.0) -> None:
        self._transport = transport
        self._log = log
        self._interval = interval
        self._slowdown = 1.0
        self._rate = TokenBucket(rate=20.0, burst=100.0)
        self._wanted: OrderedDict[tuple[bytes, bytes | None], None] = OrderedDict()
        self._wake = trio.Event()
        self._pulling: set[bytes] = set()
        transport.set_handler(PROTOCOL, self._serve, timeout=60.0, per_peer=2, in_all=16)
        transport.on_connect(lambda peer: self._want(peer, None))

    async def run(self) -> None:
        """Pull until cancelled. Failures of peers are logged and end one pull only."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            limit = trio.CapacityLimiter(4)
            while True:
                while self._wanted:
                    (peer, author), _ = self._wanted.popitem(last=False)
                    if peer not in self._pulling:
                        self._pulling.add(peer)
                        nursery.start_soon(self._pull_quietly, peer, author, limit)
                await self._wake.wait()
                self._wake = trio.Event()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(self._interval * self._slowdown * random.uniform(0.67, 1.33))
            peers = sorted(self._transport.peers())
            if peers:
                self._want(random.choice(peers), None)

    def fetch_soon(self, peer: bytes, authors: tuple[bytes, ...]) -> None:
        """Pull what is missing of ``authors`` from ``peer``, in the background."""
        if len(authors) == 1:
            self._want(peer, authors[0])
        elif authors:
            self._want(peer, None)

    def _want(self, peer: bytes, author: bytes | None) -> None:
        if len(self._wanted) < 256:
            self._wanted[peer, author] = None
            self._wake.set()

    async def _pull_quietly(
        self, peer: bytes, author: bytes | None, limit: trio.CapacityLimiter
    ) -> None:
        try:
            async with limit:
                await self.pull(peer, author)
        except NetworkError as error:
            log.debug("a pull ended early: %s", error)
        except Exception:
            log.exception("a pull failed")
        finally:
            self._pulling.discard(peer)

    async def pull(self, peer: bytes, author: bytes | None = None) -> int:
        """Fetch all that ``peer`` has and we lack (of ``author``, or of everybody).

        Returns the number of new records.

        Raises:
            PeerGone: the peer went away; what came before is kept.
            Misbehaviour: the peer broke the protocol, and has been penalised.
        """
        total = 0
        self._slowdown = min(MAX_SLOWDOWN, 1.5 * self._slowdown)
        # What is left when the time is over comes with the next pull.
        with trio.move_on_after(MAX_PULL_SECONDS), trio.move_on_after(PATIENCE_S) as patience:
            for _ in range(MAX_SWEEPS):
                new = await self._sweep(peer, author or FIRST, author or LAST, patience)
                total += new
                if new:
                    self._slowdown = 1.0
                if not new or author is not None:
                    break  # one more sweep after news: they may have made others placeable
        return total

    async def _sweep(
        self, peer: bytes, first: bytes, last: bytes, patience: trio.CancelScope
    ) -> int:
        total = 0
        while True:
            request = marks_within(await self._log.marks(), first, last)
            new, stopped = await self._exchange(peer, request, patience)
            total += new
            if stopped is not None and new:
                first = stopped
                continue
            at = stopped or request.last
            if at == last:
                return total
            first = _behind(at)

    async def _exchange(
        self, peer: bytes, request: MarksRequest, patience: trio.CancelScope
    ) -> tuple[int, bytes | None]:
        new = count = size = 0
        async with self._transport.stream(peer, PROTOCOL) as stream:
            await stream.write_frame(request.encode())
            while True:
                frame = await stream.read_frame(MAX_FRAME)
                if frame == bytes((_END,)):
                    return new, None
                if len(frame) == 33 and frame[0] == _FULL:
                    if not request.first <= frame[1:] <= request.last:
                        raise Misbehaviour("a response that stopped outside its range")
                    if not count:
                        raise Misbehaviour("a response that is full of nothing")
                    return new, frame[1:]
                records = decode_batch(frame)
                count += len(records)
                size += len(frame)
                if count > MAX_RECORDS or size > MAX_BYTES + MAX_FRAME:
                    raise Misbehaviour("more records than a response may hold")
                left = patience.deadline - trio.current_time()
                patience.deadline = math.inf  # the peer is not to blame for what our log takes
                result = await self._log.ingest(records, peer)
                left += len(frame) * result.new / len(records) / NEWS_RATE
                patience.deadline = trio.current_time() + min(PATIENCE_S, left)
                new += result.new
                if result.refused:
                    self._transport.penalise(peer, f"sync: {result.refused[0]}", 5.0)
                    raise NetworkError("the peer handed on a record that is not valid")

    async def _serve(self, peer: bytes, stream: FramedStream) -> None:
        request = MarksRequest.decode(await stream.read_frame(MAX_REQUEST))
        await trio.sleep(self._rate.delay(peer))
        self._rate.take(peer)
        marks = await self._log.marks()
        sent = sent_bytes = 0
        batch: list[bytes] = []
        batch_bytes = 0
        end = bytes((_END,))
        for author in sorted(marks):
            theirs = request.marks.get(author, ())
            if not request.first <= author <= request.last or _covers(theirs, marks[author]):
                continue
            skip = 0
            while True:
                room = min(MAX_BATCH_RECORDS - len(batch), MAX_RECORDS - sent)
                if room <= 0 or batch_bytes >= MAX_BATCH_BYTES:
                    await stream.write_frame(encode_batch(batch))
                    batch, batch_bytes = [], 0
                if sent >= MAX_RECORDS or sent_bytes >= MAX_BYTES:
                    end = bytes((_FULL,)) + author
                    break
                room = min(MAX_BATCH_RECORDS - len(batch), MAX_RECORDS - sent)
                records = await self._log.beyond(
                    author, theirs, skip, room, MAX_BATCH_BYTES - batch_bytes
                )
                if not records:
                    break
                skip += len(records)
                batch += records
                batch_bytes += sum(map(len, records))
                sent += len(records)
                sent_bytes += sum(map(len, records))
            if len(end) > 1:
                break
        if batch:
            await stream.write_frame(encode_batch(batch))
        await stream.write_frame(end)


def _covers(theirs: tuple[Mark, ...], ours: tuple[Mark, ...]) -> bool:
    """Say at a glance that somebody with ``theirs`` lacks nothing that we know of."""
    return theirs == ours or (len(theirs) == len(ours) == 1 and theirs[0][0] > ours[0][0])

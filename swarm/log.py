"""The log as the network sees it: asynchronous, with one writer and an audience.

Wraps :class:`swarm.store.Store` for trio. SQLite and signatures run in worker threads, one at a
time, so the event loop never waits for a disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from swarm.envelope import parse
from swarm.errors import StoreError, SwarmError
from swarm.feed import equivocator
from swarm.peers import Ingested
from swarm.records import Equivocation

if TYPE_CHECKING:
    from swarm.envelope import Record
    from swarm.keys import KeyPair
    from swarm.records import Payload
    from swarm.store import Store

Announce = Callable[[bytes], Awaitable[None]]
Hear = Callable[[list["Record"]], None]


class SwarmLog:
    """Implements ``Log`` and ``Admission`` of :mod:`swarm.peers` over the store of this node.

    ``hear`` is called with every batch of new records, our own included, after they are durable.
    ``announce`` publishes a record of our own; set it when gossip is up. ``full`` is the last
    failure to write, None while all is well: with a full disk the node goes on reading and serving.
    Nothing is signed before ``may_sign`` is set: a node restored from an old copy must have
    fetched its own feed first, or it would contradict itself and be convicted for it.
    """

    def __init__(self, store: Store, key: KeyPair, hear: Hear) -> None:
        self.store = store
        self.key = key
        self.announce: Announce | None = None
        self.full: StoreError | None = None
        self.may_sign = trio.Event()
        self._convicted = {
            equivocator(record.payload)
            for _, record in store.records()
            if isinstance(record.payload, Equivocation)
        }
        self._hear = hear
        self._writing = trio.Lock()

    def may_connect(self, key: bytes) -> bool:
        """Members only; before the charter is known, anybody: a joiner knows nobody yet."""
        rules = self.store.rules
        return rules is None or not rules.epochs or rules.is_member(key)

    async def heads(self) -> dict[bytes, int]:
        """Author key -> last sequence number held."""
        return {author: head.seq for author, head in self.store.heads().items()}

    async def records_after(
        self, author: bytes, seq: int, max_records: int, max_bytes: int
    ) -> list[bytes]:
        """Signed bytes beyond ``seq``, in feed order."""
        return await trio.to_thread.run_sync(
            self.store.records_after, author, seq, max_records, max_bytes
        )

    async def ingest(self, records: list[bytes], sender: bytes) -> Ingested:
        """Check and store; never raises for bad input, nor for a full disk (see ``full``)."""
        async with self._writing:
            try:
                result = await trio.to_thread.run_sync(self.store.ingest, records)
            except StoreError as error:
                self.full = error
                return Ingested()
        self.full = None
        if result.new:
            self._convicted |= {
                equivocator(record.payload)
                for record in result.new
                if isinstance(record.payload, Equivocation)
            }
            self._hear(result.new)
        for proof in result.proofs:
            await self._report(proof)
        return Ingested(
            new=len(result.new),
            known=result.known + result.forked,
            gaps=tuple(sorted(result.gaps)),
            refused=tuple(result.refused),
        )

    async def append(self, payload: Payload, refs: tuple[bytes, ...] = ()) -> Record:
        """Sign, make durable, then announce.

        Raises:
            StoreError, RecordError: nothing was signed away and nothing was announced.
        """
        await self.may_sign.wait()
        async with self._writing:
            try:
                record = await trio.to_thread.run_sync(self.store.append, self.key, payload, refs)
            except StoreError as error:
                self.full = error
                raise
        self.full = None
        await self.tell([record])
        return record

    async def append_by(self, work: Callable[[], object]) -> list[Record]:
        """Run ``work``, which appends to the store, in a thread; then announce what it appended.

        Raises:
            SwarmError: that of ``work``; what it had appended before is announced all the same.
        """
        await self.may_sign.wait()
        own, said = self.key.public, []
        try:
            async with self._writing:
                head = self.store.heads().get(own)
                try:
                    await trio.to_thread.run_sync(work)
                finally:
                    after = head.seq if head else -1
                    said = self.store.records_after(own, after, 256, 2**24)
        finally:
            records = [parse(data, check_signature=False) for data in said]
            if records:
                await self.tell(records)
        return records

    async def tell(self, records: list[Record]) -> None:
        """Let audience and peers hear of records of our own that were appended to the store."""
        self._hear(records)
        if self.announce is not None:
            for record in records:
                await self.announce(record.signed.to_bytes())

    async def _report(self, proof: Equivocation) -> None:
        """Publish the first proof against an author; more of them would prove nothing more."""
        author, rules = equivocator(proof), self.store.rules
        if author in self._convicted or author == self.key.public or not self.may_sign.is_set():
            return
        if rules is None or not rules.is_member(self.key.public):
            return
        self._convicted.add(author)
        try:
            await self.append(proof)
        except SwarmError:
            self._convicted.discard(author)  # the disk is full: the next contradiction reports it

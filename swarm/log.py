"""The log as the network sees it: asynchronous, with one writer and an audience.

Wraps :class:`swarm.store.Store` for trio. What takes long or waits for a disk runs in worker
threads, one at a time, so the event loop never does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from swarm.envelope import parse
from swarm.errors import StoreError, SwarmError
from swarm.feed import convicted_by, equivocator
from swarm.peers import Ingested

if TYPE_CHECKING:
    from swarm.envelope import Record
    from swarm.forks import Mark
    from swarm.ingest import Ingest
    from swarm.keys import KeyPair
    from swarm.records import Payload
    from swarm.store import Store

SMALL = 4096
"""Bytes of a record that is checked and written in a tenth of a millisecond or so."""
MANY = 100
"""Small records in a row after which the log gets a chance to be written back."""

Announce = Callable[[bytes], Awaitable[None]]
Hear = Callable[[list["Record"]], None]


class SwarmLog:
    """Implements ``Log`` and ``Admission`` of :mod:`swarm.peers` over the store of this node.

    ``hear`` is called with every batch of new records, our own included, once they are stored (our
    own ones durably).
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
        self._convicted = set(store.convicted())
        self._unreported = store.contradictions()
        self._hear = hear
        self._writing = trio.Lock()
        self._taken_here = 0

    def may_connect(self, key: bytes) -> bool:
        """Members only; before the charter is known, anybody: a joiner knows nobody yet."""
        rules = self.store.stand
        return rules is None or not rules.epochs or rules.is_member(key)

    @property
    def convicted(self) -> frozenset[bytes]:
        """Authors against whom a proof of equivocation is held."""
        return frozenset(self._convicted)

    async def marks(self) -> dict[bytes, tuple[Mark, ...]]:
        """What is held of every feed."""
        return await trio.to_thread.run_sync(self.store.marks)

    async def beyond(
        self, author: bytes, marks: tuple[Mark, ...], skip: int, max_records: int, max_bytes: int
    ) -> list[bytes]:
        """Signed bytes that somebody with ``marks`` lacks, in an order in which they fit."""
        return await trio.to_thread.run_sync(
            self.store.beyond, author, marks, skip, max_records, max_bytes
        )

    async def ingest(self, records: list[bytes], sender: bytes) -> Ingested:
        """Check and store; never raises for bad input, nor for a full disk (see ``full``)."""
        async with self._writing:
            try:
                result = await self._take(records)
            except StoreError as error:
                self.full = error
                return Ingested()
        self.full = None
        if result.new:
            self._convicted |= {
                author for record in result.new if (author := convicted_by(record)) is not None
            }
            self._hear(result.new)
        self._unreported.update((equivocator(proof), proof) for proof in result.proofs)
        await self._report()
        return Ingested(
            new=len(result.new) + len(result.proofs),
            known=result.known + result.forked,
            gaps=tuple(sorted(result.gaps)),
            refused=tuple(result.refused),
        )

    async def _take(self, records: list[bytes]) -> Ingest:
        """One small record is checked and written here and now, sooner than a thread would begin;
        many, and now and then one that may wait for the disk, in a thread.
        """
        if len(records) == 1 and len(records[0]) <= SMALL and self._taken_here < MANY:
            self._taken_here += 1
            return self.store.ingest(records, checkpoint=False)
        self._taken_here = 0
        return await trio.to_thread.run_sync(self.store.ingest, records)

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

    async def _report(self) -> None:
        """Publish the first proof against an author; more of them would prove nothing more.

        What cannot be signed now (no leave to sign yet, a full disk) is tried again with the next
        records that arrive, also after a restart: the log itself holds the contradiction.
        """
        rules = self.store.stand
        if not self._unreported or not self.may_sign.is_set():
            return
        if rules is None or not rules.is_member(self.key.public):
            return
        for author, proof in list(self._unreported.items()):
            if author not in self._convicted and author != self.key.public:
                self._convicted.add(author)
                try:
                    await self.append(proof)
                except SwarmError:
                    self._convicted.discard(author)
                    return
            self._unreported.pop(author, None)

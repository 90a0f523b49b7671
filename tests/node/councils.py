"""Governors and members with a store each, in one process: records are carried by hand."""

from __future__ import annotations

import time

from node.governing import new_member
from swarm.envelope import Record, seal_record
from swarm.feed import prove_equivocation
from swarm.keys import KeyPair
from swarm.records import Equivocation, Open
from swarm.store import Store
from tests.swarm.founding import make_charter

KEYS = [KeyPair.from_seed(bytes([n]) * 32) for n in range(40, 50)]


def line(key: KeyPair, operator: str, *roles: str, by: KeyPair | None = None):
    return new_member(key.public, operator, roles, (by or KEYS[0]).public, ["quick"])


class Councils:
    """``stores[i]`` belongs to ``KEYS[i]``; the first ``governors`` of them govern."""

    def __init__(self, folder, size: int, governors: int = 1, **changes):
        self.keys = KEYS[:size]
        public = tuple(key.public for key in self.keys[:governors])
        charter = make_charter(governors=public, k=governors // 2 + 1, **changes)
        genesis = seal_record(
            self.keys[0], charter, swarm=None, seq=0, prev=None, epoch=0,
            day=int(time.time()) // 86_400,
        )  # fmt: skip
        self.swarm = genesis.id
        self.stores = [Store(folder / f"{n}.sqlite", genesis.id) for n in range(size)]
        for store in self.stores:
            store.ingest([genesis.signed.to_bytes()])

    def fork(self, key: KeyPair, swarm: bytes | None = None, told: bool = True) -> Equivocation:
        """``key`` signs two records with one number; everybody hears both if it was ``told``."""
        head = self.stores[0].heads().get(key.public)
        first, second = (
            seal_record(
                key, Open(b"e" * 32, name.ljust(32)), swarm=swarm or self.swarm,
                seq=head.seq + 1 if head else 0, prev=head.id if head else None,
                epoch=self.rules.number, day=int(time.time()) // 86_400,
            )
            for name in (b"one", b"two")
        )  # fmt: skip
        proof = prove_equivocation(first, second)
        assert proof is not None
        if told:
            for store in self.stores:
                store.ingest([first.signed.to_bytes(), second.signed.to_bytes()])
        return proof

    def convict(self, key: KeyPair, by: int = 0) -> Record:
        """The record in which ``stores[by]`` proves that ``key`` told two stories, everywhere."""
        record = self.stores[by].append(self.keys[by], self.fork(key))
        self.spread()
        return record

    def spread(self) -> None:
        """Everybody gets everything."""
        for _ in range(2):
            everything = [
                record.signed.to_bytes() for store in self.stores for _, record in store.records()
            ]
            for store in self.stores:
                store.ingest(everything)
        assert len({tuple(sorted(store.heads().items())) for store in self.stores}) == 1
        assert all(store.rules == self.stores[0].rules for store in self.stores)

    @property
    def rules(self):
        return self.stores[0].rules

    def close(self) -> None:
        for store in self.stores:
            store.close()

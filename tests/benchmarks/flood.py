"""What a member costs every node that says far too much about one claim: time, and memory.

python -m tests.benchmarks.flood          # also part of make bench
"""

from __future__ import annotations

import gc
import hashlib
import time
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.envelope import parse, seal_record
from swarm.records import (
    MOST_PROBES,
    Attest,
    Block,
    Commit,
    Open,
    Pair,
    Position,
    Seal,
    Seating,
)
from tests.benchmarks.rows import Row, show
from tests.verification.small_swarm import TIER, SmallSwarm, measure, no_screen
from verification.quarantine import Quarantine
from verification.states import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from swarm.keys import KeyPair
    from swarm.records import Payload

WORDS = 2_000
KINDS = ("attest", "seating", "commit", "seal", "block", "seals, blocks", "open", "off the bench")


def number(index: int) -> bytes:
    return hashlib.sha256(index.to_bytes(8, "big")).digest()


def words(swarm: SmallSwarm, liar: KeyPair, kind: str) -> Iterator[Payload]:
    """Different records of one kind about the claim, all of the right form."""
    models = {type(r.payload): r.payload for r in swarm.records if r.author == liar.public}
    every = {type(r.payload): r.payload for r in swarm.records}
    own = ("commit", "seal", "block", "seals, blocks")
    mine = models if kind in own else {**every, **models}
    for index in range(WORDS):
        other = number(index)
        if kind in ("attest", "off the bench"):
            said = mine[Attest]
            assert isinstance(said, Attest)
            yield replace(said, block=other)
        elif kind == "seating":
            seating = mine[Seating]
            assert isinstance(seating, Seating)
            yield replace(seating, commits=(other,) * len(seating.commits))
        elif kind == "commit":
            commit = mine[Commit]
            assert isinstance(commit, Commit)
            yield replace(commit, nonce_hash=other)
        elif kind == "seal" or (kind == "seals, blocks" and index < WORDS // 2):
            seal = mine[Seal]
            assert isinstance(seal, Seal)
            yield replace(seal, base_weights=other)
        elif kind == "open":
            link = mine[Open]
            assert isinstance(link, Open)
            yield replace(link, fold_nonce=other)
        else:
            block = mine[Block]
            assert isinstance(block, Block)
            pair = block.pairs[0]
            pair = replace(pair, base_cost_ms=index)
            yield replace(block, pairs=(pair,))


def cost(kind: str, said: int = WORDS) -> tuple[float, float]:
    """Milliseconds of one fold before a flood of ``kind``, and for each record at its end."""
    tier = replace(TIER, n=5, f=1, g=1, max_pairs=12)
    swarm = SmallSwarm(verifiers=6, tier=tier)
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    state = swarm.quarantine.state().claims[claim.id]
    assert state.bench is not None
    seated = {seat.key for seat in state.bench.seats}
    liar = next(key for key in swarm.verifiers if (key.public in seated) != (kind[:3] == "off"))
    good = measure(6_000_000, 6_000_000)
    while not any(r.author == liar.public and r.kind == "block" for r in swarm.records):
        if not swarm.step(good) or (kind[:3] == "off" and len(swarm.records) > 60):
            break
    assert swarm.quarantine.state().claims[claim.id].stage is not Stage.ADOPTED
    last = 200
    payloads = list(words(swarm, liar, kind))[:said]

    def say(payload: Payload) -> float:
        swarm.write(liar, payload)
        began = time.process_time()
        swarm.quarantine.state()
        return time.process_time() - began

    def again() -> float:
        swarm.quarantine._settlements.clear()
        swarm.quarantine._state = None
        began = time.process_time()
        swarm.quarantine.state()
        return time.process_time() - began

    before = min(again() for _ in range(5))
    for payload in payloads[:-last]:
        swarm.write(liar, payload)
    after = [say(payload) for payload in payloads[-last:]]
    return 1000 * before, 1000 * sum(after) / last


def longest(claim: bytes, index: int) -> Block:
    """A block with as many small items as may be."""
    pair = Pair(0, 7, "base_first", 1, "ok", 1, 0, 9, 9, 9)
    probes = {f"probe{n}": n for n in range(MOST_PROBES)}
    prefix = tuple(Position(0, 0, None) for _ in range(960))
    return Block(
        *(claim, 0, 0, "verdict", prefix, claim, number(index), claim, "other", (pair,), probes),
        hw_class="cpu",
        env_digest=claim,
    )


def memory(*, seated: bool, long: bool, said: int = 600) -> tuple[float, int]:
    """Bytes of memory that the fold of a node takes for each byte of a flood by one member, and
    bytes of one record. Without a seat it is about a claim that nobody has heard of.
    """
    swarm = SmallSwarm(verifiers=5, tier=replace(TIER, n=5, f=1, g=1, max_pairs=12))
    claim = swarm.claim(swarm.researchers[0], b"x = 1\n")
    target, key = (claim.id if seated else number(2**60)), swarm.verifiers[0]
    log = {record.id: record.signed.to_bytes() for record in swarm.records}
    quarantine = Quarantine(swarm.swarm, no_screen, log=lambda id_: parse(log[id_]))
    for data in list(log.values()):
        quarantine.add(parse(data))
    quarantine.state()
    flood: list[bytes] = []
    for index in range(said):
        small = Seal(target, index % 64, number(index), target, True)
        record = seal_record(
            key, longest(target, index) if long else small, swarm=swarm.swarm, seq=index,
            prev=number(index) if index else None, epoch=1, day=20_000,
        )  # fmt: skip
        log[record.id] = record.signed.to_bytes()
        flood.append(log[record.id])
    del record, small
    gc.collect()
    tracemalloc.start()
    for data in flood:
        quarantine.add(parse(data))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / sum(map(len, flood)), len(flood[-1])


def memory_rows() -> Iterator[Row]:
    """One row for each place, and for small records and long ones."""
    for seated in (False, True):
        for long in (False, True):
            ratio, size = memory(seated=seated, long=long)
            where = "a claim of which it is on the bench" if seated else "a claim nobody knows"
            yield Row(
                f"memory for a flood about {where}",
                f"{ratio:.2f} bytes for a byte",
                f"records of {size} bytes, from the log into the fold of a node",
            )


def flood_rows() -> Iterator[Row]:
    """One row for each kind of record."""
    for kind in KINDS:
        before, after = cost(kind)
        yield Row(
            f"{WORDS} records of one member about one claim: {kind}",
            f"{after:.2f} ms for each of the last",
            f"a fold of that claim without them: {before:.1f} ms",
        )


if __name__ == "__main__":
    for rows in (memory_rows, flood_rows):
        for one in rows():
            show([one])

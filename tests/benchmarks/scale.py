"""What a swarm of N nodes costs each of them: a model, with sizes and rates measured here.

    python -m tests.benchmarks.scale [--nodes N] [--claims PER_NODE_AND_HOUR]

Records are sealed to learn their sizes; checking, storing and folding are timed on this machine.
Assumed, and printed: a dozen experiments for a claim, a bench of three, 6 pairs for a claim that is
not adopted and 12 for one that is, one claim in thirty adopted, its adoption signed by the bench,
the claimant and whoever makes a claim on top of it (at most one for each claim), 6 mesh neighbours
of whom each hands a message on, and the CPU time of one delivery by gossip
(``make bench`` measures it; --delivery-ms).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.records import (
    Adoption,
    Attest,
    Block,
    Commit,
    Open,
    Pair,
    Payload,
    Position,
    Seal,
    Seating,
)
from swarm.store import Store
from tests.benchmarks.records import experiment
from tests.swarm.founding import Feed, make_founded
from tests.swarm.test_records import CLAIM
from verification.quarantine import Quarantine

if TYPE_CHECKING:
    from swarm.envelope import Record

ID = b"i" * 32
EXPERIMENTS_PER_CLAIM = 12
BENCH = 3
PAIRS_REJECTED, PAIRS_ADOPTED = 6, 12
ADOPTED = 1 / 30
MESH = 6
CODE = 12 * 1024


def payloads() -> dict[str, Payload]:
    """One of each kind, of the usual size."""
    pair = Pair(0, 7, "base_first", 12_000_000, "ok", 10**9, 10**9, 9000, 9000, 10**6)
    return {
        "claim": replace(CLAIM, code=os.urandom(CODE), hypothesis="x" * 200),
        "experiment": experiment(1),
        "commit": Commit(ID, ID, 0, ID, ID, None),
        "seating": Seating(ID, (ID,) * BENCH),
        "seal": Seal(ID, 0, ID, ID, True),
        "open": Open(ID, ID),
        "attest": Attest(ID, 0, 0, ID, ID, ID),
        "block": Block(
            ID, 0, 0, "verdict", tuple(Position(r, 0, ID) for r in range(6)),
            ID, ID, ID, "own", (pair,), {f"probe{n}": 10**6 for n in range(6)}, "cpu", ID,
        ),
        "adoption": Adoption(
            ID, 1, ID, Position(0, 0, ID), "1.23456E+2", 1, 600, (ID,) * 4, 3, 0, 0, ()
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Bytes by kind; CPU seconds to check and store a record alone and in batches, and to fold one
    more claim into a state, for each claim held."""

    sizes: dict[str, int]
    alone_s: float
    batched_s: float
    fold_s: float


def measure() -> Measured:
    """On this machine, now."""
    founded = make_founded()
    sizes = {}
    for name, payload in payloads().items():
        feed = Feed(founded.feeds[1].key, founded.swarm)
        sizes[name] = len(feed.say(payload).signed.to_bytes())
    feed = founded.feeds[1]
    wires = [feed.say(experiment(n)).signed.to_bytes() for n in range(1000)]
    with tempfile.TemporaryDirectory() as folder:
        with Store(Path(folder) / "log.sqlite", founded.swarm) as store:
            store.ingest(founded.wire[:3])
            start = time.process_time()
            for wire in wires[:200]:
                store.ingest([wire])
            alone = (time.process_time() - start) / 200
            start = time.process_time()
            for at in range(200, 1000, 100):
                store.ingest(wires[at : at + 100])
            batched = (time.process_time() - start) / 800
    return Measured(sizes, alone, batched, _fold_seconds())


def _fold_seconds(claims: int = 400) -> float:
    founded = make_founded()
    feed = founded.feeds[1]
    quarantine = Quarantine(founded.swarm)
    for record in founded.feeds[0].records:
        quarantine.add(record)

    def claim(number: int) -> Record:
        code = b"x = %d\n" % number
        said = replace(CLAIM, slot=number, code=code, code_hash=hashlib.sha256(code).digest())
        return feed.say(said)

    for number in range(claims):
        quarantine.add(claim(number))
    quarantine.state()
    start = time.process_time()
    for number in range(5):
        quarantine.add(claim(claims + number))
        quarantine.state()
    return (time.process_time() - start) / 5 / claims


def per_claim() -> dict[str, float]:
    """Records by kind that one claim leads to."""
    pairs = PAIRS_REJECTED + ADOPTED * (PAIRS_ADOPTED - PAIRS_REJECTED)
    return {
        "claim": 1,
        "experiment": EXPERIMENTS_PER_CLAIM,
        "commit": BENCH,
        "seating": BENCH,
        "seal": pairs,
        "open": pairs,
        "block": pairs,
        "attest": (BENCH - 1) * pairs,
        "adoption": ADOPTED * (BENCH + 1) + 1,  # and of the base that it stands on
    }


def table(nodes: int, claims: float, measured: Measured, delivery_s: float) -> list[str]:
    """Lines that say what each node has to bear."""
    counts = per_claim()
    rate = nodes * claims / 3600
    records = rate * sum(counts.values())
    size = rate * sum(count * measured.sizes[kind] for kind, count in counts.items())
    cpu = records * (measured.alone_s + delivery_s)
    held = nodes * claims * 24
    fold = measured.fold_s * held
    return [
        f"{nodes} nodes, {claims:g} claims per node and hour",
        f"  records          {records:12.1f} /s, of them {rate * counts['adoption']:.1f} adoptions",
        f"  arriving bytes   {size / 1e3:12.1f} kB/s once, "
        f"{MESH * size / 1e3:.0f} kB/s with {MESH} mesh neighbours",
        f"  disk             {size * 86_400 / 1e9:12.2f} GB a day",
        f"  CPU, gossip      {100 * cpu:12.0f} % of a core "
        f"({1000 * (measured.alone_s + delivery_s):.1f} ms a record)",
        f"  CPU, sync        {100 * records * measured.batched_s:12.0f} % of a core, "
        f"if records come in batches by sync alone",
        f"  CPU, fold        {fold:12.2f} s for each batch of news after a day ({held:.0f} claims)",
        f"  a late joiner    {records * 86_400 * measured.batched_s / 3600:12.1f} h "
        f"to fetch and check one day",
        f"  verifying        {claims * (PAIRS_REJECTED * 2):12.1f} trainings per node and hour",
    ]


def main() -> None:
    """Print the model."""
    parser = argparse.ArgumentParser(description="What a swarm of N nodes costs each of them.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--claims", type=float, default=1.0)
    parser.add_argument("--delivery-ms", type=float, default=4.0)
    asked = parser.parse_args()
    measured = measure()
    print("records of one claim:", ", ".join(f"{k} {n:.3g}" for k, n in per_claim().items()))
    print("bytes:", ", ".join(f"{kind} {size}" for kind, size in measured.sizes.items()))
    print(
        f"check and store: {1 / measured.alone_s:.0f} records per CPU second alone, "
        f"{1 / measured.batched_s:.0f} in batches; "
        f"fold: {1e6 * measured.fold_s:.1f} us per claim held"
    )
    for nodes in asked.nodes:
        print("\n".join(table(nodes, asked.claims, measured, asked.delivery_ms / 1000)))


if __name__ == "__main__":
    main()

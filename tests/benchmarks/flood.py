"""What a member costs every node that says far too much about one claim.

python -m tests.benchmarks.flood          # also part of make bench
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.records import Attest, Block, Commit, Open, Seal, Seating
from tests.benchmarks.rows import Row, show
from tests.verification.small_swarm import TIER, SmallSwarm, measure
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
    for one in flood_rows():
        show([one])

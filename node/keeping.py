"""Which blobs a node must keep, and dropping others when room is short. ``to_keep`` is pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from node.data import describe, needed
from swarm.records import Seal
from training.errors import TrainingError
from verification.states import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from node.member import Node
    from swarm.envelope import Record
    from verification.states import State

LOOK_SECONDS = 600.0
GIB = 1024**3


def to_keep(state: State, records: Iterable[Record]) -> frozenset[bytes] | None:
    """Digests of the blobs that an adopted discovery, an audit or work under way needs.

    The challenge's data (every audit scores on it), and the sealed weights of every claim but
    those that are decided against and belong to an epoch before the current one: while it lasts, a
    verdict may be checked by training and scoring again. None: not known yet, keep all.
    """
    rules = state.rules
    if rules is None or rules.current is None:
        return None
    try:
        challenge = describe(rules.charter)
    except TrainingError:
        return None
    keep = {reference.sha256 for reference in needed(challenge)}
    done = {
        claim.id
        for claim in state.cases.values()
        if claim.stage in FAILED and claim.epoch < rules.current.number
    }
    for record in records:
        seal = record.payload
        if isinstance(seal, Seal) and seal.claim not in done:
            keep |= {seal.base_weights, seal.candidate_weights}
    return frozenset(keep)


async def keep_within_quota(node: Node) -> None:
    """Every ten minutes: above four fifths of the quota, drop the oldest that need not be kept."""
    quota = node.settings.limits.blob_gib * GIB
    while True:
        state = node.state
        freed = await trio.to_thread.run_sync(_tidy, node, state, quota)
        if freed:
            node.journal.write("blobs dropped", bytes=freed)
        await trio.sleep(LOOK_SECONDS)


def _tidy(node: Node, state: State, quota: int) -> int:
    if node.blobs.total() <= quota * 4 // 5:
        return 0
    keep = to_keep(state, (record for _, record in node.log.store.records()))
    return 0 if keep is None else node.blobs.collect(keep, quota * 3 // 5)

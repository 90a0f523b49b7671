"""Scoring the sealed weights of others again, for ``lazaretto recheck`` and :mod:`node.upkeep`.

Takes no training, so a node without a GPU can do it for every tier that is scored on a processor.
The weights are fetched by hash from whoever holds them, at most as many bytes as the tier allows,
and are opened in the sandbox only: they are as hostile as the code that they belong to. What is
asked and what an answer means is in :mod:`verification.rechecks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from node.work import cancellable
from swarm.records import Contradiction
from training.errors import BaseFailed
from verification.rechecks import (
    TOLERANCE_NANO,
    Finding,
    Found,
    Recheck,
    compare,
)

if TYPE_CHECKING:
    from node.member import Node
    from training.challenge import TierSpec
    from training.pair import TrainedPair
    from training.runner import TrainedRun

ROLES: Final = ("verifier", "archivist")
NOT_TO_BE_HAD: Final = "its weights are not to be had"


async def rescore(node: Node, item: Recheck) -> tuple[Finding, Found | None]:
    """Score the weights behind a block again; what follows, and the numbers if there are any.

    Blobs that were fetched for it are removed again, unless this node is an archivist.

    Raises:
        SandboxUnavailable: there is no sandbox here; nothing was loaded.
        SwarmError, OSError: it could not be done now, and says nothing about the block.
    """
    if (evident := item.evident) is not None:
        return evident, None
    assert node.data is not None
    tier, folds = node.tier(item.tier), node.data.challenge.manifest.folds
    if item.said.fold >= len(folds):
        return Finding("unsure", 0, "the challenge has no such fold"), None
    if not can_score(tier):
        return Finding("unsure", 0, f"{item.tier} is scored on {tier.device}: not here"), None
    wanted = (item.base_weights, item.candidate_weights)
    fetched = [digest for digest in wanted if not node.blobs.has(digest)]
    try:
        weights = await obtain(node, item, size_cap(tier))
        if weights is None:
            return Finding("unsure", 0, NOT_TO_BE_HAD), None
        found = await _score(node, item, tier, weights)
    finally:
        if not node.has_role("archivist"):
            for digest in fetched:
                node.blobs.remove(digest)
    return compare(item.said, found, TOLERANCE_NANO[tier.device]), found


def can_score(tier: TierSpec) -> bool:
    """Whether this machine can score models of ``tier``."""
    from training import accelerator

    return tier.device == "cpu" or accelerator.name() is not None


def size_cap(tier: TierSpec) -> int:
    """The most bytes that weights of ``tier`` may have."""
    from training import weights

    return min(weights.size_cap(tier.max_params), tier.max_memory_bytes)


async def obtain(node: Node, item: Recheck, cap: int) -> list[bytes] | None:
    """The weights by hash, held or fetched; None where somebody would have to have them."""
    from swarm.blobs import BlobError

    found = []
    for digest in (item.base_weights, item.candidate_weights):
        try:
            if not node.blobs.has(digest) and node.fetch is not None:
                await node.fetch(digest, cap, item.member)
            found.append(await trio.to_thread.run_sync(node.blobs.get, digest, cap))
        except BlobError:
            return None
    return found


async def _score(node: Node, item: Recheck, tier: TierSpec, weights: list[bytes]) -> Found:
    from training.pair import score_pair

    if not await trio.to_thread.run_sync(lambda: all(_fits(one, tier) for one in weights)):
        return Found("bad_weights", 0, 0)
    data = node.data
    assert data is not None
    base = await node.code_of(item.base)
    candidate = await node.code_of(item.candidate)
    pair = _as_trained(item, weights)
    text, tokenizer = data.fold(item.said.fold), data.tokenizer()
    nice = node.settings.limits.nice_verify
    try:
        async with node.lane(tier.name, bench=False) as lane:
            result = await cancellable(
                lambda cancel: score_pair(
                    base, candidate, pair, tier, text, item.seed,
                    tokenizer=tokenizer, cancel=cancel, nice=nice, executor=lane.executor,
                )
            )  # fmt: skip
    except BaseFailed as error:
        return Found(error.status, 0, 0)
    if result.status != "ok" or result.base is None or result.candidate is None:
        return Found(result.status, 0, 0)
    return Found("ok", result.base.nano_bpb, result.candidate.nano_bpb)


def _fits(weights: bytes, tier: TierSpec) -> bool:
    """Whether these are what a run of the tier can leave; they are read as bytes only."""
    from training.weights import WeightsError, unpack, weight

    try:
        return weight(unpack(weights)) <= tier.max_params
    except WeightsError:
        return False


def _as_trained(item: Recheck, weights: list[bytes]) -> TrainedPair:
    """Weights of others in the form in which a pair is scored; what is not known is 0."""
    from training.pair import TrainedPair
    from training.runner import TrainedRun

    def run(digest: bytes, data: bytes) -> TrainedRun:
        return TrainedRun("ok", "", data, digest, bytes(32), 0, 0, 0, 0, 0, 0, 0, 0)

    base = run(item.base_weights, weights[0])
    return TrainedPair(base, run(item.candidate_weights, weights[1]), item.said.order, False, 0)


async def contradict(node: Node, item: Recheck, finding: Finding) -> bool:
    """Sign what a recheck found, once; False when this node has said so before."""
    for record in node.own_records():
        if isinstance(record.payload, Contradiction) and record.payload.target == item.block:
            return False
    await node.log.append(
        Contradiction(
            target=item.block, slot=0, margin_nano=finding.margin_nano, reason=finding.reason
        ),
        refs=(item.claim, item.block),
    )
    return True

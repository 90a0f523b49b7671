"""Scoring the sealed weights of others again: ``lazaretto recheck``, and a loop when idle.

Takes no training, so a node without a GPU can do it for every tier that is scored on a processor.
The weights are fetched by hash from whoever holds them, at most as many bytes as the tier allows,
and are opened in the sandbox only: they are as hostile as the code that they belong to. What is
asked and what an answer means is in :mod:`verification.rechecks`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from node.work import cancellable
from swarm.errors import SwarmError
from swarm.records import Contradiction
from training.errors import BaseFailed, SandboxUnavailable, TrainingError
from verification.rechecks import (
    TOLERANCE_NANO,
    Finding,
    Found,
    Recheck,
    compare,
    is_drawn,
    recheck_of,
    settled_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from node.member import Node
    from training.challenge import TierSpec
    from training.pair import TrainedPair
    from training.runner import TrainedRun
    from verification.states import State

ROLES: Final = ("verifier", "archivist")
NOT_TO_BE_HAD: Final = "its weights are not to be had"
RETRY_SECONDS: Final = 600.0
"""When weights that nobody had are asked for again."""


# --- one block -----------------------------------------------------------------------------------


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
    tier, folds = node.data.challenge.tier(item.tier), node.data.challenge.manifest.folds
    if item.said.fold >= len(folds):
        return Finding("unsure", 0, "the challenge has no such fold"), None
    if not _can_score(tier):
        return Finding("unsure", 0, f"{item.tier} is scored on {tier.device}: not here"), None
    wanted = (item.base_weights, item.candidate_weights)
    fetched = [digest for digest in wanted if not node.blobs.has(digest)]
    try:
        weights = await _obtain(node, item, _size_cap(tier))
        if weights is None:
            return Finding("unsure", 0, NOT_TO_BE_HAD), None
        found = await _score(node, item, tier, weights)
    finally:
        if not node.has_role("archivist"):
            for digest in fetched:
                node.blobs.remove(digest)
    return compare(item.said, found, TOLERANCE_NANO[tier.device]), found


def _can_score(tier: TierSpec) -> bool:
    from training import accelerator

    return tier.device == "cpu" or accelerator.name() is not None


def _size_cap(tier: TierSpec) -> int:
    from training.weights import size_cap

    return min(size_cap(tier.max_params), tier.max_memory_bytes)


async def _obtain(node: Node, item: Recheck, cap: int) -> list[bytes] | None:
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
    candidate = (await node.claim_record(item.claim)).code
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


# --- when idle -----------------------------------------------------------------------------------


class Done:
    """The blocks that were looked at already, over restarts; a lost file costs work, no more."""

    def __init__(self, node: Node) -> None:
        from node.settings import write_atomic

        self._path = node.home.work / "rechecked.json"
        self._write = write_atomic
        self._blocks: set[str] = set()
        with suppress(OSError, ValueError):
            held: Any = json.loads(self._path.read_text())
            self._blocks = {str(block) for block in held} if isinstance(held, list) else set()

    def __contains__(self, block: bytes) -> bool:
        return block.hex() in self._blocks

    def add(self, block: bytes) -> None:
        """Do not look at it again."""
        self._blocks.add(block.hex())
        self._write(self._path, json.dumps(sorted(self._blocks)).encode(), durable=False)


async def recheck_forever(node: Node) -> None:
    """Take our share of settled blocks of others, one after the other, whenever we are idle.

    Idle: no reproduction is ours to do. One that becomes ours meanwhile stops the recheck.
    """
    from training.sandbox import require

    if node.settings.limits.recheck_share_milli < 1 or not set(ROLES) & set(node.settings.roles):
        return
    try:
        await cancellable(lambda cancel: require("cpu", cancel))
    except SandboxUnavailable as error:
        node.trouble("recheck", error)  # once: without a sandbox no weights are opened here
        return
    done, not_before = Done(node), dict[bytes, float]()
    while True:
        state = await node.caught_up()
        changed = node.changed
        item = None if is_due(state, node.key.public) else _next(node, state, done, not_before)
        if item is None:
            with trio.move_on_after(RETRY_SECONDS):
                await changed.wait()
            continue
        not_before[item.block] = trio.current_time() + RETRY_SECONDS
        await _while_idle(node, lambda item=item: _look(node, item, done))  # type: ignore[misc]
        node.activity = "ready"


def is_due(state: State, key: bytes) -> bool:
    """Whether a bench waits for a pair of ``key``."""
    return any(
        claim.turn is not None and claim.turn.seat.key == key for claim in state.claims.values()
    )


def _next(node: Node, state: State, done: Done, not_before: dict[bytes, float]) -> Recheck | None:
    own, now = node.key.public, trio.current_time()
    if not any(node.has_role(role) for role in ROLES):
        return None
    share = node.settings.limits.recheck_share_milli
    for claim in sorted(state.claims.values(), key=lambda one: one.id):
        for item in settled_blocks(claim):
            block = item.block
            assert block is not None
            if item.member == own or block in done or not is_drawn(own, block, share):
                continue
            if not_before.get(block, now) <= now:
                found = recheck_of(state, claim, item, node.log.store.get)
                if found is not None:
                    return found
    return None


async def _look(node: Node, item: Recheck, done: Done) -> None:
    """Check one block and say what was found."""
    node.activity = f"checking {item.claim.hex()[:8]}"
    try:
        finding, _ = await rescore(node, item)
        if finding.verdict == "contradicts":
            await contradict(node, item, finding)
        if finding.reason != NOT_TO_BE_HAD:
            await trio.to_thread.run_sync(done.add, item.block)
    except (SwarmError, TrainingError, OSError) as error:
        node.trouble("recheck", error)
        return
    node.journal.write(
        "rechecked",
        claim=item.claim.hex(),
        block=item.block.hex(),
        member=item.member.hex(),
        verdict=finding.verdict,
        margin_bpb=finding.margin_nano / 1e9,
        reason=finding.reason,
    )


async def _while_idle(node: Node, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work``; cancel it when a reproduction becomes ours."""

    async def watch(scope: trio.CancelScope) -> None:
        while True:
            changed = node.changed
            if is_due(node.state, node.key.public):
                scope.cancel()
            await changed.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        await work()
        nursery.cancel_scope.cancel()

"""Work for the swarm beside pairs and research: scoring again, auditing, keeping weights.

What is next is :mod:`node.agenda`'s to say. Done work is signed in batches (``Upkeep``): a receipt,
and a hint for others what needs no more hands. What is done and not signed yet outlives a kill.
"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from node.agenda import STAGGER_SECONDS, Need, Picture, next_job
from node.errors import NodeError
from node.rechecking import NOT_TO_BE_HAD, ROLES, can_score, contradict, obtain, rescore, size_cap
from node.settings import write_atomic
from node.work import FAILURES, cancellable, without_groups
from swarm.errors import SwarmError
from swarm.records import Upkeep
from training.errors import SandboxUnavailable
from verification.rechecks import NO_WEIGHTS, Recheck, is_drawn, recheck_of, settled_blocks
from verification.reproduce import digest
from verification.states import CLOSED, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from node.member import Node
    from verification.states import ClaimState, State

RETRY_SECONDS: Final = 600.0
"""When what could not be done is tried again: weights that nobody had, say."""
SIGN_SECONDS: Final = 600.0
"""At most one record of upkeep in so many seconds, unless one is full."""
FULL: Final = 64
LOOK_SECONDS: Final = 0.5
AUDIT_SECONDS: Final = 3600.0


@dataclass
class _Kept:
    """``HOME/work/upkeep.json``: what is done for good, and what is not signed yet; hex digits."""

    done: set[str] = field(default_factory=set)
    rescored: list[str] = field(default_factory=list)
    audited: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)


class Done:
    """What was done already, over restarts; a lost file costs work, no more."""

    def __init__(self, node: Node) -> None:
        self._path = node.home.work / "upkeep.json"
        self._kept = _Kept()
        with suppress(OSError, msgspec.MsgspecError):
            self._kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)

    def __contains__(self, thing: tuple[str, bytes]) -> bool:
        return _name(thing) in self._kept.done

    def add(self, kind: str, target: bytes, *, told: str = "") -> None:
        """Do not do it again; ``told`` names the list of the next record that it goes into."""
        self._kept.done.add(_name((kind, target)))
        if told:
            getattr(self._kept, told).append(target.hex())
        self._save()

    @property
    def waiting(self) -> int:
        """How many things are done and not signed."""
        kept = self._kept
        return max(len(kept.rescored), len(kept.audited), len(kept.stored))

    def next_record(self) -> Upkeep:
        """What is to be signed next."""
        kept = self._kept

        def first(told: list[str]) -> tuple[bytes, ...]:
            return tuple(bytes.fromhex(one) for one in told[:FULL])

        return Upkeep(first(kept.rescored), first(kept.audited), first(kept.stored))

    def signed(self, record: Upkeep) -> None:
        """``record`` is out."""
        kept = self._kept
        del kept.rescored[: len(record.rescored)]
        del kept.audited[: len(record.audited)]
        del kept.stored[: len(record.stored)]
        self._save()

    def _save(self) -> None:
        write_atomic(self._path, msgspec.json.encode(self._kept), durable=False)


def _name(thing: tuple[str, bytes]) -> str:
    return f"{thing[0]} {thing[1].hex()}"


def is_due(state: State, key: bytes) -> bool:
    """Whether a bench waits for a pair of ``key``."""
    return due(state, key) > 0


def due(state: State, key: bytes) -> int:
    """How many benches wait for a pair of ``key``."""
    turns = (claim.turn for claim in state.cases.values())
    return sum(turn is not None and turn.seat.key == key for turn in turns)


async def upkeep_forever(node: Node) -> None:
    """Do what the agenda says, one thing after the other; a pair that becomes due stops it."""
    if node.settings.limits.recheck_share_milli < 1:
        return
    work = _Work(node, await _has_sandbox(node))
    try:
        await _in_turn(node, work)
    finally:
        node.why = ""


async def _in_turn(node: Node, work: _Work) -> None:
    while True:
        state = await node.caught_up()
        changed = node.changed
        await work.sign()
        job = next_job(work.picture(state)) if node.may_begin() else None
        node.why = job.why if job else ""
        if job is None or job.need is None:
            with trio.move_on_after(work.seconds_to_wait()):
                await changed.wait()
                await trio.sleep(LOOK_SECONDS)
            continue
        node.activity = job.why
        with node.doing(job.kind):
            await while_idle(node, lambda need=job.need: work.do(need))  # type: ignore[misc]
        node.activity = "ready"


async def _has_sandbox(node: Node) -> bool:
    from training.sandbox import require

    try:
        await cancellable(lambda cancel: require("cpu", cancel))
    except SandboxUnavailable as error:
        node.trouble("recheck", error)  # once: without a sandbox no weights are opened here
        return False
    return True


class _Work:
    """What one node knows of the work that there is, since it started."""

    def __init__(self, node: Node, can_open: bool) -> None:
        self._node = node
        self._can_open = can_open
        self._done = Done(node)
        self._not_before: dict[tuple[str, bytes], float] = {}
        self._seen: dict[tuple[str, bytes], tuple[float, int]] = {}
        self._signed_at = -math.inf
        self._over: set[bytes] = set()  # claims on which nothing is left to do
        self._over_in = -1

    # --- the picture -------------------------------------------------------------------------

    def picture(self, state: State) -> Picture:
        """The swarm as it is known now."""
        node = self._node
        rules = state.rules
        epoch = rules.current if rules else None
        roster = epoch.roster.values() if epoch else ()
        return Picture(
            due=due(state, node.key.public),
            waiting=sum(claim.stage not in CLOSED for claim in state.cases.values()),
            verifiers=sum("verifier" in line.roles for line in roster),
            researches=node.researching and node.has_role("researcher"),
            needs=tuple(self._needs(state)) if epoch else (),
        )

    def _needs(self, state: State) -> Iterator[Need]:
        if self._over_in != self._node.epoch:  # roles may be others
            self._over, self._over_in = set(), self._node.epoch
        for claim in state.cases.values():
            if claim.id in self._over:
                continue
            left = False
            for kind, target, member, who in self._work_on(claim):
                thing = (kind, target)
                drawn = kind != "store" and self._is_drawn(target)
                adopted = claim.stage is Stage.ADOPTED
                if thing in self._done or not (drawn or adopted):
                    continue
                left = True
                now = trio.current_time()
                if self._not_before.get(thing, now) > now:
                    continue
                if thing not in self._seen:
                    self._seen[thing] = (now, self._rank(target))
                since, rank = self._seen[thing]
                hands = len(set(who) - {self._operator_of(member, claim)})
                yield Need(kind, claim.id, target, hands, drawn, adopted, rank, now - since)
            settled = claim.settlement is None or claim.settlement.complete
            if claim.stage in CLOSED and settled and not left:
                self._over.add(claim.id)

    def _work_on(
        self, claim: ClaimState
    ) -> Iterator[tuple[Literal["recheck", "audit", "store"], bytes, bytes, tuple[str, ...]]]:
        """All work that this node could do on a claim: kind, target, whose word it is about, and
        who says to have done it.
        """
        node, adopted = self._node, claim.stage is Stage.ADOPTED
        if adopted:
            yield "audit", claim.id, claim.author, node.hearsay.audited.who(claim.id)
        blocks = [one for one in settled_blocks(claim) if one.member != node.key.public]
        if not blocks or node.data is None:
            return
        stores = adopted and node.has_role("archivist")
        rechecks = self._can_open and any(node.has_role(role) for role in ROLES)
        rechecks = rechecks and can_score(node.data.challenge.tier(claim.tier))
        for item in blocks:
            assert item.block is not None
            if rechecks:
                yield "recheck", item.block, item.member, node.hearsay.rescored.who(item.block)
            if stores:
                yield "store", item.block, item.member, node.hearsay.stored.who(item.block)

    def _is_drawn(self, target: bytes) -> bool:
        node = self._node
        return is_drawn(node.key.public, target, node.settings.limits.recheck_share_milli)

    def _rank(self, target: bytes) -> int:
        """How many members with such roles come before this one for ``target``, by hash."""
        rules, own = self._node.log.store.rules, self._node.key.public
        epoch = rules.current if rules else None
        mine = digest("upkeep", own, target)
        lines = epoch.roster.values() if epoch else ()
        keys = (line.key for line in lines if set(ROLES) & set(line.roles))
        return sum(digest("upkeep", key, target) < mine for key in keys)

    def _operator_of(self, key: bytes, claim: ClaimState) -> str:
        rules = self._node.log.store.rules
        line = rules.member(claim.epoch, key) if rules else None
        return line.operator if line else ""

    def seconds_to_wait(self) -> float:
        """When to look again although nothing has changed."""
        if not self._done.waiting:
            return STAGGER_SECONDS if self._seen else RETRY_SECONDS
        return max(0.0, min(STAGGER_SECONDS, self._signed_at + SIGN_SECONDS - trio.current_time()))

    # --- doing it ----------------------------------------------------------------------------

    async def do(self, need: Need) -> None:
        """Do one piece of work, and remember what came of it."""
        self._not_before[need.kind, need.target] = trio.current_time() + RETRY_SECONDS
        try:
            if need.kind == "audit":
                await self._audit(need)
            elif item := self._item(need):
                await (self._rescore(item) if need.kind == "recheck" else self._store(item))
        except FAILURES as error:
            self._node.trouble(need.kind, error)

    def _item(self, need: Need) -> Recheck | None:
        node = self._node
        claim = node.state.cases[need.claim]
        (block,) = (item for item in settled_blocks(claim) if item.block == need.target)
        return recheck_of(node.state, claim, block, node.log.store.get)

    async def _rescore(self, item: Recheck) -> None:
        node = self._node
        finding, _ = await rescore(node, item)
        if finding.verdict == "contradicts":
            await contradict(node, item, finding)
        if finding.reason != NOT_TO_BE_HAD:
            told = "rescored" if finding.verdict == "agrees" else ""
            await trio.to_thread.run_sync(lambda: self._done.add("recheck", item.block, told=told))
        node.journal.write(
            "rechecked",
            claim=item.claim.hex(),
            block=item.block.hex(),
            member=item.member.hex(),
            verdict=finding.verdict,
            margin_bpb=finding.margin_nano / 1e9,
            reason=finding.reason,
        )

    async def _store(self, item: Recheck) -> None:
        """Keep the weights behind a block; those of adopted claims are not dropped for room."""
        node = self._node
        assert node.data is not None
        if NO_WEIGHTS in (item.base_weights, item.candidate_weights):
            self._done.add("store", item.block)
            return
        tier = node.data.challenge.tier(item.tier)
        weights = await obtain(node, item, size_cap(tier))
        if weights is not None:
            await trio.to_thread.run_sync(
                lambda: self._done.add("store", item.block, told="stored")
            )
            node.journal.write("stored", claim=item.claim.hex(), block=item.block.hex())

    async def _audit(self, need: Need) -> None:
        """Audit in a process of its own: it takes seconds of a processor, and no lock of ours."""
        node = self._node
        command = (
            "nice", "-n", str(node.settings.limits.nice_research), sys.executable, "-m", "node.cli",
            "audit", need.claim.hex(), "--json", "--home", str(node.home.path),
        )  # fmt: skip
        async with node.lane(node.settings.tier, bench=False):
            with trio.move_on_after(AUDIT_SECONDS) as limit:
                done = await trio.run_process(
                    command, capture_stdout=True, capture_stderr=True, check=False
                )
        if limit.cancelled_caught:
            raise NodeError(
                f"the audit of {need.claim.hex()[:12]} took more than {AUDIT_SECONDS:.0f} s",
                cure=f"lazaretto audit {need.claim.hex()[:12]}",
            )
        if done.returncode == 0:
            await trio.to_thread.run_sync(
                lambda: self._done.add("audit", need.target, told="audited")
            )
        node.journal.write("audited", claim=need.claim.hex(), exit_code=done.returncode)

    # --- receipts ----------------------------------------------------------------------------

    async def sign(self) -> None:
        """Sign what is done, if it is time."""
        done, now = self._done, trio.current_time()
        in_time = now - self._signed_at >= SIGN_SECONDS or done.waiting >= FULL
        if not done.waiting or not (in_time or self._node.finishing):
            return
        record = done.next_record()
        try:
            await self._node.log.append(record)
        except SwarmError as error:
            self._node.trouble("upkeep", error)
            self._signed_at = now
            return
        self._signed_at = now
        await trio.to_thread.run_sync(done.signed, record)


async def while_idle(node: Node, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work``; cancel it when a reproduction becomes ours."""

    async def watch(scope: trio.CancelScope) -> None:
        while True:
            changed = node.changed
            if is_due(node.state, node.key.public):
                scope.cancel()
            await changed.wait()

    with without_groups():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            await work()
            nursery.cancel_scope.cancel()

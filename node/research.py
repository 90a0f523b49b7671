"""The research loop: propose, measure against the frontier, keep the result, claim when it is real.

Pairs on the public dev split decide what is *worth a claim*; they are never evidence. One claim of
this node is open at a time; the best of what is found meanwhile is claimed when that one is decided
and the frontier is still the same. Failures and ideas that did not help are signed too, as short
``experiment`` records, so that nobody repeats them.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from node import programs
from node.claiming import Claims
from node.merging import Merges
from node.notebook import Notebook
from node.proposers import Outcome, Paused, Proposal
from node.work import cancellable, guarded
from swarm.records import DevPair, Experiment
from training.errors import LaneMoved, TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.lanes import Lane
    from node.member import Node
    from node.proposers import Proposer
    from training.documents import Documents, Shards
    from training.evaluator import Score
    from training.pair import PairResult
    from training.runner import TrainedRun

MIN_PAIRS = 3
MAX_PAIRS = 5
MIN_T = 6.0
LEAST_SPREAD = 3
"""Least standard deviation of a pair that is assumed, in units of ``min_effect``: dev text is one
text, and pairs on it are more alike than pairs on the folds of verifiers."""
IDLE_SECONDS = 2.0


def judge(gains: Sequence[int], min_effect: int) -> str:
    """Whether pairs so far are worth a claim: ``yes``, ``no`` or ``more``.

    ``gains`` are bpb(base) - bpb(candidate) on dev text, one per seed, in nano-bits per byte. A
    claim costs verifiers several times the work of its author, so it takes three seeds or more, all
    better by more than ``min_effect``, and a mean beyond it by ``MIN_T`` standard errors, with a
    spread of at least ``LEAST_SPREAD``: such a claim is mostly true, and decided in a few pairs.
    """
    beyond = [gain - min_effect for gain in gains]
    if not beyond:
        return "more"
    if min(beyond) <= 0:
        return "no"
    if len(beyond) >= MIN_PAIRS:
        mean = sum(beyond) / len(beyond)
        variance = sum((value - mean) ** 2 for value in beyond) / (len(beyond) - 1)
        spread = max(math.sqrt(variance), LEAST_SPREAD * min_effect)
        if mean >= MIN_T * spread / math.sqrt(len(beyond)):
            return "yes"
    return "more" if len(beyond) < MAX_PAIRS else "no"


@dataclass(frozen=True, slots=True)
class Measured:
    """An experiment at home: gains by seed, or the status that ended it.

    ``base_bpb`` and ``bpb`` are the scores behind the gains (nano-bits per byte), ``peak_bytes``
    the most memory that the candidate took.
    """

    seeds: tuple[int, ...]
    gains: tuple[int, ...]
    status: str
    cost_ms: int
    base_bpb: tuple[int, ...] = ()
    bpb: tuple[int, ...] = ()
    peak_bytes: int = 0

    @property
    def pairs(self) -> tuple[DevPair, ...]:
        """As records carry them."""
        return tuple(DevPair(*pair) for pair in zip(self.seeds, self.gains, strict=True))

    @property
    def mean_nano(self) -> int | None:
        """Mean gain, None without one."""
        return sum(self.gains) // len(self.gains) if self.gains else None


@dataclass(frozen=True, slots=True)
class Find:
    """A candidate that is worth a claim against ``base``."""

    base: bytes | None
    proposal: Proposal
    measured: Measured

    @property
    def mean(self) -> int:
        """Mean gain on dev text, nano-bits per byte."""
        return self.measured.mean_nano or 0


class Trials:
    """Measures candidates against one base on dev text; the base runs once per seed."""

    def __init__(self, node: Node, base_id: bytes | None, base: bytes) -> None:
        assert node.data is not None
        self.node = node
        self.base_id = base_id
        self.base = base
        self.tier = node.tier(node.settings.tier)
        self.train: Shards = node.data.train()
        self.dev: Documents = node.data.dev()
        self.tokenizer = node.data.tokenizer()
        self._runs: dict[tuple[Lane | None, int], TrainedRun] = {}
        self._scores: dict[tuple[Lane | None, int], Score] = {}

    def forget(self, lane: Lane | None) -> None:
        """What was measured on a lane is not comparable with what will be."""
        for kept in (self._runs, self._scores):
            for key in [key for key in kept if key[0] is lane]:
                del kept[key]

    def seed(self, index: int) -> int:
        """The ``index``-th seed of this node on this base."""
        start = self.node.key.public + (self.base_id or bytes(32)) + index.to_bytes(4, "big")
        digest = hashlib.sha256(b"lazaretto/dev-seed/1" + start).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    async def measure(
        self, candidate: bytes, min_effect: int, lane: Lane | None = None
    ) -> Measured:
        """Run pairs until :func:`judge` is sure, or the candidate fails; all of them on ``lane``,
        if one is given, where the base is kept for all candidates."""
        from training.pair import score_pair, train_pair

        node, nice, tier = self.node, self.node.settings.limits.nice_research, self.tier.name
        done: list[PairResult] = []
        cost, status = 0, "ok"
        while status == "ok" and judge([one.d_nano for one in done], min_effect) == "more":
            seed = self.seed(len(done))
            known, scored = self._runs.get((lane, seed)), self._scores.get((lane, seed))
            async with node.lane(tier, bench=False, wanted=lane) as at:
                trained = await cancellable(
                    lambda cancel, seed=seed, known=known, at=at: train_pair(  # type: ignore[misc]
                        self.base, candidate, self.tier, self.train, seed, executor=at.executor,
                        tokenizer=self.tokenizer, cancel=cancel, nice=nice, base_run=known,
                    )
                )  # fmt: skip
            self._runs[lane, seed] = trained.base
            async with node.lane(tier, bench=False, wanted=lane) as at:
                result = await cancellable(
                    lambda cancel, trained=trained, seed=seed, scored=scored, at=at: score_pair(  # type: ignore[misc]
                        self.base, candidate, trained, self.tier, self.dev, seed,
                        executor=at.executor, tokenizer=self.tokenizer, cancel=cancel, nice=nice,
                        base_score=scored,
                    )
                )  # fmt: skip
            if result.base is not None:
                self._scores[lane, seed] = result.base
            cost += result.candidate_cost_ms + (0 if known else result.base_cost_ms)
            status = result.status
            if self.node.is_short_of_memory(self.tier.name, status):
                status = "memory_lent"
            if status == "ok" and result.cost_ratio_milli > self.tier.max_cost_ratio_milli:
                status = "too_costly"
            if status == "ok":
                done.append(result)
        return _measured(done, status, cost)


def _measured(done: Sequence[PairResult], status: str, cost_ms: int) -> Measured:
    runs = [one.trained.candidate for one in done]
    return Measured(
        seeds=tuple(one.trained.seed for one in done),
        gains=tuple(one.d_nano for one in done),
        status=status,
        cost_ms=cost_ms,
        base_bpb=tuple(one.base.nano_bpb for one in done if one.base),
        bpb=tuple(one.candidate.nano_bpb for one in done if one.candidate),
        peak_bytes=max((run.peak_device_bytes or run.peak_memory_bytes for run in runs), default=0),
    )


def _proposer_seed(node: Node) -> int:
    """Another sequence of ideas on every node, the same one after a restart."""
    digest = hashlib.sha256(b"lazaretto/proposer-seed/1" + node.key.public).digest()
    return int.from_bytes(digest[:4], "big")


async def research_forever(node: Node) -> None:
    """Propose, measure, keep, claim; on a new frontier, begin again from there.

    One line of work for each lane that fits the tier, on that lane and no other; ideas are asked
    for, and results are judged, one at a time.
    """
    research = _Research(node)
    async with trio.open_nursery() as nursery:
        for lane in node.lanes_for(node.settings.tier):
            work = partial(research.work, lane)
            nursery.start_soon(guarded, node, "research", work)


class _Research:
    """What the lines of work of one node share. ``trials`` are those on the frontier."""

    def __init__(self, node: Node) -> None:
        from node.proposers import open_proposer

        self.node = node
        self.proposer: Proposer = open_proposer(
            node.settings.proposer,
            node.home.path,
            seed=_proposer_seed(node),
            claude=node.settings.claude,
            portfolio=node.settings.portfolio,
        )
        self.claims, self.merges, self.notebook = Claims(node), Merges(node), Notebook(node)
        self.trials: Trials | None = None
        self.best: Find | None = None
        self._turn = trio.Lock()  # who asks, judges or claims

    async def work(self, lane: Lane | None, node: Node) -> None:
        """One line of work, on ``lane`` (None: on any)."""
        while True:
            await node.caught_up()
            if not node.has_role("researcher"):
                await node.changed.wait()
                continue
            async with self._turn:
                trials, proposal, seconds = await self._idea()
            if proposal is None:
                with trio.move_on_after(seconds):
                    await node.changed.wait()
                continue
            with node.doing("experiment"):
                measured = await self._measure(trials, proposal, lane)
                async with self._turn:
                    await self._judge(trials, proposal, measured)

    async def _idea(self) -> tuple[Trials, Proposal | None, float]:
        """What to try next, and against what; or how many seconds to wait for one."""
        node = self.node
        state = await node.caught_up()
        frontier = state.frontier.get(node.settings.tier)
        trials = self.trials
        if trials is None or trials.base_id != frontier:
            if self.best is not None:
                self.merges.leave(self.best)
            trials = self.trials = Trials(node, frontier, await node.code_of(frontier))
            self.best = None
        self.best = await self.claims.claim_if_possible(trials, self.best)
        if not node.may_begin():
            return trials, None, math.inf
        idle, seconds = "out of ideas for this frontier", IDLE_SECONDS
        proposal = await self.merges.offer(trials)
        if proposal is None:
            context = await self.notebook.context(trials)
            node.activity = f"asking {self.proposer.name} for an idea"
            try:
                proposal = await trio.to_thread.run_sync(self.proposer.propose, context)
            except Paused as pause:
                idle, seconds = pause.told, pause.seconds
        node.researching = proposal is not None
        if proposal is None:
            node.activity = idle
        elif not node.may_begin():  # it was asked for before
            await self._abandon(proposal)
            return trials, None, 0.0
        return trials, proposal, seconds

    async def _measure(self, trials: Trials, proposal: Proposal, lane: Lane | None) -> Measured:
        node = self.node
        effect = node.policy(trials.tier.name).min_effect_nano
        node.activity = f"trying {proposal.hypothesis}"
        node.journal.write(
            "experiment_started",
            hypothesis=proposal.hypothesis,
            base=trials.base_id.hex() if trials.base_id else "",
        )
        try:
            while True:
                try:
                    return await trials.measure(proposal.code, effect, lane)
                except LaneMoved:  # pairs are of one machine: all of it again, the base too
                    trials.forget(lane)
        except (TrainingError, OSError):  # not the candidate's: it may be proposed again
            await self._abandon(proposal)
            raise

    async def _abandon(self, proposal: Proposal) -> None:
        await trio.to_thread.run_sync(self.proposer.observe, proposal.id, Outcome("abandoned"))

    async def _judge(self, trials: Trials, proposal: Proposal, measured: Measured) -> None:
        """Sign the result of an experiment; claim it, or keep it as the best to be claimed."""
        from training.source import ast_hash

        node, claims = self.node, self.claims
        effect = node.policy(trials.tier.name).min_effect_nano
        await trio.to_thread.run_sync(self.proposer.observe, proposal.id, _learnt(measured))
        await node.caught_up()
        outcome, reason = _outcome(measured, effect)
        if outcome == "better":
            find = Find(trials.base_id, proposal, measured)
            if trials is not self.trials:  # another line of work has found a new frontier
                self.merges.leave(find)
                reason = "the frontier has moved"
            else:
                finds = [one for one in (self.best, find) if one is not None]
                self.best = max(finds, key=lambda one: one.mean)
                if self.best is not find:
                    reason = "a better one waits to be claimed"
                elif obstacle := claims.obstacle(trials):
                    reason = obstacle
                else:
                    outcome = "claimed"
        tree = ast_hash(proposal.code)
        tried = _tried(trials, proposal, measured)
        await trio.to_thread.run_sync(programs.keep, node.home, tree, trials.base_id, tried)
        await node.log.append(
            Experiment(
                tier=trials.tier.name,
                base=trials.base_id,
                ast_hash=tree,
                hypothesis=proposal.hypothesis,
                proposer=proposal.author,
                outcome=outcome,
                reason=reason,
                dev_pairs=measured.pairs,
                cost_ms=measured.cost_ms,
            )
        )
        gain = measured.mean_nano
        node.journal.write(
            "experiment",
            hypothesis=proposal.hypothesis,
            outcome=outcome,
            reason=reason,
            gain_bpb=gain / 1e9 if gain is not None else None,
            cost_ms=measured.cost_ms,
        )
        if trials is self.trials:
            self.best = await claims.claim_if_possible(trials, self.best)


def _tried(trials: Trials, proposal: Proposal, measured: Measured) -> programs.Tried:
    """What stays at home of an experiment."""
    return programs.Tried(
        tried=time.time(),
        base_code=trials.base.decode(),
        code=proposal.code.decode(),
        base_bpb=measured.base_bpb,
        bpb=measured.bpb,
        peak_bytes=measured.peak_bytes,
    )


def _learnt(measured: Measured) -> Outcome:
    """What the proposer is told."""
    if measured.status != "ok" or measured.mean_nano is None:
        return Outcome("failed")
    return Outcome("measured", measured.mean_nano)


def _outcome(measured: Measured, min_effect: int) -> tuple[str, str]:
    if measured.status == "ok" and judge(measured.gains, min_effect) == "yes":
        return "better", "better by more than noise on every seed"
    if measured.status != "ok":
        return "failed", measured.status
    return "not_better", f"no more than noise or min_effect on {len(measured.gains)} seeds"

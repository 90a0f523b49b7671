"""Measures candidates at home, on the public dev text, one pair of runs at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from node.judging import EARLY_PART, Stack, early_pays, is_hopeless, judge_edit, judge_stack
from node.work import cancellable
from swarm.records import DevPair
from training.errors import BaseFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from node.lanes import Lane
    from node.member import Node
    from node.proposers import Proposal
    from training.documents import Documents, Shards
    from training.evaluator import Score
    from training.pair import PairResult
    from training.runner import TrainedRun

    _Key: TypeAlias = tuple[bytes, Lane | None, int, int]  # program, lane, seed, part of the budget


@dataclass(frozen=True, slots=True)
class Measured:
    """An experiment at home: gains by seed, or the status that ended it.

    ``base_bpb`` and ``bpb`` are the scores behind the gains (nano-bits per byte), ``peak_bytes``
    the most memory that the candidate took, ``cost_ratio_milli`` its cost over that of the program
    it was compared with, in thousandths. ``early``: the gain is that of a first look, on a part of
    the budget, and there was no second.
    """

    seeds: tuple[int, ...]
    gains: tuple[int, ...]
    status: str
    cost_ms: int
    base_bpb: tuple[int, ...] = ()
    bpb: tuple[int, ...] = ()
    peak_bytes: int = 0
    cost_ratio_milli: int = 1000
    early: bool = False

    @property
    def pairs(self) -> tuple[DevPair, ...]:
        """As records carry them."""
        return tuple(DevPair(*pair) for pair in zip(self.seeds, self.gains, strict=True))

    @property
    def mean_nano(self) -> int | None:
        """Mean gain, None without one."""
        return sum(self.gains) // len(self.gains) if self.gains else None


class Trials:
    """What one node tries on one frontier: ``base``, and the ``stack`` of edits kept on it.

    ``runs``: what was spent since the last look at a claim, in whole runs. ``looked_at``: the
    program that was last claimed, or found not to be worth it. ``claimed``: id of the last claim,
    and the stack of then.
    """

    def __init__(self, node: Node, base_id: bytes | None, base: bytes) -> None:
        assert node.data is not None
        self.node = node
        self.base_id = base_id
        self.base = base
        self.stack = Stack.on(base)
        self.tier = node.tier(node.settings.tier)
        self.min_effect = node.policy(self.tier.name).min_effect_nano
        self.train: Shards = node.data.train()
        self.dev: Documents = node.data.dev()
        self.tokenizer = node.data.tokenizer()
        self.runs = 0
        self.looked_at = base
        self.claimed: tuple[bytes, Stack] | None = None
        self._spent = 0  # of the next run, in parts
        self._long: set[bytes] = set()  # programs that fail on a part of the budget
        self._runs: dict[_Key, TrainedRun] = {}
        self._scores: dict[_Key, Score] = {}

    def forget(self, lane: Lane | None) -> None:
        """What was measured on a lane is not comparable with what will be."""
        self._drop(lambda key: key[1] is lane)

    def keep(self, edit: Proposal, measured: Measured) -> None:
        """Put an edit that was measured against the stack on top of it."""
        self.stack = self.stack.plus(
            edit, measured.gains, measured.cost_ratio_milli, measured.cost_ms
        )

    def seed(self, index: int) -> int:
        """The ``index``-th seed of this node on this base."""
        start = self.node.key.public + (self.base_id or bytes(32)) + index.to_bytes(4, "big")
        digest = hashlib.sha256(b"lazaretto/dev-seed/1" + start).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    async def measure(
        self, stack: Stack, candidate: bytes, lane: Lane | None = None, *, first_look: bool = True
    ) -> Measured:
        """Pairs of ``candidate`` against the program of ``stack``, until it is clear whether to
        keep it, or it fails; all on ``lane`` if one is given, where that program is kept. A
        ``first_look`` on a part of the budget comes before, where that pays."""
        done: list[PairResult] = []
        cost, status = 0, "ok"
        gains: list[int] = []
        if first_look and self._looks_early(stack.code, lane):
            first, status, cost = await self._first_look(stack, candidate, lane)
            if first and (status != "ok" or is_hopeless(first.d_nano, self.min_effect)):
                self._tidy(stack.code)
                return replace(
                    _measured([first] * (status == "ok"), status, cost),
                    base_bpb=(), bpb=(), early=True,
                )  # fmt: skip
        while status == "ok" and judge_edit(gains, self.min_effect) == "more":
            result, status, spent = await self._edit_pair(stack, candidate, len(done), lane)
            cost += spent
            if status == "ok":
                done.append(result)
                gains.append(result.d_nano)
        self._tidy(candidate)
        return _measured(done, status, cost)

    async def confirm(self, stack: Stack, lane: Lane | None = None) -> Measured:
        """Pairs of a stack against the frontier, on seeds that chose no edit, until it is clear
        whether it is worth a claim; the gains on those that did come first.

        What the stack costs is measured here side by side with the frontier: the product of what
        its edits cost, each chosen below the limit, says too little.
        """
        gains, cost, status = list(stack.gains), stack.cost_ms, "ok"
        while status == "ok" and judge_stack(gains, self.min_effect) == "more":
            result, status, spent = await self._pair(stack.base, stack.code, len(gains), lane)
            cost += spent
            if status == "ok" and result.cost_ratio_milli > self.tier.max_cost_ratio_milli:
                status = "too_costly"
            if status == "ok":
                gains.append(result.d_nano)
        seeds = tuple(self.seed(index) for index in range(len(gains)))
        return Measured(seeds, tuple(gains), status, cost)

    def _looks_early(self, code: bytes, lane: Lane | None) -> bool:
        """Whether what a whole run of the best at home cost makes a first look worth its price.

        Never where time is the budget: what start-up and the end may take is not shorter there.
        """
        run, score = self._runs.get((code, lane, 0, 1)), self._scores.get((code, lane, 0, 1))
        if self.tier.budget_ms or code in self._long or not (run and score):
            return False
        return early_pays(run.cost_ms, score.cost_ms)

    async def _first_look(
        self, stack: Stack, candidate: bytes, lane: Lane | None
    ) -> tuple[PairResult | None, str, int]:
        """A pair on a part of the budget; nothing where that is too little for the best at home,
        which then needs no more such looks."""
        try:
            return await self._edit_pair(stack, candidate, 0, lane, EARLY_PART)
        except BaseFailed:
            self._long.add(stack.code)
            return None, "ok", 0

    async def _edit_pair(
        self, stack: Stack, candidate: bytes, index: int, lane: Lane | None, part: int = 1
    ) -> tuple[PairResult, str, int]:
        """A pair of an edit of ``stack``, which may not make it dearer than a claim may be."""
        result, status, cost = await self._pair(stack.code, candidate, index, lane, part)
        if (
            status == "ok"
            and stack.ratio_with(_ratio(result, part)) > self.tier.max_cost_ratio_milli
        ):
            status = "too_costly"
        return result, status, cost

    async def _pair(
        self, base: bytes, candidate: bytes, index: int, lane: Lane | None, part: int = 1
    ) -> tuple[PairResult, str, int]:
        """One pair on the tier's budget or a ``part``-th of it, its status, and what it cost, less
        what was known."""
        from training.pair import score_pair, train_pair

        node, nice, seed = self.node, self.node.settings.limits.nice_research, self.seed(index)
        ours, theirs = (base, lane, index, part), (candidate, lane, index, part)
        tier = replace(self.tier, budget_tokens=self.tier.budget_tokens // part)
        known, scored = self._runs.get(ours), self._scores.get(ours)
        async with node.lane(tier.name, bench=False, wanted=lane) as at:
            trained = await cancellable(
                lambda cancel: train_pair(
                    base, candidate, tier, self.train, seed, executor=at.executor,
                    tokenizer=self.tokenizer, cancel=cancel, nice=nice, base_run=known, keeps=True,
                )
            )  # fmt: skip
        if trained.base is not known:
            known = scored = None  # it was kept beside another program, and was trained again
        self._spent += (1 if known else 2) * EARLY_PART // part
        more, self._spent = divmod(self._spent, EARLY_PART)
        self.runs += more
        self._runs |= {ours: trained.base, theirs: trained.candidate}
        async with node.lane(tier.name, bench=False, wanted=lane) as at:
            result = await cancellable(
                lambda cancel: score_pair(
                    base, candidate, trained, tier, self.dev, seed, executor=at.executor,
                    tokenizer=self.tokenizer, cancel=cancel, nice=nice, base_score=scored,
                )
            )  # fmt: skip
        for key, score in ((ours, result.base), (theirs, result.candidate)):
            if score is not None:
                self._scores[key] = score
        status = result.status
        if node.is_short_of_memory(tier.name, status):
            status = "memory_lent"
        cost = result.candidate_cost_ms + (0 if known else result.base_cost_ms)
        return result, status, cost

    def _tidy(self, newest: bytes) -> None:
        """Runs hold weights: those of programs that nothing is compared with any more go."""
        needed = {self.base, self.stack.code, newest}
        self._drop(lambda key: key[0] not in needed)

    def _drop(self, is_old: Callable[[_Key], bool]) -> None:
        for kept in (self._runs, self._scores):
            for key in [key for key in kept if is_old(key)]:
                del kept[key]


def _ratio(pair: PairResult, part: int) -> int:
    """The candidate's cost over the base's in thousandths, as of whole runs."""
    if part == 1 or pair.base is None or pair.candidate is None:
        return pair.cost_ratio_milli
    runs = pair.trained
    whole = runs.candidate.cost_ms * part + pair.candidate.cost_ms
    return whole * 1000 // max(1, pair.base_training_ms * part + pair.base_scoring_ms)


def _measured(done: Sequence[PairResult], status: str, cost_ms: int) -> Measured:
    runs = [one.trained.candidate for one in done]
    ratios = [one.cost_ratio_milli for one in done]
    return Measured(
        seeds=tuple(one.trained.seed for one in done),
        gains=tuple(one.d_nano for one in done),
        status=status,
        cost_ms=cost_ms,
        base_bpb=tuple(one.base.nano_bpb for one in done if one.base),
        bpb=tuple(one.candidate.nano_bpb for one in done if one.candidate),
        peak_bytes=max((run.peak_device_bytes or run.peak_memory_bytes for run in runs), default=0),
        cost_ratio_milli=sum(ratios) // len(ratios) if ratios else 1000,
    )

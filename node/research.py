"""The research loop: propose, measure against the best at home, keep what helps, claim it together.

Edits that help are kept at home and built on (``node.judging``). One claim of this node is open at
a time, and work goes on from the best at home meanwhile. When the frontier moves, or a claim is
rejected, what was kept besides is brought to the new frontier, and measured again there.
Failures and ideas that did not help are signed too, as short ``experiment`` records, so that nobody
repeats them.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from node import programs
from node.claiming import Claims
from node.judging import (
    EARLY_PART,
    FURTHER,
    Stack,
    is_due,
    is_look,
    judge_edit,
    judge_stack,
    runs_left,
)
from node.merging import Merges
from node.notebook import Notebook
from node.proposers import Outcome, Paused, Proposal
from node.proposers.protocol import MAX_HYPOTHESIS
from node.trials import Measured, Trials
from node.work import guarded
from swarm.records import Claim, Experiment
from training.errors import LaneMoved, TrainingError
from training.source import ast_hash
from verification.states import CLOSED, Stage

if TYPE_CHECKING:
    from node.lanes import Lane
    from node.member import Node
    from node.proposers import Proposer

IDLE_SECONDS = 2.0
MACHINES = ("memory_lent",)
"""Failures that say nothing of the program."""
KEPT_BEFORE = "kept before a restart, the last edit: "
OVERTAKEN = "the best at home has changed meanwhile"


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


@dataclass(frozen=True, slots=True)
class _Job:
    """An experiment to be run: ``proposal`` against ``stack``, or without one the whole stack
    against the frontier, for which ``runs`` of research have paid. ``brought``: it was good on
    another base."""

    trials: Trials
    stack: Stack
    proposal: Proposal | None
    runs: int = 0
    brought: bool = False

    @property
    def text(self) -> str:
        """What is tried, in words."""
        if self.proposal is not None:
            return self.proposal.hypothesis
        return f"{FURTHER}{self.stack.hypothesis}"

    def ask_again(self) -> None:
        """The question whether the stack is worth a claim has had no answer."""
        self.trials.looked_at = self.trials.base
        self.trials.runs += self.runs


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
        self._turn = trio.Lock()  # who asks, judges or claims

    async def work(self, lane: Lane | None, node: Node) -> None:
        """One line of work, on ``lane`` (None: on any)."""
        while True:
            await node.caught_up()
            if not node.has_role("researcher"):
                await node.changed.wait()
                continue
            async with self._turn:
                job, seconds = await self._next()
            if job is None:
                with trio.move_on_after(seconds):
                    await node.changed.wait()
                continue
            with node.doing("experiment"):
                measured = await self._measure(job, lane)
                async with self._turn:
                    if job.proposal is None:
                        await self._claim(job, measured)
                    else:
                        await self._judge(job, job.proposal, measured)

    # --- what to do next --------------------------------------------------------------------------

    async def _next(self) -> tuple[_Job | None, float]:
        """The next experiment; or how many seconds to wait for one."""
        node = self.node
        state = await node.caught_up()
        frontier = state.frontier.get(node.settings.tier)
        trials = self.trials
        if trials is None:
            trials = self.trials = Trials(node, frontier, await node.code_of(frontier))
            await self._take_up(trials)
        elif trials.base_id != frontier or self._is_rejected(trials):
            self._leave(trials, frontier)
            trials = self.trials = Trials(node, frontier, await node.code_of(frontier))
        node.kept = self._kept(trials)
        if not node.may_begin():
            return None, math.inf
        share = node.settings.verify_share_milli
        if is_due(trials.runs, node.policy(trials.tier.name), share) and self._may_claim(trials):
            return self._look(trials), 0.0
        idle, seconds = "out of ideas for this frontier", IDLE_SECONDS
        proposal = await self.merges.offer(trials)
        brought = proposal is not None
        if proposal is None:
            context = await self.notebook.context(trials)
            node.activity = f"asking {self.proposer.name} for an idea"
            try:
                proposal = await trio.to_thread.run_sync(self.proposer.propose, context)
            except Paused as pause:
                idle, seconds = pause.told, pause.seconds
        node.researching = proposal is not None
        if proposal is None:
            if self._may_claim(trials):
                return self._look(trials), 0.0
            node.activity = idle
            return None, seconds
        if not node.may_begin():  # it was asked for before
            await self._abandon(proposal)
            return None, 0.0
        return _Job(trials, trials.stack, proposal, brought=brought), 0.0

    def _kept(self, trials: Trials) -> str:
        """What is kept at home beyond the last claim, in words; empty for nothing."""
        node, stack = self.node, trials.stack
        claimed = trials.claimed[1] if trials.claimed else Stack.on(stack.base)
        count = len(stack.edits) - len(claimed.edits)
        if count <= 0:
            return ""
        gain = (sum(stack.gains) - sum(claimed.gains)) / len(stack.gains) / 1e9
        text = f"{_edits(count)}, {gain:+.4f} bits per byte on dev text; "
        if stack.code == trials.looked_at:
            return text + "not clear enough for a claim yet"
        left = runs_left(
            trials.runs, node.policy(trials.tier.name), node.settings.verify_share_milli
        )
        if left:
            return text + f"claimed together after {left} more runs"
        return text + (self.claims.obstacle(trials) or "to be claimed next")

    def _may_claim(self, trials: Trials) -> bool:
        return trials.stack.code != trials.looked_at and not self.claims.obstacle(trials)

    @staticmethod
    def _look(trials: Trials) -> _Job:
        """Is the stack worth a claim? Asked once of each."""
        job = _Job(trials, trials.stack, None, trials.runs)
        trials.runs, trials.looked_at = 0, trials.stack.code
        return job

    def _is_rejected(self, trials: Trials) -> bool:
        """Whether the last claim on this frontier came to nothing, and the stack with it."""
        claim = self.node.state.claims.get(trials.claimed[0]) if trials.claimed else None
        return claim is not None and claim.stage in CLOSED and claim.stage is not Stage.ADOPTED

    def _leave(self, trials: Trials, frontier: bytes | None) -> None:
        """What was kept is offered again on the new frontier: all of it, or what came after a claim
        that has become the frontier, or has been rejected."""
        base, stack = trials.base, trials.stack
        if trials.claimed and (trials.claimed[0] == frontier or trials.base_id == frontier):
            claimed = trials.claimed[1]
            base, stack = claimed.code, replace(stack, edits=stack.edits[len(claimed.edits) :])
        if stack.edits:
            self.merges.leave(base, stack.proposal)

    async def _take_up(self, trials: Trials) -> None:
        """After a restart: what was kept at home on this frontier, and not claimed yet, is tried
        first. What the last claim holds is left to its verdict."""
        node, anchor, kept, looked_at = self.node, trials.base, None, b""
        for record in node.own_records():
            said = record.payload
            if not isinstance(said, Claim | Experiment):
                continue
            if (said.tier, said.base) != (trials.tier.name, trials.base_id):
                continue
            if isinstance(said, Claim):
                anchor, kept = said.code, None
            elif is_look(said):
                looked_at = said.ast_hash  # the same seeds would say the same
                if said.outcome == "failed" and said.reason not in MACHINES:
                    kept = None
            elif said.outcome == "better" and said.reason != OVERTAKEN:
                kept = said
        if kept is None:
            return
        found = await trio.to_thread.run_sync(
            programs.find, node.home, kept.ast_hash, trials.base_id
        )
        if found is not None:
            text = f"{KEPT_BEFORE}{kept.hypothesis.removeprefix(KEPT_BEFORE)}"[:MAX_HYPOTHESIS]
            edit = Proposal("", found.code.encode(), text, kept.proposer, "", ())
            self.merges.leave(anchor, edit)
            if kept.ast_hash == looked_at:
                trials.looked_at = edit.code

    # --- measuring --------------------------------------------------------------------------------

    async def _measure(self, job: _Job, lane: Lane | None) -> Measured:
        node, trials, stack = self.node, job.trials, job.stack
        node.activity = f"trying {job.text}"
        node.journal.write(
            "experiment_started",
            hypothesis=job.text,
            base=trials.base_id.hex() if trials.base_id else "",
        )
        try:
            while True:
                try:
                    if job.proposal is None:
                        return await trials.confirm(stack, lane)
                    code = job.proposal.code
                    return await trials.measure(stack, code, lane, first_look=not job.brought)
                except LaneMoved:  # pairs are of one machine: all of it again, the base too
                    trials.forget(lane)
        except (TrainingError, OSError):  # not the candidate's: it may be proposed again
            if job.proposal is not None:
                await self._abandon(job.proposal)
            else:
                job.ask_again()
            raise

    async def _abandon(self, proposal: Proposal) -> None:
        await trio.to_thread.run_sync(self.proposer.observe, proposal.id, Outcome("abandoned"))

    # --- what came of it --------------------------------------------------------------------------

    async def _judge(self, job: _Job, proposal: Proposal, measured: Measured) -> None:
        """Sign the result of an experiment; keep an edit that helps."""
        trials = job.trials
        await trio.to_thread.run_sync(self.proposer.observe, proposal.id, _learnt(measured))
        await self.node.caught_up()
        outcome, reason = _outcome(measured, trials.min_effect, len(job.stack.edits))
        if outcome == "better":
            if trials is self.trials and trials.stack is job.stack:
                trials.keep(proposal, measured)
            else:  # another line of work has come first
                self.merges.leave(job.stack.code, proposal)
                reason = OVERTAKEN
        tree = ast_hash(proposal.code)
        tried = _tried(job.stack.code, proposal.code, measured)
        await trio.to_thread.run_sync(programs.keep, self.node.home, tree, trials.base_id, tried)
        await self._sign(job, tree, proposal.author, outcome, reason, measured)

    async def _claim(self, job: _Job, measured: Measured) -> None:
        """Claim a stack that is better than the frontier on further seeds too, or say it is not.

        One that fails there, or costs too much, is given up.
        """
        trials, stack = job.trials, job.stack
        await self.node.caught_up()
        if measured.status == "ok" and judge_stack(measured.gains, trials.min_effect) == "yes":
            claimed = await self.claims.claim(trials, stack, measured)
            if claimed is None:
                job.ask_again()  # something has come between
            else:
                trials.claimed = (claimed, stack)
            return
        outcome, reason = "failed", measured.status
        if measured.status == "ok":
            outcome = "not_better"
            reason = f"{_edits(len(stack.edits))}: not clear enough for a claim"
        elif measured.status not in MACHINES and trials is self.trials:
            self.trials = None  # begins anew, without the stack
        tree = ast_hash(stack.code)
        await self._sign(job, tree, stack.author, outcome, reason, measured)

    async def _sign(
        self, job: _Job, tree: bytes, author: str, outcome: str, reason: str, measured: Measured
    ) -> None:
        await self.node.log.append(
            Experiment(
                tier=job.trials.tier.name,
                base=job.trials.base_id,
                ast_hash=tree,
                hypothesis=job.text,
                proposer=author,
                outcome=outcome,
                reason=reason,
                dev_pairs=measured.pairs,
                cost_ms=measured.cost_ms,
            )
        )
        gain = measured.mean_nano
        self.node.journal.write(
            "experiment",
            hypothesis=job.text,
            outcome=outcome,
            whole=job.proposal is None,
            reason=reason,
            gain_bpb=gain / 1e9 if gain is not None else None,
            cost_ms=measured.cost_ms,
        )


def _tried(base: bytes, code: bytes, measured: Measured) -> programs.Tried:
    """What stays at home of an experiment."""
    return programs.Tried(
        tried=time.time(),
        base_code=base.decode(),
        code=code.decode(),
        base_bpb=measured.base_bpb,
        bpb=measured.bpb,
        peak_bytes=measured.peak_bytes,
    )


def _learnt(measured: Measured) -> Outcome:
    """What the proposer is told."""
    if measured.status != "ok" or measured.mean_nano is None:
        return Outcome("failed")
    return Outcome("measured", measured.mean_nano)


def _edits(count: int) -> str:
    return f"{count} edits" if count > 1 else "one edit"


def _outcome(measured: Measured, min_effect: int, edits: int) -> tuple[str, str]:
    if measured.status != "ok":
        return "failed", measured.status
    if judge_edit(measured.gains, min_effect) == "yes":
        return "better", f"kept on top of {_edits(edits) if edits else 'the frontier'}"
    if measured.early:
        return "not_better", f"worse on a first look, a run of 1/{EARLY_PART} of the budget"
    return "not_better", f"no more than noise or min_effect on {len(measured.gains)} seeds"

"""The research loop: propose, measure against the frontier, keep the result, claim when it is real.

Pairs on the public dev split decide what is *worth a claim*; they are never evidence. One claim of
this node is open at a time; the best of what is found meanwhile is claimed when that one is decided
and the frontier is still the same. Failures and ideas that did not help are signed too, as short
``experiment`` records, so that nobody repeats them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from node.environment import env_digest
from node.notebook import Notebook
from node.proposers import Outcome, Paused, Proposal
from node.work import cancellable
from swarm.records import Claim, DevPair, Experiment
from verification.reproduce import draw_bench
from verification.states import CLOSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.member import Node
    from node.proposers import Proposer
    from swarm.records import Member, TierPolicy
    from training.documents import Documents, Shards
    from training.evaluator import Score
    from training.runner import TrainedRun

MIN_PAIRS = 3
MAX_PAIRS = 5
MIN_T = 6.0
IDLE_SECONDS = 2.0


def judge(gains: Sequence[int], min_effect: int) -> str:
    """Whether pairs so far are worth a claim: ``yes``, ``no`` or ``more``.

    ``gains`` are bpb(base) - bpb(candidate) on dev text, one per seed, in nano-bits per byte. A
    claim costs verifiers several times the work of its author, so it takes three seeds or more, all
    better by more than ``min_effect``, and a mean beyond it by ``MIN_T`` standard errors of the
    pairs at hand: such a claim is mostly true, and decided in a few pairs.
    """
    beyond = [gain - min_effect for gain in gains]
    if not beyond:
        return "more"
    if min(beyond) <= 0:
        return "no"
    if len(beyond) >= MIN_PAIRS:
        mean = sum(beyond) / len(beyond)
        variance = sum((value - mean) ** 2 for value in beyond) / (len(beyond) - 1)
        if mean >= MIN_T * math.sqrt(variance / len(beyond)):
            return "yes"
    return "more" if len(beyond) < MAX_PAIRS else "no"


@dataclass(frozen=True, slots=True)
class Measured:
    """An experiment at home: gains by seed, or the status that ended it."""

    seeds: tuple[int, ...]
    gains: tuple[int, ...]
    status: str
    cost_ms: int

    @property
    def pairs(self) -> tuple[DevPair, ...]:
        """As records carry them."""
        return tuple(DevPair(*pair) for pair in zip(self.seeds, self.gains, strict=True))

    @property
    def mean_nano(self) -> int | None:
        """Mean gain, None without one."""
        return sum(self.gains) // len(self.gains) if self.gains else None


class Trials:
    """Measures candidates against one base on dev text; the base runs once per seed."""

    def __init__(self, node: Node, base_id: bytes | None, base: bytes) -> None:
        assert node.data is not None
        self.node = node
        self.base_id = base_id
        self.base = base
        self.tier = node.data.challenge.tier(node.settings.tier)
        self.train: Shards = node.data.train()
        self.dev: Documents = node.data.dev()
        self.tokenizer = node.data.tokenizer()
        self._runs: dict[int, TrainedRun] = {}
        self._scores: dict[int, Score] = {}

    def seed(self, index: int) -> int:
        """The ``index``-th seed of this node on this base."""
        start = self.node.key.public + (self.base_id or bytes(32)) + index.to_bytes(4, "big")
        digest = hashlib.sha256(b"lazaretto/dev-seed/1" + start).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    async def measure(self, candidate: bytes, min_effect: int) -> Measured:
        """Run pairs until :func:`judge` is sure, or the candidate fails."""
        from training.pair import score_pair, train_pair

        nice = self.node.settings.limits.nice_research
        seeds: list[int] = []
        gains: list[int] = []
        cost = 0
        while judge(gains, min_effect) == "more":
            seed = self.seed(len(gains))
            known, scored = self._runs.get(seed), self._scores.get(seed)
            trained = await cancellable(
                lambda cancel, seed=seed, known=known: train_pair(  # type: ignore[misc]
                    self.base, candidate, self.tier, self.train, seed,
                    tokenizer=self.tokenizer, cancel=cancel, nice=nice, base_run=known,
                )
            )  # fmt: skip
            self._runs[seed] = trained.base
            result = await cancellable(
                lambda cancel, trained=trained, seed=seed, scored=scored: score_pair(  # type: ignore[misc]
                    self.base, candidate, trained, self.tier, self.dev, seed,
                    tokenizer=self.tokenizer, cancel=cancel, nice=nice, base_score=scored,
                )
            )  # fmt: skip
            if result.base is not None:
                self._scores[seed] = result.base
            cost += result.candidate_cost_ms + (0 if known else result.base_cost_ms)
            if result.status != "ok":
                return Measured(tuple(seeds), tuple(gains), result.status, cost)
            if result.cost_ratio_milli > self.tier.max_cost_ratio_milli:
                return Measured(tuple(seeds), tuple(gains), "too_costly", cost)
            seeds.append(seed)
            gains.append(result.d_nano)
        return Measured(tuple(seeds), tuple(gains), "ok", cost)


def _proposer_seed(node: Node) -> int:
    """Another sequence of ideas on every node, the same one after a restart."""
    digest = hashlib.sha256(b"lazaretto/proposer-seed/1" + node.key.public).digest()
    return int.from_bytes(digest[:4], "big")


async def research_forever(node: Node) -> None:
    """Propose, measure, keep, claim; on a new frontier, begin again from there."""
    from node.proposers import open_proposer

    proposer = open_proposer(
        node.settings.proposer,
        node.home.path,
        seed=_proposer_seed(node),
        claude=node.settings.claude,
        portfolio=node.settings.portfolio,
    )
    notebook = Notebook(node)
    trials: Trials | None = None
    best: Find | None = None
    while True:
        state = await node.caught_up()
        if not node.has_role("researcher"):
            await node.changed.wait()
            continue
        frontier = state.frontier.get(node.settings.tier)
        if trials is None or trials.base_id != frontier:
            trials = Trials(node, frontier, await node.code_of(frontier))
            best = None
        best = await _claim_if_possible(node, trials, best)
        context = await notebook.context(trials)
        node.activity = f"asking {proposer.name} for an idea"
        idle, seconds = "out of ideas for this frontier", IDLE_SECONDS
        try:
            proposal = await trio.to_thread.run_sync(proposer.propose, context)
        except Paused as pause:
            proposal, idle, seconds = None, pause.told, pause.seconds
        if proposal is None:
            node.activity = idle
            with trio.move_on_after(seconds):
                await node.changed.wait()
            continue
        best = await _experiment(node, proposer, trials, proposal, best)


def policy_of(node: Node, tier: str) -> TierPolicy:
    """The deciding half of a tier."""
    rules = node.state.rules
    assert rules is not None
    return next(policy for policy in rules.charter.tiers if policy.name == tier)


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


async def _experiment(
    node: Node, proposer: Proposer, trials: Trials, proposal: Proposal, best: Find | None
) -> Find | None:
    """Measure a proposal, sign the result; return the best find that is still to be claimed."""
    from training.source import ast_hash

    effect = policy_of(node, trials.tier.name).min_effect_nano
    node.activity = f"trying {proposal.hypothesis}"
    node.journal.write(
        "experiment_started",
        hypothesis=proposal.hypothesis,
        base=trials.base_id.hex() if trials.base_id else "",
    )
    measured = await trials.measure(proposal.code, effect)
    await trio.to_thread.run_sync(proposer.observe, proposal.id, _learnt(measured))
    await node.caught_up()
    outcome, reason = _outcome(measured, effect)
    if outcome == "better":
        find = Find(trials.base_id, proposal, measured)
        best = max((one for one in (best, find) if one is not None), key=lambda one: one.mean)
        if best is not find:
            reason = "a better one waits to be claimed"
        elif obstacle := _obstacle(node, trials):
            reason = obstacle
        else:
            outcome = "claimed"
    await node.log.append(
        Experiment(
            tier=trials.tier.name,
            base=trials.base_id,
            ast_hash=ast_hash(proposal.code),
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
    return best


async def _claim_if_possible(node: Node, trials: Trials, best: Find | None) -> Find | None:
    """Claim the best find, unless something stands in the way; return what is left to claim."""
    if best is None or _obstacle(node, trials):
        return best
    slot = _free_slot(node)
    assert slot is not None
    proposal, measured = best.proposal, best.measured
    await sign_claim(
        node, trials, proposal.code, proposal.hypothesis, proposal.author,
        measured.pairs, measured.cost_ms, slot,
    )  # fmt: skip
    await node.caught_up()
    return None


def _obstacle(node: Node, trials: Trials) -> str:
    """Why nothing can be claimed against the base of ``trials`` now; empty when it can."""
    if node.state.frontier.get(trials.tier.name) != trials.base_id:
        return "the frontier has moved"
    if _has_open_claim(node):
        return "another claim of this node is open"
    slot = _free_slot(node)
    if slot is None:
        return "no claim slot is left in this epoch"
    rules = node.state.rules
    assert rules is not None
    epoch, tier = rules.epochs[node.epoch], trials.tier.name
    if draw_bench(epoch, node.key.public, slot, tier, policy_of(node, tier).n).waiting:
        return "too few verifiers of other operators in this epoch"
    return ""


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


async def sign_claim(
    node: Node,
    trials: Trials,
    code: bytes,
    hypothesis: str,
    proposer: str,
    pairs: tuple[DevPair, ...],
    cost_ms: int,
    slot: int,
    planted: str = "",
) -> bytes:
    """Sign and announce a claim; return its id. ``planted`` marks the demo's false ones."""
    from training.source import ast_hash

    record = await node.log.append(
        Claim(
            tier=trials.tier.name,
            type="improvement",
            slot=slot,
            base=trials.base_id,
            merges=(),
            code=code,
            code_hash=hashlib.sha256(code).digest(),
            ast_hash=ast_hash(code),
            hypothesis=hypothesis,
            proposer=proposer,
            env_digest=env_digest(),
            dev_pairs=pairs,
            cost_ms=cost_ms,
        ),
        refs=(trials.base_id,) if trials.base_id else (),
    )
    gains = [pair.d_nano for pair in pairs]
    node.journal.write(
        "claimed",
        claim=record.id.hex(),
        gain_bpb=sum(gains) / max(1, len(gains)) / 1e9,
        planted=planted,
    )
    return record.id


def _has_open_claim(node: Node) -> bool:
    """A claim that can still be decided: not one whose epoch has too few verifiers for ever."""
    return any(
        claim.author == node.key.public
        and claim.stage not in CLOSED
        and not (claim.epoch < node.epoch and claim.bench is not None and claim.bench.waiting)
        for claim in node.state.claims.values()
    )


def _free_slot(node: Node) -> int | None:
    """The next unused claim slot of this node in the current epoch."""
    rules = node.state.rules
    member: Member | None = rules.member(node.epoch, node.key.public) if rules else None
    used = {
        claim.slot
        for claim in node.state.claims.values()
        if claim.author == node.key.public and claim.epoch == node.epoch
    }
    free = (slot for slot in range(member.slots if member else 0) if slot not in used)
    return next(free, None)

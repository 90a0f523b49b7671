"""Two ways of deciding what is kept, each on a budget of real runs; ``node.compare`` compares them.

- ``greedy``: keep or revert, as autoresearch does. One run for each candidate, always on one seed
  and one validation text; what scores better than the best so far is kept.
- ``lazaretto``: what a node and the bench of its claim do, by the code that decides there. Edits
  that help on two seeds are kept at home, and claimed together when they have earned a claim
  (``node.judging``); a bench measures it on seeds and folds that the loop has never seen until
  there is a verdict (``verification.verdict``); what an adopted step is worth is told by pairs that
  had no part in adopting it (``verification.effect``). All of that is paid from the same budget.
  The bench is this machine, one position after the other; nobody lies, and the screen is left out,
  as a proposer that edits literals has nothing that it would refuse.

Both propose, train and score alike, in the sandbox, metered, and keep no program that costs more
than the tier's ``max_cost_ratio`` times the one they began with: else a gain could be bought with
compute. Whatever was measured before is taken from ``node.runs`` and costs the budget as much as it
did then: a comparison that was killed is played again from its seed, in moments, up to where it
was.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from node.corpora import Corpus
from node.judging import Stack, is_due, judge_edit, judge_stack
from node.measuring import Measurer, Question, Watcher, draw
from node.proposers import Outcome, ProposalContext
from node.reproducing import pair_of
from node.settings import VERIFY_SHARE_MILLI
from swarm.records import Pair, TierPolicy
from training.challenge import TierSpec
from training.errors import BaseFailed
from verification.effect import effect_of
from verification.evidence import level
from verification.reproduce import effect_positions, position
from verification.simulate import POLICIES
from verification.verdict import BASE_FAILED, Deliberation, Reproduction, Terms

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from node.proposers import Proposal, Proposer
    from node.runs import Runs
    from training.documents import SplitRef

GREEDY: Final = POLICIES[0]
LAZARETTO: Final = POLICIES[-1]
SLOTS: Final = 16
"""Claims in all, as of an only researcher in one epoch."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What both policies are given. ``alpha`` is the charter's.

    ``most_runs``: runs, each trained and scored; ``most_ms``: their cost on the tier's clock, 0 for
    no other limit.
    """

    tier: TierSpec
    corpus: Corpus
    base: bytes
    policy: TierPolicy
    alpha: Fraction
    seed: int
    most_runs: int
    most_ms: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """An edit that was kept, and what it is said to be worth, in nano-bits per byte."""

    code: bytes
    hypothesis: str
    claimed_nano: int


@dataclass(frozen=True, slots=True)
class Trail:
    """What a policy made of its budget: ``steps`` in order, each built on the one before.

    ``experiments``: candidates tried; ``not_adopted``: claims that did not become steps, by reason;
    ``runs`` and ``cost_ms``: what was spent, for research and for verification.
    """

    policy: str
    steps: tuple[Step, ...]
    experiments: int
    not_adopted: dict[str, int]
    runs: dict[str, int]
    cost_ms: dict[str, int]


def dev_text(corpus: Corpus) -> Corpus:
    """The corpus with the public dev text in place of its folds: what a loop may look at."""
    return _with_folds(corpus, (corpus.manifest.dev,))


def bench_folds(corpus: Corpus) -> Corpus:
    """The corpus with the half of its folds on which claims are verified."""
    return _with_folds(corpus, corpus.manifest.folds[::2])


def holdout_folds(corpus: Corpus) -> Corpus:
    """The corpus with the other half, on which nothing is decided."""
    return _with_folds(corpus, corpus.manifest.folds[1::2])


def _with_folds(corpus: Corpus, folds: tuple[SplitRef, ...]) -> Corpus:
    return replace(corpus, manifest=replace(corpus.manifest, folds=folds))


class Loop:
    """One policy at work: measures pairs, and counts every run once.

    ``tell`` hears how many runs, and how many milliseconds of cost, are spent.
    """

    def __init__(
        self,
        lab: Lab,
        runs: Runs,
        cancel: threading.Event | None = None,
        tell: Callable[[int, int], None] = lambda _runs, _ms: None,
    ) -> None:
        self.lab = lab
        self._runs = runs
        self._cancel = cancel
        self._tell = tell
        self._texts = {"research": dev_text(lab.corpus), "verification": bench_folds(lab.corpus)}
        self._booked: dict[tuple[str, bytes, int], int] = {}  # (purpose, program, seed): cost

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        lab, cost = self.lab, sum(self._booked.values())
        return len(self._booked) >= lab.most_runs or bool(lab.most_ms and cost >= lab.most_ms)

    def pair(
        self, purpose: str, base: bytes, candidate: bytes, seed: int, index: int
    ) -> tuple[str, Pair]:
        """Pair ``index`` of those drawn from ``seed``, on the text for ``purpose``; its status
        (``ok``, ``too_costly``, or how a side failed) comes first.

        Raises SandboxUnavailable, Cancelled and CorpusError.
        """
        lab, codes = self.lab, (base, candidate)
        question = Question(("base", "candidate"), codes, lab.tier, self._texts[purpose], seed)
        try:
            done = Measurer(question, self._runs, Watcher()).pair(index, 1, self._cancel)
            status, pair = done.status, pair_of(done.result, done.fold)
        except BaseFailed as error:
            status = f"{BASE_FAILED}{error.status}"
            pair = Pair(0, 0, "base_first", 0, status, 0, 0, 0, 0, 0)
        costs = (pair.base_cost_ms, pair.candidate_cost_ms)
        for code, cost in zip(codes, costs, strict=True):
            run = (purpose, _hash(code), draw(seed, "training", index))
            self._booked.setdefault(run, cost)
        self._tell(len(self._booked), sum(self._booked.values()))
        return status, pair

    def runs(self, purpose: str) -> int:
        """How many were spent on it."""
        return sum(booked == purpose for booked, _, _ in self._booked)

    def context(self, code: bytes) -> ProposalContext:
        """What a proposer is told."""
        return ProposalContext(code, self.lab.tier)

    def trail(
        self, policy: str, steps: list[Step], experiments: int, not_adopted: Counter[str]
    ) -> Trail:
        """The end of it."""
        runs, cost = Counter[str](), Counter[str]()
        for (purpose, _, _), spent in self._booked.items():
            runs[purpose] += 1
            cost[purpose] += spent
        return Trail(policy, tuple(steps), experiments, dict(not_adopted), dict(runs), dict(cost))


def greedy(loop: Loop, proposer: Proposer) -> Trail:
    """Keep what scores better than the best so far; else go back to that."""
    lab = loop.lab
    best, steps, tried = lab.base, list[Step](), 0
    ratio = 1000
    seed = draw(lab.seed, "greedy", 0)
    while not loop.spent:
        proposal = proposer.propose(loop.context(best))
        if proposal is None:
            break
        status, pair = loop.pair("research", best, proposal.code, seed, 0)
        tried += 1
        dearer = ratio * _cost_ratio(pair) // 1000
        ok, gain = status == "ok" and dearer <= lab.tier.max_cost_ratio_milli, pair.d_nano
        proposer.observe(proposal.id, Outcome("measured", gain) if ok else Outcome("failed"))
        if ok and gain > 0:
            best, ratio = proposal.code, dearer
            steps.append(Step(best, proposal.hypothesis, gain))
    return loop.trail(GREEDY, steps, tried, Counter())


def lazaretto(
    loop: Loop, proposer: Proposer, verify_share_milli: int = VERIFY_SHARE_MILLI
) -> Trail:
    """Research, claim, verify; build on what was adopted."""
    lab, effect = loop.lab, loop.lab.policy.min_effect_nano
    stack, steps, tried, claimed_at = Stack.on(lab.base), list[Step](), 0, 0
    dearer = 1000
    not_adopted = Counter[str]()
    while not loop.spent and len(steps) + not_adopted.total() < SLOTS:
        proposal = proposer.propose(loop.context(stack.code))
        if proposal is not None:
            tried += 1
            stack = _try(loop, stack, proposal, proposer)
        elif not stack.edits:
            break
        runs = loop.runs("research") - claimed_at
        due = proposal is None or is_due(runs, lab.policy, verify_share_milli)
        if not (stack.edits and due):
            continue
        gains = _confirm(loop, stack)
        worth = gains is not None and judge_stack(gains, effect) == "yes"
        claimed_at = loop.runs("research")
        if worth:
            step, reason = _verify(loop, stack, len(steps))
            if step is None:
                not_adopted[reason] += 1
                stack = Stack.on(stack.base, dearer)
            else:
                steps.append(step)
                dearer = stack.cost_ratio_milli
                stack = Stack.on(step.code, dearer)
        elif proposal is None:
            break
        elif gains is None:
            stack = Stack.on(stack.base, dearer)
    return loop.trail(LAZARETTO, steps, tried, not_adopted)


def _try(loop: Loop, stack: Stack, proposal: Proposal, proposer: Proposer) -> Stack:
    """The stack with a proposal, or without it where that does not help."""
    most, effect = loop.lab.tier.max_cost_ratio_milli, loop.lab.policy.min_effect_nano
    gains, ratio, cost = list[int](), 0, 0
    while judge_edit(gains, effect) == "more" and not loop.spent:
        status, pair = loop.pair(
            "research", stack.code, proposal.code, _seed(loop, stack), len(gains)
        )
        ratio = _cost_ratio(pair)
        if status != "ok" or stack.ratio_with(ratio) > most:
            proposer.observe(proposal.id, Outcome("failed"))
            return stack
        gains.append(pair.d_nano)
        cost += pair.candidate_cost_ms
    if not gains:
        return stack
    proposer.observe(proposal.id, Outcome("measured", sum(gains) // len(gains)))
    if judge_edit(gains, effect) != "yes":
        return stack
    return stack.plus(proposal, gains, ratio, cost)


def _confirm(loop: Loop, stack: Stack) -> list[int] | None:
    """Gains of a stack over the frontier, on seeds that chose nothing besides; None where it fails
    there, or costs too much."""
    gains = list(stack.gains)
    while judge_stack(gains, loop.lab.policy.min_effect_nano) == "more" and not loop.spent:
        status, pair = loop.pair("research", stack.base, stack.code, _seed(loop, stack), len(gains))
        if status != "ok":
            return None
        gains.append(pair.d_nano)
    return gains


def _seed(loop: Loop, stack: Stack) -> int:
    return draw(loop.lab.seed, f"research {_hash(stack.base).hex()}", 0)


def _verify(loop: Loop, stack: Stack, ancestors: int) -> tuple[Step | None, str]:
    """The adopted step, or None and the reason: ``pending`` where the budget has ended before."""
    lab, policy, base, code = loop.lab, loop.lab.policy, stack.base, stack.code
    claim = hashlib.sha256(_hash(base) + _hash(code)).digest()
    at_level = level(lab.alpha, Fraction(1), SLOTS, ancestors)
    terms = Terms(claim, "improvement", policy, lab.tier.max_cost_ratio_milli, at_level)
    walk = Deliberation(terms)

    def reproductions(purpose: str, index: int) -> Reproduction:
        seed = draw(lab.seed, f"{purpose} {claim.hex()}", 0)
        _, pair = loop.pair("verification", base, code, seed, index)
        block = hashlib.sha256(f"{purpose} {index}".encode() + claim).digest()
        round_, rank = position(index, policy.n)
        return Reproduction(round_, rank, block, bytes([rank]), pair)

    index = 0
    while walk.outcome == "pending" and not loop.spent:
        walk.add(reproductions("verdict", index))
        index += 1
    verdict = walk.verdict()
    if verdict.outcome != "adopt":
        return None, "pending" if verdict.outcome == "pending" else verdict.reason
    after = list[Reproduction]()
    while len(after) < effect_positions(policy) and not loop.spent:
        after.append(reproductions("effect", len(after)))
    effect = effect_of(after, policy.f)
    claimed = effect.mean_nano if effect else verdict.mean_nano
    return Step(code, stack.hypothesis, claimed), ""


def _cost_ratio(pair: Pair) -> int:
    return pair.candidate_cost_ms * 1000 // max(1, pair.base_cost_ms)


def _hash(code: bytes) -> bytes:
    return hashlib.sha256(code).digest()

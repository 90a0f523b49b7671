"""Other people's lines of work, and our own of yesterday, brought to today's frontier.

When two discoveries on one base are both adopted, one of them becomes the frontier. The other is
offered here as a merge of the two programs; so is a find of our own that the frontier has left
behind, and what another tier has adopted: does a gain of the small model carry over? A merge is a
proposal like any other: it is measured, told to all as an experiment, whatever comes of it, and
nothing is assumed of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from merge3 import Merge3

from node.proposers import Proposal
from swarm.records import Experiment
from training.errors import TrainingError
from training.source import ast_hash
from verification.frontier import elsewhere, unmerged

if TYPE_CHECKING:
    from node.member import Node
    from node.trials import Trials

MAX_MERGES = 4
"""Claims that a claim can name as merged into it."""


def three_way(base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """``ours`` with what ``theirs`` changed of ``base``, by lines; None where both changed one."""
    ancestor, one, other = (text.splitlines(keepends=True) for text in (base, ours, theirs))
    merge = Merge3(ancestor, one, other)
    regions = list(merge.merge_regions())
    if any(region[0] == "conflict" for region in regions):
        return None
    return b"".join(merge.merge_lines())


class Merges:
    """Merges for one node, each offered once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tried = {
            record.payload.ast_hash
            for record in node.own_records()
            if isinstance(record.payload, Experiment)
        }
        self._left: list[tuple[bytes, Proposal]] = []
        self._brought: set[bytes] = set()

    def leave(self, base: bytes, kept: Proposal) -> None:
        """The program ``base`` is no longer the one to build on, and ``kept`` was built on it."""
        self._left.append((base, kept))

    async def offer(self, trials: Trials) -> Proposal | None:
        """A merge onto the best at home that was not tried yet; None without one."""
        best = trials.stack.code
        while self._left:
            base, kept = self._left.pop(0)
            merged = three_way(base, best, kept.code)
            if proposal := self._fresh(trials, merged, kept.hypothesis, kept.merges, kept):
                return proposal
        for claim, common in unmerged(self._node.state, trials.tier.name):
            base, theirs = await self._node.code_of(common), await self._node.code_of(claim)
            merged = three_way(base, best, theirs)
            text = f"merge of adopted {claim.hex()[:12]} into the frontier"
            if proposal := self._fresh(trials, merged, text, (claim,)):
                return proposal
        for found in elsewhere(self._node.state, trials.tier.name):
            base, theirs = await self._node.code_of(found.base), await self._node.code_of(found.id)
            merged = three_way(base, best, theirs)
            text = f"transfer of {found.id.hex()[:12]}, adopted in tier {found.tier}"
            if proposal := self._fresh(trials, merged, text, (found.id,)):
                return proposal
        return None

    def _fresh(
        self,
        trials: Trials,
        code: bytes | None,
        text: str,
        merges: tuple[bytes, ...],
        kept: Proposal | None = None,
    ) -> Proposal | None:
        """What was tried is not tried again, except, once, what was ``kept``."""
        if code is None or len({*trials.stack.merges, *merges}) > MAX_MERGES:
            return None
        try:
            tree, base = ast_hash(code), ast_hash(trials.stack.code)
        except TrainingError:
            return None  # two good programs, and lines that do not go together
        if tree == base or tree in (self._brought if kept else self._tried):
            return None
        self._tried.add(tree)
        if kept is None:
            return Proposal(f"merge-{tree.hex()}", code, text, "merge", "", (), merges)
        self._brought.add(tree)
        return replace(kept, id=f"merge-{tree.hex()}", code=code)

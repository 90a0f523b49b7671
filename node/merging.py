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
    from node.research import Find, Trials


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
        self._left: list[Find] = []

    def leave(self, find: Find) -> None:
        """The frontier has moved away from under a find."""
        self._left.append(find)

    async def offer(self, trials: Trials) -> Proposal | None:
        """A merge onto the base of ``trials`` that was not tried yet; None without one."""
        while self._left:
            find = self._left.pop(0)
            old = await self._node.code_of(find.base)
            merged = three_way(old, trials.base, find.proposal.code)
            if proposal := self._fresh(trials, merged, find.proposal.hypothesis, ()):
                return replace(proposal, changes=find.proposal.changes)
        for claim, common in unmerged(self._node.state, trials.tier.name):
            base, theirs = await self._node.code_of(common), await self._node.code_of(claim)
            merged = three_way(base, trials.base, theirs)
            text = f"merge of adopted {claim.hex()[:12]} into the frontier"
            if proposal := self._fresh(trials, merged, text, (claim,)):
                return proposal
        for found in elsewhere(self._node.state, trials.tier.name):
            base, theirs = await self._node.code_of(found.base), await self._node.code_of(found.id)
            merged = three_way(base, trials.base, theirs)
            text = f"transfer of {found.id.hex()[:12]}, adopted in tier {found.tier}"
            if proposal := self._fresh(trials, merged, text, (found.id,)):
                return proposal
        return None

    def _fresh(
        self, trials: Trials, code: bytes | None, text: str, merges: tuple[bytes, ...]
    ) -> Proposal | None:
        if code is None:
            return None
        try:
            tree, base = ast_hash(code), ast_hash(trials.base)
        except TrainingError:
            return None  # two good programs, and lines that do not go together
        if tree == base or tree in self._tried:
            return None
        self._tried.add(tree)
        return Proposal(f"merge-{tree.hex()}", code, text, "merge", "", (), merges)

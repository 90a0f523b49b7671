"""What a node does next for the swarm: the piece of work that is shortest of hands.

``next_job`` is pure: a picture of the swarm in, a job and its reason out. The picture is drawn from
records (:mod:`node.upkeep`); how many others did a piece of work is what they say of themselves, so
it sets the order only. A share of all blocks falls to each node by hash, whatever others say, so
that liars who claim to have checked everything cannot keep anything from being checked.

The rule, first what fits:

1. a pair that a bench waits for (done by the loop of ``node.verifying``, never put off);
2. the node's own share of checks: drawn by hash, least done first;
3. where more claims wait than there are verifiers, what is short goes before research: one more
   claim would only make the queue longer;
4. research, where the node does any: own experiments take turns with 2 for the cores lent;
5. what is short: adopted discoveries that fewer than ``ENOUGH`` operators have scored again or
   audited, or keep the weights of, least done first.

So that not all idle members begin with the same piece, each has a rank for it by hash, and waits
``STAGGER_SECONDS`` for every ``ENOUGH`` members before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["reproduce", "recheck", "audit", "store", "research"]

ENOUGH: Final = 3
"""Operators beside the author of a piece of work after whom it is short of hands no more."""
STAGGER_SECONDS: Final = 60.0

_WORDS: Final = {
    "recheck": ("scoring the weights of {} again", "have done so"),
    "audit": ("auditing {} from signed bytes", "have done so"),
    "store": ("fetching the weights of {} to keep them", "keep them"),
}


@dataclass(frozen=True, slots=True)
class Need:
    """A piece of work on a claim of others that this node could do.

    ``target``: a block, or for an audit the claim. ``hands``: operators who say they did it.
    ``drawn``: it falls to this node by hash. ``adopted``: the claim is. ``rank``: how many members
    are before this one by hash; ``age``: seconds for which it has been known here.
    """

    kind: Literal["recheck", "audit", "store"]
    claim: bytes
    target: bytes
    hands: int
    drawn: bool
    adopted: bool
    rank: int = 0
    age: float = 0.0

    @property
    def is_short(self) -> bool:
        """Whether it waits for hands, and it is this node's turn to lend its own."""
        if not self.adopted or self.hands >= ENOUGH:
            return False
        return self.age >= self.rank // ENOUGH * STAGGER_SECONDS


@dataclass(frozen=True, slots=True)
class Picture:
    """The swarm as one node sees it.

    ``due``: claims whose bench waits for a pair of this node; ``waiting``: claims without a
    verdict; ``verifiers``: on the roster; ``researches``: whether the node has ideas to try.
    """

    due: int
    waiting: int
    verifiers: int
    researches: bool
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do next and ``why``; ``need`` for a piece of work on others' claims."""

    kind: Kind
    why: str
    need: Need | None = None


def next_job(picture: Picture) -> Job | None:
    """The next job by the rule above; None where there is nothing to do."""
    if picture.due:
        return Job("reproduce", f"benches that wait for a pair of this node: {picture.due}")
    drawn = [need for need in picture.needs if need.drawn]
    if drawn:
        return _job(drawn, "it falls to this node by hash")
    short = [need for need in picture.needs if need.is_short]
    queue = f"{picture.waiting} claims wait for {picture.verifiers} verifiers"
    if short and picture.waiting > picture.verifiers:
        return _job(short, f"{queue}, so that research would help less")
    if picture.researches:
        return Job("research", "no bench waits for this node, and no check falls to it")
    if short:
        return _job(short, "nothing else is to be done")
    return None


def _job(needs: Iterable[Need], because: str) -> Job:
    need = min(needs, key=lambda one: (one.hands, not one.adopted, one.rank, one.target, one.kind))
    what, done = _WORDS[need.kind]
    named = what.format(need.claim.hex()[:8])
    return Job(need.kind, f"{named}: {need.hands} of {ENOUGH} others {done}; {because}", need)

"""Proposers that need no model of the problem: random search and a fixed list."""

from __future__ import annotations

import random
import secrets
from itertools import product
from typing import TYPE_CHECKING

from node.proposers.knobs import edited, knobs, random_change, sentence, within
from node.proposers.protocol import Change, Proposal
from training.source import SourceError, ast_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from node.proposers.memory import Memory
    from node.proposers.protocol import Outcome, ProposalContext, Value

TRIES = 200
PUT_OFF = 20
"""So many draws for a proposal look for what nobody has tried; then others' ideas will do."""


def hand_out(
    memory: Memory,
    context: ProposalContext,
    changes: Sequence[Change],
    proposer: str,
    *,
    again: bool = False,
) -> Proposal | None:
    """Makes the edit and remembers it; None where it is not new, changes nothing or breaks a limit.

    Changes that leave a value as it is are dropped. What others have tried is not new, unless
    ``again``.
    """
    real = tuple(change for change in changes if change.new != change.old)
    made = edited(context.code, real) if real else None
    if made is None:
        return None
    program, identity = made
    if memory.knows(identity) or not within(context, program, real):
        return None
    if not again and context.elsewhere(identity):
        return None
    proposal = Proposal(secrets.token_hex(8), program, sentence(real), proposer, "", real)
    memory.add(proposal, ast_hash(context.code), identity)
    return proposal


class RandomProposer:
    """One knob, one value, both at random. The yardstick for every cleverer proposer."""

    name = "random"

    def __init__(self, memory: Memory, *, seed: int) -> None:
        self._memory = memory
        self._random = random.Random(seed + memory.size)

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A random edit of one literal; None after ``TRIES`` draws without a new program."""
        space = knobs(context.code)
        for attempt in range(TRIES if space else 0):
            change, again = random_change(space, self._random), attempt >= PUT_OFF
            if proposal := hand_out(self._memory, context, (change,), self.name, again=again):
                return proposal
        return None

    def observe(self, proposal_id: str, outcome: Outcome) -> None:
        """Remembers the outcome."""
        self._memory.settle(proposal_id, outcome)

    def close(self) -> None:
        """Closes the memory."""
        self._memory.close()


class ScriptedProposer:
    """A given list of edits, in order; what does not fit the frontier is passed over."""

    name = "scripted"

    def __init__(self, memory: Memory, edits: Iterable[dict[str, Value]]) -> None:
        self._memory = memory
        self._edits = tuple(edits)

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first edit of the list that is still new on this frontier."""
        space = {knob.name: knob.value for knob in knobs(context.code)}
        for again, edit in product((False, True), self._edits):
            if edit.keys() <= space.keys():
                changes = [Change(name, space[name], value) for name, value in edit.items()]
                if proposal := hand_out(self._memory, context, changes, self.name, again=again):
                    return proposal
        return None

    def observe(self, proposal_id: str, outcome: Outcome) -> None:
        """Remembers the outcome."""
        self._memory.settle(proposal_id, outcome)

    def close(self) -> None:
        """Closes the memory."""
        self._memory.close()


def readable(code: bytes) -> bool:
    """Whether a frontier can be edited at all."""
    try:
        ast_hash(code)
    except SourceError:
        return False
    return True

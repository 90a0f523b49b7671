"""What members say of their own work: ideas that they tried, blocks checked again, weights kept.

It is signed and may be a lie all the same. So it never decides what is true and never forbids
anything: only the order in which this node does things follows it. Hashes are all that is taken
from it, no text and no code. One operator has one voice, this node's own operator is believed, and
what an operator can make us remember is bounded.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from swarm.records import Experiment, Upkeep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarm.envelope import Record

MOST_OF_ONE: Final = 4096
"""Things of one kind that one operator is remembered to have said, the newest."""
MOST_IN_ALL: Final = 100_000
SURE: Final = 2
"""As many operators who tried an idea are believed."""
RETRIED: Final = 4
"""Of ideas that one operator alone says to have tried, a node tries one in so many itself."""


class Words:
    """Who said a thing, by its 32-byte name; the oldest are forgotten beyond the bounds."""

    def __init__(self, most_of_one: int = MOST_OF_ONE, most_in_all: int = MOST_IN_ALL) -> None:
        self._said: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
        self._by: dict[str, deque[bytes]] = {}
        self._most_of_one, self._most_in_all = most_of_one, most_in_all

    def say(self, operator: str, things: Iterable[bytes]) -> None:
        """``operator`` says these."""
        own = self._by.setdefault(operator, deque())
        for thing in things:
            before = self._said.get(thing, ())
            if operator in before:
                continue
            self._said[thing] = (*before, operator)
            own.append(thing)
            if len(own) > self._most_of_one:
                self._unsay(operator, own.popleft())
            if len(self._said) > self._most_in_all:
                self._said.popitem(last=False)

    def _unsay(self, operator: str, thing: bytes) -> None:
        left = tuple(one for one in self._said.get(thing, ()) if one != operator)
        if left:
            self._said[thing] = left
        else:
            self._said.pop(thing, None)

    def who(self, thing: bytes) -> tuple[str, ...]:
        """The operators who said it."""
        return self._said.get(thing, ())


class Hearsay:
    """What was heard so far.

    Args:
        key: this node's public key; makes every node try other ideas that only one tells of.
        operator: who runs this node.
    """

    def __init__(self, key: bytes, operator: str) -> None:
        self._key = key
        self.operator = operator
        self._tried = Words()
        self.rescored = Words()
        self.audited = Words()
        self.stored = Words()

    def hear(self, record: Record, operator: str) -> None:
        """Take in a record whose author belongs to ``operator``; other kinds are passed over."""
        said = record.payload
        if isinstance(said, Experiment):
            self._tried.say(operator, [_idea(said.tier, said.base, said.ast_hash)])
        elif isinstance(said, Upkeep):
            self.rescored.say(operator, said.rescored)
            self.audited.say(operator, said.audited)
            self.stored.say(operator, said.stored)

    def is_tried(self, tier: str, base: bytes | None, syntax_hash: bytes) -> bool:
        """Whether other ideas are to be tried first than this program on this base.

        Two operators who tried it are enough, and the own one. Of one alone three ideas in four are
        put off; which, is another on every node, so that a liar hides no idea from the swarm.
        """
        who = self._tried.who(_idea(tier, base, syntax_hash))
        if self.operator in who or len(who) >= SURE:
            return True
        return bool(who) and hashlib.sha256(self._key + syntax_hash).digest()[0] % RETRIED != 0


def _idea(tier: str, base: bytes | None, syntax_hash: bytes) -> bytes:
    parts = b"lazaretto/idea/1", tier.encode(), base or b"", syntax_hash
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).digest()

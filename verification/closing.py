"""When a claim can never be decided any more: epochs that are over, and members that have gone on.

A claim lives for ``claim_epochs`` epochs after its own (the charter's ``sizes``; ``LIFE`` where it
names none). What is said about it in later epochs does not count. That alone ends nothing: what was
said in time may still be on its way, and two nodes must not hold ``expired`` and ``adopted`` of one
claim. A feed never goes back to an earlier epoch, though. So a member whose feed is held without a
gap up to a record of a later epoch has *gone on*: it says nothing about the claim any more. Once so
many have gone on without a word that what the bench waits for can neither be settled nor torn,
whatever the others and g liars still say, the claim is expired; and stays so, whatever arrives.

What this cannot end, and no rule could: a bench of which too few are left to settle anything, while
those who are missing were never heard again. One of them may have signed the word that settles it.
Such a claim waits; nothing is built on it, and its author goes on without it.

No clock: epochs are what governors signed. A swarm that opens many epochs for those who join needs
``claim_epochs`` that last longer than the longest verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from swarm.records import Rotation

if TYPE_CHECKING:
    from swarm.charter import Rules
    from swarm.envelope import Record

LIFE: Final = 256
"""Epochs that a claim lives after its own. An epoch opens every five minutes at most while members
join, and much more rarely else."""

_FOR_GOOD: Final = 2**62


def last_epoch(rules: Rules, epoch: int) -> int:
    """The last epoch in which something said about a claim of ``epoch`` counts."""
    return epoch + max(0, rules.charter.sizes.get("claim_epochs", LIFE))


class Feeds:
    """How far each author's feed is held without a gap, and up to which epoch, in whatever order it
    came; and who has signed two records with one number.
    """

    def __init__(self) -> None:
        self.forked: set[bytes] = set()
        self._next: dict[bytes, int] = {}
        self._epochs: dict[bytes, int] = {}
        self._ahead: dict[bytes, dict[int, int]] = {}

    def note(self, record: Record) -> bool:
        """Take in a record of any kind, each one once; says whether its author has come to a later
        epoch.
        """
        author, seq = record.author, record.envelope.seq
        before = self.epoch(author)
        ends = isinstance(record.payload, Rotation)  # nothing follows it
        ahead = self._ahead.setdefault(author, {})
        if seq in ahead or seq < self._next.get(author, 0):
            self.forked.add(author)
        ahead[seq] = max(ahead.get(seq, 0), _FOR_GOOD if ends else record.envelope.epoch)
        following = self._next.get(author, 0)
        if seq < following:
            self._epochs[author] = max(before, ahead.pop(seq))
        while following in ahead:
            self._epochs[author] = max(self.epoch(author), ahead.pop(following))
            following += 1
        self._next[author] = following
        return self.epoch(author) > before

    def reaches(self, author: bytes, seq: int) -> bool:
        """Whether all that an author said before number ``seq`` is here, or the author is a liar of
        whom everything counts.
        """
        return seq < self._next.get(author, 0) or author in self.forked

    def epoch(self, author: bytes) -> int:
        """The latest epoch in the gapless part of a feed, 0 before its first record."""
        return self._epochs.get(author, 0)

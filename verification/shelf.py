"""Where words of benches lie until something follows from them: by name, not in memory.

A word about a claim that nobody has heard of, of somebody who has no seat, or one of far too many,
counts for nothing yet, and a record as an object takes several times its bytes. So of all words the
ids are kept, and each is read again when it is asked for: from the log that holds it, or from its
signed bytes where there is no log. What is read is what was put there, so no verdict hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.envelope import parse
from swarm.records import Attest, Block, Commit, Open, Seal, Seating

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarm.envelope import Record
    from swarm.wire import Signed

    Log = Callable[[bytes], Record | None]

Word = Commit | Seating | Seal | Open | Block | Attest
"""What a bench says."""


@dataclass(frozen=True, slots=True)
class Said:
    """A word, and what counts of its envelope: without its bytes, which are kept elsewhere."""

    id: bytes
    author: bytes
    seq: int
    epoch: int
    payload: Word

    @classmethod
    def of(cls, record: Record) -> Said:
        """What the record of a word says."""
        assert isinstance(record.payload, Word)
        envelope = record.envelope
        return cls(record.id, record.author, envelope.seq, envelope.epoch, record.payload)


class Shelf:
    """Words by id.

    Args:
        log: finds a record that was taken in by its id; None: there is no log, and signed bytes are
            kept here.
    """

    def __init__(self, log: Log | None = None) -> None:
        self._log = log
        self._signed: dict[bytes, Signed] = {}

    def put(self, record: Record, *, logged: bool) -> None:
        """Keep a word; ``logged``: the log has it under its own id."""
        if self._log is None or not logged:
            self._signed[record.id] = record.signed

    def read(self, word: bytes) -> Said:
        """A word that was put here."""
        signed = self._signed.get(word)
        if signed is not None:
            return Said.of(parse(signed.to_bytes(), check_signature=False))
        record = self._log(word) if self._log else None
        assert record is not None
        return Said.of(record)

"""What a proposer has tried, on disk: survives ``kill -9`` and is all the state that it has.

One SQLite file per node. A proposal is stored before it is handed out, so no program is handed out
twice. Whatever has no outcome when the file is opened was in flight when the node died: it counts
as abandoned, may be proposed again, and still takes an outcome that arrives late.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.proposers.protocol import Change, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from node.proposers.protocol import Proposal, Status

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    proposer TEXT NOT NULL,
    base BLOB NOT NULL,
    identity BLOB NOT NULL,
    changes TEXT NOT NULL,
    status TEXT NOT NULL,
    d_nano INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS trials_identity ON trials (identity);
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One proposal as remembered. ``base`` and ``identity`` are syntax hashes of programs."""

    id: str
    base: bytes
    changes: tuple[Change, ...]
    outcome: Outcome


class Memory:
    """The trials of one node. Not for use from two threads at once."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file; what was in flight becomes abandoned."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA busy_timeout=10000")
        self._db.executescript(_SCHEMA)
        self._db.execute("UPDATE trials SET status = 'abandoned' WHERE status = 'open'")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @property
    def size(self) -> int:
        """Number of proposals ever made."""
        return int(self._db.execute("SELECT count(*) FROM trials").fetchone()[0])

    def knows(self, identity: bytes) -> bool:
        """Whether a program of this syntax hash has been handed out and not abandoned."""
        found = self._db.execute(
            "SELECT 1 FROM trials WHERE identity = ? AND status != 'abandoned'", (identity,)
        )
        return found.fetchone() is not None

    def add(self, proposal: Proposal, base: bytes, identity: bytes) -> None:
        """Stores a proposal; durable when this returns."""
        changes = json.dumps([[item.name, item.old, item.new] for item in proposal.changes])
        self._db.execute(
            "INSERT INTO trials (id, proposer, base, identity, changes, status, d_nano)"
            " VALUES (?, ?, ?, ?, ?, 'open', 0)",
            (proposal.id, proposal.proposer, base, identity, changes),
        )

    def settle(self, proposal_id: str, outcome: Outcome) -> bool:
        """Stores an outcome; False where the id is unknown or already has one."""
        done = self._db.execute(
            "UPDATE trials SET status = ?, d_nano = ?"
            " WHERE id = ? AND status IN ('open', 'abandoned')",
            (outcome.status, max(-(2**62), min(2**62, outcome.d_nano)), proposal_id),
        )
        return done.rowcount == 1

    def tried(self) -> dict[str, int]:
        """How many trials with an outcome each proposer has."""
        rows = self._db.execute(
            "SELECT proposer, count(*) FROM trials"
            " WHERE status IN ('measured', 'failed') GROUP BY proposer"
        )
        return dict(rows.fetchall())

    def trials(self) -> Iterator[Trial]:
        """All trials that have an outcome, oldest first."""
        rows = self._db.execute(
            "SELECT id, base, changes, status, d_nano FROM trials"
            " WHERE status IN ('measured', 'failed') ORDER BY number"
        )
        for name, base, changes, status, d_nano in rows.fetchall():
            kept: Status = "measured" if status == "measured" else "failed"
            yield Trial(
                name,
                base,
                tuple(Change(*item) for item in json.loads(changes)),
                Outcome(kept, d_nano),
            )

"""The SQLite file under the log: its tables, opening it, and reading it without believing it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.errors import StoreError
from swarm.feed import Head
from swarm.finality import Statements
from swarm.records import Admission, Beacon, Charter, Epoch, Equivocation, Rotation

if TYPE_CHECKING:
    from pathlib import Path

GOVERNANCE = (Charter.KIND, Epoch.KIND, Beacon.KIND, Admission.KIND, Rotation.KIND)
VERSION = 2
_RARE = ", ".join(f"'{kind}'" for kind in (*GOVERNANCE, Equivocation.KIND))

# statements: who wrote under which epoch, proofs of equivocation included. stands: what this node
# saw first (lean) and what it saw as final (anchor); nothing else here follows from no record.
# branch 0: of each feed the branch that came first, without a gap. branch 1: records of other
# branches of it, which only authors who contradict themselves have.
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS records (
    arrival INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    author BLOB NOT NULL,
    seq INTEGER NOT NULL,
    prev BLOB,
    epoch INTEGER NOT NULL,
    branch INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS statements (
    author BLOB NOT NULL,
    epoch_id BLOB NOT NULL,
    PRIMARY KEY (author, epoch_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stands (
    name TEXT PRIMARY KEY,
    epoch_id BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS by_place ON records (author, seq) WHERE branch = 0;
CREATE INDEX IF NOT EXISTS by_branch ON records (author) WHERE branch = 1;
CREATE INDEX IF NOT EXISTS by_rare_kind ON records (kind) WHERE kind IN ({_RARE});
PRAGMA user_version = {VERSION};
"""


def open_database(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the log at ``path``, made if missing unless ``read_only``.

    Raises:
        sqlite3.Error: cannot be opened.
        StoreError: it was written by another version of this program.
    """
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if version != VERSION and not (version == 0 and empty):
        db.close()
        raise StoreError(
            f"it was written by another version of this program (form {version}, not {VERSION})",
            cure="use that version, or join anew in another home: peers hold all that it announced",
        )
    if not read_only:
        os.chmod(path, 0o600)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        if empty:
            db.executescript(_SCHEMA)
    return db


def load_heads(db: sqlite3.Connection) -> dict[bytes, Head]:
    """Author key -> the last record held of its feed."""
    rows = db.execute("SELECT author, MAX(seq), id FROM records WHERE branch = 0 GROUP BY author")
    return {author: Head(seq, record_id) for author, seq, record_id in rows}


def load_statements(db: sqlite3.Connection) -> Statements:
    """Who wrote under which epoch."""
    found = Statements()
    for author, epoch in db.execute("SELECT author, epoch_id FROM statements"):
        found.add(author, epoch)
    return found


def load_stands(db: sqlite3.Connection) -> dict[str, bytes]:
    """Epochs that this node holds by: ``lean``, what it saw first; ``anchor``, seen as final."""
    return dict(db.execute("SELECT name, epoch_id FROM stands").fetchall())


def load_spent(db: sqlite3.Connection) -> dict[tuple[bytes, int], tuple[int, int]]:
    """(author key, epoch) -> records that the author signed in the epoch, and their bytes."""
    rows = db.execute(
        "SELECT author, epoch, COUNT(*), SUM(LENGTH(data)) FROM records WHERE branch = 0"
        " GROUP BY author, epoch"
    )
    return {(author, epoch): (count, size) for author, epoch, count, size in rows}


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the log as it lies on disk, unchecked: ``id`` and ``kind`` as it was stored under,

    ``data`` the signed bytes as they are now.
    """

    id: bytes
    kind: str
    data: bytes


def read_raw(path: Path, *, branches: bool = False) -> list[Stored]:
    """Everything in the log ``path``, parsed and believed in nothing: what an audit reads.

    ``branches``: also what contradicts the feeds held, of authors who said two things.

    Raises:
        StoreError: there is no log, or it is no SQLite file any more.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as db:
            rows = db.execute(
                "SELECT CAST(id AS BLOB), CAST(kind AS TEXT), CAST(data AS BLOB) FROM records"
                " WHERE branch = 0 OR ? ORDER BY arrival",
                (branches,),
            ).fetchall()
    except (sqlite3.Error, UnicodeError) as error:
        raise StoreError(f"the log {path} cannot be read: {error}") from None
    return [Stored(*row) for row in rows]


def lock(path: Path) -> int:
    """Take the lock that keeps a second writer out, until the process ends.

    Raises:
        StoreError: a running node has it, or the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"the log in {path.parent} cannot be written: {error.strerror}; nothing was lost",
            cure="make the disk writable, or free space on it",
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreError(
            f"the log in {path.parent} is in use by a running node", cure="lazaretto status"
        ) from None
    return handle

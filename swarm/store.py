"""The node's durable log of records: SQLite in WAL mode, one writer.

What is in the log has passed every check of :func:`swarm.envelope.parse`, its author was a member,
and it follows its feed: what is held of a feed is a gapless prefix. State elsewhere is folded from
the log. A commit is durable (fsync) before :meth:`Store.ingest` or :meth:`Store.append` returns, so
nothing of our own is seen by anybody that a power cut could take back.

Not for several processes at once: a lock file keeps a second writer out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swarm.charter import Rules, fold_rules
from swarm.envelope import Record, parse, seal_record
from swarm.errors import RecordError, StoreError, SwarmError
from swarm.feed import Fit, Head, equivocator, fit, heads_digest, prove_equivocation
from swarm.records import Admission, Beacon, Charter, Epoch, Equivocation, Payload, Rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from swarm.keys import KeyPair

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    author BLOB NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (author, seq)
) STRICT;
CREATE INDEX IF NOT EXISTS by_kind ON records (kind, arrival);
"""
GOVERNANCE = (Charter.KIND, Epoch.KIND, Beacon.KIND, Admission.KIND, Rotation.KIND)
"""Kinds of records that :func:`swarm.charter.fold_rules` reads."""
SECONDS_PER_DAY = 86_400


@dataclass(slots=True)
class Ingest:
    """What became of a batch.

    ``gaps``: authors who are not members yet, or of whom an earlier record is missing.
    ``forked``: records of another branch of a feed than the one held; their author is to blame, not
    who hands them on. ``refused``: short reasons in our own words; no honest peer sends such bytes.
    """

    new: list[Record] = field(default_factory=list)
    known: int = 0
    forked: int = 0
    gaps: set[bytes] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    proofs: list[Equivocation] = field(default_factory=list)


class Store:
    """The log of one node in one swarm. Thread-safe; every call is short and blocking.

    Args:
        path: the SQLite file; made if missing.
        swarm: the swarm id (the charter's record id), which pins the charter.
        read_only: open beside a running node, for looking only.

    Raises:
        StoreError: cannot be opened, is locked by a running node, or is damaged.
    """

    def __init__(self, path: Path, swarm: bytes, *, read_only: bool = False) -> None:
        self.swarm = swarm
        self.path = path
        self._lock = threading.RLock()
        self._lock_file = -1 if read_only else _lock(path.with_suffix(".lock"))
        try:
            self._db = self._open(read_only)
            self._heads = self._load_heads()
            self._tails: dict[bytes, tuple[int, bool]] = {}  # see _tail
            self.rules: Rules | None = fold_rules(self.of_kind(*GOVERNANCE))
        except (sqlite3.Error, SwarmError) as error:
            self._unlock()
            raise StoreError(
                f"the log {path} cannot be opened: {error}",
                cure="free disk space; if it is damaged, lazaretto audit tells what was changed",
            ) from None

    def _open(self, read_only: bool) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        if not read_only:
            os.chmod(self.path, 0o600)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
        return db

    def _unlock(self) -> None:
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def close(self) -> None:
        """Close the log; a second call does nothing."""
        with self._lock:
            self._db.close()
            self._unlock()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load_heads(self) -> dict[bytes, Head]:
        rows = self._db.execute("SELECT author, MAX(seq), id FROM records GROUP BY author")
        return {author: Head(seq, record_id) for author, seq, record_id in rows}

    # --- reading -----------------------------------------------------------------------------

    def of_kind(self, *kinds: str) -> list[Record]:
        """All records of these kinds, in order of arrival."""
        marks = ",".join("?" * len(kinds))
        with self._lock:
            rows = self._db.execute(
                f"SELECT data FROM records WHERE kind IN ({marks}) ORDER BY arrival", kinds
            ).fetchall()
        return [parse(data, check_signature=False) for (data,) in rows]

    def heads(self) -> dict[bytes, Head]:
        """Author key -> the last record held of its feed."""
        with self._lock:
            return dict(self._heads)

    def records(self, after: int = 0) -> Iterator[tuple[int, Record]]:
        """All records with an arrival number above ``after``, in order of arrival."""
        while True:
            with self._lock:
                rows = self._db.execute(
                    "SELECT arrival, data FROM records WHERE arrival > ?"
                    " ORDER BY arrival LIMIT 500",
                    (after,),
                ).fetchall()
            for after, data in rows:
                yield after, parse(data, check_signature=False)
            if not rows:
                return

    def records_after(
        self, author: bytes, seq: int, max_records: int, max_bytes: int
    ) -> list[bytes]:
        """Signed bytes of a feed beyond ``seq`` (-1: from its start), in order, within caps."""
        with self._lock:
            rows = self._db.execute(
                "SELECT data FROM records WHERE author = ? AND seq > ? ORDER BY seq LIMIT ?",
                (author, seq, max_records),
            ).fetchall()
        result: list[bytes] = []
        total = 0
        for (data,) in rows:
            total += len(data)
            if result and total > max_bytes:
                break
            result.append(data)
        return result

    def get(self, record_id: bytes) -> Record | None:
        """The record with this id, if held."""
        with self._lock:
            row = self._db.execute("SELECT data FROM records WHERE id = ?", (record_id,)).fetchone()
        return parse(row[0], check_signature=False) if row else None

    def _at(self, author: bytes, seq: int) -> Record | None:
        row = self._db.execute(
            "SELECT data FROM records WHERE author = ? AND seq = ?", (author, seq)
        ).fetchone()
        return parse(row[0], check_signature=False) if row else None

    # --- writing -----------------------------------------------------------------------------

    def ingest(self, batch: Sequence[bytes]) -> Ingest:
        """Check and store records from anywhere; bad ones are refused, none raises.

        One durable commit for the whole batch. Records whose author becomes a member through the
        same batch are taken too.

        Raises:
            StoreError: the disk is full or failing; the log is as it was before the call.
        """
        result = Ingest()
        checked: list[Record] = []
        for data in batch:
            try:
                checked.append(parse(data))
            except SwarmError as error:
                result.refused.append(str(error))
        with self._lock:
            self._transaction(lambda: self._take(checked, result))
        return result

    def append(self, key: KeyPair, payload: Payload, refs: tuple[bytes, ...] = ()) -> Record:
        """Sign ``payload`` as our next record and make it durable before anybody sees it.

        Raises:
            StoreError: the disk is full or failing; nothing was signed away.
            RecordError: the payload breaks a bound, or its author may not speak here.
        """
        with self._lock:
            head = self._heads.get(key.public)
            current = self.rules.current if self.rules else None
            record = seal_record(
                key,
                payload,
                swarm=None if isinstance(payload, Charter) else self.swarm,
                seq=head.seq + 1 if head else 0,
                prev=head.id if head else None,
                epoch=max(current.number if current else 0, self._tail(key.public)[0]),
                day=int(time.time()) // SECONDS_PER_DAY,
                refs=refs,
                heads_digest=heads_digest(self._heads),
            )
            result = Ingest()
            self._transaction(lambda: self._take([record], result))
            if not result.new:
                raise RecordError(
                    "; ".join(result.refused) or "this key is not a member, or its feed was forked",
                    cure="lazaretto status",
                )
            return record

    def _transaction(self, work: Callable[[], None]) -> None:
        before = dict(self._heads), self.rules
        try:
            self._db.execute("BEGIN IMMEDIATE")
            work()
            self._db.execute("COMMIT")
        except BaseException as error:
            self._heads, self.rules = before
            self._tails.clear()
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise StoreError(
                    f"the log cannot be written: {error}; nothing that was stored is lost",
                    cure=f"free space on the disk of {self.path.parent}",
                ) from None
            if isinstance(error, SwarmError):  # not of the batch, which was checked before
                raise StoreError(
                    f"the log holds a damaged record: {error}",
                    cure="lazaretto audit tells which; join anew in another home to fetch it",
                ) from None
            raise

    def _take(self, records: Iterable[Record], result: Ingest) -> None:
        waiting = list(records)
        while waiting:
            strangers: list[Record] = []
            learnt = False
            for record in waiting:
                if record.kind == Charter.KIND and record.id != self.swarm:
                    result.refused.append("the charter of another swarm")
                elif self.rules is not None and self.rules.usurps(record):
                    result.refused.append("a governor's record by somebody who is none")
                elif not self._may_speak(record):
                    strangers.append(record)
                elif self._place(record, result) and record.kind in GOVERNANCE:
                    learnt = True
            if learnt:
                self.rules = fold_rules(self.of_kind(*GOVERNANCE))
                waiting = strangers
                continue
            result.gaps.update(record.author for record in strangers)
            return

    def _may_speak(self, record: Record) -> bool:
        if record.kind == Charter.KIND:
            return record.id == self.swarm
        return self.rules is not None and self.rules.belongs(record)

    def _tail(self, author: bytes) -> tuple[int, bool]:
        """The epoch of the last record held of a feed, and whether that record closes the feed."""
        if author not in self._tails:
            head = self._heads.get(author)
            last = self._at(author, head.seq) if head else None
            self._tails[author] = _as_tail(last) if last else (0, False)
        return self._tails[author]

    def _place(self, record: Record, result: Ingest) -> bool:
        """Insert ``record`` if it is its feed's next; tell whether it was."""
        if record.envelope.swarm not in (None, self.swarm):
            result.refused.append("a record of another swarm")
            return False
        if isinstance(record.payload, Equivocation) and not _convicts(record.payload):
            result.refused.append("a proof that proves nothing")
            return False
        author, seq = record.author, record.envelope.seq
        where = fit(self._heads.get(author), record)
        if where is Fit.NEXT:
            epoch, closed = self._tail(author)
            if closed or record.envelope.epoch < epoch:
                what = "behind the handover of its key" if closed else "back in an earlier epoch"
                result.refused.append(f"a record {what}")
                return False
            self._db.execute(
                "INSERT INTO records (id, author, seq, kind, data) VALUES (?, ?, ?, ?, ?)",
                (record.id, author, seq, record.kind, record.signed.to_bytes()),
            )
            self._heads[author] = Head(seq, record.id)
            self._tails[author] = _as_tail(record)
            result.new.append(record)
            return True
        if where is Fit.GAP:
            result.gaps.add(author)
        elif where is Fit.FORK:
            result.forked += 1
        else:
            held = self._at(author, seq)
            if held is not None and held.id != record.id:
                proof = prove_equivocation(held, record)
                if proof is not None:
                    result.proofs.append(proof)
                result.forked += 1
            else:
                result.known += 1
        return False


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the log as it lies on disk, unchecked: ``id`` and ``kind`` as it was stored under,

    ``data`` the signed bytes as they are now.
    """

    id: bytes
    kind: str
    data: bytes


def read_raw(path: Path) -> list[Stored]:
    """Everything in the log ``path``, parsed and believed in nothing: what an audit reads.

    Raises:
        StoreError: there is no log, or it is no SQLite file any more.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as db:
            rows = db.execute(
                "SELECT CAST(id AS BLOB), CAST(kind AS TEXT), CAST(data AS BLOB) FROM records"
                " ORDER BY arrival"
            ).fetchall()
    except (sqlite3.Error, UnicodeError) as error:
        raise StoreError(f"the log {path} cannot be read: {error}") from None
    return [Stored(*row) for row in rows]


def _as_tail(record: Record) -> tuple[int, bool]:
    return record.envelope.epoch, isinstance(record.payload, Rotation)


def _convicts(proof: Equivocation) -> bool:
    try:
        equivocator(proof)
    except SwarmError:
        return False
    return True


def _lock(path: Path) -> int:
    """Take the lock that keeps a second writer out, until the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreError(
            f"the log in {path.parent} is in use by a running node", cure="lazaretto status"
        ) from None
    return handle

"""The node's durable log of records: SQLite in WAL mode, one writer.

What is in the log has passed every check of :func:`swarm.envelope.parse`, its author was a member
within its quota, and the record before it is held: of a feed, a gapless prefix, and of authors who
contradict themselves other branches too (``swarm.forks``). State elsewhere is folded from the log.

What :meth:`Store.append` returned is durable (fsync), and with it all that came before: nothing of
our own is seen by anybody, and nothing that it builds on, that a power cut could take back. What
:meth:`Store.ingest` took in survives the end of the process, kill -9 too; of that a power cut can
take back the newest, which peers still have and sync brings again.

Beside records the log keeps two epochs that follow from no record: the one that this node saw first
(among rivals of which none is final it goes on writing under that one: ``stand``), and the newest
that it saw as final (``anchor``). What it judges by is ``rules``, which all nodes fold alike.

Not for several processes at once: a lock file keeps a second writer out.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

from swarm import wire
from swarm.charter import Rules, fold_rules
from swarm.database import (
    GOVERNANCE,
    load_heads,
    load_spent,
    load_stands,
    load_statements,
    lock,
    open_database,
)
from swarm.envelope import NO_EPOCH, Record, parse, seal_record
from swarm.errors import RecordError, StoreError, SwarmError
from swarm.feed import Conviction, Fit, Head, convicted_by, fit, prove_equivocation, proves
from swarm.finality import stated
from swarm.forks import Branches, Mark, contradictions
from swarm.ingest import Ingest
from swarm.quota import Quota
from swarm.records import Charter, Equivocation, Payload, Rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from swarm.keys import KeyPair

SECONDS_PER_DAY = 86_400
BEYOND_QUOTA = "a record beyond its author's quota for the epoch"
ANCHOR, LEAN = "anchor", "lean"
MAX_FOREIGN = 4096
"""Records of authors who are only known in epochs that are not followed: whoever has an old key of
a governor can make up such epochs, and members of them."""
CHECKPOINT_PAGES = 1000
"""Pages of 4 KiB in the write-ahead log from which on it is written back."""


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
        self._lock_file = -1 if read_only else lock(path.with_suffix(".lock"))
        try:
            self._db = open_database(path, read_only=read_only)
            self._heads = load_heads(self._db)
            self._spent = load_spent(self._db)
            self._tails: dict[bytes, tuple[int, bool]] = {}  # see _tail
            self._convicted = self._load_convicted()
            self._forked = self._load_forked()
            self._statements = load_statements(self._db)
            self._stands = load_stands(self._db)
            self._told: list[tuple[bytes, bytes]] = []  # statements that are not committed yet
            self.rules: Rules | None = None
            self.stand: Rules | None = None
            self._refold()
        except (sqlite3.Error, SwarmError) as error:
            self._unlock()
            raise StoreError(
                f"the log {path} cannot be opened: {error}",
                cure="free disk space; if it is damaged, lazaretto audit tells what was changed",
            ) from None

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

    def _load_forked(self) -> set[bytes]:
        rows = self._db.execute("SELECT DISTINCT author FROM records WHERE branch = 1")
        return {author for (author,) in rows} | set(self._convicted)

    def _load_convicted(self) -> dict[bytes, tuple[Conviction, ...]]:
        found: dict[bytes, tuple[Conviction, ...]] = {}
        rows = self._db.execute(
            f"SELECT arrival, data FROM records WHERE kind = '{Equivocation.KIND}' ORDER BY arrival"
        )
        for arrival, data in rows:
            _convict(found, parse(data, check_signature=False), arrival)
        return found

    # --- the chain of epochs -------------------------------------------------------------------

    @property
    def anchor(self) -> bytes | None:
        """The newest epoch that this node saw as final: no chain without it is followed."""
        return self._stands.get(ANCHOR)

    def anchor_at(self, epoch: bytes) -> None:
        """Trust ``epoch`` (its id) as final, as somebody did who let this node in.

        Not where this node has seen an epoch as final itself, nor the same twice.
        """
        with self._lock:
            if ANCHOR not in self._stands:
                self._transaction(lambda: self._keep(ANCHOR, epoch), durable=True)
                self._refold()

    def has_stated(self, author: bytes, epoch: bytes) -> bool:
        """Whether a record of ``author`` is here that names ``epoch`` (its id)."""
        with self._lock:
            return author in self._statements.of(epoch)

    def _keep(self, name: str, epoch: bytes) -> None:
        if self._stands.get(name) == epoch:
            return
        self._stands[name] = epoch
        self._db.execute("INSERT OR REPLACE INTO stands VALUES (?, ?)", (name, epoch))

    def _refold(self) -> None:
        """Fold what governs anew, and move what this node holds by."""
        records, anchor = self.of_kind(*GOVERNANCE), self._stands.get(ANCHOR)
        self.rules = self.stand = fold_rules(records, self._statements, anchor)
        if self.rules is not None and self.rules.contested:
            lean = self._stands.get(LEAN)
            self.stand = fold_rules(records, self._statements, anchor, lean)
        self._move()

    def _move(self) -> None:
        stand = self.stand
        if self._lock_file < 0 or stand is None or stand.newest is None or not stand.anchored:
            return
        self._keep(LEAN, stand.newest.id)
        if stand.final:
            self._keep(ANCHOR, stand.epochs[stand.final].id)

    def _count(self) -> None:
        """Take new statements into account, after which more epochs may be final."""
        rules = self.rules
        if rules is None:
            return
        if rules.contested:
            self._refold()
        elif rules.final < rules.number:
            self.rules = self.stand = rules.with_statements(self._statements, self.anchor)
            self._move()

    # --- reading -----------------------------------------------------------------------------

    def of_kind(self, *kinds: str) -> list[Record]:
        """All records of these kinds, in order of arrival."""
        listed = ", ".join(f"'{kind}'" for kind in kinds)  # the partial index wants them spelt out
        with self._lock:
            rows = self._db.execute(
                f"SELECT data FROM records WHERE kind IN ({listed}) ORDER BY arrival"
            ).fetchall()
        return [parse(data, check_signature=False) for (data,) in rows]

    def heads(self) -> dict[bytes, Head]:
        """Author key -> the last record held of its feed."""
        with self._lock:
            return dict(self._heads)

    def convicted(self) -> dict[bytes, tuple[Conviction, ...]]:
        """Author key -> what proves two stories, in order of arrival.

        Anybody can make up keys, so there may be many; nothing is read from the log.
        """
        with self._lock:
            return dict(self._convicted)

    def arrival(self, record_id: bytes) -> int:
        """The number of a record in the order of arrival, 0 where it is not here."""
        with self._lock:
            row = self._db.execute("SELECT arrival FROM records WHERE id = ?", (record_id,))
            return next((number for (number,) in row), 0)

    def convictions(self) -> dict[bytes, Record]:
        """Authors against whom a proof lies in the log, with one record each that holds such."""
        with self._lock:
            held = {
                author: self.get(min(proof.id for proof in proofs))
                for author, proofs in self._convicted.items()
            }
        return {author: record for author, record in held.items() if record is not None}

    def contradictions(self) -> dict[bytes, Equivocation]:
        """What the log itself proves against authors: two records of theirs with one number."""
        with self._lock:
            return contradictions(self._db)

    def marks(self) -> dict[bytes, tuple[Mark, ...]]:
        """Author key -> marks (see ``swarm.forks``) that say all that is held of its feed."""
        with self._lock:
            marks: dict[bytes, tuple[Mark, ...]] = {
                author: ((head.seq, head.id),) for author, head in self._heads.items()
            }
            for author in self._forked & self._heads.keys():
                marks[author] = Branches(self._db, author, self._heads[author]).marks()
        return marks

    def beyond(
        self, author: bytes, marks: tuple[Mark, ...], skip: int, max_records: int, max_bytes: int
    ) -> list[bytes]:
        """Signed bytes that somebody lacks who has ``marks`` of a feed, but for the first ``skip``.

        In an order in which they can be stored, within caps. To somebody whose only mark is not
        held here although the feed is as long: the one record that contradicts it.
        """
        with self._lock:
            branches = Branches(self._db, author, self._heads.get(author))
            return branches.lacking(marks, skip, max_records, max_bytes)

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
            return Branches(self._db, author, None).main_after(seq, max_records, max_bytes)

    def get(self, record_id: bytes) -> Record | None:
        """The record with this id, if held."""
        with self._lock:
            row = self._db.execute("SELECT data FROM records WHERE id = ?", (record_id,)).fetchone()
        return parse(row[0], check_signature=False) if row else None

    def _at(self, author: bytes, seq: int) -> Record | None:
        row = self._db.execute(
            "SELECT data FROM records WHERE author = ? AND seq = ? AND branch = 0", (author, seq)
        ).fetchone()
        return parse(row[0], check_signature=False) if row else None

    # --- writing -----------------------------------------------------------------------------

    def ingest(self, batch: Sequence[bytes], *, checkpoint: bool = True) -> Ingest:
        """Check and store records from anywhere; bad ones are refused, none raises.

        One commit for the whole batch. Records whose author becomes a member through the same batch
        are taken too. Without ``checkpoint`` the call never waits for the disk; a later one does.

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
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES if checkpoint else 0}")
            self._transaction(lambda: self._take(checked, result), durable=False)
        return result

    def append(self, key: KeyPair, payload: Payload, refs: tuple[bytes, ...] = ()) -> Record:
        """Sign ``payload`` as our next record and make it durable before anybody sees it.

        Raises:
            StoreError: the disk is full or failing; nothing was signed away.
            RecordError: the payload breaks a bound, or its author may not speak here.
        """
        with self._lock:
            head = self._heads.get(key.public)
            current = self.stand.current if self.stand else None
            record = seal_record(
                key,
                payload,
                swarm=None if isinstance(payload, Charter) else self.swarm,
                seq=head.seq + 1 if head else 0,
                prev=head.id if head else None,
                epoch=max(current.number if current else 0, self._tail(key.public)[0]),
                day=int(time.time()) // SECONDS_PER_DAY,
                refs=refs,
                epoch_id=current.id if current else NO_EPOCH,
            )
            result = Ingest()
            self._transaction(lambda: self._take([record], result), durable=True)
            if not result.new:
                conflict = self.rules is not None and self.rules.frozen
                raise RecordError(
                    "; ".join(result.refused)
                    or ("two epochs of one number are in conflict" if conflict else "")
                    or "this key is not a member, or its feed was forked",
                    cure="lazaretto members" if conflict else "lazaretto status",
                )
            return record

    def _transaction(self, work: Callable[[], None], *, durable: bool) -> None:
        before = dict(self._heads), dict(self._spent), set(self._forked), self.rules, self.stand
        kept = dict(self._stands), dict(self._convicted)
        try:
            # In WAL mode NORMAL writes and does not wait; the next FULL commit waits for all of it.
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            work()
            self._db.execute("COMMIT")
            self._told.clear()
        except BaseException as error:
            self._heads, self._spent, self._forked, self.rules, self.stand = before
            self._stands, self._convicted = kept
            for statement in self._told:
                self._statements.forget(*statement)
            self._told.clear()
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
            learnt, told = False, len(self._told)
            for record in waiting:
                if record.kind == Charter.KIND and record.id != self.swarm:
                    result.refused.append("the charter of another swarm")
                elif self.rules is not None and self.rules.usurps(record):
                    result.refused.append("a governor's record by somebody who is none")
                elif not self._may_speak(record):
                    strangers.append(record)
                elif self._place(record, result) and record.kind in GOVERNANCE:
                    learnt = True
            before = self.rules
            if learnt:
                self._refold()
            elif len(self._told) > told:
                self._count()
            if self.rules is not before and strangers:
                waiting = strangers
                continue
            result.gaps.update(record.author for record in strangers)
            return

    def _may_speak(self, record: Record) -> bool:
        if record.kind == Charter.KIND:
            return record.id == self.swarm
        rules = self.rules
        if rules is None or not rules.belongs(record):
            return False
        return record.author in rules.known or self._foreigners() < MAX_FOREIGN

    def _foreigners(self) -> int:
        """Records here of authors who are only known in epochs that are not followed."""
        known = self.rules.known if self.rules else frozenset()
        return sum(head.seq + 1 for author, head in self._heads.items() if author not in known)

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
        if isinstance(record.payload, Equivocation) and not proves(record.payload):
            result.refused.append("a proof that proves nothing")
            return False
        author, seq = record.author, record.envelope.seq
        where = fit(self._heads.get(author), record)
        if where is Fit.GAP and author not in self._forked:
            result.gaps.add(author)
            return False
        if where is not Fit.NEXT:
            return self._place_beside(record, result)
        fault = self._fault_of_next(record)
        if fault == BEYOND_QUOTA and self._may_be_settled(record):
            result.gaps.add(author)
            return False
        if fault:
            result.refused.append(fault)
            return False
        self._insert(record, 0)
        place = author, record.envelope.epoch
        count, size = self._spent.get(place, (0, 0))
        self._spent[place] = count + 1, size + _size(record)
        self._heads[author] = Head(seq, record.id)
        self._tails[author] = _as_tail(record)
        result.new.append(record)
        return True

    def _may_be_settled(self, record: Record) -> bool:
        """Whether what comes yet may show that the quota does not bind ``record``."""
        rules = self.rules
        return Quota.is_open(record, rules) or (rules is not None and rules.is_foreign(record))

    def _said_in(self, author: bytes, epoch: int) -> tuple[int, int]:
        """Records and bytes of an author in an epoch, and of the keys for which it goes on there.

        Of epochs that are not followed yet, those of all together.
        """
        rules = self.rules
        line = [author, *(rules.line_before(author, epoch) if rules else ())]
        newest = rules.number if rules else 0
        if epoch <= newest:
            said = [self._spent.get((one, epoch), (0, 0)) for one in line]
        else:
            said = [
                spent
                for (one, number), spent in self._spent.items()
                if one in line and number > newest
            ]
        return sum(count for count, _ in said), sum(size for _, size in said)

    def _fault_of_next(self, record: Record) -> str:
        """Why a record that follows its feed's head is refused for good; empty when it is not."""
        author, epoch = record.author, record.envelope.epoch
        before, closed = self._tail(author)
        if closed:
            return "a record behind the handover of its key"
        if epoch < before:
            return "a record back in an earlier epoch"
        count, size = self._said_in(author, epoch)
        exceeded = Quota.of(self.rules).exceeded(count + 1, size + _size(record))
        if exceeded and Quota.binds(record, self.rules):
            return BEYOND_QUOTA
        return ""

    def _place_beside(self, record: Record, result: Ingest) -> bool:
        """Place a record that is not its feed's next: known, or of another branch of the feed."""
        author, seq = record.author, record.envelope.seq
        held = self._at(author, seq)
        branches = Branches(self._db, author, self._heads.get(author))
        if (held is not None and held.id == record.id) or branches.holds(record.id):
            result.known += 1
            return False
        if held is not None and author not in self._forked:
            self._forked.add(author)
            proof = prove_equivocation(held, record)
            if proof is not None:
                result.proofs.append(proof)
        if branches.can_take(seq, record.envelope.prev):
            self._insert(record, 1)
            result.new.append(record)
            return True
        if held is None:
            result.gaps.add(author)  # what would prove the fork, or join it to it, is missing
        else:
            result.forked += 1
        return False

    def _insert(self, record: Record, branch: int) -> None:
        envelope = record.envelope
        row = self._db.execute(
            "INSERT INTO records (id, author, seq, prev, epoch, branch, kind, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.id,
                record.author,
                envelope.seq,
                envelope.prev,
                envelope.epoch,
                branch,
                record.kind,
                record.signed.to_bytes(),
            ),
        )
        if (convict := _convict(self._convicted, record, row.lastrowid or 0)) is not None:
            self._forked.add(convict)
        for author, epoch in stated(record):
            if self._statements.add(author, epoch):
                self._told.append((author, epoch))
                self._db.execute("INSERT OR IGNORE INTO statements VALUES (?, ?)", (author, epoch))


def _convict(
    found: dict[bytes, tuple[Conviction, ...]], record: Record, arrival: int
) -> bytes | None:
    """Add what ``record`` proves, if it proves something; returns whom it convicts."""
    author = convicted_by(record)
    if author is not None:
        assert isinstance(record.payload, Equivocation)
        seq = parse(record.payload.first, check_signature=False).envelope.seq
        found[author] = (*found.get(author, ()), Conviction(record.id, seq, arrival))
    return author


def _size(record: Record) -> int:
    return len(record.signed.body) + wire.SIGNATURE_SIZE


def _as_tail(record: Record) -> tuple[int, bool]:
    return record.envelope.epoch, isinstance(record.payload, Rotation)

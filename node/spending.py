"""What a model may cost, and what it has cost: caps that hold, on disk.

Every request is paid for in advance: ``reserve`` books the most that it can cost before it is sent,
and refuses where that would break a cap. ``settle`` replaces the booking by what it did cost. So
requests in flight count, from any number of threads and processes on one file, and a request whose
end nobody saw (``kill -9``, a cut stream) stays booked in full.

Money is counted in micro-cents, so that a token at a price in cents per million tokens is a whole
number of them. Hours and days are the last 3,600 and 86,400 seconds, not those of a calendar.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.errors import Paused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MICRO: Final = 1_000_000
HOUR: Final = 3600.0
DAY: Final = 86_400.0
FOR_EVER: Final = float("inf")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spending (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    tokens INTEGER NOT NULL,
    micro_cents INTEGER NOT NULL,
    settled INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS spending_at ON spending (at);
"""


@dataclass(frozen=True, slots=True)
class Cap:
    """At most ``tokens`` (input and output together) and ``cents`` within ``seconds``."""

    name: str
    seconds: float
    tokens: int
    cents: int


@dataclass(frozen=True, slots=True)
class Amount:
    """What one request costs, or all requests of some time."""

    tokens: int
    micro_cents: int


class Ledger:
    """The spending of one node. Thread-safe, and safe for several processes on one file.

    Args:
        path: the SQLite file; made if missing.
        caps: all of them hold at all times.
        clock: seconds since 1970. What a clock that was set back leaves in the future still counts.

    Raises:
        sqlite3.Error: the file cannot be opened or written; nothing may be spent then.
    """

    def __init__(
        self, path: Path, caps: tuple[Cap, ...], clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._caps = caps
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=30.0)
        db.execute("PRAGMA synchronous=FULL")
        return db

    def reserve(self, most: Amount) -> int:
        """Book the most that a request can cost; durable when this returns. Return its number.

        Raises:
            Paused: a cap would be broken; nothing was booked.
        """
        with closing(self._open()) as db:  # what is not committed is rolled back
            db.execute("BEGIN IMMEDIATE")
            now = self._clock()
            for cap in self._caps:
                self._check(db, cap, most, now)
            added = db.execute(
                "INSERT INTO spending (at, tokens, micro_cents, settled) VALUES (?, ?, ?, 0)",
                (now, most.tokens, most.micro_cents),
            )
            db.execute("COMMIT")
            assert added.lastrowid is not None
            return added.lastrowid

    def settle(self, number: int, actual: Amount) -> None:
        """Replace a booking by what the request did cost; zero where it was not charged."""
        with closing(self._open()) as db:
            db.execute(
                "UPDATE spending SET tokens = ?, micro_cents = ?, settled = 1"
                " WHERE number = ? AND settled = 0",
                (actual.tokens, actual.micro_cents, number),
            )

    def spent(self, seconds: float = FOR_EVER) -> Amount:
        """What was booked or paid within the last ``seconds``."""
        with closing(self._open()) as db:
            return _sum(db, self._clock() - seconds)

    def _check(self, db: sqlite3.Connection, cap: Cap, most: Amount, now: float) -> None:
        spent = _sum(db, now - cap.seconds)
        tokens = spent.tokens + most.tokens - cap.tokens
        money = spent.micro_cents + most.micro_cents - cap.cents * MICRO
        if tokens <= 0 and money <= 0:
            return
        kind = "tokens" if tokens > 0 else "cents"
        raise Paused(
            f"the cap of {cap.tokens if tokens > 0 else cap.cents} {kind} {cap.name} is reached",
            seconds=_until_room(db, cap, tokens, money, now),
            cure=f"raise {kind}_{cap.name.replace(' ', '_')} under [claude] in node.toml",
        )


def _sum(db: sqlite3.Connection, since: float) -> Amount:
    row = db.execute(
        "SELECT coalesce(sum(tokens), 0), coalesce(sum(micro_cents), 0)"
        " FROM spending WHERE at >= ?",
        (since,),
    ).fetchone()
    return Amount(int(row[0]), int(row[1]))


def _until_room(db: sqlite3.Connection, cap: Cap, tokens: int, money: int, now: float) -> float:
    """Seconds until enough of what was spent has left the cap's time; an hour if never."""
    if cap.seconds < FOR_EVER:
        rows = db.execute(
            "SELECT at, tokens, micro_cents FROM spending WHERE at >= ? ORDER BY at",
            (now - cap.seconds,),
        )
        for at, old_tokens, old_money in rows:
            tokens, money = tokens - old_tokens, money - old_money
            if tokens <= 0 and money <= 0:
                return max(1.0, float(at) + cap.seconds - now)
    return HOUR


def told(path: Path) -> dict[str, int] | None:
    """What was spent, in whole cents and tokens, for ``status``; None where nothing ever was."""
    if not path.exists():
        return None
    try:
        ledger = Ledger(path, ())
        hour, day, total = (ledger.spent(seconds) for seconds in (HOUR, DAY, FOR_EVER))
    except sqlite3.Error:
        return None
    return {
        "cents_last_hour": -(-hour.micro_cents // MICRO),
        "cents_last_day": -(-day.micro_cents // MICRO),
        "cents_total": -(-total.micro_cents // MICRO),
        "tokens_total": total.tokens,
    }

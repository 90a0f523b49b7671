"""Caps on tokens and money hold: in flight, at once, across restarts and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from node.proposers import Paused
from node.spending import DAY, FOR_EVER, HOUR, MICRO, Amount, Cap, Ledger, told

CAPS = (
    Cap("per hour", HOUR, 100, 10),
    Cap("per day", DAY, 250, 100),
    Cap("total", FOR_EVER, 400, 1000),
)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_in_flight_counts(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", CAPS)
    first = ledger.reserve(Amount(60, 0))
    with pytest.raises(Paused, match="100 tokens per hour"):
        ledger.reserve(Amount(60, 0))
    ledger.settle(first, Amount(10, 0))
    ledger.reserve(Amount(60, 0))
    assert ledger.spent() == Amount(70, 0)


def test_money_has_caps_of_its_own(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", CAPS)
    ledger.reserve(Amount(1, 10 * MICRO))
    with pytest.raises(Paused, match="10 cents per hour") as caught:
        ledger.reserve(Amount(1, 1))
    assert "cents_per_hour" in caught.value.cure


def test_hours_and_days_roll(tmp_path):
    clock = Clock()
    ledger = Ledger(tmp_path / "l.sqlite", CAPS, clock)
    ledger.reserve(Amount(90, 0))
    clock.now += 600
    ledger.reserve(Amount(10, 0))
    with pytest.raises(Paused, match="hour") as caught:
        ledger.reserve(Amount(50, 0))
    assert caught.value.seconds == pytest.approx(3000)
    clock.now += 3001
    for _ in range(2):
        ledger.reserve(Amount(75, 0))
        clock.now += 3601
    with pytest.raises(Paused, match="250 tokens per day"):
        ledger.reserve(Amount(1, 0))
    clock.now += DAY
    ledger.reserve(Amount(100, 0))
    clock.now += HOUR + 1
    with pytest.raises(Paused, match="400 tokens total"):
        ledger.reserve(Amount(100, 0))
    clock.now += 400 * DAY
    with pytest.raises(Paused, match="400 tokens total"):
        ledger.reserve(Amount(100, 0))


def test_a_clock_that_was_set_back_frees_nothing(tmp_path):
    clock = Clock()
    ledger = Ledger(tmp_path / "l.sqlite", CAPS, clock)
    ledger.reserve(Amount(100, 0))
    clock.now -= 5 * DAY
    with pytest.raises(Paused):
        ledger.reserve(Amount(1, 0))


def test_a_settled_booking_stays_as_it_is(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", CAPS)
    number = ledger.reserve(Amount(60, 5))
    ledger.settle(number, Amount(50, 4))
    ledger.settle(number, Amount(0, 0))
    assert ledger.spent() == Amount(50, 4)


def test_caps_hold_when_many_spend_at_once(tmp_path):
    ledgers = [Ledger(tmp_path / "l.sqlite", CAPS) for _ in range(2)]
    booked, refused = [], []

    def spend(ledger: Ledger) -> None:
        for _ in range(10):
            try:
                booked.append(ledger.reserve(Amount(3, 0)))
            except Paused:
                refused.append(1)

    threads = [threading.Thread(target=spend, args=(ledgers[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(booked) == 33
    assert len(refused) == 47
    assert ledgers[0].spent() == Amount(99, 0)


def test_what_status_tells(tmp_path):
    path = tmp_path / "l.sqlite"
    assert told(path) is None
    clock = Clock()
    clock.now = time.time() - 2 * HOUR
    Ledger(path, CAPS, clock).reserve(Amount(30, 2 * MICRO))
    Ledger(path, CAPS).reserve(Amount(12, MICRO // 2))
    assert told(path) == {
        "cents_last_hour": 1, "cents_last_day": 3, "cents_total": 3, "tokens_total": 42
    }  # fmt: skip
    path.write_bytes(b"damaged" * 1000)
    assert told(path) is None


CRASH = """
import os, sys
from pathlib import Path
from node.spending import Amount, Cap, Ledger
ledger = Ledger(Path(sys.argv[1]), (Cap("per hour", 3600.0, 100, 10),))
ledger.settle(ledger.reserve(Amount(50, 0)), Amount(20, 0))
ledger.reserve(Amount(70, 0))
os.kill(os.getpid(), 9)
"""


def test_a_request_in_flight_at_kill_dash_nine_stays_booked(tmp_path):
    path = tmp_path / "l.sqlite"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(path)], env=environment, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    ledger = Ledger(path, CAPS)
    assert ledger.spent() == Amount(90, 0)
    with pytest.raises(Paused):
        ledger.reserve(Amount(11, 0))
    ledger.reserve(Amount(10, 0))

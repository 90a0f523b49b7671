"""Garbage collection keeps what an adopted discovery, an audit or open work needs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from node import keeping
from swarm.records import Seal
from verification.states import ClaimState, Stage, State

DATA = [bytes([n]) * 32 for n in (1, 2)]


@pytest.fixture(autouse=True)
def _challenge(monkeypatch):
    monkeypatch.setattr(keeping, "describe", lambda _: None)
    files = [SimpleNamespace(sha256=digest) for digest in DATA]
    monkeypatch.setattr(keeping, "needed", lambda _: files)


def claim(byte: int, stage: Stage, epoch: int) -> ClaimState:
    return ClaimState(bytes([byte]) * 32, b"a" * 32, epoch, "quick", "improvement", 0, None, stage)


def sealed(byte: int):
    name = bytes([byte]) * 32
    weights = bytes([byte, 0]) * 16, bytes([byte, 1]) * 16
    return SimpleNamespace(payload=Seal(name, 0, *weights, True)), set(weights)


def test_only_the_weights_of_old_rejected_claims_go():
    claims = [
        claim(10, Stage.ADOPTED, 1),
        claim(11, Stage.REJECTED, 1),
        claim(12, Stage.REJECTED, 2),
        claim(13, Stage.REPRODUCING, 1),
        claim(14, Stage.RETRACTED, 1),
        claim(15, Stage.FROZEN, 1),
        claim(16, Stage.EXPIRED, 1),
    ]
    rules = SimpleNamespace(charter=None, current=SimpleNamespace(number=2))
    state = State(rules, {one.id: one for one in claims})
    seals = {byte: sealed(byte) for byte in (*range(10, 17), 99)}  # 99: its claim is not here yet
    keep = keeping.to_keep(state, [record for record, _ in seals.values()])
    expected = set(DATA).union(*(seals[byte][1] for byte in (10, 12, 13, 14, 15, 99)))
    assert keep == expected


def test_nothing_is_known_before_the_charter():
    assert keeping.to_keep(State(None), []) is None

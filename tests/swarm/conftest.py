"""Fixtures: a founded swarm, and a log for it in a temporary directory."""

from __future__ import annotations

import pytest

from swarm.store import Store
from tests.swarm.founding import Founded, make_founded


@pytest.fixture
def founded() -> Founded:
    return make_founded()


@pytest.fixture
def store(tmp_path, founded):
    with Store(tmp_path / "log.sqlite", founded.swarm) as opened:
        yield opened

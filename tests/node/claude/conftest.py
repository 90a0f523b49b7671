"""Homes for a proposer, and models for it to talk to."""

from __future__ import annotations

import pytest

from node.proposers import messages as messages_module
from tests.node.claude.talking import KEY, Node
from tests.node.messages_server import (
    serving,
)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr(messages_module.random, "uniform", lambda *_: 0.01)


@pytest.fixture
def home(tmp_path):
    path = tmp_path / "home"
    path.mkdir()
    (path / "program.md").write_text("Prefer simpler optimisers.")
    return path


@pytest.fixture
def talk(home):
    """Opens proposers on models, and closes them."""
    opened, stack = [], []

    def open_one(model, **settings):
        server = serving(model)
        stack.append(server)
        node = Node(server.__enter__(), home, **settings)
        opened.append(node)
        return node

    yield open_one
    for node in opened:
        node.proposer.close()
    for server in stack:
        server.__exit__(None, None, None)

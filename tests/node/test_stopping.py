"""``lazaretto down`` against a real process that holds a log, willing and unwilling."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from node.errors import NodeError, NotRunning
from node.settings import Home
from node.state import read_state
from node.stopping import stop

HOLDER = """
import os, signal, sys, time
from pathlib import Path
from node.settings import Home
from node.state import RunningState, write_state
from swarm.store import Store
home, deaf = Home(Path(sys.argv[1])), sys.argv[2] == "deaf"
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with Store(home.log, bytes(32)):
    write_state(home, RunningState(os.getpid(), 0.0, 0.0, "", (), (), "", ""))
    time.sleep(60)
"""


def holding(home: Home, how: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(home.path), how])
    while True:
        try:
            read_state(home)
            return process
        except NotRunning:
            assert process.poll() is None
            time.sleep(0.02)


@pytest.fixture
def home(tmp_path):
    place = Home(tmp_path / "home")
    place.create()
    return place


def test_a_running_node_is_stopped_and_waited_for(home):
    process = holding(home, "polite")
    assert stop(home) == process.pid
    assert process.wait(10) == -signal.SIGTERM
    with pytest.raises(NotRunning):
        stop(home)


def test_one_that_does_not_end_is_said_so(home):
    process = holding(home, "deaf")
    try:
        with pytest.raises(NodeError, match="has not yet") as caught:
            stop(home, patience=0.2)
        assert f"kill -9 {process.pid}" in caught.value.cure
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()

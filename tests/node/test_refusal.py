"""Without a sandbox everything that would run a candidate refuses, and says what to do."""

from __future__ import annotations

import subprocess
import sys

from node.settings import Home, Settings
from swarm.keys import KeyPair

PRELUDE = """
import sys
from training import bubblewrap
bubblewrap.find = lambda: None  # a machine without bubblewrap
"""
MAIN = PRELUDE + "from node.cli import main\nsys.exit(main(sys.argv[1:]))\n"
TRAIN = (
    PRELUDE
    + """
from training import baselines
from training.documents import Documents
from training.runner import train
train(baselines.load("quick"), baselines.QUICK, Documents([b"some text " * 1000]), 1)
"""
)


def run(program: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=300
    )


def test_a_node_that_would_run_candidates_does_not_come_up(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    KeyPair.generate().save(home.key)
    home.save(Settings("here", "00" * 32, "somebody"))
    done = run(MAIN, "up", "--home", str(home.path))
    assert done.returncode == 1
    assert "bubblewrap" in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not home.log.exists()


def test_the_demo_names_what_is_missing(tmp_path):
    done = run(MAIN, "demo", "--directory", str(tmp_path / "place"))
    assert done.returncode == 1
    assert "bubblewrap" in done.stderr
    assert "next:" in done.stderr
    assert not (tmp_path / "place").exists()


def test_doctor_names_the_cure():
    done = run(MAIN, "doctor")
    assert done.returncode == 1
    assert "FAIL  sandbox" in done.stdout
    assert "cure:" in done.stdout


def test_a_training_run_refuses():
    done = run(TRAIN)
    assert done.returncode == 1
    assert "SandboxUnavailable" in done.stderr

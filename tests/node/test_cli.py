"""The command: fast to answer, clear when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "libp2p", "anthropic", "optuna", "numpy", "trio", "grpc")
PROBE = """
import json, sys
from node.cli import main
try:
    main({argv!r})
except SystemExit:
    pass
print(json.dumps(sorted(set(sys.modules) & set({heavy!r}))), file=sys.stderr)
"""


def lazaretto(*argv: str, home, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LAZARETTO_HOME": str(home), **environment},
    )


@pytest.mark.parametrize(
    "argv", [["--help"], ["status"], ["inbox"], ["discoveries"], ["demo", "-h"]]
)
def test_answering_imports_nothing_heavy(argv, tmp_path):
    """What --help and status must stay fast for: torch and libp2p alone take seconds to import."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(argv=argv, heavy=HEAVY)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LAZARETTO_HOME": str(tmp_path)},
    )
    assert json.loads(done.stderr.splitlines()[-1]) == []


def test_help_names_every_command(tmp_path):
    shown = lazaretto("--help", home=tmp_path).stdout
    for command in ("demo", "init", "invite", "join", "up", "status", "inbox", "discoveries"):
        assert command in shown
    assert "audit" in shown
    assert "doctor" in shown


@pytest.mark.parametrize("command", ["status", "inbox", "discoveries", "up"])
def test_without_a_node_the_next_step_is_named(command, tmp_path):
    done = lazaretto(command, home=tmp_path)
    assert done.returncode == 2
    assert "no node lives in" in done.stderr
    assert "lazaretto join INVITE" in done.stderr
    assert not done.stdout
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_a_usage_error(tmp_path):
    done = lazaretto("frobnicate", home=tmp_path)
    assert done.returncode == 2
    assert "frobnicate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "invitation", ["", "laz1", "laz1zzzz", "https://example.org", "laz1" + "a" * 300]
)
def test_a_string_that_is_no_invitation_changes_nothing(invitation, tmp_path):
    home = tmp_path / "home"
    done = lazaretto("join", invitation, home=home)
    assert done.returncode == 2
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not home.exists()


def test_a_wrong_setting_is_named(tmp_path):
    (tmp_path / "node.toml").write_text('name = "x"\nswarm = "00"\noperator = "x"\nspeed = 9\n')
    done = lazaretto("status", home=tmp_path)
    assert done.returncode == 2
    assert "speed" in done.stderr


def test_a_home_with_control_characters_in_its_settings_is_refused_quietly(tmp_path):
    (tmp_path / "node.toml").write_bytes(b"\xff\xfe\x00")
    done = lazaretto("status", home=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr

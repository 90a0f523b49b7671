"""A swarm's people over time, with real processes on loopback: they come, change keys and go."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import files

import pytest

from node.cli import main
from node.errors import NotRunning
from node.membership import found_here
from node.settings import Home
from node.state import read_state
from tests.training.nonsense import nonsense

PATIENCE = 120.0

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]


class Place:
    """Homes and their running nodes; commands are those of the command line."""

    def __init__(self, folder, capsys):
        self.folder = folder
        self.capsys = capsys
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def home(self, name: str) -> Home:
        return Home(self.folder / name)

    def found(self, name: str) -> None:
        demo = files("configs").joinpath("demo.toml").read_text()
        sizes = "folds = 8\nfold_bytes = 8_192\ndev_bytes = 8_192\ntrain_bytes = 200_000\n"
        plan = self.folder / "charter.toml"
        plan.write_text(re.sub(r"(?m)^folds = .*\n", sizes + "excerpt_bytes = 4_096\n", demo))
        corpus = self.folder / "text"
        corpus.mkdir()
        for number in range(60):
            (corpus / f"{number}.txt").write_bytes(nonsense(number, 6_000))
        home = self.home(name)
        found_here(
            home, name="lab", plan_file=plan, corpus=str(corpus), operator=name,
            listen="/ip4/127.0.0.1/tcp/0", progress=print, roles=("archivist", "governor"),
        )  # fmt: skip
        home.save(replace(home.load(), open_epochs="hand"))

    def up(self, name: str) -> None:
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "node.cli", "up", "--home", str(self.home(name).path)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.until(f"{name} is up", lambda: self._state(name) is not None)

    def _state(self, name: str):
        try:
            return read_state(self.home(name))
        except NotRunning:
            return None

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        process = self.running.pop(name)
        process.send_signal(how)
        process.wait(30)

    def stop_all(self) -> None:
        for name in list(self.running):
            self.stop(name, signal.SIGKILL)

    def run(self, *argv: str, home: str, code: int = 0) -> str:
        self.capsys.readouterr()
        found = main([*argv, "--home", str(self.home(home).path)])
        said = self.capsys.readouterr()
        assert found == code, said.err
        return said.out if code == 0 else said.err

    def facts(self, *argv: str, home: str):
        return json.loads(self.run(*argv, "--json", home=home))

    def members(self, home: str):
        """What a node holds of the swarm's people, less who the node itself is."""
        return {
            key: value for key, value in self.facts("members", home=home).items() if key != "id"
        }

    def until(self, what: str, ready) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert time.monotonic() < deadline, f"waited in vain until {what}"
            ended = [name for name, process in self.running.items() if process.poll() is not None]
            assert not ended, f"{ended} ended"
            time.sleep(0.2)

    def agree(self, *names: str, epoch: int) -> None:
        """Wait until all these nodes hold ``epoch`` and the very same of everything else."""
        self.until(f"epoch {epoch} is everywhere", lambda: all(
            self.members(name)["epoch"] == epoch for name in names
        ))  # fmt: skip
        first = self.members(names[0])
        assert all(self.members(name) == first for name in names)


def test_people_come_change_their_keys_and_go(tmp_path, capsys, monkeypatch):
    from training import leakscan

    monkeypatch.setattr(leakscan, "sandbox_files", lambda devices: [])  # 100 MB to read
    place = Place(tmp_path, capsys)
    place.found("lab")
    with ExitStack() as stack:
        stack.callback(place.stop_all)
        place.up("lab")
        (address,) = place._state("lab").addresses

        # One string is enough; a share of alpha comes with the next epoch.
        invitation = place.run("invite", "--operator", "bob", "--role", "researcher", home="lab")
        assert place.run("join", invitation.strip(), "--paused", home="bob").startswith("joined")
        assert "admitted" not in place.run("join", invitation.strip(), home="eve", code=1)
        (waiting,) = place.members("lab")["waiting"]
        assert waiting["operator"] == "bob"
        place.up("bob")

        # Asking without an invitation: the request outlives both sides, then a governor accepts.
        ask = ("join", "--ask", address, "--operator", "carol", "--role", "archivist")
        assert place.run(*ask, home="carol").startswith("asked")
        place.stop("lab", signal.SIGKILL)
        place.up("lab")
        assert place.run(*ask, home="carol").startswith("asked")
        (request,) = place.facts("requests", home="lab")["requests"]
        assert (request["operator"], request["state"]) == ("carol", "waiting")
        assert "not been accepted" in place.run("up", home="carol", code=2)
        assert place.facts("accept", "carol", home="lab")["roles"] == ["archivist"]
        assert place.run(*ask, home="carol").startswith("joined")
        place.up("carol")
        assert place.facts("requests", home="lab")["requests"] == []

        # The next epoch has both, with the researcher's claims.
        assert place.facts("epoch", "open", home="lab")["epoch"] == 2
        place.agree("lab", "bob", "carol", epoch=2)
        lines = {line["operator"]: line for line in place.members("bob")["members"]}
        assert set(lines) == {"lab", "bob", "carol"}
        assert (lines["bob"]["claims"], lines["bob"]["share"]) == (2, "2/2")
        assert lines["carol"]["claims"] == 0
        place.until("bob is paused", lambda: "resume" in place._state("bob").activity)
        assert place.run(*ask, home="carol", code=1)  # it runs already

        # Removed, for a reason that everybody can read.
        place.run("epoch", "open", "--remove", "carol", "--reason", "serves nothing", home="lab")
        place.agree("lab", "bob", epoch=3)
        (gone,) = place.members("bob")["removed"]
        assert gone["reason"] == "serves nothing"
        place.stop("carol")

        # A new key, on the old one's word.
        assert "running" in place.run("rotate-key", home="bob", code=2)
        place.stop("bob")
        changed = place.facts("rotate-key", home="bob")
        place.up("bob")
        place.until("the lab knows the new key", lambda: [
            line["id"] for line in place.members("lab")["waiting"]
        ] == [changed["new"]])  # fmt: skip
        place.run("epoch", "open", home="lab")
        place.agree("lab", "bob", epoch=4)
        lines = {line["id"]: line for line in place.members("bob")["members"]}
        assert changed["old"] not in lines
        assert lines[changed["new"]]["operator"] == "bob"
        (handover,) = place.members("lab")["handovers"]
        assert (handover["old"], handover["new"]) == (changed["old"], changed["new"])

        # A second governor: from now on both must sign, and do so over the network.
        place.run("epoch", "open", "--governor", "bob", home="lab")
        place.agree("lab", "bob", epoch=5)
        draft = place.facts("epoch", "open", home="lab")["draft"]
        place.until(
            "the draft is there", lambda: place.facts("epoch", "list", home="bob")["drafts"]
        )
        place.run("epoch", "sign", draft[:12], home="bob")
        place.agree("lab", "bob", epoch=6)
        signers = place.facts("epoch", "list", home="bob")["epochs"][-1]["signers"]
        assert len(signers) == 2
        assert place.members("lab")["refused"] == []

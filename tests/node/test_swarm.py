"""A real swarm of processes: kill -9 any node in the middle, start it again, nothing is lost.

Real libp2p on loopback, real training in real sandboxes. The dishonest node's two claims must be
rejected everywhere, for the true reason, although every node is killed at some point on the way.
"""

from __future__ import annotations

import json
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from node.demo.dishonest import INVENTED, LOOKS_AHEAD
from node.demo.local import LocalSwarm, Part
from node.demo.run import PLANTED
from node.demo.watch import Watch
from node.report import Held
from swarm.database import read_raw
from tests.node.commands import Done, lazaretto
from training import leakscan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARTS = (
    Part("ada", ("researcher", "archivist", "governor")),
    Part("vera", ("verifier",)),
    Part("otto", ("verifier",)),
    Part("mallory", ("researcher",), module="node.demo.dishonest"),
)
PATIENCE = 420.0

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]


def wait(watch: Watch, what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        watch.poll()
        ended = [node.part.name for node in watch.swarm.ended()]
        assert not ended, f"{ended} ended: {watch.swarm[ended[0]].last_output()}"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


def kill_and_restart(swarm: LocalSwarm, name: str) -> None:
    """kill -9 and a new start; everything held before must be held after."""
    node = swarm[name]
    node.kill()
    before = {row.data for row in read_raw(node.home.log)}
    node.start()
    node.wait_started()
    assert before <= {row.data for row in read_raw(node.home.log)}


def test_every_node_is_killed_once_and_all_agree_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(leakscan, "sandbox_files", lambda devices: [])  # 100 MB to read
    with LocalSwarm(tmp_path, PARTS, progress=print) as swarm:
        watch = Watch(swarm, PLANTED)
        swarm.start()
        wait(watch, "the first plant everywhere", lambda: any(
            len(claim.states) == len(PARTS) for claim in watch.claims.values()
        ))  # fmt: skip
        kill_and_restart(swarm, "mallory")
        wait(watch, "a verifier at work", lambda: any(
            "reproducing" in busy.now for busy in watch.busy.values()
        ))  # fmt: skip
        busy = next(name for name, busy in watch.busy.items() if "reproducing" in busy.now)
        kill_and_restart(swarm, busy)
        wait(watch, "a reproduction", lambda: any(
            claim.pairs for claim in watch.claims.values()
        ))  # fmt: skip
        kill_and_restart(swarm, "ada")
        other = "otto" if busy == "vera" else "vera"
        kill_and_restart(swarm, other)
        wait(watch, "both plants rejected by all", lambda: (
            len(watch.plants_held()) == len(PLANTED) or bool(watch.plants_passed())
        ))  # fmt: skip
        assert not watch.plants_passed()
        held = {node.part.name: Held(node.home) for node in swarm.nodes}
    reasons = {
        name: sorted(
            state.reason for state in one.state.claims.values() if state.id.hex() in watch.plants
        )
        for name, one in held.items()
    }
    assert all(found == sorted([INVENTED, LOOKS_AHEAD]) for found in reasons.values())
    home = swarm["vera"].home
    for plant in watch.plants:
        _audit_holds(home.path, plant)
    _tampering_is_found(home.log, home.path, next(iter(watch.plants)))


def _audit(home: Path, claim: str) -> Done:
    return lazaretto("audit", claim, "--home", str(home), "--json")


def _audit_holds(home: Path, claim: str) -> None:
    done = _audit(home, claim)
    assert done.code == 0, done.out + done.err
    assert json.loads(done.out)["claim"] == claim


def _tampering_is_found(log: Path, home: Path, claim: str) -> None:
    """One changed bit in a record on disk, whichever, makes the audit exit with 4."""
    db = sqlite3.connect(log)
    for record, data in db.execute("SELECT id, data FROM records").fetchall()[::6]:
        changed = bytearray(data)
        changed[len(changed) // 2] ^= 1
        db.execute("UPDATE records SET data = ? WHERE id = ?", (bytes(changed), record))
        db.commit()
        done = _audit(home, claim)
        assert done.code == 4, done.out + done.err
        db.execute("UPDATE records SET data = ? WHERE id = ?", (data, record))
        db.commit()
    db.close()
    _audit_holds(home, claim)

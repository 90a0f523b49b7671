"""A swarm of three nodes, left alone for hours: ``python -m tests.soak unattended [SECONDS]``.

Three homes, three processes of ``lazaretto up`` on loopback, each researcher (TPE) and verifier of
tier ``quick``; claims are settled by the two others (N = 2, f = 0). Meanwhile memory and disk are
sampled each minute, and every ten minutes or so one of the first two nodes is ended by kill -9 and
started again; the third is never ended, so that its memory tells whether a process grows.

Everything stays in a folder that is printed. At the end ``tests.soak.aftermath`` reads what the
nodes hold and measures what their frontier is worth; it can be run again on that folder.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from node.demo.local import LocalNode, LocalSwarm, Part
from node.demo.watch import Watch
from node.settings import VERIFY_SHARE_MILLI
from swarm.keys import KeyPair
from tests.soak.aftermath import MINUTES, RESTARTS, RUN, report
from tests.soak.kill import feed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROLES = ("researcher", "verifier", "archivist")
PARTS = (Part("ada", (*ROLES, "governor")), Part("ben", ROLES), Part("cleo", ROLES))
NEVER_KILLED = "cleo"
SLOTS = 12
"""Claims of a node: there is one epoch in all, and hours of it."""
SAMPLE_S = 60.0
KILL_S = 600.0
POLL_S = 1.0
SETTLE_S = 120.0
AT_WORK = {"experiment_started", "experiment", "verifying", "reproduced", "committed", "claimed"}


@dataclass(slots=True)
class Restart:
    """One kill -9. Times are seconds since 1970; ``held``: what the node had signed, as it and
    its peers had it at that moment; ``lost``: of that, what it did not hold when it worked again.
    """

    node: str
    by_us: bool
    killed_at: float
    start_at: float
    started_at: float = 0.0
    up_at: float = 0.0
    at_work_at: float = 0.0
    signed: int = 0
    lost: int = 0
    doubled: int = 0
    held: set[bytes] = field(default_factory=set)


def charter(folder: Path) -> Path:
    """The demo's charter with more claim slots."""
    text = files("configs").joinpath("demo.toml").read_text()
    assert "\nslots = 2 " in text
    path = folder / "charter.toml"
    path.write_text(text.replace("\nslots = 2 ", f"\nslots = {SLOTS} "))
    return path


def disk_bytes(home: Path) -> int:
    """What a home takes on the disk."""
    total = 0
    for folder, _, names in os.walk(home):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def memory_bytes(pid: int) -> tuple[int, int]:
    """Resident memory of the process alone, and with all its children (shared pages count often).

    Zeros while there is no such process.
    """
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        own = process.memory_info().rss
        total = own
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                total += child.memory_info().rss
        return own, total
    return 0, 0


class Soak:
    """One unattended run in ``folder``, which keeps all that is found out on the way."""

    def __init__(self, folder: Path, seconds: float, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.seconds = seconds
        self.say = say
        self.restarts: list[Restart] = []
        self.swarm = LocalSwarm(
            folder,
            PARTS,
            charter=charter(folder),
            verify_share_milli=VERIFY_SHARE_MILLI,
            progress=say,
        )
        self.watch = Watch(self.swarm, {})
        self.authors = {
            node.part.name: KeyPair.load(node.home.key).public for node in self.swarm.nodes
        }
        self._seen = dict.fromkeys(self.authors, 0)

    def run(self) -> None:
        """Run for the given time, then bring the nodes to rest and stop them."""
        begun = time.time()
        self._write_run(begun, 0.0)
        self.swarm.start()
        end, next_sample = begun + self.seconds, begun
        gap = min(KILL_S, self.seconds / 4)
        quiet = min(180.0, self.seconds / 4)  # time at the end in which the last one comes back
        next_kill = begun + random.uniform(0.5, 1.5) * gap
        while (now := time.time()) < end:
            self.watch.poll()
            self._mind_the_dead(now)
            if now >= next_kill and now < end - quiet and not self._somebody_is_down():
                self._kill(now)
                next_kill = now + random.uniform(0.5, 1.5) * gap
            if now >= next_sample:
                self._sample(now - begun)
                next_sample += SAMPLE_S
            time.sleep(POLL_S)  # a poll of files written by other processes
        self._sample(time.time() - begun)
        at_rest = self._come_to_rest()
        self._sample(time.time() - begun)
        for node in self.swarm.nodes:
            self._command("down", node)
        self._write_run(begun, time.time() - begun, at_rest=at_rest)

    # --- kill and restart -----------------------------------------------------------------------

    def _somebody_is_down(self) -> bool:
        return any(not one.at_work_at for one in self.restarts)

    def _kill(self, now: float) -> None:
        node = random.choice([one for one in self.swarm.nodes if one.part.name != NEVER_KILLED])
        node.kill()
        self._mourn(node, now, by_us=True)

    def _mourn(self, node: LocalNode, now: float, *, by_us: bool) -> None:
        author = self.authors[node.part.name]
        held: set[bytes] = set()
        for one in self.swarm.nodes:
            held |= feed_of(one.home, author).keys()
        again = now + random.uniform(2, 20)
        self.restarts.append(
            Restart(node.part.name, by_us, now, again, signed=len(held), held=held)
        )
        self.say(f"{node.part.name}: {'kill -9' if by_us else 'ENDED BY ITSELF'}")
        if not by_us:
            self.say(node.last_output())

    def _mind_the_dead(self, now: float) -> None:
        down = {one.node for one in self.restarts if not one.started_at}
        for node in self.swarm.ended():
            if node.part.name not in down:
                self._mourn(node, now, by_us=False)
        for one in self.restarts:
            node = self.swarm[one.node]
            if not one.started_at and now >= one.start_at:
                node.start()
                one.started_at = now
            entries = node.entries[self._seen[one.node] :] if not one.at_work_at else []
            for entry in entries:
                if one.started_at and entry["t"] > one.started_at:
                    if entry["what"] == "started":
                        one.up_at = entry["t"]
                    elif one.up_at and entry["what"] in AT_WORK and not one.at_work_at:
                        one.at_work_at = entry["t"]
                        self._examine(one)
        self._seen = {node.part.name: len(node.entries) for node in self.swarm.nodes}

    def _examine(self, one: Restart) -> None:
        """A node works again: does it hold all that it had signed, each number once?"""
        feed = feed_of(self.swarm[one.node].home, self.authors[one.node])
        one.lost = len(one.held - feed.keys())
        one.doubled = len(feed) - len(set(feed.values()))
        self._append(RESTARTS, {**asdict(one), "held": len(one.held)})
        self.say(
            f"{one.node}: back at work after {one.at_work_at - one.started_at:.0f} s, "
            f"{one.signed} records signed before, {one.lost} lost"
        )

    # --- what is written down -------------------------------------------------------------------

    def _sample(self, at: float) -> None:
        sizes = {}
        for node in self.swarm.nodes:
            own, tree = memory_bytes(node.process.pid) if node.process else (0, 0)
            sizes[node.part.name] = {
                "own": own, "tree": tree, "disk": disk_bytes(node.home.path)
            }  # fmt: skip
        self._append(MINUTES, {"at": round(at, 1), "nodes": sizes})
        mib = {
            kind: "/".join(f"{one[kind] / 2**20:.0f}" for one in sizes.values())
            for kind in ("own", "tree", "disk")
        }
        stages = [set(claim.states.values()) for claim in self.watch.claims.values()]
        self.say(
            f"{at / 60:5.1f} min: {sum(busy.experiments for busy in self.watch.busy.values())} "
            f"experiments, {len(stages)} claims, {sum('adopt' in one for one in stages)} adopted, "
            f"{sum('reject' in one for one in stages)} rejected, "
            f"{len(self.restarts)} kills; MiB {mib['own']} of nodes, {mib['tree']} with children, "
            f"{mib['disk']} on disk"
        )

    def _append(self, name: str, facts: dict[str, Any]) -> None:
        with open(self.folder / name, "a", encoding="ascii") as file:
            file.write(json.dumps(facts) + "\n")

    def _write_run(self, begun: float, seconds: float, **more: Any) -> None:
        facts = {
            "begun": begun,
            "seconds": seconds,
            "commit": _commit(),
            "nice": os.nice(0),
            "killed": [part.name for part in PARTS if part.name != NEVER_KILLED],
            **more,
        }
        (self.folder / RUN).write_text(json.dumps(facts))

    # --- the end --------------------------------------------------------------------------------

    def _come_to_rest(self) -> bool:
        """Pause all work and wait until everybody holds the same records; False if never."""
        for node in self.swarm.nodes:
            self._command("pause", node)
        deadline = time.monotonic() + SETTLE_S
        before: set[bytes] = set()
        while time.monotonic() < deadline:
            time.sleep(3 * POLL_S)
            held = [_ids(node, self.authors.values()) for node in self.swarm.nodes]
            if all(one == held[0] for one in held) and held[0] == before:
                return True
            before = held[0]
        return False

    def _command(self, name: str, node: LocalNode) -> None:
        command = [sys.executable, "-m", "node.cli", name, "--home", str(node.home.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            self.say(f"lazaretto {name}, {node.part.name}: {done.stderr.strip()}")


def _ids(node: LocalNode, authors: Iterable[bytes]) -> set[bytes]:
    return {record for author in authors for record in feed_of(node.home, author)}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "not a git checkout"


def main(seconds: int = 7200) -> str:
    """Run in a new folder that is kept; returns the report."""
    folder = Path(tempfile.mkdtemp(prefix="lazaretto-unattended-"))
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.0f} s] {line}", flush=True)

    say(f"everything stays in {folder}")
    soak = Soak(folder, seconds, say)
    try:
        soak.run()
    finally:
        soak.swarm.stop()
    return report(folder, say)

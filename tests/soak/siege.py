"""A real node under attack: ``python -m tests.soak siege [SECONDS] [KIND...]``.

The node is a process of ``lazaretto up`` on loopback, the attackers (``tests.soak.besiegers``) are
another. Each attack lasts SECONDS; meanwhile an honest member pulls over a connection that it had
before, another dials anew, newcomers bring valid invitations, and ``status`` is asked. The node is
then ended while the attack goes on. It prints what was measured, and the mark beside it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import trio

from node.demo.local import LocalSwarm, Part
from node.invitations import Invitations
from swarm import wire
from swarm.gossip import topic_of
from swarm.joining import ask_to_join
from swarm.keys import KeyPair
from swarm.peers import Everybody
from swarm.sync import FIRST, LAST, MAX_FRAME, MarksRequest
from swarm.sync import PROTOCOL as SYNC
from swarm.transport import Transport
from tests.soak.besiegers import BY_STRANGERS, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.demo.local import LocalNode

PARTS = (
    Part("keeper", ("archivist", "governor")),
    Part("ally", ("archivist",)),
    Part("visitor", ("archivist",)),
    Part("evil", ("archivist",)),
    Part("wicked", ("archivist",)),
)
LOCAL = ["/ip4/127.0.0.1/tcp/0"]
QUIET_S, AFTER_S, PULL_EVERY_S, COME_EVERY_S, LOOK_EVERY_S = 6.0, 6.0, 0.25, 4.0, 8.0
IN_VAIN = 60.0
"""Seconds that count for what never came."""
MIB = 2**20


@dataclass
class Found:
    """What was measured under one attack; seconds, MiB, cores."""

    kind: str
    pulls: list[float] = field(default_factory=list)
    dials: list[float] = field(default_factory=list)
    joins: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    before: float = 0.0
    most: float = 0.0
    after: float = 0.0
    quiet: float = 0.0
    busy: float = 0.0
    down: float = 0.0
    attack: str = ""
    failures: list[str] = field(default_factory=list)
    in_quiet: dict[str, list[float]] = field(default_factory=dict)

    def marks(self) -> list[tuple[str, float, float, str, float | None]]:
        """(what, measured, mark, unit, the same in quiet); measured must not be above the mark."""
        cores = 0.5 if self.kind in BY_STRANGERS else 1.0
        marks: list[tuple[str, float, float, str, float | None]] = [
            ("memory grows by", self.most - self.before, 64.0, "MiB", None),
            ("and afterwards by", self.after - self.before, 32.0, "MiB", None),
            ("CPU of the attack", self.busy - self.quiet, cores, "cores", self.quiet),
            ("down", self.down, 2.0, "s", None),
        ]
        for what, name, mark in (
            ("pull of a member, p99", "pulls", 1.0),
            ("dial of a member, p99", "dials", 5.0),
            ("a valid invitation, p99", "joins", 5.0),
            ("status, p99", "looks", 1.0),
        ):
            measured, quiet = getattr(self, name), self.in_quiet.get(name, [])
            marks.append((what, percentile(measured, 0.99), mark, "s", percentile(quiet, 0.99)))
        return marks


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else IN_VAIN


class Siege:
    """One attack on one node."""

    def __init__(self, kind: str, seconds: float, swarm: LocalSwarm) -> None:
        self.found = Found(kind)
        self.seconds = seconds
        self.swarm = swarm
        self.node: LocalNode = swarm["keeper"]
        self.token = Invitations(self.node.home).give("guests", ("archivist",), "2d", 100)
        self.address = ""

    def seed_of(self, name: str) -> bytes:
        return KeyPair.load(self.swarm[name].home.key).seed

    async def pull_again_and_again(self, transport: Transport, keeper: bytes) -> None:
        while True:
            start, took = time.monotonic(), IN_VAIN
            try:
                async with transport.stream(keeper, SYNC, 10.0) as stream:
                    await stream.write_frame(MarksRequest(FIRST, LAST, {}).encode())
                    while (await stream.read_frame(MAX_FRAME))[0] == 1:
                        pass
                    took = time.monotonic() - start
            except Exception as error:
                self.found.failures.append(repr(error)[:100])
            self.found.pulls.append(took)
            await trio.sleep(PULL_EVERY_S)

    async def come(self, seed: bytes, then: Callable[[Transport, bytes], object]) -> float:
        """Dial anew, and again within a minute until ``then`` is content; seconds that it took."""
        start = time.monotonic()
        async with Transport(seed, LOCAL, admission=Everybody()) as transport:
            while time.monotonic() - start < IN_VAIN:
                with suppress(Exception):
                    keeper = await transport.dial(self.address)
                    if await then(transport, keeper):  # type: ignore[misc]
                        return time.monotonic() - start
                await trio.sleep(0.2)
        return IN_VAIN

    async def visit_again_and_again(self) -> None:
        async def connected(transport: Transport, keeper: bytes) -> bool:
            await transport.request(keeper, "/lazaretto/alive/1", b"\1", max_response=16)
            return True

        while True:
            self.found.dials.append(await self.come(self.seed_of("visitor"), connected))
            await trio.sleep(COME_EVERY_S)

    async def join_again_and_again(self) -> None:
        async def admitted(transport: Transport, keeper: bytes) -> bool:
            request = wire.encode({"token": self.token})
            answer = wire.decode(await ask_to_join(transport, keeper, request))
            return isinstance(answer, dict) and answer.get("state") == "admitted"

        while True:
            self.found.joins.append(await self.come(os.urandom(32), admitted))
            await trio.sleep(COME_EVERY_S)

    async def look_again_and_again(self) -> None:
        command = [sys.executable, "-m", "node.cli", "status", "--home", str(self.node.home.path)]
        while True:
            start = time.monotonic()
            await trio.run_process(command, capture_stdout=True, capture_stderr=True)
            self.found.looks.append(time.monotonic() - start)
            await trio.sleep(LOOK_EVERY_S)

    async def weigh(self, process: psutil.Process) -> None:
        while True:
            self.found.most = max(self.found.most, process.memory_info().rss / MIB)
            await trio.sleep(0.2)

    def begin(self, seconds: float) -> subprocess.Popen[str]:
        seeds = [self.seed_of(name).hex() for name in ("evil", "wicked")]
        words = [self.found.kind, self.address, str(seconds), self.swarm.swarm, *seeds]
        command = [sys.executable, "-m", "tests.soak.besiegers", *words]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    async def run(self) -> Found:
        found = self.found
        self.node.start()
        state = await trio.to_thread.run_sync(self.node.wait_started)
        self.address = state.addresses[0]
        process = psutil.Process(state.pid)
        topic = topic_of(bytes.fromhex(self.swarm.swarm))  # or it counts as deaf

        def used() -> float:
            times = process.cpu_times()
            return times.user + times.system

        async with (
            Transport(self.seed_of("ally"), LOCAL, admission=Everybody(), topic=topic) as ally,
            trio.open_nursery() as honest,
        ):
            keeper = await ally.dial(self.address)
            for task in (
                self.visit_again_and_again,
                self.join_again_and_again,
                self.look_again_and_again,
            ):
                honest.start_soon(task)
            honest.start_soon(self.pull_again_and_again, ally, keeper)
            await trio.sleep(QUIET_S)
            start, then = used(), time.monotonic()
            await trio.sleep(QUIET_S)
            found.quiet = (used() - start) / (time.monotonic() - then)
            found.before = process.memory_info().rss / MIB
            for name in ("pulls", "dials", "joins", "looks"):
                found.in_quiet[name] = list(getattr(found, name))
                getattr(found, name).clear()
            honest.start_soon(self.weigh, process)
            attack = self.begin(self.seconds)
            try:
                start, then = used(), time.monotonic()
                while attack.poll() is None and time.monotonic() < then + self.seconds + 30:  # noqa: ASYNC110
                    await trio.sleep(0.2)
                found.busy = (used() - start) / (time.monotonic() - then)
                found.attack = attack.communicate(timeout=5)[0].strip()
            finally:
                attack.kill()
            honest.cancel_scope.cancel()
        await trio.sleep(AFTER_S)
        found.after = process.memory_info().rss / MIB
        attack = self.begin(20.0)
        try:
            await trio.sleep(8.0)
            start = time.monotonic()
            process.terminate()
            assert self.node.process is not None
            with suppress(subprocess.TimeoutExpired):
                await trio.to_thread.run_sync(self.node.process.wait, 30.0)
            found.down = time.monotonic() - start
        finally:
            attack.kill()
            attack.wait()
            self.node.kill()
        return found


def table(found: Found) -> str:
    lines = [f"{found.kind}   {found.attack}"]
    if found.failures:
        lines.append(f"  {len(found.failures)} pulls failed: {found.failures[-1]}")
    for what, measured, mark, unit, quiet in found.marks():
        verdict = "PASS" if measured <= mark else "MISSED"
        beside = "" if quiet is None else f"   {quiet:.2f} in quiet"
        lines.append(f"  {what:24} {measured:7.2f} {unit:5} of {mark:3g}  {verdict:6}{beside}")
    return "\n".join(lines)


def main(seconds: int = 60, *kinds: str) -> str:
    """Run all attacks, or those named; print a table each; one line at the end."""
    logging.disable(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the node is ended too
    missed = marks = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalSwarm(Path(folder), PARTS, progress=lambda _: None) as swarm,
    ):
        for kind in kinds or KINDS:
            found = trio.run(Siege(kind, seconds, swarm).run)
            print(table(found), flush=True)
            marks += len(found.marks())
            missed += sum(measured > mark for _, measured, mark, *_ in found.marks())
    return f"{marks - missed} of {marks} marks held under {len(kinds or KINDS)} attacks"

"""Several nodes on one machine, one process each, as ``demo`` and the tests start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from node.errors import NodeError, NotRunning
from node.journal import read_new
from node.membership import found_here
from node.settings import Home, Limits, Settings
from node.state import RunningState, read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """Who plays what: a node's name, its roles, and the module that runs it."""

    name: str
    roles: tuple[str, ...]
    cpu_only: bool = False
    module: str = "node.cli"
    blurb: str = ""


@dataclass(slots=True)
class LocalNode:
    """One node: its home, its process, and how far its journal was read."""

    part: Part
    home: Home
    process: subprocess.Popen[bytes] | None = None
    offset: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)

    def start(self) -> None:
        """Start the process; its output goes to ``output.txt`` in its home."""
        self.home.state.unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", self.part.module, "up", "--home", str(self.home.path)]
        with open(self.home.path / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def wait_started(self) -> RunningState:
        """Wait for the node's own word that it listens.

        Raises:
            NodeError: it ended, or said nothing for a minute.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                return read_state(self.home)
            except NotRunning:
                time.sleep(0.05)  # until a file of another process is there
        raise NodeError(
            f"{self.part.name} did not start", cure=f"read {self.home.path / 'output.txt'}"
        )

    def kill(self) -> None:
        """kill -9: no chance to tidy up."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def new_entries(self) -> list[dict[str, Any]]:
        """Journal lines since the last call, also kept in ``entries``."""
        new, self.offset = read_new(self.home.journal, self.offset)
        self.entries += new
        return new

    def last_output(self) -> str:
        """The end of what the process printed, for error messages of ours."""
        try:
            return (self.home.path / "output.txt").read_text(errors="replace")[-2000:]
        except OSError:
            return ""


class LocalSwarm:
    """Founds a swarm under ``directory`` with one node for each part; the first is the founder.

    Nodes other than the founder begin with a key, the swarm id and the founder's address, and fetch
    everything else from peers. A find is claimed at once unless ``verify_share_milli`` says
    otherwise (``node.settings``), so that one is seen soon.
    """

    def __init__(
        self,
        directory: Path,
        parts: Sequence[Part],
        *,
        corpus: str | None = None,
        charter: Path | None = None,
        verify_share_milli: int = 1000,
        progress: Callable[[str], None],
    ) -> None:
        self._share = verify_share_milli
        self.nodes = [LocalNode(part, Home(directory / part.name)) for part in parts]
        founder, *others = self.nodes
        self.swarm = found_here(
            founder.home,
            name="demo",
            plan_file=charter,
            corpus=corpus,
            operator=founder.part.name,
            listen="/ip4/127.0.0.1/tcp/0",
            progress=progress,
            others=lambda voucher: [self._enroll(node, voucher) for node in others],
            roles=founder.part.roles,
        )

    def _enroll(self, node: LocalNode, voucher: bytes) -> Any:
        from node.governing import new_member
        from swarm.keys import KeyPair

        node.home.create()
        key = KeyPair.generate()
        key.save(node.home.key)
        return new_member(key.public, node.part.name, node.part.roles, voucher, ["quick"])

    def __getitem__(self, name: str) -> LocalNode:
        return next(node for node in self.nodes if node.part.name == name)

    def start(self) -> None:
        """Start the founder, then all others with its address."""
        founder, *others = self.nodes
        founder.home.save(
            replace(founder.home.load(), calibrate=False, verify_share_milli=self._share)
        )
        founder.start()
        addresses = founder.wait_started().addresses
        for node in others:
            part = node.part
            settings = Settings(
                name=part.name,
                swarm=self.swarm,
                operator=part.name,
                bootstrap=addresses,
                roles=part.roles,
                calibrate=False,  # a few minutes of work that such a swarm does not last for
                verify_share_milli=self._share,
                limits=Limits(nice_verify=5, nice_research=19) if part.cpu_only else Limits(),
            )
            node.home.save(settings)
            node.start()

    def stop(self) -> None:
        """End every node: ask, then insist."""
        running = [node.process for node in self.nodes if node.process is not None]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> LocalSwarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ended(self) -> list[LocalNode]:
        """Nodes whose process ended by itself."""
        return [node for node in self.nodes if node.process and node.process.poll() is not None]

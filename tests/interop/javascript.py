"""Runs the JavaScript peers of this folder: installs their libraries, speaks JSON with them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

HERE = Path(__file__).parent
OLDEST_NODE = 20
_UNREACHABLE = re.compile(
    "ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|"
    "ERR_SOCKET_TIMEOUT|E40[137]|E50[234]"
)


def install() -> str:
    """Make ``node_modules`` what the lock file says, and return the path of Node.

    Skips the test where there is no Node, no npm, or nothing to install from. Fails it where the
    installation fails for another reason: a package that is not what the lock file says, for one.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(f"the JavaScript peer needs Node {OLDEST_NODE} or newer, with npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30).stdout
    if int(version.strip().lstrip("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"the JavaScript peer needs Node {OLDEST_NODE} or newer, not {version.strip()}")
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    with (HERE / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may share a checkout
        mark = HERE / "node_modules" / ".installed"
        if not mark.exists() or mark.read_text() != wanted:
            _install(npm)
            mark.write_text(wanted)
    return node


def _install(npm: str) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("the JavaScript peer's libraries did not arrive within 3 minutes")
    if done.returncode and _UNREACHABLE.search(done.stderr):
        pytest.skip("the JavaScript peer's libraries cannot be fetched from here")
    assert done.returncode == 0, done.stderr[-2000:]


class Program:
    """A running program of this folder. What it prints is read line by line as JSON.

    Attributes:
        news: what it said unasked, in order.
    """

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._asked = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._heard = trio.Event()
        self.news: list[dict[str, Any]] = []
        self.ended = False

    async def listen(self) -> None:
        """Read until the program ends."""
        buffer = b""
        async for part in self._process.stdout:
            *lines, buffer = (buffer + part).split(b"\n")
            for line in map(json.loads, lines):
                if "id" in line:
                    self._answers[line["id"]] = line
                else:
                    self.news.append(line)
                self._wake()
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        self._heard.set()
        self._heard = trio.Event()

    async def until(self, reached, seconds: float = 60.0) -> None:
        """Wait until ``reached(self)``; a program that ended before will never get there."""
        with trio.fail_after(seconds):
            while not reached(self):
                assert not self.ended, f"the program ended early: {self.news[-3:]}"
                await self._heard.wait()

    async def end(self) -> None:
        """Let a program that waits for its input end in order, and wait for that."""
        await self._process.stdin.send_all(b"end\n")
        with trio.move_on_after(20):
            await self._process.wait()

    async def ask(self, command: str, **arguments) -> Any:
        """Give a command, and return its answer; an error of the program fails the test."""
        self._asked += 1
        number = self._asked
        line = json.dumps({"id": number, "command": command, **arguments}) + "\n"
        await self._process.stdin.send_all(line.encode())
        await self.until(lambda _: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, answer["error"]
        return answer["answer"]


@asynccontextmanager
async def run(script: str, **configuration):
    """Run ``script``; its errors go to this process's stderr. Killed at the end of the block."""
    node = await trio.to_thread.run_sync(install)
    command = [node, str(HERE / script), json.dumps(configuration)]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        program = Program(process)
        nursery.start_soon(program.listen)
        try:
            yield program
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await process.stdin.aclose()
            nursery.cancel_scope.cancel()
    await process.stdout.aclose()

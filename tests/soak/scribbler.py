"""A member whose only work is to sign records as fast as its disk allows, to be killed at it.

Started like any node (``python -m tests.soak.scribbler up --home DIR``). Each record's id and
number go to HOME/said after ``append`` has returned, which is when peers may have seen it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from node.service import run_node
from node.settings import Home
from swarm.records import Open

if TYPE_CHECKING:
    from node.member import Node

PAUSE_S = 0.01


async def scribble(node: Node) -> None:
    """Sign until killed, or until HOME/stop is there."""
    said = os.open(node.home.path / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while not (node.home.path / "stop").exists():
        record = await node.log.append(Open(b"e" * 32, os.urandom(32)))
        os.write(said, record.id + record.envelope.seq.to_bytes(8, "big"))
        await trio.sleep(PAUSE_S)
    await trio.sleep_forever()


if __name__ == "__main__":
    sys.exit(run_node(Home(Path(sys.argv[sys.argv.index("--home") + 1])), print, scribble))

"""One member of a swarm of N, which signs a record now and then and writes down what it holds.

    python -m tests.soak.host FOLDER INDEX ADDRESS...     (ADDRESS of host 0, 1, 2, ...)

It signs until FOLDER/stop is there. FOLDER/INDEX.json has what it holds, by author.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from node.network import Network, open_network
from node.settings import Home, Settings
from swarm.keys import KeyPair, peer_id
from swarm.log import SwarmLog
from swarm.records import Open
from swarm.store import Store
from tests.swarm.founding import found_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

PORT = 4001
PAUSE_S = 0.5


def keys(count: int) -> list[KeyPair]:
    return [KeyPair.from_seed(bytes([index + 1]) * 32) for index in range(count)]


def tell(path: Path, store: Store, peers: int) -> None:
    heads = {key.hex(): [head.seq, head.id.hex()] for key, head in store.heads().items()}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"heads": heads, "peers": peers, "at": time.time()}))
    os.replace(temporary, path)


@asynccontextmanager
async def member(
    folder: Path, index: int, hosts: list[str], bootstrap: Collection[int]
) -> AsyncIterator[tuple[Network, SwarmLog, Store]]:
    """Host ``index``, which dials those of ``bootstrap`` first."""
    every = keys(len(hosts))
    swarm, wires = found_with(every)
    home = Home(folder / f"home{index}")
    home.create()
    settings = Settings(
        f"host{index}",
        swarm.hex(),
        "op",
        listen=(f"/ip4/{hosts[index]}/tcp/{PORT}",),
        bootstrap=tuple(
            f"/ip4/{hosts[other]}/tcp/{PORT}/p2p/{peer_id(every[other].public)}"
            for other in bootstrap
            if other != index
        ),
    )
    with Store(home.log, swarm) as store:
        store.ingest(wires)
        log = SwarmLog(store, every[index], lambda _: None)
        log.may_sign.set()
        async with open_network(home, settings, every[index], log) as network:
            yield network, log, store


async def run(folder: Path, index: int, hosts: list[str]) -> None:
    """Be a member until killed."""
    async with member(folder, index, hosts, {0, len(hosts) // 2}) as (network, log, store):
        while True:
            if not (folder / "stop").exists():
                await log.append(Open(b"e" * 32, os.urandom(32)))
            tell(folder / f"{index}.json", store, len(network.transport.peers()))
            await trio.sleep(PAUSE_S)


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

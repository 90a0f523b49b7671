"""Two hosts that cannot reach one another, and a third: ``python -m tests.soak relay [MIB]``.

Four network namespaces; what hosts 0 and 2 send to one another is lost without a word, as between
two homes behind address translation, and both reach host 1. A blob that host 2 alone holds is
fetched by host 0 over host 1, through whole nodes' networks.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.soak.host import keys, member
from tests.soak.hosts import two_networks, why_not

ASKER, RELAY, HOLDER = 0, 1, 2
PATIENCE = 180.0


def content(mib: int) -> bytes:
    return hashlib.shake_128(b"relay").digest(mib * 2**20)


async def be(folder: Path, index: int, mib: int, hosts: list[str]) -> None:
    """One of the hosts: the asker writes what it found out, the others serve until killed."""
    bootstrap = {ASKER, HOLDER} if index == RELAY else {RELAY}
    async with member(folder, index, hosts, bootstrap) as (network, _, _):
        if index == HOLDER:
            network.blobs._store.put(content(mib))
        (folder / f"{index}.up").touch()
        if index != ASKER:
            await trio.sleep_forever()
        holder = keys(len(hosts))[HOLDER].public
        up = folder / f"{HOLDER}.up"
        known = network.discovery._book.addresses  # host 1 tells where host 2 listens
        while not up.exists() or not known(holder):  # noqa: ASYNC110 - a file
            await trio.sleep(0.1)
        digest = hashlib.sha256(content(mib)).digest()
        start = time.monotonic()
        path = await network.fetch(digest, mib * 2**20, holder)
        found = {
            "seconds": time.monotonic() - start,
            "whole": hashlib.sha256(path.read_bytes()).digest() == digest,
            "directly": network.transport.ip_of(holder) != "",
        }
        (folder / "found.new").write_text(json.dumps(found))
        os.replace(folder / "found.new", folder / "found.json")


def over_a_third(folder: Path, mib: int) -> dict[str, float]:
    """Run it; returns what the asker found. Raises ``AssertionError`` if it finds nothing."""
    with two_networks(2) as networks:
        hosts = [networks.address(index) for index in (ASKER, RELAY, HOLDER)]
        networks.lose_all_between(ASKER, HOLDER)
        processes = []
        try:
            for index in range(len(hosts)):
                processes.append(
                    networks.start(index, "tests.soak.relay", folder, str(mib), *hosts)
                )
            deadline = time.monotonic() + PATIENCE
            while not (folder / "found.json").exists():
                assert time.monotonic() < deadline, (folder / "0.txt").read_text()
                assert all(
                    process.poll() is None or index == ASKER
                    for index, process in enumerate(processes)
                )
                time.sleep(0.1)  # a poll of a file written by another process
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return json.loads((folder / "found.json").read_text())


def main(mib: int = 64) -> str:
    """Run it in a folder of its own; one line."""
    reason = why_not()
    if reason:
        return f"not run: {reason}"
    with tempfile.TemporaryDirectory() as folder:
        found = over_a_third(Path(folder), mib)
    assert found["whole"], found
    assert not found["directly"], found
    return f"{mib} MiB over a third host in {found['seconds']:.1f} s, dialling in vain included"


if __name__ == "__main__":
    trio.run(be, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])

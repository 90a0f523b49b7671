"""A network that falls apart and heals: ``python -m tests.soak partition [SECONDS]``."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.soak.host import keys
from tests.soak.hosts import two_networks, why_not

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

PATIENCE = 180.0


def wait(ready: Callable[[], bool], what: str, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert all(one.poll() is None for one in processes), "a host ended by itself"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def fall_apart_and_heal(folder: Path, seconds: int, each: int = 2) -> dict[str, float]:
    """Cut the cable for ``seconds`` while all go on signing; return figures about the healing.

    Raises ``AssertionError`` where a side stood still, or the two do not end with one state.
    """
    count = 2 * each
    authors = [key.public.hex() for key in keys(count)]

    def told(index: int) -> dict[str, Any]:
        path = folder / f"{index}.json"
        return json.loads(path.read_text()) if path.exists() else {"heads": {}, "peers": 0}

    def seen(index: int, author: int) -> int:
        return told(index)["heads"].get(authors[author], [-1])[0]

    with two_networks(each) as networks:
        hosts = [networks.address(index) for index in range(count)]
        processes = []
        try:
            for index in range(count):
                processes.append(networks.start(index, "tests.soak.host", folder, *hosts))
            everybody = range(count)
            wait(
                lambda: all(seen(i, j) >= 2 for i in everybody for j in everybody),
                "all to hear all",
                processes,
            )
            networks.cut()
            time.sleep(seconds)
            before = [told(index)["heads"] for index in everybody]

            def news(i: int, j: int) -> int:
                return seen(i, j) - before[i][authors[j]][0]

            near = [(i, j) for i in everybody for j in everybody if i // each == j // each]
            wait(lambda: all(news(*pair) > 2 for pair in near), "each side to go on", processes)
            far = [(i, j) for i in everybody for j in everybody if i // each != j // each]
            assert not any(news(*pair) for pair in far), "the cable was not cut"
            apart = sum(seen(j, j) - seen(i, j) for i in everybody for j in everybody)
            networks.heal()
            start = time.monotonic()
            (folder / "stop").touch()
            wait(
                lambda: (
                    all(told(i)["heads"] == told(0)["heads"] for i in everybody)
                    and all(told(0)["heads"][authors[j]][0] == seen(j, j) for j in everybody)
                    and min(seen(j, j) for j in everybody) > 2
                    and seen(0, count - 1) > before[0][authors[count - 1]][0]
                ),
                "one state",
                processes,
            )
            return {"records missed": apart, "seconds to heal": time.monotonic() - start}
        finally:
            for process in processes:
                process.kill()
                process.wait()


def main(seconds: int = 60) -> str:
    """Run in a folder of its own."""
    reason = why_not()
    if reason:
        return f"not run: {reason}"
    with tempfile.TemporaryDirectory() as folder:
        found = fall_apart_and_heal(Path(folder), seconds)
    return (
        f"4 hosts in two networks apart for {seconds} s, "
        f"{found['records missed']:.0f} records missed, "
        f"one state {found['seconds to heal']:.1f} s after the cable was back"
    )

"""Two networks of hosts in network namespaces of their own, and a cable between them to cut.

Needs root and ``ip``. Everything is made inside namespaces with names of this run, nothing in the
machine's own, and all of it goes when the block ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def why_not() -> str:
    """Why namespaces cannot be had here; empty if they can."""
    if shutil.which("ip") is None:
        return "there is no ip command"
    if os.geteuid() != 0:
        return "needs root"
    name = f"laz{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()[:100]}"
    tried = _ip("-n", name, "link", "add", "name", "br0", "type", "bridge", check=False)
    _ip("netns", "del", name)
    return "" if tried.returncode == 0 else f"no bridges here: {tried.stderr.strip()[:100]}"


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


class TwoNetworks:
    """Hosts 0 .. 2n-1, the first half in one network, the others in the other.

    ``address(i)`` is a host's IPv4 address, ``run_in(i)`` the command that runs something on it.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._mid = f"laz{os.getpid()}mid"
        self._names = [f"laz{os.getpid()}h{index}" for index in range(2 * each)]

    def address(self, index: int) -> str:
        return f"10.77.0.{index + 1}"

    def run_in(self, index: int) -> list[str]:
        return ["ip", "netns", "exec", self._names[index]]

    def start(self, index: int, module: str, folder: Path, *words: str) -> subprocess.Popen[bytes]:
        """``python -m MODULE FOLDER INDEX WORDS`` on a host; it prints to FOLDER/INDEX.txt."""
        command = [sys.executable, "-m", module, str(folder), str(index), *words]
        with (folder / f"{index}.txt").open("wb") as output:
            return subprocess.Popen([*self.run_in(index), *command], stdout=output, stderr=output)

    def lose_all_between(self, one: int, other: int) -> None:
        """What these two send to one another is lost without a word."""
        nobody = ("lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0")
        for here, there in ((one, other), (other, one)):
            _ip("-n", self._names[here], "neigh", "add", self.address(there), *nobody)

    def make(self) -> None:
        for name in (self._mid, *self._names):
            _ip("netns", "add", name)
        mid = ("-n", self._mid)
        _ip(*mid, "link", "add", "name", "cable0", "type", "veth", "peer", "name", "cable1")
        for side in (0, 1):
            _ip(*mid, "link", "add", "name", f"br{side}", "type", "bridge")
            _ip(*mid, "link", "set", f"br{side}", "up")
            _ip(*mid, "link", "set", f"cable{side}", "master", f"br{side}", "up")
        for index, name in enumerate(self._names):
            port, inside = f"port{index}", ("-n", name)
            _ip(
                *mid,
                "link",
                "add",
                "name",
                port,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                name,
            )
            _ip(*mid, "link", "set", port, "master", f"br{index // self._each}", "up")
            _ip(*inside, "addr", "add", f"{self.address(index)}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
            _ip(*inside, "link", "set", "lo", "up")

    def cut(self) -> None:
        """No packet passes between the two networks from now on."""
        _ip("-n", self._mid, "link", "set", "cable0", "down")

    def heal(self) -> None:
        _ip("-n", self._mid, "link", "set", "cable0", "up")

    def remove(self) -> None:
        for name in (self._mid, *self._names):
            _ip("netns", "del", name, check=False)


@contextmanager
def two_networks(each: int) -> Iterator[TwoNetworks]:
    """Make them, and take them away again."""
    networks = TwoNetworks(each)
    try:
        networks.make()
        yield networks
    finally:
        networks.remove()

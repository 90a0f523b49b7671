"""Runs the attacker in one kind of sandbox and prints what came of it: python -m ... KIND SECRET.

A process of its own for each kind: it stands for a node that has a secret in its environment and in
an open descriptor that children would inherit, and that is killed in the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.training.candidates import TIER, TRAIN
from training import accelerator, bubblewrap, cgroup, runner, sandbox, seccomp, toolchain

MARK = "lz-survivor"
WORD = "a1-very-secret-word"
ROOT = Path(__file__).resolve().parents[2]
_CALLS = ("ptrace", "keyctl", "bpf", "mount", "unshare", "clock_settime")
_MORE = {  # not in the filter's table: it refuses them by default
    "x86_64": {"kill": 62, "shmget": 29, "msgget": 68, "semget": 64},
    "aarch64": {"kill": 129, "shmget": 194, "msgget": 186, "semget": 190},
}


def program(act: str, secret: str) -> bytes:
    """The attacker with its plan."""
    numbers = seccomp.machine().numbers
    plan = {
        "act": act,
        "secret": secret,
        "repository": str(ROOT / "pyproject.toml"),
        "node": os.getpid(),
        "words": {
            "secret": WORD,
            "repository": str(ROOT),
            "command": "conformance",
            "variable": "LAZARETTO",
            "path": secret,
        },
        "most": 200,
        "mark": MARK,
        **{name: numbers[name] for name in _CALLS},
        **_MORE[os.uname().machine],
    }
    text = Path(__file__).with_name("attacker.py").read_text()
    assert "\nPLAN = {}\n" in text
    return text.replace("\nPLAN = {}\n", f"\nPLAN = {plan!r}\n").encode()


def without_device() -> None:
    """The sandbox of ``cuda`` where there is no device: all of it, save what would wake one up."""
    accelerator.nodes = lambda: ()
    toolchain._driver_folder = lambda: "/usr/lib"
    sandbox.TASKS_ON_DEVICE = 64
    runner.prestart = runner.warm = lambda *_: None
    real = bubblewrap.command

    def command(*arguments: object) -> list[str]:
        found = real(*arguments)
        plain = "from training.contract import serve;"
        assert plain in found[-1]
        found[-1] = found[-1].replace(
            plain,
            "from training import contract, startup; startup._wake = startup._start_compilers = "
            "lambda: None; contract.place = lambda *_: None; serve = contract.serve;",
        )
        return found

    bubblewrap.command = command


def attack(act: str, kind: str, secret: str) -> dict[str, object]:
    """One run: its status, and the attacker's report."""
    tier = replace(TIER, device="cuda", max_device_bytes=1 << 30) if kind == "cuda" else TIER
    traces: list[bytes] = []
    result = runner.train(program(act, secret), tier, TRAIN, 3, trace=traces.append)
    _, started, told = b"".join(traces).decode().rpartition("RuntimeError: |")
    report = dict(part.split("=", 1) for part in told.strip().split(";")) if started else {}
    return {"status": result.status, "report": report}


def main(kind: str, secret: str) -> None:
    """Prints one JSON object, then holds a sandbox until it is killed."""
    os.environ["LAZARETTO_KEY"] = WORD
    descriptor = os.open(secret, os.O_RDWR)
    os.set_inheritable(descriptor, True)
    if kind == "cuda":
        without_device()
    found: dict[str, object] = {"euid": os.geteuid(), "cgroup": cgroup.kind()}
    acts = ["attack", "remember"]
    if kind == "cuda":
        acts = ["attack", "remember", "fill"] if cgroup.kind() != "none" else ["attack"]
    for act in acts:
        found[act] = attack(act, kind, secret)
    device = "cuda" if kind == "cuda" else "cpu"
    limits = sandbox.Limits(60_000, 60_000, 1 << 29, device=device)
    with sandbox.Sandbox(limits) as inside:
        assert inside._cell is not None
        found["processes"] = [inside._cell._process.pid, inside._pid]
        print(json.dumps(found), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])

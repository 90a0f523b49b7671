"""Runs the attacker in one kind of sandbox and prints what came of it: python -m ... KIND SECRET.

A process of its own for each kind: it stands for a node that has a secret in its environment and in
an open descriptor that children would inherit, and that is killed in the end.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.training.candidates import FOLD, TIER, TRAIN, load
from training import (
    accelerator,
    bubblewrap,
    cgroup,
    evaluator,
    runner,
    sandbox,
    seccomp,
    toolchain,
)

WORD = "a1-very-secret-word"
ROOT = Path(__file__).resolve().parents[2]
_CALLS = (
    "ptrace", "keyctl", "bpf", "mount", "unshare", "clock_settime", "process_vm_readv", "ioctl",
    "perf_event_open", "userfaultfd", "setns", "open_by_handle_at",
)  # fmt: skip
_MORE = {  # not in the filter's table: it refuses them by default
    "x86_64": {"kill": 62, "shmget": 29, "msgget": 68, "semget": 64},
    "aarch64": {"kill": 129, "shmget": 194, "msgget": 186, "semget": 190},
}


def mark(node: int) -> str:
    """The name of processes that the attacker makes in the sandboxes of a node."""
    return f"lz-{node}"


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
        "listens": f"lazaretto-test-{os.getpid()}",
        "most": 200,
        "mark": mark(os.getpid()),
        **{name: numbers[name] for name in _CALLS},
        **_MORE[os.uname().machine],
    }
    text = Path(__file__).with_name("attacker.py").read_text()
    assert "\nPLAN = {}\n" in text
    return text.replace("\nPLAN = {}\n", f"\nPLAN = {plan!r}\n").encode()


def without_device() -> None:
    """The sandbox of ``cuda`` where there is no device: all of it, save what would wake one up."""
    accelerator.nodes = lambda *_: ()
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
            "from training import contract, startup; startup._wake = lambda: None; "
            "startup._start_compilers = startup._await_compilers = startup._wake; "
            "contract.place = lambda *_: None; serve = contract.serve;",
        )
        return found

    bubblewrap.command = command


def attack(act: str, kind: str, secret: str) -> dict[str, object]:
    """One run: its status, and the attacker's report."""
    tier = TIER
    if "cuda" in kind:
        tier = replace(TIER, device="cuda", max_device_bytes=1 << 30)
    traces: list[bytes] = []
    code = program(act.removesuffix(" when scored"), secret)
    result: runner.TrainedRun | evaluator.Score
    if act.endswith(" when scored"):
        result = evaluator.score(code, b"", tier, FOLD, 3, trace=traces.append)
    else:
        result = runner.train(code, tier, TRAIN, 3, trace=traces.append)
    _, started, told = b"".join(traces).decode().rpartition("RuntimeError: |")
    report = dict(part.split("=", 1) for part in told.strip().split(";")) if started else {}
    return {"status": result.status, "report": report}


def main(kind: str, secret: str) -> None:
    """Prints one JSON object, then holds a sandbox until it is killed."""
    os.environ["LAZARETTO_KEY"] = WORD
    descriptor = os.open(secret, os.O_RDWR)
    os.set_inheritable(descriptor, True)
    device = "cuda" if "cuda" in kind else "cpu"
    if device == "cuda":
        without_device()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"\0lazaretto-test-{os.getpid()}")
    listener.listen()
    found: dict[str, object] = {"euid": os.geteuid(), "cgroup": cgroup.kind()}
    acts = ["attack", "remember", "surroundings when scored"]
    if device == "cpu":
        honest = runner.train(load("honest"), TIER, TRAIN, 3)
        found["numbers"] = [honest.status, honest.weights_digest.hex()]
    elif cgroup.kind() == "none":  # nothing else would hold memory back
        acts.remove("remember")
    else:
        acts.append("fill")
    for at, act in enumerate(acts):
        if device == "cuda":  # used once each, and slow to start: two at a time
            sandbox.prestart(min(2, len(acts) + 1 - at), device)
        found[act] = attack(act, kind, secret)
    limits = sandbox.Limits(60_000, 60_000, 1 << 29, device=device)
    with sandbox.Sandbox(limits) as inside:
        assert inside._cell is not None
        found["processes"] = [inside._cell._process.pid, inside._pid]
        print(json.dumps(found), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])

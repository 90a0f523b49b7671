"""``lazaretto doctor``: what works on this machine, and the cure for what does not."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from node.settings import Home

MIN_FREE_BYTES = 2 * 1024**3
FIRST_SANE_TIME = 1_760_000_000  # seconds since 1970; the project is younger than this
OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``state``: ok, warn (works, with a limit) or fail."""

    what: str
    state: str
    found: str
    cure: str = ""


def examine(home: Home, *, as_json: bool) -> int:
    """Look at everything; exit code 1 when something that a node needs fails."""
    findings: list[Finding] = []
    for check in (_python, _sandbox, _torch, _libp2p, _sqlite, _clock):
        findings += _shown(_guarded(check), as_json)
    findings += _shown(list(_disk(home.path)), as_json)
    failed = [finding for finding in findings if finding.state == FAIL]
    if as_json:
        answer = {"schema": "lazaretto.doctor/1", "findings": [asdict(item) for item in findings]}
        print(json.dumps(answer))
    elif failed:
        print(f"{len(failed)} of {len(findings)} checks failed", file=sys.stderr)
    return 1 if failed else 0


def _shown(findings: list[Finding], as_json: bool) -> list[Finding]:
    for finding in () if as_json else findings:
        _print(finding)
    return findings


def _print(finding: Finding) -> None:
    sign = {OK: "ok   ", WARN: "warn ", FAIL: "FAIL "}[finding.state]
    print(f"{sign} {finding.what:<12} {finding.found}", flush=True)
    if finding.cure:
        print(f"      {'':<12} cure: {finding.cure}", flush=True)


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """A check that breaks is a finding, not a crash."""
    try:
        return list(check())
    except Exception as error:
        name = check.__name__.removeprefix("_")
        return [Finding(name, FAIL, f"{type(error).__name__}: {error}", "make setup")]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", OK if good else FAIL, version, "" if good else "use Python 3.11-3.13")


def _sandbox() -> Iterator[Finding]:
    from training.availability import probe

    report = probe()
    if not report.available:
        for what, cure in report.problems:
            yield Finding("sandbox", FAIL, f"{what}; nothing of a candidate will run", cure)
        return
    yield Finding("sandbox", OK, f"{report.kind}, probed with a real run")
    limited = report.cgroup == "none"
    yield Finding(
        "cgroups",
        WARN if limited else OK,
        "none writable: rlimits bound memory and processes instead" if limited else report.cgroup,
    )


def _torch() -> Iterator[Finding]:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only"
    yield Finding("torch", OK, f"{torch.__version__}, {device}, {os.cpu_count()} cores")


def _libp2p() -> Iterator[Finding]:
    import libp2p  # noqa: F401
    import trio

    from swarm.keys import KeyPair, short
    from swarm.peers import Everybody
    from swarm.transport import Transport

    async def listen() -> str:
        key = KeyPair.generate()
        loopback = ["/ip4/127.0.0.1/tcp/0"]
        async with Transport(key.seed, loopback, admission=Everybody()) as transport:
            return (
                f"listens on loopback as {short(key.public)} ({len(transport.addresses)} address)"
            )

    yield Finding("libp2p", OK, trio.run(listen))


def _sqlite() -> Iterator[Finding]:
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file:
        db = sqlite3.connect(file.name)
        mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        db.close()
    yield Finding("sqlite", OK if mode == "wal" else FAIL, f"{sqlite3.sqlite_version}, {mode}")


def _clock() -> Iterator[Finding]:
    sane = time.time() > FIRST_SANE_TIME
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    yield Finding("clock", OK if sane else FAIL, shown, "" if sane else "set the system clock")


def _disk(home: Path) -> Iterator[Finding]:
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    if not writable:
        yield Finding("disk", FAIL, f"{place} cannot be written", "choose another --home")
    elif free < MIN_FREE_BYTES:
        yield Finding("disk", WARN, f"{free / 1e9:.1f} GB free at {place}", "free some space")
    else:
        yield Finding("disk", OK, f"{free / 1e9:.0f} GB free at {place}")

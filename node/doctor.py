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
    for check in (_python, _settings(home), _sandbox, _gpu, _lanes(home), _torch, _libp2p, _sqlite,
                  _clock):  # fmt: skip
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


def _settings(home: Home) -> Callable[[], Iterator[Finding]]:
    """Looks at the node that lives here, if one does, and takes its kind of sandbox."""

    def settings() -> Iterator[Finding]:
        from node.errors import UsageError
        from training import kinds

        if not home.settings.exists():
            return
        try:
            kinds.choose(home.load().sandbox)
        except UsageError as error:
            yield Finding("settings", FAIL, str(error), error.cure)
        else:
            yield Finding("settings", OK, str(home.settings))

    return settings


def _sandbox() -> Iterator[Finding]:
    """The kind in use, then the other, so that a reader knows what could be had."""
    from training import kinds
    from training.availability import probe, try_kind

    report = probe()
    if not report.available:
        what, cure = report.problems[-1]
        yield Finding("sandbox", FAIL, f"{what.rstrip('.')}; nothing of a candidate will run", cure)
    elif report.kind == kinds.LANDLOCK:
        yield Finding(
            "sandbox",
            WARN,
            f"landlock, asked for by name, probed with a real run: {kinds.NOT_HELD_BACK}. What is "
            f"measured counts only where a charter names {kinds.evidence_class('cpu')}",
            f"{kinds.VARIABLE}={kinds.BUBBLEWRAP}, or sandbox = {kinds.BUBBLEWRAP!r} in node.toml",
        )
    else:
        yield Finding("sandbox", OK, f"{report.kind}, probed with a real run")
    used = report.kind == kinds.LANDLOCK
    other = try_kind(kinds.BUBBLEWRAP if used else kinds.LANDLOCK)
    if other.works:
        how = "" if used else f"; not used unless asked for: {kinds.VARIABLE}={kinds.LANDLOCK}"
        yield Finding("also", OK, f"a sandbox of kind {other.kind} could be had{how}")
    else:
        yield Finding("also", WARN, f"no sandbox of kind {other.kind}: {other.problem}", other.cure)
    limited = report.cgroup == "none"
    yield Finding(
        "cgroups",
        WARN if limited else OK,
        "none writable: rlimits bound memory and processes instead" if limited else report.cgroup,
    )


def _gpu() -> Iterator[Finding]:
    from training import accelerator
    from training.availability import try_device

    tried = try_device()
    if tried is None:
        yield Finding("gpu", OK, "none: tiers on cpu only")
        return
    name = accelerator.name() or "an NVIDIA GPU whose driver does not answer"
    if tried.works:
        yield Finding("gpu", OK, f"{name}; a sandbox starts on it")
    else:
        yield Finding(
            "gpu", WARN, f"{name}, but tiers on cuda cannot run: {tried.problem}", tried.cure
        )


def _lanes(home: Home) -> Callable[[], Iterator[Finding]]:
    """Where the node that lives here runs its experiments."""

    def lanes() -> Iterator[Finding]:
        from node.errors import UsageError
        from node.lanes import open_lanes
        from training.errors import TrainingError

        if not home.settings.exists():
            return
        try:
            settings = home.load()
            with open_lanes(settings) as found:
                names = " | ".join(lane.name for lane in found)
        except (UsageError, TrainingError) as error:
            yield Finding("lanes", FAIL, str(error), error.cure)
        else:
            where = names or "one, on whatever cores are lent"
            yield Finding("lanes", OK, f"executor {settings.executor}: {where}")

    return lanes


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

"""A real full disk and a real read-only one (a small tmpfs of the test's own): nothing is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from node.data import obtain
from node.settings import Home
from node.state import RunningState, read_state, write_state
from swarm.blobs import BlobError, BlobStore
from swarm.errors import StoreError
from swarm.log import SwarmLog
from swarm.records import Open
from swarm.store import Store
from tests.swarm.founding import make_founded


@pytest.fixture
def disk(tmp_path):
    """A file system of 2 MiB; skipped where it cannot be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.strip()[:100]}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path) -> None:
    try:
        with (path / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        return


def said() -> Open:
    return Open(b"e" * 32, os.urandom(32))


async def append_many(log: SwarmLog) -> None:
    for _ in range(2000):
        await log.append(said())


async def test_a_node_with_a_full_disk_reads_serves_says_so_and_goes_on(disk):
    founded = make_founded()
    home = Home(disk)
    state = RunningState(1, 0.0, 0.0, "p", ("a",) * 9, (), "working", "")
    with Store(home.log, founded.swarm) as store:
        store.ingest(founded.wire)
        write_state(home, state)
        log = SwarmLog(store, founded.feeds[1].key, lambda _: None)
        log.may_sign.set()
        first = await log.append(said())
        fill(disk)
        with pytest.raises(StoreError, match="nothing that was stored is lost") as failure:
            await append_many(log)
        assert "free space" in failure.value.cure
        held = store.heads()[founded.feeds[1].key.public].seq
        other = founded.feeds[2].say(said()).signed.to_bytes()
        assert (await log.ingest([other], b"p" * 32)).new == 0
        assert log.full is not None
        full = SimpleNamespace(**{name: getattr(state, name) for name in state.__slots__})
        full.disk = str(log.full)
        write_state(home, RunningState(**vars(full)))
        assert "nothing that was stored is lost" in read_state(home).disk
        assert len(await log.beyond(founded.feeds[1].key.public, (), 0, 9999, 1 << 30)) == held + 1
        (disk / "ballast").unlink()
        again = await log.append(said())
        assert again.envelope.seq == held + 1
        assert log.full is None
        assert (await log.ingest([other], b"p" * 32)).new == 1
    with Store(home.log, founded.swarm) as store:
        assert store.get(first.id) is not None
        assert store.heads()[founded.feeds[1].key.public].id == again.id


def test_a_read_only_disk_is_said_and_changes_nothing(disk):
    founded = make_founded()
    path = disk / "log.sqlite"
    with Store(path, founded.swarm) as store:
        store.ingest(founded.wire)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreError, match="Read-only") as failure:
        Store(path, founded.swarm)
    assert "writable" in failure.value.cure
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    with Store(path, founded.swarm) as store:
        assert len(list(store.records())) == 3


async def test_data_that_the_disk_refuses_is_fetched_again_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr("node.data.RETRY_SECONDS", 0)
    content, store = b"text", BlobStore(tmp_path)
    reference = SimpleNamespace(sha256=hashlib.sha256(content).digest(), size=len(content))
    monkeypatch.setattr("node.data.needed", lambda _: [reference])
    refusals = [OSError(28, "No space left on device"), BlobError("the disk refuses")]
    said = []

    async def fetch(digest, size):
        if len(said) < len(refusals):
            raise refusals[len(said)]
        store.put(content)

    network = SimpleNamespace(blobs=SimpleNamespace(fetch=fetch))
    data = await obtain(network, store, None, failed=said.append)
    assert said == refusals
    assert data.blobs.get(reference.sha256) == content

"""``lazaretto calibrate``: real null pairs of a tiny tier become a signed record that counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import trio
import trio.testing

from node import calibrating, idle_calibration
from node.calibrating import Kept, calibrate_here, machine_of, null_change, own_calibrations
from node.cli import main
from node.errors import UsageError
from node.idle_calibration import calibrate_when_idle, next_machine
from node.journal import read_new
from node.member import Node
from swarm.keys import KeyPair
from swarm.records import Calibration
from swarm.store import Store
from tests.node.tiny import BASE, QUICK, tiny_swarm
from tests.training.candidates import TRAIN
from training import runner
from training.errors import BaseFailed
from training.tokens import Stream
from verification.calibration import bound_of

pytestmark = pytest.mark.sandbox


def silent(name: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def own(home) -> list[Calibration]:
    settings = home.load()
    with Store(home.log, settings.swarm_id, read_only=True) as store:
        return [r.payload for _, r in store.records() if isinstance(r.payload, Calibration)]


def node_of(home, store) -> Node:
    return Node(home, home.load(), KeyPair.load(home.key), store)


@pytest.fixture
def home(tmp_path):
    return tiny_swarm(tmp_path, {"lab": ("researcher", "verifier", "governor")})["lab"]


@pytest.fixture
def alone(monkeypatch):
    """Nobody is there who could have our own feed; do not wait for them."""
    monkeypatch.setattr("node.service.OWN_FEED_SECONDS", 0.1)


def test_a_null_change_is_another_order_and_nothing_else():
    base = runner.train(BASE, QUICK, TRAIN, 5)
    runs = [runner.train(null_change(BASE, rows), QUICK, TRAIN, 5) for rows in (31, 125)]
    assert {run.status for run in (base, *runs)} == {"ok"}
    assert {run.init_digest for run in runs} == {base.init_digest}
    assert len({run.weights_digest for run in (base, *runs)}) == 3
    # at most one step less, and the rows of a step are others than in the base's
    assert all(0 <= base.tokens - run.tokens <= 16 * 32 for run in runs)
    plain, other = Stream(TRAIN, 5), Stream(TRAIN, 5)
    other.rows(31, 1)
    assert plain.rows(16, 32)[: 33 * 4] != other.rows(16, 32)[: 33 * 4]


def test_from_null_pairs_to_a_record_that_the_node_names(home, alone, capsys, monkeypatch):
    measured = []
    measure = calibrating.measure
    monkeypatch.setattr(
        calibrating, "measure", lambda *a, **at: measured.append(measure(*a, **at)) or measured[-1]
    )
    assert calibrate_here(home, pairs=12, tier=None, as_json=True, stage=silent) == 0
    (said,) = own(home)
    assert said.pairs == tuple(measured)
    assert len(set(said.pairs)) > 1
    assert (said.tier, said.hw_class, said.epochs) == ("quick", "cpu", (1,))
    assert said.sigma0_nano == bound_of(measured).sigma0_nano
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema"], shown["sigma0_nano"]) == ("lazaretto.calibration/1", said.sigma0_nano)
    assert not list(home.work.glob("calibration-*"))
    settings = home.load()
    with Store(home.log, settings.swarm_id) as store:
        node = node_of(home, store)
        (record,) = (r for r in node.own_records() if isinstance(r.payload, Calibration))
        assert own_calibrations(node) == {"quick": record.id}
        with monkeypatch.context() as patch:
            patch.setattr(calibrating, "env_digest", lambda: bytes(32))
            assert own_calibrations(node) == {}
        with monkeypatch.context() as patch:
            patch.setattr(calibrating, "device_name", lambda device: "another machine")
            assert own_calibrations(node) == {}
    # killed between the signature and the end: the same pairs are not signed twice
    rules_key = KeyPair.load(home.key)
    with Store(home.log, settings.swarm_id, read_only=True) as store:
        kept = Kept(home, machine_of(rules_key, settings, store.rules.charter, "quick"))
    for pair in said.pairs:
        kept.add(pair)
    assert calibrate_here(home, pairs=12, tier="quick", as_json=False, stage=silent) == 0
    assert own(home) == [said]
    assert len(measured) == 12
    assert "1.5 sigma0" in capsys.readouterr().out


async def one_pair_short(home, store) -> tuple[Node, Kept]:
    """A node that would calibrate, and what it kept: all pairs of twelve but one."""
    node, settings = node_of(home, store), home.load()
    node.settings = replace(settings, calibrate=True)
    node.data = calibrating._prepare(home, settings, node.key, "quick")[1]
    node.log.may_sign.set()
    kept = Kept(home, machine_of(node.key, settings, store.rules.charter, "quick"))
    for number in range(11):
        kept.add((-1) ** number * 1_000_000)
    await node.fold_heard()
    return node, kept


async def until_calibrated(node: Node) -> None:
    with trio.fail_after(60):
        while "quick" not in node.calibrations:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_a_running_verifier_calibrates_by_itself_and_yields_to_benches(home, monkeypatch):
    """The last of its pairs is measured for real; a bench that waits for it comes first."""
    due = [True]
    monkeypatch.setattr(idle_calibration, "is_due", lambda state, key: bool(due and due.pop()))
    with Store(home.log, home.load().swarm_id) as store:
        node, kept = await one_pair_short(home, store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calibrate_when_idle, node, 12)
            await trio.testing.wait_all_tasks_blocked()
            assert node.activity == "starting", "it waits while a bench does"
            await node.fold_heard()  # news
            await until_calibrated(node)
            nursery.cancel_scope.cancel()
        (said,) = own(home)
        assert said.pairs[:11] == tuple((-1) ** number * 1_000_000 for number in range(11))
        assert abs(said.pairs[11]) not in (0, 1_000_000)
        assert own_calibrations(node) == node.calibrations
        assert next_machine(node) is None
        assert not kept.path.exists()


async def test_a_null_pair_that_fails_is_measured_again_later(home, monkeypatch):
    failures = [BaseFailed("the base failed", status="crashed"), OSError(28, "full")]
    measure = idle_calibration.measure

    def failing(*args, **options):
        if failures:
            raise failures.pop()
        return measure(*args, **options)

    monkeypatch.setattr(idle_calibration, "measure", failing)
    monkeypatch.setattr(idle_calibration, "RETRY_SECONDS", 0.01)
    with Store(home.log, home.load().swarm_id) as store:
        node, _ = await one_pair_short(home, store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calibrate_when_idle, node, 12)
            await until_calibrated(node)
            nursery.cancel_scope.cancel()
    troubles = [entry for entry in read_new(home.journal, 0)[0] if entry["what"] == "trouble"]
    assert [entry["where"] for entry in troubles] == ["calibrate", "calibrate"]


async def test_who_does_not_verify_or_says_no_does_not_calibrate(home):
    with Store(home.log, home.load().swarm_id) as store:
        node = node_of(home, store)
        for settings in (
            replace(node.settings, calibrate=False),
            replace(node.settings, calibrate=True, roles=("researcher",)),
        ):
            node.settings = settings
            with trio.fail_after(5):
                await calibrate_when_idle(node)


def test_kill_9_loses_no_finished_pair(home):
    command = [sys.executable, "-m", "node.cli", "calibrate", "--home", str(home.path)]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    kept = home.work / "calibration-quick.json"
    deadline = time.monotonic() + 120
    while not kept.exists() or len(json.loads(kept.read_text())["pairs"]) < 2:
        assert started.poll() is None, started.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    before = json.loads(kept.read_text())["pairs"]
    settings, key = home.load(), KeyPair.load(home.key)
    with Store(home.log, settings.swarm_id) as store:
        machine = machine_of(key, settings, store.rules.charter, "quick")
        assert Kept(home, machine).pairs == before
        # and its seeds are drawn alike: the pair that was under way is measured as it would be
        data = calibrating._prepare(home, settings, key, "quick")[1]
    assert calibrating.measure(data, machine, key.public, 0, 12, settings, silent) == before[0]
    kept.write_text('{"of": "damaged", "pai')
    assert Kept(home, machine).pairs == []


def test_a_running_node_is_not_disturbed(home, capsys):
    settings = home.load()
    with Store(home.log, settings.swarm_id) as store:  # what a running node holds
        from node.state import RunningState, write_state

        write_state(home, RunningState(4242, 0.0, 0.0, "p", (), (), "ready", ""))
        assert main(["calibrate", "--home", str(home.path)]) == 2
        assert not any(isinstance(r.payload, Calibration) for _, r in store.records())
    shown = capsys.readouterr().err
    assert "nothing was changed" in shown
    assert "4242" in shown
    assert "lazaretto up" in shown


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pairs": 11}, "it takes 12"),
        ({"tier": "gpu"}, "no tier"),
    ],
)
def test_what_cannot_be_calibrated_is_said_before_anything_runs(home, changes, problem):
    options = {"pairs": 12, "tier": None, "as_json": False, "stage": silent, **changes}
    with pytest.raises(UsageError, match=problem) as caught:
        calibrate_here(home, **options)
    assert caught.value.cure


def test_a_class_that_the_charter_does_not_take_is_refused(tmp_path):
    home = tiny_swarm(tmp_path, {"lab": ("verifier", "governor")}, classes=("cuda",))["lab"]
    with pytest.raises(UsageError, match="would not count"):
        calibrate_here(home, pairs=12, tier=None, as_json=False, stage=silent)

"""Both policies on real runs of a tiny tier: what they keep, and what they pay for it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction

import psutil
import pytest

from node.compare import Options, policy_of, run_compare
from node.compare_table import marks
from node.corpora import Corpus
from node.errors import UsageError
from node.judging import KEEP_PAIRS
from node.policies import Lab, Loop, bench_folds, dev_text, greedy, holdout_folds, lazaretto
from node.proposers.memory import Memory
from node.proposers.sampling import ScriptedProposer
from node.runs import Runs
from swarm.records import Pair
from tests.node.tiny import QUICK
from tests.training.candidates import load, text
from training import runner
from training.documents import Manifest, SplitRef
from training.tokenizer import BYTES

BASE = (
    load("honest")
    .replace(b"lr=0.1", b"lr=LR")
    .replace(b"import torch\n", b"import torch\n\nLR = 0.001\n", 1)
)
EDITS = [{"LR": 0.00001}, {"LR": 0.1}]  # worse, better


@pytest.fixture
def corpus(tmp_path):
    splits = [text(seed, documents=12, words=90).to_bytes() for seed in range(3, 9)]
    train = text(1).to_bytes()
    for data in (train, *splits):
        (tmp_path / hashlib.sha256(data).hexdigest()).write_bytes(data)
    refs = [SplitRef.of(data) for data in splits]
    return Corpus(
        "tiny", tmp_path, Manifest((SplitRef.of(train),), refs[0], tuple(refs[1:])), BYTES
    )


def lab(corpus, most_runs=40):
    policy = replace(policy_of("quick")[0], min_effect_nano=10**8, effect_pairs=2)
    return Lab(QUICK, corpus, BASE, policy, Fraction(1, 10), 1, most_runs)


def walk(policy, corpus, folder, most_runs=40):
    loop = Loop(lab(corpus, most_runs), Runs(folder / "runs"))
    memory = Memory(folder / f"{time.monotonic_ns()}.sqlite")
    return policy(loop, ScriptedProposer(memory, EDITS))


def test_no_text_is_looked_at_twice_for_different_ends(corpus):
    parts = [set(part(corpus).manifest.folds) for part in (dev_text, bench_folds, holdout_folds)]
    assert set.union(*parts) == {corpus.manifest.dev, *corpus.manifest.folds}
    assert sum(map(len, parts)) == 1 + len(corpus.manifest.folds)


@pytest.mark.sandbox
def test_what_is_kept_what_it_costs_and_that_nothing_is_measured_twice(
    corpus, tmp_path, monkeypatch
):
    trails = {policy: walk(policy, corpus, tmp_path) for policy in (greedy, lazaretto)}
    kept, ours = trails[greedy], trails[lazaretto]
    for trail in (kept, ours):
        assert [step.hypothesis for step in trail.steps] == ["LR 0.001 -> 0.1"]
        assert trail.experiments == 2
        assert all(cost > 0 for cost in trail.cost_ms.values())
    assert kept.runs == {"research": 3}  # the base, and each candidate once
    assert ours.runs["research"] == 3 + 2 * 2  # the same on the first seed; then both on two more
    assert ours.runs["verification"] >= 2 * (2 + 2)  # a verdict takes two pairs at least
    assert abs(ours.steps[0].claimed_nano / kept.steps[0].claimed_nano - 1) < 0.3

    def never(*_, **__):
        raise AssertionError("this was measured before")

    monkeypatch.setattr(runner, "train", never)  # what a kill cannot take away
    for policy, trail in trails.items():
        assert walk(policy, corpus, tmp_path) == trail
    cut = walk(lazaretto, corpus, tmp_path, 8)  # and a budget that ends before the verdict
    assert sum(cut.runs.values()) in (8, 9)
    assert (cut.steps, cut.not_adopted) == ((), {"pending": 1})


class Costly(Loop):
    """Every edit gains on the seeds that choose it, and costs too much on further ones."""

    def pair(self, purpose, base, candidate, seed, index):
        assert purpose == "research"
        self._booked[(purpose, base + candidate, index)] = 1
        status = "ok" if index < KEEP_PAIRS else "too_costly"
        return status, Pair(0, 0, "base_first", 10**9, status, 3 * 10**9, 2 * 10**9, 100, 100, 10)


def test_what_costs_too_much_on_further_seeds_is_given_up(corpus, tmp_path):
    seen = []

    class Proposer(ScriptedProposer):
        def propose(self, context):
            seen.append(context.code)
            return super().propose(context)

    loop = Costly(lab(corpus), Runs(tmp_path / "runs"))
    trail = lazaretto(loop, Proposer(Memory(tmp_path / "memory.sqlite"), EDITS), 1000)
    assert (trail.steps, trail.not_adopted, trail.experiments) == ((), {}, 2)
    assert seen[:2] == [BASE, BASE]


@pytest.mark.parametrize(
    "options",
    [
        Options(tier="gpu"),
        Options(repeats=0),
        Options(pairs=1),
        Options(budget_runs=1),
        Options(jobs=0),
        Options(seed=-1),
        Options(budget_seconds=-1.0),
    ],
)
def test_what_does_not_fit_is_refused_at_once(options):
    with pytest.raises(UsageError):
        run_compare(options)


def row(policy, claimed, true, cost):
    return {"policy": policy, "claimed_bpb": claimed, "true_bpb": true, "cost_s": cost}


def test_marks():
    found = marks([row("greedy", 0.3, 0.1, 100.0), row("lazaretto", 0.104, 0.1, 100.0)])
    assert found["honest"] is True
    assert found["efficient"] is True
    found = marks([row("greedy", 0.1, 0.1, 99.0), row("lazaretto", 0.094, 0.1, 100.0)])
    assert found["honest"] is False
    assert found["efficient"] is False
    found = marks([row("greedy", 0.1, 0.1, 9.0), row("lazaretto", 0.0, 0.0, 9.0)])
    assert found["honest"] is None


@pytest.mark.soak
@pytest.mark.sandbox
def test_kill_9_costs_no_finished_run_and_leaves_no_process(tmp_path):
    words = ["--repeats", "1", "--budget-runs", "4", "--pairs", "2", "--jobs", "2", "--json"]
    command = [sys.executable, "-m", "node.cli", "compare", *words]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    kept = tmp_path / "lazaretto" / "experiments" / "runs"

    def start():
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    process = start()
    while len(before := {path.name: path.stat().st_ino for path in kept.glob("*.run")}) < 3:
        assert process.poll() is None
        time.sleep(0.1)
    mine = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(mine, timeout=30)
    assert not alive
    process = start()
    facts = json.loads(process.communicate(timeout=1800)[0])
    assert process.returncode == 0
    assert before.items() <= {path.name: path.stat().st_ino for path in kept.glob("*.run")}.items()
    assert [row["policy"] for row in facts["repeats"]] == ["greedy", "lazaretto"]
    for found in facts["repeats"]:
        assert found["runs"] in (4, 5)
        assert found["true_pairs"] == 2
        assert found["kept"] == len(found["steps"])

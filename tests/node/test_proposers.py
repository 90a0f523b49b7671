"""One suite for every proposer, and what each of them promises on top."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from node.errors import UsageError
from node.proposers import Change, Outcome, Paused, ProposalContext, open_proposer
from node.proposers.knobs import Knob, knobs
from node.proposers.memory import Memory
from node.proposers.portfolio import PortfolioProposer
from node.proposers.sampling import RandomProposer, ScriptedProposer
from node.proposers.tpe import TpeProposer
from node.settings import ClaudeSettings
from tests.node.messages_server import serving, submit, turn, use
from training.baselines import QUICK, load
from training.source import ast_hash, literals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from node.proposers import Proposer

EDITS = [
    {"MOMENTUM": 0.9},
    {"HEAD_LR": 0.008},
    {"NO_SUCH_KNOB": 1},
    {"WIDTH": 72, "WARMUP": 0.05},
    {"BATCH_SIZE": 4},
    {"BETA1": 0.85},
]
MAKERS: dict[str, Callable[[Path], Proposer]] = {
    "random": lambda path: RandomProposer(Memory(path / "m.sqlite"), seed=3),
    "scripted": lambda path: ScriptedProposer(Memory(path / "m.sqlite"), EDITS),
    "tpe": lambda path: TpeProposer(Memory(path / "m.sqlite"), seed=3),
    "portfolio": lambda path: open_proposer("portfolio", path, seed=3, portfolio=["tpe", "random"]),
}
CONTEXT = ProposalContext(load("quick"), QUICK)


@contextmanager
def editing_model():
    """A server whose model tries one literal after the other; the last one is beyond the limits."""
    values = ["MOMENTUM = 0.9", "BETA1 = 0.85", "WARMUP = 0.05", "HEAD_LR = 0.008", "BETA1 = 0.8"]
    edits = iter([*values, "BATCH_SIZE = 9999"])

    def model(request):
        if turn(request):
            return [use("give_up", reason="it was refused")]
        edit = next(edits, None)
        if edit is None:
            return [use("give_up", reason="no ideas are left")]
        name = edit.split(" =")[0]
        old = next(line for line in CONTEXT.code.decode().split("\n") if line.startswith(name))
        return [use("replace", old=old.split(" #")[0], new=edit), submit()]

    with serving(model) as server:
        yield ClaudeSettings(base_url=server.url)


@pytest.fixture(params=[*sorted(MAKERS), "claude"])
def make(request, tmp_path, monkeypatch):
    """Opens the proposer under test, again and again on the same folder."""
    with ExitStack() as stack:
        if request.param == "claude":
            monkeypatch.setenv("ANTHROPIC_API_KEY", "test")
            settings = stack.enter_context(editing_model())

        def open_one(name="node"):
            if request.param == "claude":
                proposer = open_proposer("claude", tmp_path / name, seed=3, claude=settings)
            else:
                proposer = MAKERS[request.param](tmp_path / name)
            stack.callback(proposer.close)
            return proposer

        yield open_one


def test_proposes_a_small_readable_edit_of_the_frontier(make):
    proposal = make().propose(CONTEXT)
    assert proposal is not None
    assert proposal.code != CONTEXT.code
    assert ast_hash(proposal.code) != ast_hash(CONTEXT.code)
    assert proposal.hypothesis.isascii()
    assert proposal.hypothesis.isprintable()
    assert 1 <= len(proposal.hypothesis) <= 500
    before = {item.name: item.value for item in literals(CONTEXT.code)}
    after = {item.name: item.value for item in literals(proposal.code)}
    assert {name: value for name, value in after.items() if value != before[name]} == {
        change.name: change.new for change in proposal.changes
    }
    assert all(type(after[name]) is type(before[name]) for name in before)
    assert proposal.code.count(b"#") == CONTEXT.code.count(b"#")


def test_never_the_same_program_twice(make):
    proposer = make()
    seen = set()
    for _ in range(30):
        proposal = proposer.propose(CONTEXT)
        if proposal is None:
            break
        assert ast_hash(proposal.code) not in seen
        seen.add(ast_hash(proposal.code))
        proposer.observe(proposal.id, Outcome("measured", random.Random(len(seen)).randrange(10)))
    assert len(seen) >= 4


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_what_others_tried_comes_last_and_is_not_lost(tmp_path, name):
    """Half of all ideas are said to be tried; then every one is, which a liar may say."""
    half = replace(CONTEXT, elsewhere=lambda identity: identity[0] % 2 == 0)
    everything = replace(CONTEXT, elsewhere=lambda identity: True)
    proposer = MAKERS[name](tmp_path)
    first, second = proposer.propose(half), proposer.propose(everything)
    proposer.close()
    assert first is not None
    assert second is not None
    assert ast_hash(first.code)[0] % 2
    assert ast_hash(second.code) != ast_hash(first.code)


def test_remembers_across_a_restart(make):
    first = make()
    done = first.propose(CONTEXT)
    assert done is not None
    first.observe(done.id, Outcome("failed"))
    first.close()
    second = make()
    for _ in range(20):
        proposal = second.propose(CONTEXT)
        if proposal is None:
            break
        assert ast_hash(proposal.code) != ast_hash(done.code)


def test_keeps_to_the_tiers_batch_limit(make):
    proposer = make()
    for _ in range(30):
        proposal = proposer.propose(CONTEXT)
        if proposal is None:
            break
        values = {item.name: item.value for item in literals(proposal.code)}
        assert values["BATCH_SIZE"] * values["SEQ_LEN"] <= QUICK.max_batch_tokens


@pytest.mark.parametrize("status", ["measured", "failed", "abandoned"])
def test_takes_every_outcome_and_ignores_unknown_ids(make, status):
    proposer = make()
    proposer.observe("no such proposal", Outcome(status, 5))
    proposal = proposer.propose(CONTEXT)
    assert proposal is not None
    proposer.observe(proposal.id, Outcome(status, -(10**30)))
    proposer.observe(proposal.id, Outcome("measured", 7))
    assert proposer.propose(CONTEXT) is not None


@pytest.mark.parametrize(
    "code",
    [b"", b"\0", b"def f(:", b"(" * 40_000, b"x = 1\n", b"NAME = 'text'\n", b"A = 1\nA = 2\n"],
    ids=["empty", "nul", "broken", "deep", "no-knobs", "text-only", "twice"],
)
def test_a_frontier_without_knobs_gives_none(make, code):
    assert make().propose(ProposalContext(code, QUICK)) is None


def test_an_abandoned_proposal_may_come_again(tmp_path):
    memory = Memory(tmp_path / "m.sqlite")
    proposer = ScriptedProposer(memory, EDITS[:1])
    first = proposer.propose(CONTEXT)
    assert first is not None
    assert proposer.propose(CONTEXT) is None
    proposer.observe(first.id, Outcome("abandoned"))
    again = proposer.propose(CONTEXT)
    assert again is not None
    assert again.code == first.code
    assert again.id != first.id
    proposer.close()


CRASH = """
import os, sys
from pathlib import Path
from node.proposers import Outcome, ProposalContext, open_proposer
from training.baselines import QUICK, load
proposer = open_proposer(sys.argv[1], Path(sys.argv[2]), seed=1)
context = ProposalContext(load("quick"), QUICK)
for gain in range(3):
    proposal = proposer.propose(context)
    proposer.observe(proposal.id, Outcome("measured", gain))
proposal = proposer.propose(context)
print(proposal.id, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_survives_kill_dash_nine(tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-c", CRASH, name, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    memory = Memory(tmp_path / "proposals.sqlite")
    assert memory.size == 4
    assert [trial.outcome.d_nano for trial in memory.trials()] == [0, 1, 2]
    assert memory.settle(done.stdout.strip(), Outcome("measured", 9))
    assert [trial.outcome.d_nano for trial in memory.trials()] == [0, 1, 2, 9]
    memory.close()
    proposer = open_proposer(name, tmp_path, seed=1)
    assert proposer.propose(CONTEXT) is not None
    proposer.close()


def _gain(changes) -> int:
    """A made-up landscape: two knobs matter, each has its best place, the rest do harm."""
    total = 0.0
    for change in changes:
        shift = math.log(abs(change.new) / abs(change.old)) if change.new else -3.0
        if change.name == "HEAD_LR":
            total += 0.1 * (1 - (shift - 0.7) ** 2)
        elif change.name == "MATRIX_LR":
            total += 0.05 * (1 - (shift - 0.4) ** 2)
        else:
            total -= 0.02
    return int(total * 1e9)


def test_tpe_learns_which_knob_matters(tmp_path):
    proposer = TpeProposer(Memory(tmp_path / "m.sqlite"), seed=5)
    names = []
    for _ in range(60):
        proposal = proposer.propose(CONTEXT)
        assert proposal is not None
        names.append(proposal.changes[0].name)
        proposer.observe(proposal.id, Outcome("measured", _gain(proposal.changes)))
    proposer.close()
    good = [name in ("HEAD_LR", "MATRIX_LR") for name in names]
    assert sum(good[30:]) >= 2 * 30 * 2 / len(knobs(CONTEXT.code))  # twice what chance gives


def test_tpe_carries_what_it_learnt_to_a_new_frontier(tmp_path):
    proposer = TpeProposer(Memory(tmp_path / "m.sqlite"), seed=5)
    for _ in range(12):
        proposal = proposer.propose(CONTEXT)
        assert proposal is not None
        proposer.observe(proposal.id, Outcome("measured", _gain(proposal.changes)))
    frontier = ScriptedProposer(Memory(tmp_path / "s.sqlite"), [{"HEAD_LR": 0.008}])
    adopted = frontier.propose(CONTEXT)
    assert adopted is not None
    frontier.close()
    space = knobs(adopted.code)
    found = dict(proposer._known(ast_hash(adopted.code), space))
    assert len(found) >= 8
    assert all(change.old == {k.name: k.value for k in space}[change.name] for change in found)
    proposal = proposer.propose(ProposalContext(adopted.code, QUICK))
    assert proposal is not None
    assert b"HEAD_LR = 0.008" in proposal.code or proposal.changes[0].name == "HEAD_LR"
    proposer.close()


def test_a_gain_is_moved_to_the_adopted_value(tmp_path):
    memory = Memory(tmp_path / "m.sqlite")
    script = ScriptedProposer(memory, [{"HEAD_LR": 0.008}, {"HEAD_LR": 0.012}])
    programs = []
    for gain in (60_000_000, 50_000_000):
        proposal = script.propose(CONTEXT)
        assert proposal is not None
        script.observe(proposal.id, Outcome("measured", gain))
        programs.append(proposal.code)
    adopted = programs[0]
    proposer = TpeProposer(memory, seed=1)
    known = proposer._known(ast_hash(adopted), knobs(adopted))
    assert known[0][1] == pytest.approx(0.0)
    assert known[1][0] == Change("HEAD_LR", 0.008, 0.012)
    assert known[1][1] == pytest.approx(-0.01)
    proposer.close()


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (0.003, 0.001, 0.009),
        (0.95, 0.85, 0.9833),
        (0.3, 0.1, 0.9),
        (64, 32, 128),
        (8, 4, 16),
        (2, 1, 4),
        (1, 1, 3),
        (0, 1, 2),
        (-0.5, -1.5, -0.1667),
        (1e-8, 3.33e-9, 3e-8),
    ],
)
def test_the_range_of_a_knob(value, low, high):
    knob = Knob("K", value)
    reached = [knob.at(step / 10) for step in range(-10, 11)]
    assert all(type(item) is type(value) for item in reached)
    assert min(reached) == pytest.approx(low, rel=0.01)
    assert max(reached) == pytest.approx(high, rel=0.01)
    for item in reached:
        place = knob.where(item)
        assert place is None or knob.at(place) == item


def test_a_switch_flips():
    assert Knob("K", True).at(0.3) is False
    assert Knob("K", False).at(-0.9) is True


class Idle:
    """A proposer of a given name that has nothing, or rests."""

    def __init__(self, name, seconds=None):
        self.name = name
        self.seconds = seconds

    def propose(self, context):
        if self.seconds is not None:
            raise Paused(f"{self.name} rests", seconds=self.seconds)

    def close(self):
        pass


def test_a_portfolio_shifts_effort_to_what_is_adopted(tmp_path):
    memory = Memory(tmp_path / "m.sqlite")
    good, bad = (RandomProposer(memory, seed=seed) for seed in (1, 2))
    good.name = "good"
    portfolio = PortfolioProposer(memory, [bad, good], seed=5)
    adopted, names = {"good": 0}, []
    for number in range(90):
        proposal = portfolio.propose(replace(CONTEXT, adopted=adopted))
        assert proposal is not None
        names.append(proposal.proposer)
        gain = 10**9 if proposal.proposer == "random" else 1  # luck on dev text earns nothing
        portfolio.observe(proposal.id, Outcome("measured", gain))
        if proposal.proposer == "good" and number % 3 == 0:
            adopted["good"] += 1
    portfolio.close()
    assert names[:30].count("random") >= 3
    assert names[60:].count("good") >= 25


def test_a_portfolio_works_while_one_of_it_rests_and_rests_with_the_last(tmp_path):
    memory = Memory(tmp_path / "m.sqlite")
    rest, nap, idle = Idle("rest", 90.0), Idle("nap", 9.0), Idle("idle")
    worker = ScriptedProposer(memory, EDITS[:1])
    portfolio = PortfolioProposer(memory, [rest, idle, worker, nap], seed=1)
    assert portfolio.propose(CONTEXT) is not None
    with pytest.raises(Paused, match="nap rests"):
        portfolio.propose(CONTEXT)
    assert PortfolioProposer(memory, [idle], seed=1).propose(CONTEXT) is None
    portfolio.close()


@pytest.mark.parametrize(
    "parts", [[], ["tpe", "tpe"], ["portfolio"], ["oracle"], ["tpe", "claude"]]
)
def test_a_portfolio_that_cannot_be_is_a_usage_error(tmp_path, parts, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(UsageError):
        open_proposer("portfolio", tmp_path, seed=0, portfolio=parts)


def test_an_unknown_proposer_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no proposer"):
        open_proposer("oracle", tmp_path, seed=0)


def test_optuna_is_imported_only_when_asked_for():
    script = (
        "import sys, node.proposers, node.proposers.tpe; print('optuna' in sys.modules, "
        "'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["False", "False"]

"""Every adversary and every honest control, tried for real: how each ends is in the index."""

from __future__ import annotations

import json
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from node import cheats, naive
from node.cli import main
from training import evaluator, runner, sandbox

ROOT = Path(__file__).parents[2]
ADVERSARIES = cheats.adversaries()
CONTROLS = cheats.controls()
SHOWN = [program for program in ADVERSARIES if program.wins]
FEW = list({(one.wins, one.twin): one for one in reversed(SHOWN)}.values())
"""One of each kind of win beside each twin; the others are shown by ``make soak``."""
TWINS = {"honest", "honest_net", "honest_mixture"}
ENDS = runner.STATUSES | evaluator.STATUSES | {"too_costly", "screened"}


@pytest.fixture(scope="module")
def attempts(request):
    """Futures of what this session asks for, by name: tried two at a time, ahead of the tests.
    Two naive loops run beside them, with half of the programs each, under "naive NAME"."""
    asked = [
        item.callspec.params
        for item in request.session.items
        if item.path == Path(__file__) and hasattr(item, "callspec")
    ]
    wanted = {params["program"].name for params in asked if "program" in params}
    shown = [params["shown"] for params in asked if "shown" in params]
    text = cheats.corpus()
    bench = cheats.Bench(cheats.SMALL, text)
    sandbox.prestart(cheats.WORKERS)
    with ThreadPoolExecutor(cheats.WORKERS) as pool, ThreadPoolExecutor(2) as beside:
        programs = [one for one in (*ADVERSARIES, *CONTROLS) if one.name in wanted]
        futures = {one.name: pool.submit(bench.attempt, one) for one in programs}
        for half in (shown[::2], shown[1::2]):
            loop = beside.submit(cheats.in_naive_loop, half, text, lambda _: None)
            futures |= {f"naive {one.name}": loop for one in half}
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.mark.sandbox
@pytest.mark.parametrize("program", ADVERSARIES, ids=lambda program: program.name)
def test_a_cheat_is_held(program, attempts):
    outcome = attempts[program.name].result()
    assert outcome.status in program.held, outcome
    assert outcome.held


@pytest.mark.sandbox
@pytest.mark.parametrize("program", CONTROLS, ids=lambda program: program.name)
def test_an_honest_control_is_scored(program, attempts):
    outcome = attempts[program.name].result()
    assert (outcome.status, outcome.detail) == ("ok", "")
    assert 2e9 < outcome.nano_bpb < 8e9


@pytest.mark.sandbox
@pytest.mark.parametrize("shown", [
    pytest.param(one, marks=() if one in FEW else pytest.mark.soak, id=one.name) for one in SHOWN
])  # fmt: skip
def test_the_naive_loop_is_taken_in(shown, attempts):
    outcome = cheats.Outcome(shown, "ok", "", None, None, 0)
    (found,) = cheats.with_naive([outcome], attempts[f"naive {shown.name}"].result())
    assert found.won_naively, found.naive


# --- the index ------------------------------------------------------------------------------------


def test_every_file_is_in_the_index_and_says_what_it_tries():
    files = {path.stem for path in cheats.folder("adversaries").glob("*.py")}
    assert files - TWINS - {"naive_loop"} == {program.name for program in ADVERSARIES}
    assert {program.twin for program in ADVERSARIES} <= TWINS
    for program in (*ADVERSARIES, *CONTROLS):
        assert 10 < len(program.tries) <= 100, program.name
    assert len(ADVERSARIES) >= 44
    assert len(CONTROLS) >= 14


def test_the_index_uses_its_own_words():
    text = (cheats.folder("adversaries") / "index.toml").read_text()
    listed = text.split("# Kinds: ")[1].split(".\n")[0].replace("\n# ", " ").split(", ")
    assert {kind for program in ADVERSARIES for kind in program.kinds} == set(listed)
    for program in ADVERSARIES:
        assert program.held, program.name
        assert set(program.held) <= ENDS, program.name
        assert bool(program.wins) != bool(program.unshown), program.name
        assert program.wins in ("", "score", "secret", "time")
        assert program.clock in ("", "cpu", "wall")


def test_a_wheel_carries_the_files():
    with open(ROOT / "pyproject.toml", "rb") as handle:
        wheel = tomllib.load(handle)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {
        "tests/adversaries": "training/adversaries",
        "tests/controls": "training/controls",
    }


# --- the command ----------------------------------------------------------------------------------

HONEST = (cheats.folder("adversaries") / "honest.py").read_bytes()
WORSE = HONEST.replace(b"lr=0.1", b"lr=0.01").replace(
    b"model(inputs)", b"(sum(model(inputs) for _ in range(16)) / 16)"
)
"""Dearer too: what is better than this one never fails for its cost, however busy the machine."""


@pytest.mark.sandbox
def test_own_files_are_tried_beside_a_twin(tmp_path, capsys):
    (tmp_path / "honest.py").write_bytes(WORSE)
    (tmp_path / "better.py").write_bytes(HONEST)
    (tmp_path / "peeks.py").write_bytes(
        (cheats.folder("adversaries") / "reads_ahead.py").read_bytes()
    )
    assert main(["cheats", str(tmp_path), "--tier", "small", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "lazaretto.cheats/1"
    assert (found["tried"], found["held"]) == (2, 1)
    better, peeks = found["cheats"]
    assert (better["name"], better["status"], better["held"]) == ("better", "gained", False)
    assert better["gain_nano"] > found["margin_nano"]
    assert (peeks["status"], peeks["held"], peeks["gain_nano"]) == ("non_causal", True, None)


@pytest.mark.sandbox
def test_named_adversaries_are_printed_as_a_table(capsys):
    assert main(["cheats", "--only", "vanishes", "--only", "carries_a_table", "--no-naive"]) == 0
    out = capsys.readouterr().out
    assert "refused: crashed" in out
    assert "refused: screened" in out
    assert "2 of 2 cheats held" in out


def test_unknown_names_and_places_are_refused(tmp_path, capsys):
    assert main(["cheats", "--only", "nobody"]) == 1
    assert main(["cheats", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "no adversary 'nobody'" in errors
    assert "no train.py" in errors


@pytest.mark.sandbox
def test_a_twin_that_does_not_score_is_an_error(tmp_path, capsys):
    (tmp_path / "one.py").write_bytes(HONEST)
    twin = tmp_path / "twin.txt"
    twin.write_bytes(b"raise SystemExit")
    arguments = ["cheats", str(tmp_path), "--tier", "small", "--twin", str(twin)]
    assert main(arguments) == 1
    assert "honest twin does not score" in capsys.readouterr().err


def test_a_program_has_won_where_the_loop_believed_it():
    program = ADVERSARIES[0]
    shown = cheats.Outcome(program, "non_causal", "", None, None, 0)
    assert shown.won_naively is None
    better = naive.NaiveRun("a", 1.0, True, False)
    worse = naive.NaiveRun("b", 1.01, True, False)
    assert replace(shown, naive=better, naive_twin=worse).won_naively is False
    worse = naive.NaiveRun("b", 1.1, True, False)
    assert replace(shown, naive=better, naive_twin=worse).won_naively is True

"""The notebook: what was tried, in full, for people and for the tools that they have."""

from __future__ import annotations

import json
import subprocess

import pytest

from node import programs
from node.errors import EvidenceIncomplete, UsageError
from node.experiments import entries, entry, show_diff, show_list, show_one
from node.exporting import COLUMNS, export
from node.importing import import_log
from node.judging import FURTHER
from node.programs import Tried
from node.settings import Home, Settings
from swarm.records import DevPair, Experiment
from swarm.store import Store
from tests.swarm.founding import make_founded
from training.source import ast_hash

BASE = "A = 1\nB = 2\n"
KEPT = "A = 3\nB = 2\n"
DROPPED = "A = 1\nB = 4\n"


def record(code: str, outcome: str, gains: tuple[int, ...], hypothesis: str) -> Experiment:
    pairs = tuple(DevPair(seed, gain) for seed, gain in enumerate(gains))
    return Experiment(
        "quick", None, ast_hash(code.encode()), hypothesis, "tpe", outcome, "because", pairs, 4000
    )  # fmt: skip


def home_of(path, *experiments) -> Home:
    """A home whose feed has these experiments."""
    founded = make_founded()
    place = Home(path)
    place.create()
    own = founded.feeds[1]
    own.key.save(place.key)
    place.save(Settings("n", founded.swarm.hex(), "o"))
    for one in experiments:
        own.say(one)
    with Store(place.log, founded.swarm) as store:
        assert not store.ingest(founded.wire).refused
    return place


@pytest.fixture
def home(tmp_path):
    """A home with three experiments: one kept, one not, one whose program is lost."""
    place = home_of(
        tmp_path / "home",
        record(KEPT, "better", (9_000_000, 11_000_000), "a larger A"),
        record(DROPPED, "not_better", (-5_000_000,), "a \x1b[31mred\x1b[0m\tB"),
        record("C = 1\n", "failed", (), "gone"),
    )
    for code, bpb in ((KEPT, (3_000_000_000, 3_200_000_000)), (DROPPED, (3_300_000_000,))):
        tried = Tried(1.7e9, BASE, code, (), bpb, 2 << 30)
        programs.keep(place, ast_hash(code.encode()), None, tried)
    return place


def test_the_list_has_every_experiment_and_nothing_that_moves_a_cursor(home, capsys):
    assert show_list(home, tier="", as_json=False) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == ["no.", "1", "2", "3"]
    assert "+0.0100" in shown
    assert "\x1b" not in shown
    assert show_list(home, tier="cpu", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["experiments"] == []


def test_one_experiment_and_its_diff(home, capsys):
    assert show_one(home, 1, as_json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["gain_bpb"], facts["bpb"], facts["code"]) == (0.01, 3.1, KEPT)
    assert show_one(home, 2, as_json=False) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert show_diff(home, 1) == 0
    assert "-A = 1\n+A = 3\n" in capsys.readouterr().out
    with pytest.raises(EvidenceIncomplete):
        show_diff(home, 3)
    for number in (0, 4):
        with pytest.raises(UsageError):
            entry(home, number)


def test_a_look_at_all_edits_together_shows_all_of_them_and_no_score_of_the_last(tmp_path, capsys):
    last = KEPT + "Z = 1\n"
    home = home_of(
        tmp_path / "home",
        record(KEPT, "better", (9_000_000, 11_000_000), "a larger A"),
        record(last, "better", (1_000_000, 1_000_000), FURTHER + "says the model"),
        record(last, "not_better", (10_000_000, 12_000_000, -1), FURTHER + "both"),
    )
    for code, base in ((KEPT, BASE), (last, KEPT)):
        programs.keep(
            home, ast_hash(code.encode()), None, Tried(1.7e9, base, code, (), (3 * 10**9,))
        )
    assert [one.bpb for one in entries(home)] == [3.0, 3.0, None]
    assert show_diff(home, 2) == 0
    assert "-A = 1" not in capsys.readouterr().out
    assert show_diff(home, 3) == 0
    shown = capsys.readouterr().out
    assert "-A = 1\n+A = 3\n" in shown
    assert "+Z = 1" in shown


def test_a_damaged_program_is_missed_not_believed(home):
    for path in home.programs.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert [one.tried for one in entries(home)] == [None, None, None]


def test_results_tsv_reads_like_autoresearchs(home, tmp_path, capsys):
    tsv, out = tmp_path / "results.tsv", tmp_path / "notebook.md"
    export(home, tier="quick", out=out, tsv=tsv, git=None)
    rows = [line.split("\t") for line in tsv.read_text().splitlines()]
    assert tuple(rows[0]) == COLUMNS
    assert [row[3] for row in rows[1:]] == ["keep", "discard", "crash"]
    assert [row[1] for row in rows[1:]] == ["3.100000", "3.300000", "0.000000"]
    assert rows[1][2] == "2.0"
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert "    +A = 3" in out.read_text()
    assert import_log(home, tmp_path, as_json=True) == 0  # its own file is such a log
    assert json.loads(capsys.readouterr().out)["kept"] == 1


def test_a_branch_has_a_commit_for_each_kept_experiment(home, tmp_path):
    repository = tmp_path / "git"
    for _ in range(2):  # the second time it is the same
        told = export(home, tier="quick", out=None, tsv=None, git=repository)
    assert told == [f"1 commits on branch lazaretto/quick of {repository}"]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(repository), *words], capture_output=True, text=True, check=True
        )
        return done.stdout

    assert git("log", "--format=%s", "lazaretto/quick") == "a larger A\n"
    assert git("show", "lazaretto/quick:train.py") == KEPT


def test_a_foreign_log_is_summed_up_and_kept_as_unverified(home, tmp_path, capsys):
    log = tmp_path / "results.tsv"
    log.write_text(
        "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
        "aaa\t1.0\t44.0\tkeep\tbaseline\n"
        "bbb\t0.99\t44.0\tkeep\t\x1b[2Jhalve it\n"
        "ccc\t0\t0.0\tcrash\toops\n"
        "ddd\t0.9895\t44.0\tkeep\tanother seed\n"
    )
    assert import_log(home, log, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "4 experiments, 3 kept, 1 crashed" in shown
    assert "unverified" in shown
    rows = [json.loads(line) for line in home.imported.read_text().splitlines()]
    assert not any(row["verified"] for row in rows)
    assert "\x1b" not in home.imported.read_text()
    assert len(entries(home)) == 3  # it is no experiment of ours


@pytest.mark.parametrize(
    "text", ["a\tb\n", "aaa\tx\t1\tkeep\tword\n", "aaa\tnan\t1\tkeep\tword\n", "\0\n"]
)
def test_what_is_no_such_log_changes_nothing(text, home, tmp_path):
    log = tmp_path / "results.tsv"
    log.write_text(text)
    with pytest.raises(UsageError):
        import_log(home, log, as_json=False)
    assert not home.imported.exists()

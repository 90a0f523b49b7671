"""One experiment at home: measured like any other, resumed after a kill, never half counted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import corpora
from node.errors import UsageError
from node.experiment import SHAPES, Options, run_experiment, screened, tier_of
from node.experiment_view import BarWatcher
from node.measuring import Measurer, Question, Watcher, draw, fold_of
from node.runs import Runs, run_key
from node.weighing import REFUSED, rules_of, weigh
from swarm.records import Pair
from tests.training.candidates import ADVERSARIES, FOLD, TIER, TRAIN, load
from training import baselines
from training.cache import cache_root
from training.documents import Documents, Manifest, SplitRef
from training.evaluator import Score
from training.layout import layout
from training.residue import text_in_memory
from training.runner import TrainedRun
from training.tokenizer import BYTES
from verification.reproduce import position
from verification.verdict import PROBE_FAILURES, Reproduction, Terms, verdict

ROOT = Path(__file__).parents[2]
BLOCKED = ("libp2p", "trio", "optuna", "anthropic", "nacl", "cryptography")
PROBE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import node.cli
assert "torch" not in sys.modules and "numpy" not in sys.modules
import node.experiment
assert "torch" not in sys.modules
sys.exit(node.cli.main({argv!r}))
"""
HONEST = str(ADVERSARIES / "honest.py")
QUICKLY = ("--budget-tokens", "8192", "--folds", "8")


# --- without a sandbox ----------------------------------------------------------------------------


def run_blocked(argv: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROBE.format(blocked=BLOCKED, argv=argv)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_it_needs_nothing_of_the_network_and_answers_without_torch():
    done = run_blocked(["experiment", "--help"])
    assert done.returncode == 0, done.stderr
    assert "--candidate" in done.stdout


@pytest.mark.parametrize("tier", baselines.NAMES)
def test_every_tier_has_rules(tier):
    rules = rules_of(tier)
    assert rules.tier.min_effect_nano > 0
    assert 0 < rules.level <= Fraction(1, 10)


GAIN = st.integers(-20_000_000, 60_000_000)


@settings(max_examples=60)
@given(st.lists(GAIN, min_size=1, max_size=8), st.sampled_from(["", "crashed", *REFUSED]))
def test_the_words_are_those_of_a_verdict_on_the_same_pairs(gains, failure):
    rules = rules_of("quick")
    from node.governing import load_plan

    policy = load_plan(None).tiers[0]
    listed = [(gain, "ok") for gain in gains] + ([(0, failure)] if failure else [])
    reproductions = [
        Reproduction(
            *position(index, policy.n), bytes(32), bytes(32),
            Pair(0, 0, "base_first", gain, status, 0, 0, 100, 100, 1),
        )
        for index, (gain, status) in enumerate(listed)
    ]  # fmt: skip
    terms = Terms(bytes(32), "improvement", policy, 1500, rules.level)
    decided = verdict(terms, reproductions)
    weighed = weigh(gains, rules, failure)
    expected = {"would_be_adopted": "adopt", "not_better": "reject", "refused": "reject"}
    assert expected.get(weighed.outcome, "pending") == decided.outcome
    assert weighed.e_value == decided.e_value
    assert weighed.decided_by == (decided.pairs if decided.outcome != "pending" else 0)
    assert REFUSED == PROBE_FAILURES


def test_each_pair_has_a_seed_and_a_fold_of_its_own():
    seeds = {draw(3, "training", index) for index in range(100)}
    assert len(seeds) == 100
    assert {fold_of(3, index, 12) for index in range(12)} == set(range(12))
    assert [fold_of(3, index, 12) for index in range(24)] != [
        fold_of(4, index, 12) for index in range(24)
    ]


def test_another_budget_is_another_tier():
    usual = baselines.tier("quick")
    assert tier_of(Options("quick", "quick")) == usual
    tokens = tier_of(Options("quick", "quick", budget_tokens=10 * usual.budget_tokens))
    assert tokens.max_cpu_ms == 10 * usual.max_cpu_ms
    seconds = tier_of(Options("quick", "quick", budget_seconds=2.5))
    assert (seconds.budget_tokens, seconds.budget_ms) == (0, 2500)
    for wrong in ({"budget_tokens": 10}, {"budget_tokens": -1}, {"budget_seconds": 0.0}):
        with pytest.raises(UsageError):
            tier_of(Options("quick", "quick", **wrong))


def test_a_tier_on_gpu_says_what_is_missing(tmp_path):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU here")
    done = run_blocked(["experiment", "--base=quick", "--candidate=quick", "--tier=gpu"])
    assert done.returncode == 2
    assert "/dev/nvidia0" in done.stderr
    assert "next:" in done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--base=nothing.py", "--candidate=quick"], "nothing.py"),
        (["--base=quick", "--candidate=/"], "cannot be read"),
        (["--base=quick", "--candidate=quick", "--tier=huge"], "huge"),
        (["--base=quick", "--candidate=quick", "--pairs=0"], "--pairs"),
        (["--base=quick", "--candidate=quick", "--folds=2"], "--folds"),
        (["--base=quick", "--candidate=quick", "--seed=-1"], "--seed"),
        (["--base=quick", "--candidate=quick", "--corpus=/nowhere"], "/nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(argv, said):
    done = run_blocked(["experiment", *argv])
    assert done.returncode == 2
    assert said in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


# --- the store ------------------------------------------------------------------------------------


def a_run(number: int, size: int = 1000, status: str = "ok") -> TrainedRun:
    weights = random.Random(number).randbytes(size)
    digest = hashlib.sha256(weights).digest()
    return TrainedRun(status, "", weights, digest, digest, 1, 2, 3, 4, 5, 6, 7, 8)


def a_score(number: int) -> Score:
    return Score("ok", "", number, 100, {"repeat_nano": number}, 1, 2, 3)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_is_kept_comes_back(tmp_path):
    runs, run = Runs(tmp_path), a_run(1)
    assert runs.run(key(1)) is None
    runs.keep(key(1), run)
    runs.keep(key(2), a_score(9))
    again = Runs(tmp_path)
    bare = again.run(key(1))
    assert bare == replace(run, weights=None)
    assert again.whole(bare) == run
    assert again.score(key(2)) == a_score(9)
    assert again.score(key(1)) is None
    assert again.run(key(2)) is None


def test_a_failure_is_measured_again(tmp_path):
    runs = Runs(tmp_path)
    runs.keep(key(1), a_run(1, status="timeout"))
    assert runs.run(key(1)) is None


@pytest.mark.parametrize("cut", [0, 7, 40, -1])
def test_what_was_cut_off_is_thrown_away(tmp_path, cut):
    runs = Runs(tmp_path)
    runs.keep(key(1), a_run(1))
    path = tmp_path / f"{key(1).hex()}.run"
    path.write_bytes(path.read_bytes()[:cut])
    assert runs.run(key(1)) is None
    assert not path.exists()


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_a_flipped_bit_is_found(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("runs")
    runs = Runs(folder)
    runs.keep(key(1), a_score(5))
    path = folder / f"{key(1).hex()}.score"
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert runs.score(key(1)) is None


def test_an_entry_under_another_name_is_not_believed(tmp_path):
    runs = Runs(tmp_path)
    runs.keep(key(1), a_run(1))
    (tmp_path / f"{key(1).hex()}.run").rename(tmp_path / f"{key(2).hex()}.run")
    assert runs.run(key(2)) is None


def test_damaged_weights_are_thrown_away(tmp_path):
    runs, run = Runs(tmp_path), a_run(1)
    runs.keep(key(1), run)
    path = tmp_path / "weights" / run.weights_digest.hex()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    bare = runs.run(key(1))
    assert bare is not None
    assert runs.whole(bare) is None
    assert not path.exists()


def test_the_longest_unused_go_first_and_leftovers_too(tmp_path):
    runs = Runs(tmp_path, cap_bytes=4000)
    left = tmp_path / ".something.new"
    left.write_bytes(b"half")
    for number in range(1, 4):
        runs.keep(key(number), a_run(number))
        for path in (*tmp_path.glob("*.run"), *(tmp_path / "weights").iterdir()):
            os.utime(path, (number, number)) if path.stat().st_mtime > 100 else None
    bare = runs.run(key(1))
    assert bare is not None
    assert runs.whole(bare) is not None  # used: now the youngest
    runs.keep(key(4), a_run(4))
    assert not left.exists()
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(sizes) <= 4000
    assert runs.whole(bare) is not None
    assert runs.run(key(4)) is not None
    assert runs.whole(a_run(2)) is None


def test_the_name_covers_all_that_decides():
    def name(code=b"x", base=b"x", tier=TIER, text=(bytes(32),), tokenizer=b"bytes", seed=1):
        return run_key(code, base, tier, text, tokenizer, seed)

    others = [
        name(code=b"y"), name(base=b"y"), name(tier=replace(TIER, threads=2)),
        name(text=(b"1" * 32,)), name(tokenizer=b"other"), name(seed=2),
    ]  # fmt: skip
    assert name() == name()
    assert len({name(), *others}) == 7


def test_old_corpora_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "KEEP_MOST", 3)
    now = time.time()
    days = {"today": 0, "yesterday": 1, "lastweek": 7, "lastmonth": 30, ".building-x": 0}
    for name, age in days.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"x")
        os.utime(tmp_path / name, (now - age * 86400,) * 2)
    corpora._forget(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"today", "yesterday"}


# --- pairs, for real ------------------------------------------------------------------------------


class Notes(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Question:
    """A question on invented text, small enough to be asked often."""
    folder = tmp_path_factory.mktemp("corpus")

    def write(documents: Documents) -> SplitRef:
        data = documents.to_bytes()
        ref = SplitRef.of(data)
        (folder / ref.sha256.hex()).write_bytes(data)
        return ref

    manifest = Manifest((write(TRAIN),), write(Documents([b"dev"])), (write(FOLD),))
    corpus = corpora.Corpus("invented", folder, manifest, BYTES)
    return Question(
        ("a", "b"), (load("honest"), load("honest").replace(b"lr=0.1", b"lr=0.2")), TIER, corpus, 0
    )


@pytest.mark.sandbox
def test_what_is_finished_is_never_measured_again(small, tmp_path):
    first = Measurer(small, Runs(tmp_path), Notes())
    one = first.pair(0, 1)
    assert one.status == "ok"
    assert not one.kept
    assert len(first.finished) == 4
    second = Measurer(small, Runs(tmp_path), Notes())
    again = second.pair(0, 1)
    assert len(again.kept) == 4
    assert second.finished == []
    assert again.result.base == one.result.base
    assert again.result.d_nano == one.result.d_nano
    assert again.result.trained.init_identical == one.result.trained.init_identical
    for path in (tmp_path / "weights").iterdir():  # not needed any more
        path.unlink()
    assert len(Measurer(small, Runs(tmp_path), Notes()).pair(0, 1).kept) == 4
    anew = Measurer(small, Runs(tmp_path), Notes(), resume=False).pair(0, 1)
    assert not anew.kept
    assert anew.result.d_nano == one.result.d_nano


@pytest.mark.sandbox
def test_only_what_is_missing_is_measured(small, tmp_path):
    whole = Measurer(small, Runs(tmp_path), Notes()).pair(0, 1)
    for path in tmp_path.glob("*.score"):
        path.unlink()
    candidate = whole.result.trained.candidate.weights_digest.hex()
    (tmp_path / "weights" / candidate).write_bytes(b"damaged")
    notes = Notes()
    again = Measurer(small, Runs(tmp_path), notes).pair(0, 1)
    assert again.kept == {"base training"}
    assert again.result.candidate == replace(
        whole.result.candidate,
        cpu_ms=again.result.candidate.cpu_ms,
        wall_ms=again.result.candidate.wall_ms,
        cost_ms=again.result.candidate.cost_ms,
    )
    assert any("base training kept" in line for line in notes.lines)


# --- the command, for real ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory of text, and a cache of its own that knows this machine's sandbox already."""
    root = tmp_path_factory.mktemp("experiment")
    rng = random.Random(0)
    (root / "text").mkdir()
    for number in range(160):
        words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(200)]
        lines = (" ".join(rng.choices(words, k=10)) for _ in range(120))
        (root / "text" / f"{number}.txt").write_text("\n".join(lines))
    cache = root / "cache" / "lazaretto"
    cache.mkdir(parents=True)
    layout()  # measured here, if it is not
    text_in_memory()
    for known in (*cache_root().glob("sandbox-*"), *cache_root().glob("memory-*")):
        (cache / known.name).symlink_to(known)
    return root


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    return place


def options(here: Path, base: str, candidate: str, **others) -> Options:
    return Options(
        base, candidate, corpus=str(here / "text"), folds=8, budget_tokens=8192, **others
    )


@pytest.mark.sandbox
def test_the_pair_is_printed_and_json_has_the_same(here, capsys, tmp_path):
    asked = options(here, "quick", HONEST, pairs=2, keep=tmp_path / "kept")
    assert run_experiment(asked) == 0
    shown = capsys.readouterr()
    assert run_experiment(replace(asked, as_json=True)) == 0
    answer = capsys.readouterr()
    found = json.loads(answer.out)
    assert found["schema"] == "lazaretto.experiment/1"
    assert found["tier"]["budget_overridden"]
    assert len(found["pairs"]) == 2
    assert {len(pair["base"]["kept"]) for pair in found["pairs"]} == {2}
    assert f"{found['mean_bpb']:+.4f} bits per byte" in shown.out
    assert f"SD {found['sd_bpb']:.4f}" in shown.out
    assert "not the tier's" in shown.out
    assert found["evidence"]["words"] in shown.out
    for pair in found["pairs"]:
        assert f"{pair['d_bpb']:+.4f}" in shown.out
        assert all(check["ok"] for check in pair["checks"])
        assert not pair["init_identical"]
    for check in found["pairs"][0]["checks"]:
        assert check["name"] in shown.out or check["name"].endswith("RMS gap")
    gains = [pair["d_bpb"] for pair in found["pairs"]]
    assert found["mean_bpb"] == pytest.approx(sum(gains) / 2)
    assert found["d"] == pytest.approx(found["mean_bpb"] / found["sd_bpb"])
    (kept,) = (tmp_path / "kept").iterdir()
    assert json.loads(kept.read_text()) == found
    assert found["pairs"][0]["candidate"]["weights_sha256"]


@pytest.mark.sandbox
def test_a_cheat_is_named_with_what_was_measured(here, capsys):
    asked = options(here, HONEST, str(ADVERSARIES / "reads_ahead.py"), as_json=True)
    assert run_experiment(asked) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "non_causal"
    assert found["evidence"]["outcome"] == "refused"
    assert found["mean_bpb"] is None
    failed = [check for check in found["pairs"][0]["checks"] if not check["ok"]]
    assert any(check["name"].startswith("another future") for check in failed)
    assert run_experiment(replace(asked, as_json=False)) == 1
    shown = capsys.readouterr().out
    assert "FAILED, non causal" in shown
    assert "would be rejected" in shown


@pytest.mark.sandbox
def test_a_traceback_is_shown_as_data(here, capsys, tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "def build_model(v, c):\n"
        "    raise ValueError('\\x1b]0;mine\\x07 [bold]words[/] \\u202e \\r gone')\n"
        "def train(m, b, g):\n    pass\n"
    )
    asked = options(here, HONEST, str(bad), trace=True)
    assert run_experiment(asked) == 1
    shown = capsys.readouterr()
    assert "  | ValueError" in shown.out
    assert "[bold]words[/]" in shown.out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown.out + shown.err)
    assert run_experiment(replace(asked, trace=False)) == 1
    assert "words" not in capsys.readouterr().out


@pytest.mark.sandbox
def test_a_base_that_fails_is_an_error(here, tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def build_model(v, c):\n    return None\ndef train(m, b, g):\n    pass\n")
    argv = ["experiment", f"--base={bad}", f"--candidate={HONEST}", f"--corpus={here / 'text'}"]
    done = run_blocked([*argv, *QUICKLY], XDG_CACHE_HOME=str(here / "cache"))
    assert done.returncode == 2
    assert "The base failed" in done.stderr
    assert f"--candidate {bad}" in done.stderr
    assert "--trace" in done.stderr
    assert not done.stdout


def start(here: Path, *argv: str) -> subprocess.Popen[str]:
    """The command as a user's shell starts it; never at its end before it is stopped."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "node.cli", "experiment", "--base=quick", f"--candidate={HONEST}",
            f"--corpus={here / 'text'}", *QUICKLY, "--pairs=20", *argv,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(here / "cache")},
    )  # fmt: skip


def wait_for_a_part(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if "pair 1 of 20" in line and "kept from" not in line:
            return
    raise AssertionError("it ended before a part was finished")


@pytest.mark.sandbox
def test_a_killed_experiment_goes_on(here, capsys):
    process = start(here, "--seed=11")
    wait_for_a_part(process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert run_experiment(options(here, "quick", HONEST, seed=11, as_json=True)) == 0
    answer = capsys.readouterr()
    (pair,) = json.loads(answer.out)["pairs"]
    assert pair["base"]["kept"] + pair["candidate"]["kept"]
    assert "kept from an earlier run" in answer.err
    assert run_experiment(options(here, "quick", HONEST, seed=11, as_json=True, resume=False)) == 0
    (anew,) = json.loads(capsys.readouterr().out)["pairs"]
    assert anew["d_bpb"] == pair["d_bpb"]
    assert not anew["base"]["kept"]


@pytest.mark.sandbox
def test_stopped_by_hand_it_says_what_is_kept_and_how_to_go_on(here):
    process = start(here, "--seed=12")
    wait_for_a_part(process)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not out
    assert "Finished and kept:" in rest
    assert "--seed 12" in rest
    assert "--pairs 20" in rest
    assert "Traceback" not in rest


@pytest.mark.sandbox
def test_a_damaged_corpus_is_cut_anew(here, capsys):
    asked = options(here, "quick", HONEST, seed=13, as_json=True)
    assert run_experiment(asked) == 0
    before = json.loads(capsys.readouterr().out)["pairs"]
    folders = here / "cache" / "lazaretto" / "experiments" / "corpora"
    for path in folders.rglob("*"):
        if re.fullmatch("[0-9a-f]{64}", path.name):
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    argv = ["experiment", "--base=quick", f"--candidate={HONEST}", f"--corpus={here / 'text'}"]
    argv += [*QUICKLY, "--seed=14"]
    done = run_blocked(argv, XDG_CACHE_HOME=str(here / "cache"))
    assert done.returncode == 2
    assert "damaged" in done.stderr
    assert run_experiment(replace(asked, seed=13)) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["d_bpb"] == before[0]["d_bpb"]


def test_the_bar_shows_what_runs_now(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = BarWatcher()
    bar.stage("pair 1 of 1: training")
    bar.share("pair 1 of 1: base training", 0.0, 1000)
    bar.share("pair 1 of 1: base training", 0.43, 1000)
    bar.note("finished [bold]")
    bar._progress.refresh()
    bar.close()
    shown = capsys.readouterr().err
    assert "base training" in shown
    assert "43%" in shown
    assert "tokens/s" in shown
    assert "finished [bold]" in shown


@pytest.mark.sandbox
def test_a_change_that_no_claim_may_have_is_screened(here, capsys, tmp_path):
    base, rules = baselines.load("quick"), rules_of("quick")
    long = base + b"\nNOTE = '" + os.urandom(190).hex().encode() + b"'\n"
    changes = {
        (): base,
        ("diff_too_large",): long,
        ("odd_characters",): base + "\n# \u202e\n".encode(),
        ("f_string",): base + b"\nX = f'{1}'\n",
    }
    corpus = corpora.prepare(str(here / "text"), replace(SHAPES["cpu"], folds=8), lambda _: None)
    for reasons, code in changes.items():
        asked = Question(("a", "b"), (base, code), baselines.tier("quick"), corpus, 0)
        assert screened(asked, rules).reasons == reasons
    (tmp_path / "long.py").write_bytes(long)
    command = options(here, "quick", str(tmp_path / "long.py"), seed=31, screen=True, as_json=True)
    assert run_experiment(command) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["screen"]["reasons"]) == ("screened", ["diff_too_large"])
    assert found["evidence"]["outcome"] == "refused"
    assert run_experiment(replace(command, as_json=False)) == 1
    assert "screen      refused: diff too large" in capsys.readouterr().out
    assert run_experiment(replace(command, screen=False)) == 0
    assert json.loads(capsys.readouterr().out)["screen"] is None
    assert "--no-screen" in replace(command, screen=False).command()
    assert "--no-screen" not in command.command()

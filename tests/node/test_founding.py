"""Founding: what a charter file may ask of the text, and what comes of it."""

from __future__ import annotations

import json
import re

import pytest

from node.data import Data, describe, missing, needed
from node.errors import UsageError
from node.governing import load_plan, make_charter
from node.membership import found_here
from node.progress import bar, lines
from node.settings import Home, check_corpus
from swarm.blobs import BlobStore
from swarm.errors import CharterError
from swarm.keys import KeyPair
from swarm.store import Store
from tests.training.nonsense import nonsense
from training.challenge import Challenge
from training.documents import Documents, Manifest, SplitRef
from training.errors import TrainingError
from training.tokenizer import BYTES
from training.tokens import Stream

CHARTER = """
tokenizer = "bpe"
vocab_size = 300
folds = 8
fold_bytes = 8_192
dev_bytes = 8_192
excerpt_bytes = 4_096
train_bytes = 300_000
"""


@pytest.fixture
def plan_file(tmp_path):
    """The demo's charter with other text."""
    from importlib.resources import files

    demo = files("configs").joinpath("demo.toml").read_text()
    path = tmp_path / "charter.toml"
    path.write_text(re.sub(r"(?m)^folds = .*\n", CHARTER, demo))
    return path


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    rows = [json.dumps({"text": nonsense(n, 6_000).decode()}) + "\n" for n in range(60)]
    (folder / "some.jsonl").write_text("".join(rows) + "{broken\n")
    for number in range(60, 100):
        (folder / f"{number}.txt").write_bytes(nonsense(number, 6_000))
    return folder


def found(home, plan_file, corpus, said):
    return found_here(
        home, name="lab", plan_file=plan_file, corpus=corpus and str(corpus), operator="us",
        listen="/ip4/127.0.0.1/tcp/0", progress=said.append,
    )  # fmt: skip


def test_a_swarm_with_merges_of_its_own_is_founded_and_its_data_is_whole(
    tmp_path, plan_file, corpus
):
    home, said = Home(tmp_path / "home"), []
    swarm = found(home, plan_file, corpus, said)
    assert any("1 lines without a text" in line for line in said)
    assert not (home.path / "corpus").exists()
    with Store(home.log, bytes.fromhex(swarm)) as store:
        assert store.rules is not None
        challenge = describe(store.rules.charter)
        assert len(store.rules.charter.fold_batches) == 1
    blobs = BlobStore(home.blobs)
    assert missing(challenge, blobs) == []
    assert len(needed(challenge)) == 1 + 1 + 1 + 8
    data = Data(challenge, blobs)
    tokenizer = data.tokenizer()
    assert (challenge.tokenizer, tokenizer.vocab_size) == ("bpe", 300)
    for split in (data.train(), data.dev(), *map(data.fold, range(8))):
        assert all(tokenizer.decode(tokenizer.encode(item)) == item for item in split)
    assert data.train().text_bytes <= 300_000
    rows = Stream(data.train(), 1, tokenizer).rows(2, 50)
    assert len(rows) == 2 * 51 * 2

    blobs.remove(needed(challenge)[0].sha256)
    assert missing(challenge, blobs) == [challenge.tokenizer_file]


def test_a_cut_off_init_goes_on_where_it_was(tmp_path, plan_file, corpus, monkeypatch):
    from node import governing
    from training import leakscan

    monkeypatch.setattr(leakscan, "sandbox_files", lambda devices: [])  # twice 100 MB to read
    home = Home(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setattr(governing, "make_charter", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            found(home, plan_file, corpus, [])
    kept = {path: path.stat().st_ino for path in home.blobs.glob("??/*")}
    found(home, plan_file, corpus, [])
    assert {path: path.stat().st_ino for path in home.blobs.glob("??/*")} == kept


def test_bytes_need_no_file(tmp_path):
    refs = [SplitRef.of(Documents([b"%d" % number]).to_bytes()) for number in range(3)]
    manifest = Manifest((refs[0],), refs[1], (refs[2],))
    challenge = Challenge("x", "bytes", 256, b"code", (), manifest)
    assert needed(challenge) == refs
    assert Data(challenge, BlobStore(tmp_path)).tokenizer() is BYTES


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('tokenizer = "words"', "words"),
        ("vocab_size = 512", "do not go together"),
        ('tokenizer = "bpe"', "do not go together"),
        ("vocab_size = 65537", "vocab_size"),
        ("fold_bytes = 0", "fold_bytes"),
        ("train_bytes = 99_999_999_999_999", "train_bytes"),
    ],
)
def test_what_a_charter_file_may_not_ask(tmp_path, line, problem):
    from importlib.resources import files

    demo = files("configs").joinpath("demo.toml").read_text()
    path = tmp_path / "charter.toml"
    path.write_text(demo.replace("[challenge]", f"[challenge]\n{line}"))
    with pytest.raises(UsageError, match=problem) as caught:
        load_plan(path)
    assert caught.value.cure


def big(folds: int, shards: int) -> Challenge:
    from training import baselines

    refs = [
        SplitRef(number.to_bytes(32, "big"), 1 << 20, 100) for number in range(folds + shards + 1)
    ]
    manifest = Manifest(tuple(refs[1 + folds :]), refs[0], tuple(refs[1 : 1 + folds]))
    tier = baselines.tier("quick")
    return Challenge("x", "bytes", 256, baselines.load("quick"), (tier,), manifest)


def test_a_charter_holds_hundreds_of_folds_and_shards_and_says_when_they_are_too_many():
    plan, key = load_plan(None), KeyPair.generate().public
    charter = make_charter(plan, key, big(512, 320))
    assert describe(charter) == big(512, 320)
    assert charter.sizes["folds"] == 512
    long = big(512, 512)
    object.__setattr__(long, "base_code", long.base_code + b"#" * 20_000)
    with pytest.raises(CharterError, match="too many for a record") as caught:
        make_charter(plan, key, long)
    assert "folds" in caught.value.cure


def test_a_corpus_that_is_not_there_is_refused_before_anything_is_made(tmp_path, plan_file):
    with pytest.raises(UsageError, match="there is no") as caught:
        found(Home(tmp_path / "home"), plan_file, tmp_path / "none", [])
    assert "hf://" in caught.value.cure
    assert not (tmp_path / "home").exists()
    check_corpus("hf://datasets/me/data")
    with pytest.raises(TrainingError):
        found(Home(tmp_path / "home"), plan_file, "hf://nothing", [])


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    clock = iter([0.0, 1.0, 5.0, 12.0, 13.0, 14.0, 30.0])
    monkeypatch.setattr("node.progress.time.monotonic", lambda: next(clock))
    said: list[str] = []
    stage = lines(said.append)
    for name, done in [("a", 0), ("a", 10), ("a", 40), ("a", 50), ("b", 0), ("b", 90)]:
        stage(name, done, 100)
    assert said == ["a: 40 %", "b: 90 %"]


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with bar(print) as stage:
        stage("reading", 1, 4)
        stage("reading", 2, 4)
        stage("writing", 4, 4)
    assert "writing" in shown.getvalue()
    assert "100%" in shown.getvalue()
    assert capsys.readouterr().out == ""

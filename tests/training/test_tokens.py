"""Tokens of the train text: their order, and where they are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.candidates import TRAIN, text
from training import tokenstore
from training.documents import CorpusError, Documents, Shards, SplitRef
from training.errors import TrainingError
from training.order import Order
from training.tokenizer import BYTES, train_bpe
from training.tokens import LANES, Stream
from training.tokenstore import open_tokens

BPE = train_bpe(TRAIN, 400)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and text that does not count as small."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tokenstore, "SMALL_BYTES", 0)
    return tmp_path / "cache" / "lazaretto" / "tokens"


def shards(*parts: Documents) -> Shards:
    files = {SplitRef.of(part.to_bytes()): part for part in parts}
    return Shards(list(files), files.__getitem__)


# --- order ----------------------------------------------------------------------------------------


@given(st.integers(1, 9000), st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_an_order_has_every_number_once(count, seed, trip):
    assert sorted(Order(count, seed, trip)) == list(range(count))


def test_an_order_follows_from_its_seed_and_leaves_little_in_place():
    first = list(Order(5000, 1, 0))
    assert first == list(Order(5000, 1, 0))
    for other in (Order(5000, 2, 0), Order(5000, 1, 1), range(5000)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 15
    steps = np.diff(first)
    assert (steps == 1).sum() < 15
    assert abs(np.corrcoef(first, range(5000))[0, 1]) < 0.06


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_tokens_follow_from_text_seed_and_shapes(tokenizer):
    shapes = [(3, 7), (1, 100), (16, 8)]
    first, again, other = (Stream(TRAIN, seed, tokenizer) for seed in (1, 1, 2))
    rows = [first.rows(*shape) for shape in shapes]
    assert rows == [again.rows(*shape) for shape in shapes]
    assert rows != [other.rows(*shape) for shape in shapes]
    width = np.dtype(tokenizer.dtype).itemsize
    assert [len(row) for row in rows] == [3 * 8 * width, 101 * width, 16 * 9 * width]


def test_each_lane_reads_whole_documents_one_after_the_other():
    stream = Stream(TRAIN, 9)
    lanes = len(TRAIN)
    rows = [stream.rows(lanes, 10) for _ in range(200)]
    met = []
    for lane in range(lanes):
        mine = [row[lane * 11 : lane * 11 + 11] for row in rows]
        assert all(before[-1] == after[0] for before, after in pairwise(mine))
        joined = mine[0] + b"".join(row[1:] for row in mine[1:])
        assert joined[0] == 0
        whole = joined[1:].split(b"\0")[:-1]
        assert whole
        assert set(whole) <= set(TRAIN)
        met.append(whole[0])
    assert sorted(met) == sorted(TRAIN)  # every document once before one comes again


def test_many_documents_are_read_in_as_many_lanes_as_there_are():
    many = Documents(b"%04d" % number for number in range(LANES + 50))
    rows = Stream(many, 3).rows(LANES, 4)
    first = {rows[at : at + 5] for at in range(0, len(rows), 5)}
    assert len(first) == LANES
    assert {row[1:] for row in first} <= set(many)


def test_a_text_shorter_than_a_row_goes_round():
    short = text(1, documents=1, words=3)
    row = Stream(short, 0).rows(2, 500)
    assert len(row) == 2 * 501
    assert row[:501] in (b"\0" + short[0]) * 300


# --- on disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_tokens_on_disk_are_those_in_memory(cache, tokenizer, monkeypatch):
    parts = [text(seed, documents=5, words=40) for seed in range(3)]
    disk = Stream(shards(*parts), 4, tokenizer)
    assert len(list(cache.glob("*.tokens"))) == 3
    monkeypatch.setattr(tokenstore, "SMALL_BYTES", 1 << 20)
    memory = Stream(shards(*parts), 4, tokenizer)
    for shape in [(4, 9), (30, 64), (1, 999)]:
        assert disk.rows(*shape) == memory.rows(*shape)


def test_finished_files_are_not_made_again_and_others_are_not_mistaken(cache):
    one, two = text(1), text(2)
    open_tokens(one, BYTES)
    (made,) = cache.glob("*.tokens")
    before = made.stat().st_ino
    seen = []
    read = []
    both = shards(one, two)
    watched = Shards(both.refs, lambda ref: read.append(ref) or both.shard(both.refs.index(ref)))
    open_tokens(watched, BYTES, lambda done, total: seen.append((done, total)))
    assert made.stat().st_ino == before
    assert read == [both.refs[1]]
    total = both.text_bytes
    assert seen == [(one.text_bytes, total), (total, total)]
    open_tokens(one, BPE)
    assert len(list(cache.glob("*.tokens"))) == 3


@pytest.mark.parametrize("where", ["head", "table", "tokens", "end"])
def test_damage_is_noticed_and_cured_by_running_again(cache, where):
    whole = Stream(TRAIN, 1).rows(8, 500)
    (path,) = cache.glob("*.tokens")
    data = bytearray(path.read_bytes())
    if where == "end":
        del data[-1]
    else:
        data[{"head": 9, "table": 24, "tokens": -5}[where]] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match="damaged") as caught:
        Stream(TRAIN, 1).rows(400, 500)
    assert "again" in caught.value.cure
    assert Stream(TRAIN, 1).rows(8, 500) == whole


def test_old_files_are_forgotten_and_used_ones_are_not(cache):
    for seed in (1, 2):
        open_tokens(text(seed), BYTES)
    for path in cache.glob("*.tokens"):
        os.utime(path, (0, 0))
    (cache / "x.1.part").write_bytes(b"left by a killed process")
    open_tokens(text(1), BYTES)  # used: its time is now
    assert len(list(cache.glob("*.tokens"))) == 2
    open_tokens(text(3), BYTES)
    assert len(list(cache.glob("*.tokens"))) == 2
    assert not list(cache.glob("*.part"))


def test_after_a_kill_only_whole_files_are_there(cache):
    """A process is killed while it makes tokens; the next one goes on."""
    program = (
        "from tests.training.candidates import text\n"
        "from tests.training.test_tokens import shards\n"
        "from training import tokenstore\n"
        "from training.tokenizer import BYTES\n"
        "tokenstore.SMALL_BYTES = 0\n"
        "parts = [text(seed, documents=4, words=50) for seed in range(400)]\n"
        "print('go', flush=True)\n"
        "tokenstore.open_tokens(shards(*parts), BYTES)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"go\n"
    while not list(cache.glob("*.tokens")):
        assert child.poll() is None
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    made = {path: path.stat().st_ino for path in cache.glob("*.tokens")}
    assert 0 < len(made) < 400
    parts = [text(seed, documents=4, words=50) for seed in range(400)]
    stream = Stream(shards(*parts), 1)
    assert all(path.stat().st_ino == inode for path, inode in made.items())
    assert len(list(cache.glob("*.tokens"))) == 400
    stream.rows(200, 400)


def test_a_cache_that_others_can_write_is_not_used(cache):
    open_tokens(TRAIN, BYTES)
    cache.parent.chmod(0o777)
    with pytest.raises(TrainingError, match="Somebody else") as caught:
        open_tokens(TRAIN, BYTES)
    assert "chmod" in caught.value.cure

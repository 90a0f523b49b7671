from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.nonsense import nonsense
from training import corpus, shardfile
from training.corpus import build, default_documents, load
from training.documents import CorpusError
from training.fingerprint import fingerprints
from training.heldout import MIN_SHARED
from training.layout import readable_files
from training.leakscan import LeakError, leak_scan


@pytest.fixture(scope="module")
def texts():
    return [(f"{number:03}", nonsense(number, 6_000 + 40 * number)) for number in range(160)]


@pytest.fixture(scope="module")
def built(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    sizes = {"folds": 20, "fold_bytes": 16_384, "dev_bytes": 16_384}
    return out, build(texts, out, seed=1, **sizes), sizes


# --- building -------------------------------------------------------------------------------


def test_splits_are_files_named_by_their_hash(built):
    out, manifest, _ = built
    names = {ref.sha256.hex() for ref in manifest}
    assert {path.name for path in out.iterdir()} == names
    for ref in manifest:
        data = (out / ref.sha256.hex()).read_bytes()
        assert hashlib.sha256(data).digest() == ref.sha256
        assert len(load(out, ref)) == ref.documents


def test_folds_are_excerpts_of_several_documents_and_of_one_size(built):
    _, manifest, sizes = built
    assert len(manifest.folds) >= 8
    for ref in manifest.folds:
        assert ref.documents >= 2
        assert 0.95 * sizes["fold_bytes"] <= ref.text_bytes <= sizes["fold_bytes"]
    assert manifest.holdout_bytes == sum(ref.text_bytes for ref in manifest.folds)


def test_no_document_is_in_two_splits(built, texts):
    out, manifest, _ = built
    where: dict[int, set[int]] = {}
    prints = [set(fingerprints(text).tolist()) for _, text in texts]
    for number, ref in enumerate(manifest):
        for document in load(out, ref):
            mine = set(fingerprints(document).tolist())
            owner = max(range(len(prints)), key=lambda index: len(prints[index] & mine))
            where.setdefault(owner, set()).add(number)
    assert all(len(splits) == 1 for splits in where.values())


def test_the_same_input_gives_the_same_splits_in_any_order(built, texts, tmp_path):
    _, manifest, sizes = built
    assert build(list(reversed(texts)), tmp_path, seed=1, **sizes) == manifest
    assert build(texts, tmp_path, seed=2, **sizes) != manifest


def test_near_duplicates_never_cross_splits(texts, tmp_path):
    twins = []
    for name, text in texts[:60]:
        lines = text.split(b"\n")
        for index in range(0, len(lines), 12):
            lines[index] = b"something else altogether"
        twins.append((name + "b", b"\n    ".join(lines).upper()))
    manifest = build(texts + twins, tmp_path, seed=1, folds=12, fold_bytes=8_192, dev_bytes=8_192)
    train = np.unique(
        np.concatenate([fingerprints(item) for item in load(tmp_path, manifest.train[0])])
    )
    holdout = [
        fingerprints(item)
        for ref in (manifest.dev, *manifest.folds)
        for item in load(tmp_path, ref)
    ]
    assert max(np.isin(item, train).mean() for item in holdout if len(item) > 8) < 0.15
    every = np.concatenate(holdout)
    assert len(np.unique(every)) > 0.98 * len(every)


def test_exact_copies_count_once(texts, tmp_path):
    sizes = {"folds": 20, "fold_bytes": 16_384, "dev_bytes": 16_384}
    once = build(texts, tmp_path, seed=1, **sizes)
    copies = [(name + "x", text.replace(b"\n", b"\r\n")) for name, text in texts]
    twice = build(texts + copies, tmp_path, seed=1, **sizes)
    total = sum(ref.text_bytes for ref in once)
    assert sum(ref.text_bytes for ref in twice) == pytest.approx(total, rel=0.05)


def test_the_train_split_is_capped(texts, tmp_path):
    manifest = build(
        texts, tmp_path, seed=1, folds=8, fold_bytes=8_192, dev_bytes=8_192, train_bytes=100_000
    )
    assert 80_000 <= manifest.train[0].text_bytes <= 100_000


def test_one_long_file_is_enough(tmp_path):
    manifest = build(
        [("book.txt", nonsense(7, 2_000_000))], tmp_path, seed=1, folds=8, fold_bytes=16_384
    )
    assert len(manifest.folds) == 8
    assert manifest.train[0].documents >= 8


def test_characters_are_never_cut(tmp_path):
    texts = [(str(n), ("äöü€ß" * 20 * (n + 9)).encode() + nonsense(n, 6000)) for n in range(90)]
    manifest = build(texts, tmp_path, seed=1, folds=8, fold_bytes=9_001, dev_bytes=9_001)
    for ref in manifest:
        for document in load(tmp_path, ref):
            document.decode()


def test_too_little_text_is_an_error_with_a_cure(tmp_path):
    with pytest.raises(CorpusError, match="holdout folds") as caught:
        build([("a", nonsense(1, 40_000))], tmp_path, seed=1)
    assert "more text" in caught.value.cure
    with pytest.raises(CorpusError):
        build([], tmp_path, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_split_is_noticed(built, tmp_path):
    out, manifest, _ = built
    ref = manifest.dev
    data = bytearray((out / ref.sha256.hex()).read_bytes())
    data[-1] ^= 1
    (tmp_path / ref.sha256.hex()).write_bytes(data)
    with pytest.raises(CorpusError, match="damaged"):
        load(tmp_path, ref)
    with pytest.raises(CorpusError, match="cannot be read"):
        load(tmp_path, manifest.train[0])


# --- more text than fits the pool -----------------------------------------------------------

SMALL = {"folds": 8, "fold_bytes": 8_192, "dev_bytes": 8_192}


class Stopped(Exception):
    """Stands for whatever ends a build: a test raises it from the progress callback."""


@pytest.fixture
def streaming(monkeypatch):
    """A pool of a sixth of the text, and shards of 300 kB."""
    monkeypatch.setattr(corpus, "POOL_BYTES", 0)
    monkeypatch.setattr(shardfile, "FULL_BYTES", 300_000)


def twin(text: bytes) -> bytes:
    """Much the same text, and no line alike."""
    lines = text.split(b"\n")
    lines[::9] = [b"something else altogether"] * len(lines[::9])
    return b"\n    ".join(lines).upper()


def held_out(out, manifest):
    return [item for ref in (manifest.dev, *manifest.folds) for item in load(out, ref)]


def test_text_is_streamed_past_what_is_held_out(texts, tmp_path, streaming):
    twins = [(name + "b", twin(text)) for name, text in texts]
    manifest = build(texts + twins, tmp_path, seed=1, **SMALL)
    assert len(manifest.train) > 3
    assert {path.name for path in tmp_path.iterdir()} == {ref.sha256.hex() for ref in manifest}
    held = [fingerprints(item) for item in held_out(tmp_path, manifest)]
    trained = [item for ref in manifest.train for item in load(tmp_path, ref)]
    for document in trained:
        mine = fingerprints(document)
        assert max(np.isin(item, mine).sum() for item in held) < MIN_SHARED
    lost = len(texts) + len(twins) - len(trained)
    assert len(held) <= lost <= 2 * len(held) + 2  # what is held out, and its twins
    every = np.concatenate(held)
    assert len(np.unique(every)) > 0.98 * len(every)


def test_exact_copies_in_a_stream_count_once(texts, tmp_path, streaming):
    copies = [(name + "x", text.replace(b"\n", b"\r\n")) for name, text in texts]
    once = build(texts, tmp_path, seed=1, **SMALL)
    twice = build(texts + copies, tmp_path, seed=1, **SMALL)
    assert twice == once


def test_reading_stops_when_there_is_enough(tmp_path, streaming):
    class Endless:
        read = 0

        def __iter__(self):
            for number in itertools.count():
                self.read += 1
                yield str(number), nonsense(number, 5_000)

    source = Endless()
    seen = []
    manifest = build(
        source, tmp_path, seed=1, **SMALL, train_bytes=400_000,
        progress=lambda *said: seen.append(said),
    )  # fmt: skip
    assert 396_000 <= sum(ref.text_bytes for ref in manifest.train) <= 400_000
    assert source.read < 250
    assert [stage for stage, _ in itertools.groupby(seen, lambda said: said[0])] == [
        "reading", "writing train text",
    ]  # fmt: skip
    assert all(0 <= done <= total for _, done, total in seen)


def test_what_the_sandbox_can_read_is_not_held_out(texts, tmp_path):
    (tmp_path / "readable").write_bytes(b"\n".join(text for _, text in texts[:60]))
    manifest = build(
        texts, tmp_path / "out", seed=1, **SMALL, readable=lambda: [tmp_path / "readable"]
    )
    sealed = [load(tmp_path / "out", ref) for ref in (manifest.dev, *manifest.folds)]
    leak_scan(sealed, [tmp_path / "readable"])
    with pytest.raises(LeakError):
        leak_scan([load(tmp_path / "out", ref) for ref in manifest.train], [tmp_path / "readable"])


def test_an_interrupted_build_goes_on(texts, tmp_path, streaming):
    whole = build(texts, tmp_path / "whole", seed=1, **SMALL)

    def stop(stage, done, total):
        if stage == "writing train text" and done > 550_000:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        build(texts, out, seed=1, **SMALL, progress=stop)
    journal = (out / "train.journal").read_text()
    assert journal.count("\n") == 3  # its head, and two shards
    (out / "train.journal").write_text(journal + '{"sha256": "half a li')
    made = {path: path.stat().st_ino for path in out.iterdir() if path.stat().st_size > 300_000}
    assert len(made) == 2
    assert build(texts, out, seed=1, **SMALL) == whole
    assert all(path.stat().st_ino == inode for path, inode in made.items())
    assert not (out / "train.journal").exists()


@pytest.mark.parametrize("change", ["order", "shard", "size"])
def test_another_text_or_a_damaged_shard_begins_anew(texts, tmp_path, streaming, change):
    def stop(stage, done, total):
        if stage == "writing train text" and done > 550_000:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        build(texts, out, seed=1, **SMALL, progress=stop)
    given, sizes = list(texts), dict(SMALL)
    if change == "order":
        given = given[::-1]  # the same is held out, and train text comes in another order
    elif change == "size":
        sizes["train_bytes"] = 900_000
    else:
        name = json.loads((out / "train.journal").read_text().splitlines()[1])["sha256"]
        (out / name).write_bytes(b"damaged")
    found = build(given, out, seed=1, **sizes)
    assert found == build(given, tmp_path / "fresh", seed=1, **sizes)
    for ref in found:
        load(out, ref)


def test_after_a_kill_finished_shards_are_not_made_again(texts, tmp_path, streaming, monkeypatch):
    monkeypatch.setattr(shardfile, "FULL_BYTES", 60_000)
    program = (
        "import sys, pathlib\n"
        "from tests.training.nonsense import nonsense\n"
        "from tests.training.test_corpus import SMALL\n"
        "from training import corpus, shardfile\n"
        "corpus.POOL_BYTES, shardfile.FULL_BYTES = 0, 60_000\n"
        "texts = [(f'{n:03}', nonsense(n, 6_000 + 40 * n)) for n in range(160)]\n"
        "corpus.build(texts, pathlib.Path(sys.argv[1]), seed=1, **SMALL)\n"
    )
    journal = tmp_path / "train.journal"
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert child.poll() is None
        time.sleep(0.0005)
    child.kill()
    child.wait()
    lines = journal.read_text().rpartition("\n")[0].splitlines()[1:]
    made = [tmp_path / json.loads(line)["sha256"] for line in lines]
    inodes = [path.stat().st_ino for path in made]
    manifest = build(texts, tmp_path, seed=1, **SMALL)
    assert [path.stat().st_ino for path in made] == inodes
    assert [ref.sha256.hex() for ref in manifest.train[: len(made)]] == [p.name for p in made]
    assert manifest == build(texts, tmp_path / "fresh", seed=1, **SMALL)


def test_too_much_is_refused_before_anything_is_read(tmp_path):
    def unread():
        raise AssertionError
        yield

    for sizes in ({"train_bytes": 1 << 40}, {"folds": 513}, {"folds": 7}):
        with pytest.raises(CorpusError):
            build(unread(), tmp_path, seed=1, **sizes)


# --- where text comes from ------------------------------------------------------------------


@pytest.fixture(scope="module")
def standard_library():
    return list(default_documents())


def test_the_default_corpus_is_text_that_no_sandbox_carries(standard_library):
    documents = standard_library
    assert sum(len(text) for _, text in documents) >= 2_500_000
    assert [name for name, _ in documents] == sorted({name for name, _ in documents})
    carried = {path.resolve() for path in readable_files()}
    root = Path(sysconfig.get_path("stdlib"))
    assert not carried & {(root / name).resolve() for name, _ in documents}


def test_the_default_corpus_makes_folds_enough(standard_library, tmp_path):
    manifest = build(standard_library, tmp_path, seed=1)
    assert len(manifest.folds) >= 8
    assert manifest.train[0].text_bytes <= 8 << 20
    report = leak_scan([load(tmp_path, ref) for ref in manifest], readable_files())
    assert report.files > 100

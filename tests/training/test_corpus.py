from __future__ import annotations

import hashlib
import os
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from training.corpus import build, default_documents, load
from training.documents import CorpusError, Documents
from training.fingerprint import fingerprints, shared
from training.layout import readable_files
from training.leakscan import LeakError, found_in, leak_scan

SYLLABLES = ["ba", "ko", "ti", "ru", "mel", "san", "dor", "vi", "que", "lop", "an", "er", "ist"]


def _text(seed: int, size: int) -> bytes:
    """Nonsense prose with lines, different for every seed."""
    draw = random.Random(seed)
    words: list[str] = []
    total = 0
    while total < size:
        word = "".join(draw.choice(SYLLABLES) for _ in range(draw.randint(1, 4)))
        words.append(word + ("\n" if draw.random() < 0.1 else " "))
        total += len(words[-1])
    return "".join(words)[:size].encode()


@pytest.fixture(scope="module")
def texts():
    return [(f"{number:03}", _text(number, 6_000 + 40 * number)) for number in range(160)]


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
        [("book.txt", _text(7, 2_000_000))], tmp_path, seed=1, folds=8, fold_bytes=16_384
    )
    assert len(manifest.folds) == 8
    assert manifest.train[0].documents >= 8


def test_characters_are_never_cut(tmp_path):
    texts = [(str(n), ("äöü€ß" * 20 * (n + 9)).encode() + _text(n, 6000)) for n in range(90)]
    manifest = build(texts, tmp_path, seed=1, folds=8, fold_bytes=9_001, dev_bytes=9_001)
    for ref in manifest:
        for document in load(tmp_path, ref):
            document.decode()


def test_too_little_text_is_an_error_with_a_cure(tmp_path):
    with pytest.raises(CorpusError, match="holdout folds") as caught:
        build([("a", _text(1, 40_000))], tmp_path, seed=1)
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


# --- leaks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(texts):
    return Documents([text for _, text in texts[:10]])


def test_a_readable_tree_without_the_corpus_passes(sealed, texts, tmp_path):
    for name, text in texts[10:30]:
        (tmp_path / name).write_bytes(text)
    report = leak_scan([sealed], [tmp_path])
    assert report.files == 20
    assert report.text_bytes == sum(len(text) for _, text in texts[10:30])


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text,
        lambda text: text.upper(),
        lambda text: b"x = '''" + text.replace(b"\n", b"\n        ") + b"'''",
        lambda text: b"\x00\xff\x03" * 500 + text + b"\x00" * 500,
        lambda text: text[2000:4500],
        lambda text: _text(999, 300_000) + text,
    ],
    ids=["whole", "upper-case", "indented", "in-a-binary", "a-passage", "at-a-chunks-end"],
)
def test_a_leak_is_found_and_the_file_named(sealed, texts, tmp_path, disguise):
    (tmp_path / "harmless").write_bytes(texts[20][1])
    leak = tmp_path / "sub" / "leak.bin"
    leak.parent.mkdir()
    leak.write_bytes(disguise(texts[4][1]))
    with pytest.raises(LeakError) as caught:
        leak_scan([sealed], [tmp_path])
    assert caught.value.path == leak
    assert str(leak) in str(caught.value)
    assert caught.value.cure


def test_links_and_special_files_do_not_stop_the_scan(sealed, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert leak_scan([sealed], [tmp_path, tmp_path / "missing"]).text_bytes == 0


def test_shared_passages_are_counted():
    left, right = _text(1, 8_000), _text(2, 8_000)
    both = left[:3_000] + b"\n" + right[3_000:]
    pairs = {(a, b): n for a, b, n in shared([fingerprints(t) for t in (left, right, both)])}
    assert (0, 1) not in pairs
    assert pairs[0, 2] > 20
    assert pairs[1, 2] > 30
    assert shared([]) == []
    assert len(fingerprints(b"too short")) == 0


def test_documents_found_in_readable_files_are_named(texts, tmp_path):
    (tmp_path / "one").write_bytes(texts[3][1][1000:2500])
    (tmp_path / "two").write_bytes(texts[70][1] + texts[5][1])
    documents = [text for _, text in texts[:10]]
    assert found_in(documents, [tmp_path]) == {3, 5}
    assert found_in(documents, []) == set()
    assert found_in([], [tmp_path]) == set()

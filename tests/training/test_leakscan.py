"""Text of the corpus in files that the sandbox can read is found, in whatever form."""

from __future__ import annotations

import os

import pytest

from tests.training.nonsense import nonsense
from training.documents import Documents
from training.fingerprint import fingerprints, shared
from training.leakscan import LeakError, found_in, leak_scan


@pytest.fixture(scope="module")
def texts():
    return [(f"{number:03}", nonsense(number, 6_000 + 40 * number)) for number in range(160)]


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
        lambda text: nonsense(999, 300_000) + text,
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


@pytest.mark.parametrize("start", [b"\x7fELF", b"!<arch>\n"], ids=["library", "archive"])
def test_machine_code_is_passed_over(sealed, texts, tmp_path, start):
    (tmp_path / "code").write_bytes(start + texts[4][1])
    assert leak_scan([sealed], [tmp_path]).files == 0


def test_links_and_special_files_do_not_stop_the_scan(sealed, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert leak_scan([sealed], [tmp_path, tmp_path / "missing"]).text_bytes == 0


def test_shared_passages_are_counted():
    left, right = nonsense(1, 8_000), nonsense(2, 8_000)
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

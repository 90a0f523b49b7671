"""Sources of text: what is read, what is passed over, and what is said about it."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import threading
from collections import Counter

import pytest

from training import readers
from training.documents import CorpusError
from training.hub import Hub, HubName
from training.readers import open_source, read_file

LINES = [
    b'{"text": "one"}',
    b'{"text": "zw\\u00f6lf", "id": 2}',
    b'{"text": 3}',
    b'{"body": "x"}',
    b'["text"]',
    b"{",
    b'{"text": "a\\u0000b"}',
    b'{"text": "\\ud800"}',
    b'{"text": ""}',
    b"[" * 100_000,
    b'{"text": "last"}',
]
WANTED = ["one", "zwölf", "last"]


def texts(source):
    return [text.decode() for _, text in source]


def test_a_folder_gives_text_files_only(tmp_path):
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    (inside / "b.txt").write_text("bee")
    (inside / "sub" / "a.txt").write_text("ä")
    (inside / "binary").write_bytes(b"a\0b")
    (inside / "latin").write_bytes(b"\xe4")
    (inside / "empty").write_bytes(b"")
    (inside / ".git").mkdir()
    (inside / ".git" / "config").write_text("not text to learn from")
    (tmp_path / "secret").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    source = open_source(str(inside))
    for _ in range(2):  # it can be read again, and counts anew
        assert sorted(source) == [("b.txt", b"bee"), ("sub/a.txt", "ä".encode())]
        assert source.passed_over == {
            "files that are not UTF-8 text": 2,
            "files that cannot be opened or are none": 2,
        }
    assert "2 files that are not UTF-8 text" in source.report()


def test_the_order_of_files_is_fixed_and_fair(tmp_path):
    for name in range(200):
        (tmp_path / f"{name:03}").write_text(f"{name:03}")
    order = texts(open_source(str(tmp_path)))
    assert order == texts(open_source(str(tmp_path)))
    assert 60 < sum(int(name) for name in order[:50]) / 50 < 140


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_json_lines(tmp_path, packed):
    data = b"\n".join(LINES)
    if packed == ".gz":
        data = gzip.compress(data)
    elif packed == ".zst":
        data = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    path = tmp_path / f"some.jsonl{packed}"
    path.write_bytes(data)
    source = open_source(str(path))
    assert texts(source) == WANTED
    assert source.passed_over == {"lines without a text": len(LINES) - len(WANTED)}


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_damaged_archives_are_counted(tmp_path, packed):
    whole = b"\n".join(b'{"text": "%d"}' % number for number in range(50_000))
    if packed == ".gz":
        data = gzip.compress(whole)
    else:
        data = pytest.importorskip("zstandard").ZstdCompressor().compress(whole)
    path = tmp_path / f"x.jsonl{packed}"
    passed_over: Counter[str] = Counter()
    path.write_bytes(data[: len(data) // 2])
    assert len(list(read_file(path, path.name, passed_over))) < 50_000
    path.write_bytes(b"no archive at all")
    assert list(read_file(path, path.name, passed_over)) == []
    assert passed_over["files that are damaged or cannot be read"] >= 1


def test_long_lines_are_passed_over_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_TEXT_BYTES", 100)
    monkeypatch.setattr(readers, "BLOCK_BYTES", 64)
    path = tmp_path / "x.jsonl"
    lines = ["one", "x" * 5000, "two", "y" * 100, "three"]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    source = open_source(str(path))
    assert texts(source) == ["one", "two", "three"]
    assert source.passed_over == {"lines that are too long": 2}


@pytest.mark.parametrize("text", ["a line\n" * 400, "€äa" * 700, "x" * 64, "x" * 65, "x" * 128])
def test_large_files_come_in_pieces_that_cut_no_character(tmp_path, monkeypatch, text):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 64)
    path = tmp_path / "large.txt"
    path.write_text(text)
    pieces = texts(open_source(str(path)))
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= 64
    if "\n" in text:
        assert all(piece.endswith("\n") for piece in pieces)


def test_parquet_is_read_row_group_by_row_group(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [f"row {number}" for number in range(1000)]
    table = pyarrow.table({"text": [*rows, None, "", "a\0b"], "n": list(range(1003))})
    path = tmp_path / "shard.parquet"
    parquet.write_table(table, path, row_group_size=100)
    source = open_source(str(path))
    assert texts(source) == rows
    assert source.passed_over == {"rows without a text": 3}
    (tmp_path / "other.parquet").write_bytes(path.read_bytes()[:-100])
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "body.parquet")
    (tmp_path / "more.jsonl").write_text('{"text": "line"}\n')
    (tmp_path / "plain.md").write_text("plain")
    mixed = open_source(str(tmp_path))
    assert sorted(texts(mixed)) == sorted([*rows, "line", "plain"])
    assert mixed.passed_over == {
        "rows without a text": 3,
        "files that are damaged or cannot be read": 1,
        "Parquet files without a column of text called text": 2,
    }


@pytest.mark.parametrize(
    ("name", "package"), [("x.parquet", "pyarrow"), ("x.jsonl.zst", "zstandard")]
)
def test_a_missing_package_is_named_with_the_cure(tmp_path, monkeypatch, name, package):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=package) as caught:
        list(open_source(str(tmp_path)))
    assert "pip install 'lazaretto[" in caught.value.cure


def test_a_source_without_text_is_an_error_with_a_cure(tmp_path):
    with pytest.raises(CorpusError, match="there is no"):
        open_source(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\0")
    with pytest.raises(CorpusError, match="passed over: 1 files that are not") as caught:
        list(open_source(str(tmp_path)))
    assert caught.value.cure


# --- the Hub --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hf://datasets/me/some-data", ("me/some-data", "", "")),
        ("hf://datasets/me/data@v1.0", ("me/data", "", "v1.0")),
        ("hf://datasets/me/data/en/*.parquet", ("me/data", "en/*.parquet", "")),
        ("hf://datasets/me/data/en/@refs/convert", ("me/data", "en", "refs/convert")),
    ],
)
def test_names_of_the_hub(spec, parts):
    found = HubName.parse(spec)
    assert (found.repo, found.path, found.revision) == parts


@pytest.mark.parametrize(
    "spec",
    ["hf://", "hf://datasets/me", "hf://models/me/x", "hf://datasets/../x", "hf://datasets/a/b@"],
)
def test_other_names_are_refused(spec):
    with pytest.raises(CorpusError) as caught:
        open_source(spec)
    assert "hf://datasets/OWNER/NAME" in caught.value.cure


def test_which_files_a_name_means():
    files = ["README.md", "a.parquet", "en/b.jsonl.gz", "en/c.bin", "en/d.txt"]

    def meant(spec):
        name = HubName.parse(spec)
        return [file for file in files if name.matches(file)]

    assert meant("hf://datasets/me/x") == ["a.parquet", "en/b.jsonl.gz", "en/d.txt"]
    assert meant("hf://datasets/me/x/en") == ["en/b.jsonl.gz", "en/d.txt"]
    assert meant("hf://datasets/me/x/en/*.bin") == ["en/c.bin"]
    assert meant("hf://datasets/me/x/README.md") == ["README.md"]


COMMIT = hashlib.sha1(b"a commit").hexdigest()
FILES = {
    "data/one.jsonl": b'{"text": "first"}\n{"text": "second"}\n',
    "data/two.txt": b"third",
    "logo.png": b"\x89PNG\0",
}


class FakeHub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does: what a data set holds, and its files at a commit."""

    asked: list[str]

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        self.asked.append(f"{self.command} {self.path}")
        resolve = f"/datasets/me/data/resolve/{COMMIT}/"
        headers, data, status = {}, b"{}", 404
        if self.path in ("/api/datasets/me/data", "/api/datasets/me/data/revision/v1"):
            siblings = [{"rfilename": name} for name in FILES]
            data = json.dumps({"id": "me/data", "sha": COMMIT, "siblings": siblings}).encode()
            headers["Content-Type"] = "application/json"
            status = 200
        elif self.path.startswith(resolve) and self.path.removeprefix(resolve) in FILES:
            data, status = FILES[self.path.removeprefix(resolve)], 200
            headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
            headers["X-Repo-Commit"] = COMMIT
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    handler = type("Handler", (FakeHub,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_data_set_is_read_at_one_commit(hub):
    endpoint, asked = hub
    source = Hub("hf://datasets/me/data@v1", endpoint)
    assert source.name == f"hf://datasets/me/data@{COMMIT}"
    assert texts(source) == ["first", "second", "third"]
    assert "GET /api/datasets/me/data/revision/v1" in asked
    assert all(COMMIT in line for line in asked if "resolve" in line)
    asked.clear()
    assert texts(source) == ["first", "second", "third"]  # from the library's cache
    assert not [line for line in asked if line.startswith("GET")]


def test_what_the_hub_does_not_have_is_an_error_with_a_cure(hub):
    endpoint, _ = hub
    with pytest.raises(CorpusError, match="names no file"):
        Hub("hf://datasets/me/data/*.parquet", endpoint)
    with pytest.raises(CorpusError, match="cannot be read from the Hub") as caught:
        Hub("hf://datasets/me/nothing", endpoint)
    assert "network" in caught.value.cure

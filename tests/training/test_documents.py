"""The file of a split: one form for given documents, and nothing else is read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.documents import MAGIC, CorpusError, Documents, Shards, SplitRef


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=20))
def test_documents_come_back_the_same(items):
    documents = [item.replace("\0", "0").encode("utf-8", "replace") for item in items]
    split = Documents(documents)
    data = split.to_bytes()
    assert Documents.from_bytes(data) == split
    assert list(split) == documents
    assert split.text_bytes == sum(map(len, documents))


@given(st.binary(max_size=80))
def test_bytes_are_canonical_or_refused(tail):
    for data in (tail, MAGIC + tail, MAGIC + struct.pack("<I", 1) + tail):
        try:
            split = Documents.from_bytes(data)
        except CorpusError:
            continue
        assert split.to_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        MAGIC + struct.pack("<I", 0),
        MAGIC + struct.pack("<II", 1, 0),
        MAGIC + struct.pack("<II", 1, 2) + b"a",
        MAGIC + struct.pack("<II", 1, 1) + b"ab",
        MAGIC + struct.pack("<I", 2**32 - 1),
        MAGIC + struct.pack("<II", 1, 2**32 - 1) + b"a",
        MAGIC + struct.pack("<II", 1, 1) + b"\0",
        MAGIC + struct.pack("<II", 1, 1) + b"\xff",
        MAGIC + struct.pack("<III", 2, 1, 1) + "é".encode(),
        b"LZDOCS2\n" + struct.pack("<II", 1, 1) + b"a",
    ],
)
def test_malformed_splits_are_refused(data):
    with pytest.raises(CorpusError):
        Documents.from_bytes(data)


def test_an_index_outside_is_an_index_error():
    split = Documents([b"a", b"bc"])
    assert split[1] == b"bc"
    for index in (-1, 2):
        with pytest.raises(IndexError):
            split[index]


def test_shards_are_read_when_they_are_needed():
    parts = [Documents([b"a", b"bc"]), Documents([b"def"])]
    files = {SplitRef.of(part.to_bytes()): part for part in parts}
    read = []
    text = Shards(list(files), lambda ref: read.append(ref) or files[ref])
    assert (len(text), text.text_bytes) == (3, 6)
    assert read == []
    assert list(text) == [b"a", b"bc", b"def"]
    assert text.shard(1) == parts[1]

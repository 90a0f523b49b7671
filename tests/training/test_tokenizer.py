"""Tokenizers: exact both ways, one form of the file, and nothing else is read."""

from __future__ import annotations

import struct
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.candidates import TRAIN
from training.tokenizer import (
    BYTES,
    MAGIC,
    MAX_TOKEN_BYTES,
    MAX_VOCAB,
    WORDS,
    BpeTokenizer,
    TokenizerError,
    train_bpe,
)

CODE = b"def run(self, name: str) -> None:\n    if not name:\n        return self.stop(name)\n\n"
BPE = train_bpe([*TRAIN, *[CODE * 3, "Ünïcode — “quoted” 日本語\n".encode() * 4] * 5], 700)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(TEXT)
def test_text_comes_back_exactly(item):
    text = item.encode()
    for tokenizer in (BPE, BYTES):
        tokens = tokenizer.encode(text)
        assert tokens.dtype == tokenizer.dtype
        assert 0 not in tokens
        assert tokenizer.decode(tokens) == text


@given(st.binary())
def test_words_are_a_partition_of_any_bytes(data):
    assert b"".join(WORDS.findall(data)) == data


@given(TEXT)
def test_words_never_cut_a_character(item):
    for word in WORDS.findall(item.encode()):
        word.decode()


def test_words_are_what_the_rule_says():
    text = "self.name_of(x1) = 'don't' 2024\n\n    return  “so—so”".encode()
    assert [word.decode() for word in WORDS.findall(text)] == [
        "self", ".name", "_of", "(x", "1", ")", " =", " '", "don", "'t", "'", " ", "20", "24",
        "\n\n", "   ", " return", " ", " “", "so", "—", "so", "”",
    ]  # fmt: skip


def test_frequent_words_become_one_token():
    assert len(BPE.encode(b" return")) == 1
    assert len(BPE.encode(b"    if not name:\n        return self")) < 12
    assert len(np.concatenate([BPE.encode(item) for item in TRAIN])) < 0.6 * TRAIN.text_bytes


def test_tokens_agree_with_merging_by_hand():
    """The library applies merges in their order: checked against the plain algorithm."""
    merges = {
        pair: 256 + at for at, pair in enumerate(struct.iter_unpack("<HH", BPE.to_bytes()[16:]))
    }
    for word in {*WORDS.findall(TRAIN[0]), *WORDS.findall(CODE)}:
        tokens = list(word)
        while True:
            pairs = [(merges[pair], at) for at, pair in enumerate(pairwise(tokens))
                     if pair in merges]  # fmt: skip
            if not pairs:
                break
            merged, at = min(pairs)
            tokens[at : at + 2] = [merged]
        assert BPE.encode(word).tolist() == tokens


def test_the_file_has_one_form_and_pins_the_tokens():
    again = BpeTokenizer.from_bytes(BPE.to_bytes())
    assert again.to_bytes() == BPE.to_bytes()
    assert again.vocab_size == BPE.vocab_size == 700
    assert again.name == BPE.name != BYTES.name
    assert all((again.encode(item) == BPE.encode(item)).all() for item in TRAIN)


def file_of(*pairs: tuple[int, int], rule: int = 1, count: int | None = None) -> bytes:
    body = b"".join(struct.pack("<HH", *pair) for pair in pairs)
    return MAGIC + struct.pack("<II", rule, len(pairs) if count is None else count) + body


DOUBLING = [(97, 97), *[(256 + n, 256 + n) for n in range(MAX_TOKEN_BYTES.bit_length())]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        file_of(),
        file_of((97, 98))[:-1],
        file_of((97, 98)) + b"\0",
        file_of((97, 98), rule=2),
        file_of((97, 98), count=2),
        file_of((97, 98), count=2**32 - 1),
        file_of((97, 256)),
        file_of((0, 97)),
        file_of((97, 0)),
        file_of((97, 98), (97, 98)),
        file_of((97, 98), (98, 99), (256, 99), (97, 257)),
        file_of(*DOUBLING),
        file_of((97, 98)).replace(b"LZBPE01", b"LZBPE02"),
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        bytes(16 + 4 * MAX_VOCAB),
    ],
)
def test_other_files_are_refused(data):
    with pytest.raises(TokenizerError):
        BpeTokenizer.from_bytes(data)


@given(st.binary(max_size=60))
def test_bytes_are_canonical_or_refused(tail):
    for data in (MAGIC + tail, MAGIC + struct.pack("<II", 1, len(tail) // 4) + tail):
        try:
            found = BpeTokenizer.from_bytes(data)
        except TokenizerError:
            continue
        assert found.to_bytes() == data


def test_too_little_text_or_an_impossible_size_is_an_error_with_a_cure():
    with pytest.raises(TokenizerError, match="only") as caught:
        train_bpe([b"abc abc"], 5000)
    assert "smaller" in caught.value.cure
    for size in (0, 256, MAX_VOCAB + 1):
        with pytest.raises(TokenizerError):
            train_bpe(TRAIN, size)


def test_training_says_how_far_it_is():
    seen: list[int] = []
    train_bpe(TRAIN, 300, seen.append)
    assert seen[-1] == TRAIN.text_bytes
    assert len(seen) == len(TRAIN)


def test_long_runs_are_no_trouble():
    for text in (b"a" * 300_000, b" " * 300_000, "—â".encode() * 50_000, b"\n \t" * 100_000):
        assert BPE.decode(BPE.encode(text)) == text


def test_who_uses_bytes_does_not_load_the_library():
    code = (
        "import sys, training.challenge, training.tokens, training.corpus\n"
        "training.tokenizer.BYTES.encode(b'a')\n"
        "sys.exit('tokenizers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""From text to tokens and back: bytes, or byte-pair merges that are pinned by hash.

Tokens below 256 are the bytes themselves, in every tokenizer. Byte 0 is in no document, so token 0
marks the boundary before each document. Tokens from 256 on are merges of two earlier tokens, in the
order in which they apply.

A byte-pair tokenizer travels as one canonical file, named by its SHA-256. There is exactly one form
for given merges, and ``BpeTokenizer.from_bytes`` accepts nothing else. All integers are unsigned
and little-endian:

    8 bytes   magic  b"LZBPE01\\n"
    4 bytes   number of the rule that cuts text into words: 1
    4 bytes   number of merges, 1 to MAX_VOCAB - 256
    ...       for each merge the two tokens that it joins, 2 bytes each

The rule cuts bytes, not characters, and needs no Unicode tables: the same text has the same tokens
on every machine. No merge crosses a word. The ``tokenizers`` library learns merges and applies them
to words; it is given nothing but what was checked here, and is loaded on first use only.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from training.documents import Shards

    Tokens = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

BOUNDARY: Final = 0
"""The token before each document."""
MAX_VOCAB: Final = 1 << 16
MAX_TOKEN_BYTES: Final = 64
MAX_FILE_BYTES: Final = 16 + 4 * (MAX_VOCAB - 256)
MAGIC: Final = b"LZBPE01\n"
RULE: Final = 1
_HEAD: Final = struct.Struct("<8sII")

WORDS: Final = re.compile(
    rb"[^\r\n0-9A-Za-z\x80-\xff]?(?:[A-Za-z\x80-\xe1\xe3-\xff]+|\xe2(?![\x80\x81]))+"
    rb"|[0-9]{1,2}"
    rb"| ?(?:[^ \t\r\n0-9A-Za-z\x80-\xff]+|\xe2[\x80\x81][\x80-\xbf])+[\r\n]*"
    rb"|[ \t]*[\r\n]+"
    rb"|[ \t]+(?![^ \t\r\n])"
    rb"|[ \t]+"
    rb"|\xe2"
)
"""Rule 1. A word is a run of letters with at most one other ASCII character before it; or one or
two digits; or a run of punctuation, with a blank before and line ends behind it; or white space.
All that is not ASCII counts as letters, but U+2000 to U+207F (dashes, quotes) as punctuation."""

SAMPLE_BYTES: Final = 128 << 20
SAMPLE_SHARDS: Final = 8
_CACHED_WORDS: Final = 1 << 18
_CACHED_WORD_BYTES: Final = 32


class TokenizerError(TrainingError):
    """A tokenizer's file that is not in canonical form, or text that does not suffice for one."""


class Tokenizer:
    """Bytes: a token is a byte of UTF-8 text."""

    vocab_size: int = 256

    @property
    def name(self) -> bytes:
        """Two tokenizers with one name make the same tokens of every text."""
        return b"bytes"

    @property
    def dtype(self) -> npt.DTypeLike:
        """How a token is stored and sent: ``uint8`` up to 256 tokens, else little-endian uint16."""
        return np.dtype("u1") if self.vocab_size <= 256 else np.dtype("<u2")

    def encode(self, text: bytes) -> Tokens:
        """Tokens of a document, without a boundary."""
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, tokens: Tokens) -> bytes:
        """The text again, exactly."""
        return tokens.astype(np.uint8).tobytes()


BYTES: Final = Tokenizer()


class BpeTokenizer(Tokenizer):
    """Merges of bytes. ``merges`` are pairs of earlier tokens; the n-th makes token 256 + n."""

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        """Checks the merges; raises ``TokenizerError``.

        Refused are a merge of token 0, of a token that is not there yet, into more than
        ``MAX_TOKEN_BYTES`` bytes, or into the same bytes as another.
        """
        if not 1 <= len(merges) <= MAX_VOCAB - 256:
            raise TokenizerError(f"a tokenizer has 1 to {MAX_VOCAB - 256} merges")
        spelled = [bytes([byte]) for byte in range(256)]
        for at, (left, right) in enumerate(merges):
            if not (0 < left < len(spelled) and 0 < right < len(spelled)):
                raise TokenizerError(f"merge {at} joins a token that it cannot join")
            spelled.append(spelled[left] + spelled[right])
            if len(spelled[-1]) > MAX_TOKEN_BYTES:
                raise TokenizerError(f"merge {at} makes a token of over {MAX_TOKEN_BYTES} bytes")
        if len(set(spelled)) != len(spelled):
            raise TokenizerError("two merges make the same token")
        self.vocab_size = len(spelled)
        self._merges = tuple((left, right) for left, right in merges)
        self._spelled = spelled
        self._words: _Words | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> BpeTokenizer:
        """Reads a tokenizer's file; raises ``TokenizerError`` unless it is exactly canonical."""
        if not _HEAD.size < len(data) <= MAX_FILE_BYTES:
            raise TokenizerError("not a tokenizer's file: its size is wrong")
        magic, rule, count = _HEAD.unpack_from(data)
        if magic != MAGIC or rule != RULE:
            raise TokenizerError("not a tokenizer's file, or one of another version")
        if len(data) != _HEAD.size + 4 * count:
            raise TokenizerError("the tokenizer's merges do not fit its file")
        return cls(list(struct.iter_unpack("<HH", data[_HEAD.size :])))

    def to_bytes(self) -> bytes:
        """The one canonical file of these merges."""
        flat = [token for pair in self._merges for token in pair]
        return _HEAD.pack(MAGIC, RULE, len(self._merges)) + struct.pack(f"<{len(flat)}H", *flat)

    @property
    def name(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()

    def encode(self, text: bytes) -> Tokens:
        if self._words is None:
            self._words = _Words(self._merges, self._spelled)
        return np.frombuffer(b"".join(map(self._words.__getitem__, WORDS.findall(text))), "<u2")

    def decode(self, tokens: Tokens) -> bytes:
        return b"".join([self._spelled[token] for token in tokens.tolist()])


class _Words(dict[bytes, bytes]):
    """The tokens of each word that was met, two bytes a token; short words are kept."""

    def __init__(self, merges: Sequence[tuple[int, int]], spelled: Sequence[bytes]) -> None:
        from tokenizers import models

        super().__init__()
        names = [_name(item) for item in spelled]
        self._model = models.BPE(
            vocab={name: token for token, name in enumerate(names)},
            merges=[(names[left], names[right]) for left, right in merges],
            cache_capacity=0,
        )

    def __missing__(self, word: bytes) -> bytes:
        found = self._model.tokenize(_name(word))
        tokens = struct.pack(f"<{len(found)}H", *[item.id for item in found])
        if len(word) <= _CACHED_WORD_BYTES:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = tokens
        return tokens


def learn_bpe(
    text: Shards, vocab_size: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> BpeTokenizer:
    """Learns the merges of a train text from a sample of at most ``SAMPLE_BYTES`` of it.

    ``progress`` is told (bytes read, bytes to read). Raises ``TokenizerError`` as ``train_bpe``.
    """
    total = min(SAMPLE_BYTES, text.text_bytes)
    return train_bpe(_sample(text), vocab_size, lambda done: progress(done, total))


def _sample(text: Shards) -> Iterator[bytes]:
    """The first documents of at most ``SAMPLE_SHARDS`` shards, which lie evenly in the text."""
    count = min(SAMPLE_SHARDS, len(text.refs))
    for turn in range(count):
        room = SAMPLE_BYTES // count
        for document in text.shard(turn * len(text.refs) // count):
            room -= len(document)
            if room < 0:
                break
            yield document


def check_round_trip(tokenizer: Tokenizer, documents: Iterable[bytes]) -> None:
    """Raises ``TokenizerError`` unless every document comes back exactly, without a boundary."""
    for document in documents:
        tokens = tokenizer.encode(document)
        if tokenizer.decode(tokens) != document or (tokens == BOUNDARY).any():
            raise TokenizerError(
                "the tokenizer does not give a document back exactly; nothing was written",
                cure='reinstall the package tokenizers, or set tokenizer = "bytes"',
            )


def train_bpe(
    documents: Iterable[bytes],
    vocab_size: int,
    progress: Callable[[int], None] | None = None,
) -> BpeTokenizer:
    """Learns the ``vocab_size - 256`` most useful merges of ``documents``.

    Memory grows with the number of different words: give a sample, some 100 MB at most.
    ``progress`` is told how many bytes of text were read. Raises ``TokenizerError`` where the text
    is too little for so many merges.
    """
    from tokenizers import Tokenizer as Learner
    from tokenizers import models, pre_tokenizers, trainers

    if not 256 < vocab_size <= MAX_VOCAB:
        raise TokenizerError(f"a vocabulary has 257 to {MAX_VOCAB} tokens, not {vocab_size}")
    learner: Any = Learner(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split("\0", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=[_name(bytes([byte])) for byte in range(256)],
        max_token_length=MAX_TOKEN_BYTES,
    )
    learner.train_from_iterator(_separated(documents, progress), trainer)
    pairs = json.loads(learner.to_str())["model"]["merges"]
    tokens = {_name(bytes([byte])): byte for byte in range(256)}
    merges: list[tuple[int, int]] = []
    for left, right in pairs:
        if left + right not in tokens:  # a second way to the same token is left out
            tokens[left + right] = 256 + len(merges)
            merges.append((tokens[left], tokens[right]))
    if len(tokens) != vocab_size:
        raise TokenizerError(
            f"this text gives a vocabulary of only {len(tokens)} tokens, not {vocab_size}",
            cure="give more text, or ask for a smaller vocab_size",
        )
    return BpeTokenizer(merges)


def _separated(documents: Iterable[bytes], progress: Callable[[int], None] | None) -> Iterator[str]:
    """Documents as the library reads them: words by name, with NUL between, which is in none."""
    done = 0
    for document in documents:
        yield "\0".join(map(_name, WORDS.findall(document)))
        done += len(document)
        if progress is not None:
            progress(done)


def _name(data: bytes) -> str:
    """Bytes as the library knows them: a character for each byte."""
    return data.decode("latin-1")

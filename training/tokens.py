"""The order of the training tokens: a function of the documents and the seed, of nothing else.

Documents are permuted by the seed and packed into one stream, with byte 0 (which no document holds)
before each. The stream is read in ``LANES`` places at once: row k of a run continues lane k modulo
LANES, so the rows of a batch come from unrelated places, whatever its shape. Each row takes
``seq_len + 1`` bytes and moves its lane by ``seq_len``. Two runs that ask for the same shapes get
the same tokens.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from training.tokenizer import BYTES, Tokenizer

if TYPE_CHECKING:
    from training.documents import Documents

LANES: Final = 251
SEPARATOR: Final = b"\0"


class Stream:
    """The tokens of one run. ``documents`` is the train split."""

    def __init__(self, documents: Documents, seed: int, tokenizer: Tokenizer = BYTES) -> None:
        prefix = b"lazaretto tokens" + seed.to_bytes(8, "little")
        order = sorted(
            range(len(documents)),
            key=lambda index: hashlib.sha256(prefix + index.to_bytes(8, "little")).digest(),
        )
        packed = b"".join(part for index in order for part in (SEPARATOR, documents[index]))
        self._tokens = tokenizer.encode(packed)
        size = len(self._tokens)
        self._at = [size * lane // LANES for lane in range(LANES)]
        self._row = 0

    def rows(self, batch_size: int, seq_len: int) -> bytes:
        """The next rows: ``batch_size * (seq_len + 1)`` bytes, row after row."""
        size = len(self._tokens)
        starts = np.empty((batch_size, 1), dtype=np.int64)
        for row in range(batch_size):
            lane = self._row % LANES
            starts[row, 0] = self._at[lane]
            self._at[lane] = (self._at[lane] + seq_len) % size
            self._row += 1
        picks = (starts + np.arange(seq_len + 1, dtype=np.int64)) % size
        return bytes(self._tokens[picks].tobytes())

"""The order of the training tokens: a function of the text and the seed, of nothing else.

Documents are taken in an order drawn from the seed, all of them before one comes again. ``LANES``
documents are read at once (fewer where there are fewer): row k of a run continues lane k modulo
their number, and a lane that has come to the end of its document takes the next one in the order.
So the rows of a batch come from unrelated places, whatever its shape. Each row takes
``seq_len + 1`` tokens and moves its lane by ``seq_len``; token 0 stands before each document. Two
runs that ask for the same shapes get the same tokens.

Memory does not grow with the text: the tokens stay on disk (``training.tokenstore``).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from training.order import Order
from training.tokenizer import BYTES
from training.tokenstore import open_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from training.documents import Text
    from training.tokenizer import Tokenizer

LANES: Final = 251


class Stream:
    """The tokens of one run, from the train text.

    Making one makes the tokens where they are not kept yet (``tokenstore.open_tokens`` says what
    it raises, and can be called before, with a progress callback).
    """

    def __init__(self, text: Text, seed: int, tokenizer: Tokenizer = BYTES) -> None:
        self._parts = open_tokens(text, tokenizer)
        self._starts = list(accumulate((len(part) for part in self._parts), initial=0))
        self._dtype = np.dtype(tokenizer.dtype)
        self._documents = self._endless(seed)
        nothing = np.empty(0, self._dtype)
        self._lanes: list[NDArray[Any]] = [nothing] * min(LANES, self._starts[-1])
        self._row = 0

    def rows(self, batch_size: int, seq_len: int) -> bytes:
        """The next rows: ``batch_size * (seq_len + 1)`` tokens, row after row."""
        rows = np.empty((batch_size, seq_len + 1), self._dtype)
        for row in rows:
            lane = self._row % len(self._lanes)
            self._lanes[lane] = self._fill(row, self._lanes[lane])
            self._row += 1
        return rows.tobytes()

    def _fill(self, row: NDArray[Any], rest: NDArray[Any]) -> NDArray[Any]:
        """Fills ``row`` from what is left of a document and those after it.

        Returns what is left then: it begins with the last token of the row, which is the first of
        the lane's next row.
        """
        at = 0
        while True:
            took = min(len(rest), len(row) - at)
            row[at : at + took] = rest[:took]
            at += took
            if at == len(row):
                return rest[took - 1 :]
            rest = next(self._documents)

    def _endless(self, seed: int) -> Iterator[NDArray[Any]]:
        for round_trip in count():
            for index in Order(self._starts[-1], seed, round_trip):
                part = bisect_right(self._starts, index) - 1
                yield self._parts[part][index - self._starts[part]]

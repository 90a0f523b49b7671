"""The text of a fold as rows of tokens, and the probe rows that are mixed with them.

A document is scored in windows of ``context`` tokens, each predicted from the tokens of its own
window and the one token before it (the boundary before a document). Every token of the fold is
scored exactly once. A window at a document's end is filled up with tokens of another document,
which are not scored. Rows are dealt into batches so that a row's neighbours come from other
documents, as far as there are enough of them.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.tokenizer import BOUNDARY, BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.documents import Documents
    from training.tokenizer import Tokenizer

    Tokens = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Windows:
    """``inputs`` and ``targets``: tokens [rows, context]; ``sizes``: scored positions of each row;
    ``document``: index of the document of each row; ``text_bytes``: raw bytes of the text."""

    inputs: Tokens
    targets: Tokens
    sizes: npt.NDArray[np.int64]
    document: npt.NDArray[np.int64]
    text_bytes: int

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True, slots=True)
class Request:
    """One batch of tokens [rows, length], and which window each row stands for.

    ``known[r]`` positions at the start of row r equal those of the window ``rows[r]``; what follows
    is other text. In a whole row ``known`` is the row's length. ``probe`` says what a difference
    would mean: ``repeat``, ``neighbours`` or ``future``; empty where the answer is the score.
    ``first`` is the first position that is answered. It is above 0 only where a row ends before its
    text does: there it may be told, because what was answered with the whole row at hand cannot be
    taken back.
    """

    tokens: Tokens
    rows: tuple[int, ...]
    known: tuple[int, ...]
    probe: str = ""
    first: int = 0


def generator(seed: int, what: str) -> random.Random:
    """A generator of its own for each purpose."""
    digest = hashlib.sha256(f"lazaretto {what} {seed}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


def cut(text: Documents, context: int, tokenizer: Tokenizer = BYTES) -> Windows:
    """All windows of a fold, in the order of its documents."""
    inputs, targets, sizes, document = [], [], [], []
    bodies = [tokenizer.encode(body) for body in text]
    boundary = np.array([BOUNDARY], tokenizer.dtype)
    for index, body in enumerate(bodies):
        other = bodies[index - 1]  # fills up the end; itself where it is alone
        filled = np.concatenate((boundary, body, boundary, np.resize(other, context)))
        for start in range(0, len(body), context):
            inputs.append(filled[start : start + context])
            targets.append(filled[start + 1 : start + 1 + context])
            sizes.append(min(context, len(body) - start))
            document.append(index)
    return Windows(
        inputs=np.stack(inputs).astype(tokenizer.dtype),
        targets=np.stack(targets).astype(tokenizer.dtype),
        sizes=np.array(sizes, np.int64),
        document=np.array(document, np.int64),
        text_bytes=text.text_bytes,
    )


def batches_of(windows: Windows, batch: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Every window once, in batches of exactly ``batch`` rows; the last is filled with others.

    The windows of a document are spread evenly over the batches, in random order.
    """
    places = []
    for document in range(int(windows.document.max()) + 1):
        rows = np.flatnonzero(windows.document == document).tolist()
        rng.shuffle(rows)
        shift = rng.random()
        places += [((k + shift) / len(rows), row) for k, row in enumerate(rows)]
    order = [row for _, row in sorted(places)]
    missing = -len(order) % batch
    order += [rng.choice(order) for _ in range(missing)]
    groups = [tuple(order[at : at + batch]) for at in range(0, len(order), batch)]
    rng.shuffle(groups)
    return groups


def scored(windows: Windows) -> npt.NDArray[np.bool_]:
    """Which positions are scored, [rows, context]: all but those that fill up a document's end."""
    found: npt.NDArray[np.bool_] = np.arange(windows.inputs.shape[1]) < windows.sizes[:, None]
    return found


def whole(windows: Windows, rows: Sequence[int], probe: str = "") -> Request:
    """The windows as they are."""
    length = windows.inputs.shape[1]
    return Request(windows.inputs[list(rows)], tuple(rows), (length,) * len(rows), probe)


class Draw:
    """Rows drawn at random, none twice before all were drawn once."""

    def __init__(self, rows: Sequence[int], rng: random.Random) -> None:
        self._rows = list(rows)
        self._rng = rng
        self._left: list[int] = []

    def __call__(self, rows: int) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < rows:
            if not self._left:
                self._left = self._rows.copy()
                self._rng.shuffle(self._left)
            drawn.append(self._left.pop())
        return drawn

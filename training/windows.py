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
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from training.tokenizer import BOUNDARY, BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.documents import Documents
    from training.tokenizer import Tokenizer

    Tokens = npt.NDArray[Any]


TAIL: Final = 32


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


def whole(windows: Windows, rows: Sequence[int], probe: str = "") -> Request:
    """The windows as they are."""
    length = windows.inputs.shape[1]
    return Request(windows.inputs[list(rows)], tuple(rows), (length,) * len(rows), probe)


def truncated(windows: Windows, rows: Sequence[int], length: int) -> Request:
    """Only the first ``length`` tokens: there is no future to be read. The last ``TAIL`` positions
    are answered: those before them have a future still."""
    tokens = windows.inputs[list(rows), :length]
    known = (length,) * len(rows)
    return Request(tokens, tuple(rows), known, "future", max(0, length - TAIL))


def perturbed(
    windows: Windows, rows: Sequence[int], batch: int, rng: random.Random
) -> list[Request]:
    """From some position on, each row goes on with the text of another window.

    The positions are spread evenly over the rows of all batches.
    """
    length = windows.inputs.shape[1]
    places = [1 + int((k + rng.random()) * (length - 1) / len(rows)) for k in range(len(rows))]
    rng.shuffle(places)
    tokens = windows.inputs[list(rows)].copy()
    for row, at in enumerate(places):
        tokens[row, at:] = windows.inputs[rng.randrange(len(windows)), at:]
    asked = []
    for at in range(0, len(rows), batch):
        part = slice(at, at + batch)
        asked.append(Request(tokens[part], tuple(rows[part]), tuple(places[part]), "future"))
    return asked


def cuts(length: int, most: int, rng: random.Random) -> list[int]:
    """Lengths of prefixes, ``most`` at most: spread evenly over 1 to ``length`` - 1.

    The longest is always among them: all that it lacks is the last token.
    """
    count = min(most, length - 1)
    found = [1 + int((k + rng.random()) * (length - 1) / count) for k in range(count)]
    return [*found[:-1], length - 1]


class Draw:
    """Rows drawn at random, none twice before all were drawn once."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self._count = count
        self._rng = rng
        self._left: list[int] = []

    def __call__(self, rows: int) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < rows:
            if not self._left:
                self._left = list(range(self._count))
                self._rng.shuffle(self._left)
            drawn.append(self._left.pop())
        return drawn

"""From text to tokens and back: bytes, or byte-pair merges that are pinned by hash.

Tokens below 256 are the bytes themselves, in every tokenizer. Byte 0 is in no document, so token 0
marks the boundary before each document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

BOUNDARY: Final = 0
"""The token before each document."""


class Tokenizer:
    """Bytes: a token is a byte of UTF-8 text."""

    vocab_size: int = 256

    @property
    def dtype(self) -> npt.DTypeLike:
        """How a token is stored and sent: ``uint8`` up to 256 tokens, else little-endian uint16."""
        return np.dtype("u1") if self.vocab_size <= 256 else np.dtype("<u2")

    def encode(self, text: bytes) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """Tokens of a document, without a boundary."""
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, tokens: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
        """The text again, exactly."""
        return tokens.astype(np.uint8).tobytes()


BYTES: Final = Tokenizer()

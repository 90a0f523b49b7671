"""Text that nobody has written before."""

from __future__ import annotations

import random

SYLLABLES = ["ba", "ko", "ti", "ru", "mel", "san", "dor", "vi", "que", "lop", "an", "er", "ist"]


def nonsense(seed: int, size: int) -> bytes:
    """Nonsense prose with lines, different for every seed."""
    draw = random.Random(seed)
    words: list[str] = []
    total = 0
    while total < size:
        word = "".join(draw.choice(SYLLABLES) for _ in range(draw.randint(1, 4)))
        words.append(word + ("\n" if draw.random() < 0.1 else " "))
        total += len(words[-1])
    return "".join(words)[:size].encode()

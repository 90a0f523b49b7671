"""A machine whose speed others change: an executor that does no work, but costs what work would.

The rules of cost are tried on it without a busy machine. What a program costs stands in its text:
``work 1.3 score .5`` takes 1.3 times what ``work 1`` takes for each token, and half of what others
take to be scored. One that is ``random`` gives other weights each time.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from training.evaluator import Score
from training.runner import TrainedRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.challenge import TierSpec

SCORE_MS = 1000


class Machine:
    """``slowness`` tells how many times as long work takes during the n-th run; ``seen`` lists the
    program and the tokens of each training."""

    def __init__(self, slowness: Callable[[int], float]) -> None:
        self.slowness = slowness
        self.seen: list[tuple[bytes, int]] = []
        self.runs = 0

    def train(self, code: bytes, tier: TierSpec, text: Any, seed: int, **_: Any) -> TrainedRun:
        self.seen.append((code, tier.budget_tokens))
        cost = self._cost(code, b"work", tier.budget_tokens / 10)
        salt = str(self.runs).encode() if b"random" in code else b""
        weights = code + salt + str((tier.budget_tokens, seed)).encode()
        digest = hashlib.sha256(weights).digest()
        tokens = tier.budget_tokens
        return TrainedRun("ok", "", weights, digest, digest, tokens, cost, cost, 0, 0, 0, cost, 0)

    def score(self, code: bytes, *_: Any, **__: Any) -> Score:
        cost = self._cost(code, b"score", SCORE_MS)
        return Score("ok", "", 10**9, 1, defaultdict(int), cost, cost, cost)

    def _cost(self, code: bytes, what: bytes, plain: float) -> int:
        words = code.split()
        factor = float(words[words.index(what) + 1]) if what in words else 1.0
        self.runs += 1
        return round(plain * factor * self.slowness(self.runs - 1))

"""Does a program train at all? A moment in the sandbox, before it is worth a pair."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from node.proposers.protocol import CheckReport
from training.executor import LOCAL, Executor

if TYPE_CHECKING:
    import threading

    from training.challenge import TierSpec
    from training.documents import Text
    from training.tokenizer import Tokenizer

BATCHES: Final = 4
MAX_MS: Final = 20_000


def quick_check(
    code: bytes,
    tier: TierSpec,
    text: Text,
    tokenizer: Tokenizer,
    *,
    cancel: threading.Event | None = None,
    nice: int = 0,
    executor: Executor = LOCAL,
) -> CheckReport:
    """Train ``code`` on a few batches, under the tier's limits, and say what became of it.

    Raises SandboxUnavailable, or Cancelled when ``cancel`` is set meanwhile.
    """
    short = replace(
        tier,
        budget_tokens=min(tier.budget_tokens or BATCHES * tier.max_batch_tokens,
                          BATCHES * tier.max_batch_tokens),
        budget_ms=min(tier.budget_ms, MAX_MS),
    )  # fmt: skip
    traces: list[bytes] = []
    run = executor.train(
        code, short, text, seed=0, tokenizer=tokenizer, cancel=cancel, nice=nice,
        trace=traces.append,
    )  # fmt: skip
    return CheckReport(run.status, run.detail, b"".join(traces))

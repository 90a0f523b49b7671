"""The demo's dishonest node: a member in good standing that plants two false claims.

Its records are well formed and properly signed, its code is real. The first claim states a gain
that was never measured, for an edit that makes things worse. The second lets every position see the
text that follows it; measured without a seal such a model looks wonderful, and that very number,
truly measured, is what the claim states.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from node.claiming import sign_claim
from node.service import run_node
from node.settings import Home
from node.trials import Trials
from node.work import cancellable
from swarm.records import Claim, DevPair

if TYPE_CHECKING:
    from node.member import Node

INVENTED = "not_reproduced"
LOOKS_AHEAD = "non_causal"
"""The reasons for which the planted claims must be rejected."""

INVENTED_GAINS = (92_000_000, 88_000_000, 95_000_000)


class PlantError(Exception):
    """The base code has changed so that a plant no longer fits it."""

    cure = "adapt node/demo/dishonest.py to the base"


def replaced(code: bytes, old: bytes, new: bytes) -> bytes:
    """``code`` with the single place ``old`` replaced."""
    if code.count(old) != 1:
        raise PlantError(f"{old!r} is not in the base exactly once")
    return code.replace(old, new)


async def plant(node: Node) -> None:
    """Sign both claims, once; a restarted node finds them in its log."""
    import trio

    done = {
        record.payload.slot
        for _, record in node.log.store.records()
        if isinstance(record.payload, Claim) and record.author == node.key.public
    }
    await node.caught_up()
    trials = Trials(node, None, await node.code_of(None))
    if 0 not in done:
        worse = make_worse(trials.base)
        pairs = tuple(DevPair(trials.seed(i), gain) for i, gain in enumerate(INVENTED_GAINS))
        text = "longer rows, tuned on a large cluster"
        await sign_claim(node, trials, worse, text, "mallory", pairs, 9000, 0, planted=INVENTED)
    if 1 not in done:
        cheat = look_ahead(trials.base)
        gains = await naive_gains(trials, cheat)
        text = "attention sees the whole window"
        await sign_claim(node, trials, cheat, text, "mallory", gains, 9000, 1, planted=LOOKS_AHEAD)
    await trio.sleep_forever()


async def naive_gains(trials: Trials, candidate: bytes) -> tuple[DevPair, ...]:
    """What a harness without probes measures: its own score, believed."""
    from training.evaluator import score
    from training.pair import train_pair

    tier, seed, dev, tokenizer = trials.tier, trials.seed(0), trials.dev, trials.tokenizer
    trained = await cancellable(
        lambda cancel: train_pair(
            trials.base, candidate, tier, trials.train, seed, tokenizer=tokenizer, cancel=cancel
        )
    )
    scores = []
    for code, run in ((trials.base, trained.base), (candidate, trained.candidate)):
        weights = run.weights or b""
        scores.append(
            await cancellable(
                lambda cancel, code=code, weights=weights: score(  # type: ignore[misc]
                    code, weights, tier, dev, seed,
                    tokenizer=tokenizer, cancel=cancel, probes=False,
                )
            )
        )  # fmt: skip
    return (DevPair(seed, scores[0].nano_bpb - scores[1].nano_bpb),)


def make_worse(base: bytes) -> bytes:
    """A real edit with nothing good in it: longer rows, and so fewer steps for the same tokens."""
    from training.source import literals, replace_literals

    values = {literal.name: literal.value for literal in literals(base)}
    length = values.get("SEQ_LEN")
    if not isinstance(length, int):
        raise PlantError("the base has no SEQ_LEN")
    return replace_literals(base, {"SEQ_LEN": length * 5 // 4})


def look_ahead(base: bytes) -> bytes:
    """The causal mask taken away."""
    return replaced(base, b"is_causal=True", b"is_causal=False")


def main() -> int:
    """``python -m node.demo.dishonest up --home DIR``."""
    home = Home(Path(sys.argv[sys.argv.index("--home") + 1]))
    return run_node(home, lambda text: print(text, file=sys.stderr, flush=True), plant)


if __name__ == "__main__":
    sys.exit(main())

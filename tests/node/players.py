"""Members of a test swarm with parts to play, as the file ``part.json`` in their homes says.

``claims``: edits of the base's literals (or ``"look_ahead"``) to claim, with gains that nobody
measured. ``lies``: a gain in nano-bits per byte that the member reports as a verifier for every
pair, instead of measuring; null for an honest one.

``python -m tests.node.players up --home DIR``
"""

from __future__ import annotations

import functools
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from node.claiming import sign_claim
from node.demo.dishonest import look_ahead
from node.environment import env_digest
from node.research import Trials
from node.service import run_node
from node.settings import Home
from node.verifying import verify_forever
from swarm.records import Claim, DevPair, Pair
from training.source import replace_literals

if TYPE_CHECKING:
    from node.member import Node
    from verification.duty import PairDuty

PART = "part.json"


async def claim(edits: list, node: Node) -> None:
    """Sign the claims of the part, once; a restarted node finds them in its log."""
    await node.caught_up()
    trials = Trials(node, None, await node.code_of(None))
    done = {
        record.payload.slot
        for _, record in node.log.store.records()
        if isinstance(record.payload, Claim) and record.author == node.key.public
    }
    for slot, edit in enumerate(edits):
        if slot not in done:
            base = trials.base
            code = look_ahead(base) if edit == "look_ahead" else replace_literals(base, edit)
            gains = tuple(DevPair(trials.seed(i), 90_000_000 + i) for i in range(3))
            await sign_claim(node, trials, code, json.dumps(edit), "part", gains, 9000, slot)
    await trio.sleep_forever()


async def invent(gain: int, node: Node, duty: PairDuty, hw_class: str) -> None:
    """A reproduction without any work: sealed noise, and the number that is wanted."""
    if duty.sealed is None:
        seal = duty.seal(secrets.token_bytes(32), secrets.token_bytes(32), True)
        await node.log.append(seal, refs=(duty.claim,))
        return
    base = 3_200_000_000 + secrets.randbelow(10_000_000)
    said = gain + secrets.randbelow(abs(gain) // 20)
    pair = Pair(0, duty.fold(), "base_first", said, "ok", base, base - said, 4000, 4000, 147_456)
    block = duty.block(pair, probes={}, hw_class=hw_class, env_digest=env_digest())
    await node.log.append(block, refs=(duty.claim, duty.sealed))


def main() -> int:
    home = Home(Path(sys.argv[sys.argv.index("--home") + 1]))
    part = json.loads((home.path / PART).read_text())
    verify = None
    if part["lies"] is not None:
        verify = functools.partial(verify_forever, advance=functools.partial(invent, part["lies"]))
    return run_node(
        home,
        lambda text: print(text, file=sys.stderr, flush=True),
        functools.partial(claim, part["claims"]),
        verify,
    )


if __name__ == "__main__":
    sys.exit(main())

"""Members of a test swarm with parts to play, as the file ``part.json`` in their homes says.

``claims``: edits of the base's literals (or ``"look_ahead"``) to claim, with gains that nobody
measured. ``friend``: the operator that has to be alone on the bench of each; and then each claim is
built on the one before, once that is adopted. ``lies``: a gain in nano-bits per byte that the
member reports as a verifier for every pair, instead of measuring; null for an honest one.

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
from node.service import run_node
from node.settings import Home
from node.trials import Trials
from node.verifying import verify_forever
from swarm.records import Claim, DevPair, Pair
from training.source import replace_literals
from verification.reproduce import draw_bench
from verification.states import CLOSED

if TYPE_CHECKING:
    from node.member import Node
    from verification.duty import PairDuty
    from verification.states import State

PART = "part.json"


async def claim(edits: list, friend: str | None, node: Node) -> None:
    """Sign the claims of the part, once; a restarted node finds them in its log."""
    state = await node.caught_up()
    if friend is not None:
        await _chain(edits, friend, node, state)
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


async def _chain(edits: list, friend: str, node: Node, state: State) -> None:
    epoch, tier = state.rules.epochs[node.epoch], node.settings.tier
    slots = iter(range(epoch.roster[node.key.public].slots))
    base = None
    for edit in edits:
        trials = Trials(node, base, await node.code_of(base))
        slot = next(
            slot
            for slot in slots
            if [
                seat.operator
                for seat in draw_bench(
                    epoch, node.key.public, slot, tier, node.policy(tier).n
                ).seats
            ]
            == [friend]
        )
        code = replace_literals(trials.base, edit)
        gains = tuple(DevPair(trials.seed(i), 90_000_000 + i) for i in range(3))
        base = await sign_claim(node, trials, code, json.dumps(edit), "part", gains, 9000, slot)
        while (await node.caught_up()).claims[base].stage not in CLOSED:
            await node.changed.wait()
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
        functools.partial(claim, part["claims"], part.get("friend")),
        verify,
    )


if __name__ == "__main__":
    sys.exit(main())

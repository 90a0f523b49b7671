"""Six real nodes, benches of five that withstand two liars, and two liars on them.

One member invents gains as a verifier, one invents losses, one claims what is not so. Eight claims,
three of them true. Real libp2p, real training in real sandboxes; ``make soak`` runs it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from node.demo.local import LocalSwarm, Part
from node.report import Held
from tests.node.players import PART
from verification.states import CLOSED, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from verification.states import ClaimState

pytestmark = [pytest.mark.sandbox, pytest.mark.soak]

CHARTER = """
name = "liars"
admission = "invite"
alpha_milli = 100
alpha_retract_milli = 10
liar_share_milli = 100
capture_max_milli = 10
slots = 4
[challenge]
baseline = "quick"
folds = 48
fold_bytes = 16384
excerpt_bytes = 4096
budget_tokens = 65536
[screen]
[[tiers]]
name = "quick"
n = 5
f = 2
g = 1
max_pairs = 12
effect_pairs = 0
clip_milli = 3000
min_effect_nano = 5_000_000
tolerance_nano = 2_000_000
tolerance_total_nano = 6_000_000
min_saving_milli = 100
classes = ["cpu"]
"""

TRUE = [{"BATCH_SIZE": 6}, {"BATCH_SIZE": 5}, {"BATCH_SIZE": 4}]
FALSE = [
    {"SEQ_LEN": 192},  # fewer steps for the same tokens
    {"BATCH_SIZE": 14},
    {"EMBED_LR": 0.00501},  # nothing at all
    "look_ahead",
    {"HEAD_LR": 0.00401},
]
SAYS = {
    "ada": ([TRUE[0], FALSE[4]], None),
    "vera": ([TRUE[1]], None),
    "otto": ([TRUE[2]], None),
    "mallory": (FALSE[:4], None),
    "yes": ([], 120_000_000),
    "no": ([], -120_000_000),
}
HONEST = ("ada", "vera", "otto")
PATIENCE = 3000.0


def plain(state: ClaimState) -> tuple[object, ...]:
    verdict = state.verdict
    assert verdict is not None
    return (state.stage, state.reason, verdict.e_value, verdict.pairs, verdict.positions_digest)


def test_two_liars_of_five_change_no_verdict(tmp_path: Path) -> None:
    charter = tmp_path / "charter.toml"
    charter.write_text(CHARTER)
    both = ("researcher", "verifier")
    parts = [
        Part(
            name,
            (*both, "archivist", "governor") if name == "ada" else both,
            module="tests.node.players",
        )
        for name in SAYS
    ]
    with LocalSwarm(tmp_path / "nodes", parts, charter=charter, progress=print) as swarm:
        for name, (claims, lies) in SAYS.items():
            part = {"claims": claims, "lies": lies}
            (swarm[name].home.path / PART).write_text(json.dumps(part))
        swarm.start()
        for node in swarm.nodes:
            node.wait_started()
        deadline = time.monotonic() + PATIENCE
        while True:
            assert not [node.part.name for node in swarm.ended()], swarm.ended()[0].last_output()
            assert time.monotonic() < deadline, "not decided in time"
            held = {name: Held(swarm[name].home).state.claims for name in SAYS}
            shown = [state for states in held.values() for state in states.values()]
            if len(shown) == 8 * len(SAYS) and all(state.stage in CLOSED for state in shown):
                break
            time.sleep(3)
        nodes = {name: Held(swarm[name].home) for name in SAYS}
    told = {
        json.dumps(json.loads(nodes["ada"].claim(claim).hypothesis)): state
        for claim, state in nodes["ada"].state.claims.items()
    }
    for edit, state in told.items():
        verdict = state.verdict
        assert verdict is not None
        print(f"{edit:28} {state.stage.value:9} {state.reason:16} {verdict.pairs} pairs")
    adopted = {edit for edit, state in told.items() if state.stage is Stage.ADOPTED}
    assert adopted == {json.dumps(edit) for edit in TRUE}
    # two liars among the first four keep the honest from being the majority that gives the reason
    assert told['"look_ahead"'].reason in ("non_causal", "not_reproduced")
    for name in SAYS:
        assert nodes[name].state.frontier == nodes["ada"].state.frontier
        for claim, state in nodes[name].state.claims.items():
            assert plain(state) == plain(nodes["ada"].state.claims[claim])

"""A node that finishes keeps its promises to benches, takes no new seat, and waits for no ghost."""

from __future__ import annotations

import json

import pytest
import trio

from node.cli import main
from node.contribution import cared
from node.finishing import Promises, awaited, promised
from node.report import Held
from node.upkeep import upkeep_forever
from node.verifying import verify_forever
from swarm.records import Commit
from tests.node.test_rechecking import claim, until, up, upkeep_of, working
from tests.node.tiny import tiny_swarm
from tests.verification.small_swarm import SmallSwarm, measure
from verification.rechecks import settled_blocks
from verification.states import CLOSED, Stage

PARTS = {"ada": ("researcher", "governor"), "vera": ("verifier",), "otto": ("archivist",)}


def test_a_seat_is_a_promise_until_nothing_is_left_to_measure():
    swarm = SmallSwarm(verifiers=2)
    one = swarm.claim(swarm.researchers[0], b"x = 1\n")
    state = swarm.quarantine.state
    keys = [key.public for key in swarm.verifiers]
    assert [promised(state(), key) for key in keys] == [[], []]  # nobody has a seat yet
    while not _seated(state(), one.id):
        assert swarm.step(measure(-30_000_000, 4_000_000))
    assert all([claim.id for claim in promised(state(), key)] == [one.id] for key in keys)
    assert promised(state(), swarm.researchers[0].public) == []
    swarm.run(measure(-30_000_000, 4_000_000))
    assert state().claims[one.id].stage is Stage.REJECTED
    assert [promised(state(), key) for key in keys] == [[], []]


def _seated(state, claim):
    settlement = state.claims[claim].settlement
    return settlement is not None and settlement.seats.taken is not None


@pytest.mark.sandbox
@pytest.mark.soak
async def test_promises_are_kept_and_the_work_of_others_is_cared_for(tmp_path, capsys):
    """Real training: vera finishes in the middle of her bench; otto then audits and keeps."""
    homes = tiny_swarm(tmp_path, PARTS, n=1, max_pairs=8, effect_pairs=0)
    async with (
        up(homes["ada"]) as (ada, addresses),
        up(homes["vera"], addresses) as (vera, _),
    ):
        one = await claim(ada)
        async with working((verify_forever, vera)):
            await until(vera, lambda state: bool(promised(state, vera.key.public)))
            vera.finishing = True
            promises = Promises()
            waits = awaited(vera, promises)
            assert len(waits) == 1
            assert one.hex()[:8] in waits[0]
            await until(vera, lambda state: state.claims[one].stage in CLOSED)
            assert awaited(vera, promises) == []
            assert vera.state.claims[one].stage is Stage.ADOPTED
            again = await claim(ada, slot=1)
            await until(vera, lambda state: again in state.claims)
            await trio.sleep(1.0)
            seats = [r.payload for r in vera.own_records() if isinstance(r.payload, Commit)]
            assert [seat.claim for seat in seats] == [one]  # no new seat
        async with up(homes["otto"], addresses) as (otto, _):
            await until(otto, lambda state: again in state.claims)
            with trio.fail_after(120):
                async with working((upkeep_forever, otto)):
                    while _kinds(otto.home) != {"audit", "recheck", "store"}:
                        await trio.sleep(0.05)
                        assert len(otto.at_hand) <= 1
            assert upkeep_of(otto, otto.key.public)
            assert otto.why == ""
            (block, *_) = settled_blocks(otto.state.claims[one])
    held = Held(homes["otto"])
    done = cared(held.records, held.key)
    assert done.rescored or done.audited or done.stored
    assert not done.contradicted
    assert block.member == vera.key.public
    assert main(["contribution", "--home", str(homes["otto"].path)]) == 0
    assert "again" in (told := capsys.readouterr().out) or "audited" in told or "kept" in told


def _kinds(home):
    try:
        done = json.loads((home.work / "upkeep.json").read_text())["done"]
    except (OSError, ValueError):
        return set()
    return {thing.partition(" ")[0] for thing in done}

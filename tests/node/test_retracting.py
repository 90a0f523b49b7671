"""Contradicting a discovery: who opens it, what people see of it, a false one that is undone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from node.cli import main
from node.demo.local import LocalSwarm, Part
from node.errors import UsageError
from node.governing import load_plan
from node.report import Held
from node.retracting import contradiction, doubtful
from node.settings import Home, Settings
from swarm.records import Contradiction, Retraction
from swarm.store import Store
from tests.node.players import PART
from tests.node.test_liars import CHARTER
from tests.verification.small_swarm import BASE_CODE, TIER, SmallSwarm, measure
from verification.states import Stage

if TYPE_CHECKING:
    from pathlib import Path

GOOD, NOTHING = measure(30_000_000), measure(0)
CODES = [BASE_CODE.replace(b"RATE = 1", f"RATE = {i}".encode()) for i in range(2, 6)]


def doubted(verifiers: int = 5) -> tuple[SmallSwarm, bytes]:
    """A discovery whose pairs after its adoption show nothing, and one that stands on it."""
    swarm = SmallSwarm(verifiers=verifiers, tier=replace(TIER, effect_pairs=4))
    claim = swarm.claim(swarm.researchers[0], CODES[0])
    while swarm.quarantine.state().claims[claim.id].stage is not Stage.ADOPTED:
        swarm.step(GOOD)
    swarm.claim(swarm.researchers[0], CODES[1], slot=1, base=claim.id)
    while swarm.step(lambda duty: (NOTHING if duty.purpose == "effect" else GOOD)(duty)):
        pass
    return swarm, claim.id


def home_of(swarm: SmallSwarm, path: Path, member: int = 1) -> Home:
    """A home of a researcher of this swarm, with all its records."""
    home = Home(path)
    home.create()
    swarm.researchers[member].save(home.key)
    home.save(Settings("r", swarm.swarm.hex(), "r"))
    with Store(home.log, swarm.swarm) as store:
        done = store.ingest([record.signed.to_bytes() for record in swarm.records])
        assert not done.refused
        assert not done.gaps
    return home


# --- what a node does by itself ------------------------------------------------------------------


def test_one_member_after_the_other_doubts_what_its_own_pairs_deny() -> None:
    swarm, claim = doubted()
    state = swarm.quarantine.state()
    turns = []
    for key in swarm.researchers:
        ((found, (reason, turn)),) = list(doubtful(state, key.public, []).items())[:1]
        assert found == claim
        assert "less than half" in reason
        turns.append(turn)
    assert sorted(turns) == [0, 1]
    said = contradiction(state, swarm.researchers[1].public, claim, "x" * 999)
    assert (said.target, said.slot, len(said.reason)) == (claim, 1, 200)
    swarm.write(swarm.researchers[1], said)
    assert claim not in doubtful(swarm.quarantine.state(), swarm.researchers[0].public, [])


def test_one_accuser_is_not_believed_two_are_and_oneself_is() -> None:
    swarm = SmallSwarm(verifiers=5)
    claim = swarm.claim(swarm.researchers[0], CODES[0])
    swarm.run(GOOD)
    state = swarm.quarantine.state()
    settlement = state.claims[claim.id].settlement
    assert settlement is not None
    first = settlement.reproductions[0]
    assert first.block is not None
    others = [key for key in swarm.verifiers if key.public != first.member]
    accuse = Contradiction(first.block, 0, 1_000_000, "scored again")
    said = [swarm.write(others[0], accuse)]
    own = swarm.researchers[1].public
    assert doubtful(state, own, said) == {}
    assert claim.id in doubtful(state, others[0].public, said)
    said.append(swarm.write(others[1], accuse))
    ((reason, _),) = doubtful(state, own, said).values()
    assert "does not say what its weights do" in reason


def test_what_would_not_count_is_not_signed() -> None:
    swarm, claim = doubted(verifiers=3)
    state, key = swarm.quarantine.state(), swarm.researchers[1].public
    with pytest.raises(UsageError, match="no fresh bench"):
        contradiction(state, key, claim, "why")
    swarm, claim = doubted()
    state = swarm.quarantine.state()
    with pytest.raises(UsageError, match="no slot left"):
        contradiction(state, swarm.verifiers[0].public, claim, "why")
    with pytest.raises(UsageError, match="can be contradicted here yet"):
        contradiction(state, key, bytes(32), "why")
    swarm.write(swarm.researchers[1], contradiction(state, key, claim, "why"))
    with pytest.raises(UsageError, match="in this epoch before"):
        contradiction(swarm.quarantine.state(), key, claim, "why")
    swarm.run(NOTHING)
    with pytest.raises(UsageError, match="only an adopted one"):
        contradiction(swarm.quarantine.state(), swarm.researchers[0].public, claim, "why")


def test_a_charter_says_how_long_claims_live() -> None:
    assert load_plan(None).claim_epochs == 256


# --- what people do and see ----------------------------------------------------------------------


def test_the_command_signs_and_every_view_shows_what_came_of_it(tmp_path: Path, capsys) -> None:
    swarm, claim = doubted()
    home = home_of(swarm, tmp_path / "before")
    where = ["--home", str(home.path)]
    assert main(["contradict", claim.hex()[:12], "--reason", "not here", *where]) == 0
    assert f"of claim {claim.hex()[:12]}" in capsys.readouterr().out
    assert main(["contradict", claim.hex()[:12], "--reason", "again", *where, "--json"]) == 2
    assert "in this epoch before" in capsys.readouterr().err
    signed = [r for r in Held(home).records if isinstance(r.payload, Contradiction)]
    ((test,)) = signed
    assert main(["discoveries", *where]) == 0
    assert f"contradiction {test.id.hex()[:12]}" in capsys.readouterr().out
    swarm.quarantine.add(test)
    swarm.records.append(test)
    swarm._heads[test.author] = (test.envelope.seq, test.id)
    swarm.run(NOTHING)
    after = home_of(swarm, tmp_path / "after")
    where = ["--home", str(after.path)]
    assert main(["discoveries", *where]) == 0
    shown = capsys.readouterr().out
    assert "x retracted" in shown
    assert "~ frozen" in shown
    assert "upheld (evidence)" in shown
    assert main(["status", *where]) == 0
    shown = capsys.readouterr().out
    assert "1 retracted" in shown
    assert "the challenge base" in shown
    assert main(["inbox", *where]) == 0
    assert "base retracted" in capsys.readouterr().out
    swarm.adopt(swarm.researchers[0], claim)
    assert _audit(swarm, claim, tmp_path / "unsigned", capsys) == (5, "no node's retraction record")
    state = swarm.quarantine.state()
    decision = state.contradictions[test.id].verdict
    assert decision is not None
    said = Retraction(
        claim, test.id, decision.positions_digest, decision.e_value, decision.level.numerator,
        decision.level.denominator, (),
    )  # fmt: skip
    swarm.write(swarm.researchers[0], said)
    swarm.write(swarm.researchers[1], replace(said, e_value="9"))
    code, text = _audit(swarm, claim, tmp_path / "signed", capsys)
    assert code == 0
    assert "1 nodes signed this retraction; 1 members signed one that does not follow" in text


def _audit(swarm: SmallSwarm, claim: bytes, path: Path, capsys) -> tuple[int, str]:
    home = home_of(swarm, path)
    code = main(["audit", claim.hex(), "--home", str(home.path), "--json"])
    report = json.loads(capsys.readouterr().out)
    (found,) = [one["detail"] for one in report["checks"] if one["name"] == "retraction"]
    assert report["facts"]["contradicted"]
    assert report["verdict"] == "retracted: contradicted"
    return code, found if code == 0 else found[:27]


# --- real nodes ----------------------------------------------------------------------------------

FALSE = {"SEQ_LEN": 192}  # fewer steps for the same tokens
PATIENCE = 1500.0


@pytest.mark.sandbox
@pytest.mark.soak
def test_a_false_discovery_is_undone_on_every_node(tmp_path: Path) -> None:
    """A claimant whose friend is alone on the bench has two false discoveries, one on the other.

    Somebody contradicts the first; two honest machines measure it, and every node falls back.
    """
    charter = tmp_path / "charter.toml"
    text = CHARTER.replace("n = 5", "n = 1").replace("f = 2", "f = 0").replace("g = 1", "g = 0")
    text = text.replace("liar_share_milli = 100", "liar_share_milli = 0")
    charter.write_text(text.replace("slots = 4", "slots = 24"))
    roles = {
        "ada": ("researcher", "archivist", "governor"),
        "mallory": ("researcher",),
        "yes": ("verifier",),
        "vera": ("verifier",),
    }
    parts = [Part(name, what, module="tests.node.players") for name, what in roles.items()]
    with LocalSwarm(tmp_path / "nodes", parts, charter=charter, progress=print) as swarm:
        for name in roles:
            part = {"claims": [], "lies": None}
            if name == "mallory":
                part = {"claims": [FALSE, {"BATCH_SIZE": 14}], "lies": None, "friend": "yes"}
            if name == "yes":
                part = {"claims": [], "lies": 120_000_000}
            (swarm[name].home.path / PART).write_text(json.dumps(part))
        swarm.start()
        for node in swarm.nodes:
            node.wait_started()
        deadline = time.monotonic() + PATIENCE

        def states(name: str) -> dict[str, Stage]:
            held = Held(swarm[name].home)
            return {held.claim(one).hypothesis: state.stage
                    for one, state in held.state.claims.items()}  # fmt: skip

        def wait(stages: tuple[Stage, ...], names: tuple[str, ...]) -> None:
            while any(sorted(states(name).values()) != sorted(stages) for name in names):
                assert not swarm.ended(), swarm.ended()[0].last_output()
                assert time.monotonic() < deadline, {name: states(name) for name in names}
                time.sleep(2)

        wait((Stage.ADOPTED, Stage.ADOPTED), ("ada",))
        home = swarm["ada"].home
        frontier = Held(home).state.frontier["quick"]
        first = next(one.id for one in Held(home).state.claims.values() if one.base is None)
        assert frontier not in (None, first)
        assert main(
            ["contradict", first.hex(), "--reason", "not so here", "--home", str(home.path)]
        ) == 0  # fmt: skip
        wait((Stage.RETRACTED, Stage.FROZEN), tuple(roles))
        while True:  # every node says so
            held = Held(home)
            signed = {
                r.author: r.payload for r in held.records if isinstance(r.payload, Retraction)
            }
            if len(signed) == len(roles):
                break
            assert time.monotonic() < deadline, len(signed)
            time.sleep(1)
        for name in roles:
            assert Held(swarm[name].home).state.frontier == {"quick": None}
        assert {one.frozen for one in signed.values()} == {(frontier,)}
        assert {one.target for one in signed.values()} == {first}
        (test,) = held.state.contradictions.values()
        assert test.bench is not None
        assert [seat.operator for seat in test.bench.seats] == ["vera"]
        assert main(["audit", first.hex(), "--home", str(home.path)]) == 0
        print(f"retracted after {test.verdict and test.verdict.pairs} pairs")

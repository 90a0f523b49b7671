"""An author who says two things splits nobody: both branches count wherever the proof is held."""

from __future__ import annotations

from swarm.feed import prove_equivocation
from tests.swarm.founding import Feed, make_founded
from tests.swarm.test_records import CLAIM
from verification.quarantine import fold


def test_nodes_that_hold_different_branches_agree_once_they_hold_the_proof():
    founded = make_founded()
    author, witness = founded.feeds[1], founded.feeds[2]
    rules = list(founded.feeds[0].records)
    here = author.say(CLAIM)
    there = Feed(author.key, founded.swarm).say(type(CLAIM)(**{**_fields(CLAIM), "slot": 1}))
    proof = prove_equivocation(here, there)
    assert proof is not None
    told = witness.say(proof)
    ours = fold(founded.swarm, [*rules, here, told])
    theirs = fold(founded.swarm, [told, there, *rules])
    assert set(ours.claims) == {here.id, there.id}
    assert ours == theirs
    assert fold(founded.swarm, [*rules, here]) != ours


def _fields(value) -> dict:
    return {name: getattr(value, name) for name in value.__dataclass_fields__ if name != "KIND"}

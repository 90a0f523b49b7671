"""Receipts: what a verifier had a part in, from the state alone."""

from __future__ import annotations

from node.contribution import receipts
from tests.verification.small_swarm import SmallSwarm, measure


def test_claims_confirmed_and_overturned_each_with_signed_blocks() -> None:
    swarm = SmallSwarm(verifiers=2)
    good = swarm.claim(swarm.researchers[0], b"x = 1\n")
    swarm.run(measure(30_000_000))
    bad = swarm.claim(swarm.researchers[1], b"x = 2\n")
    swarm.run(measure(-30_000_000, 4_000_000))
    waits = swarm.claim(swarm.researchers[0], b"x = 3\n", slot=1)
    state = swarm.quarantine.state()
    for key in swarm.verifiers:
        found = {one.claim: one for one in receipts(state, key.public)}
        assert {one: found[one].part for one in found} == {
            good.id: "confirmed",
            bad.id: "overturned",
        }
        assert all(one.agreed for one in found.values())
        assert waits.id not in found
        blocks = {record.id for record in swarm.records if record.author == key.public}
        assert all(set(one.blocks) <= blocks and one.blocks for one in found.values())
    assert receipts(state, swarm.researchers[0].public) == []

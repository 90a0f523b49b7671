"""Who signs an adoption: those who answer for the discovery, and nobody else."""

from __future__ import annotations

import pytest

from node.member import Node
from node.settings import Home, Settings
from swarm.records import Adoption
from swarm.store import Store
from tests.verification.small_swarm import BASE_CODE, SmallSwarm, measure
from verification.audit import audit
from verification.states import Stage


def code(rate: int) -> bytes:
    return BASE_CODE.replace(b"RATE = 1", b"RATE = %d" % rate)


async def adoptions_by(swarm, key, folder) -> list[bytes]:
    """The claims that a node with this key signs the adoption of; its records join the swarm's."""
    home = Home(folder)
    home.create()
    with Store(home.log, swarm.swarm) as store:
        store.ingest([record.signed.to_bytes() for record in swarm.records])
        node = Node(home, Settings("n", swarm.swarm.hex(), "n"), key, store)
        node.log.may_sign.set()
        for _ in range(2):  # nothing is signed twice
            await node.fold_heard()
            await node._act_on_decisions()
        new = [r for r in node.own_records() if r.id not in {one.id for one in swarm.records}]
    swarm.records += new
    assert all(isinstance(record.payload, Adoption) for record in new)
    return [record.payload.claim for record in new]


async def test_claimant_bench_and_whoever_builds_on_it_sign_and_the_audit_holds(tmp_path):
    swarm = SmallSwarm(researchers=3, verifiers=4)
    author, builder, bystander = swarm.researchers
    first = swarm.claim(author, code(2))
    swarm.run(measure(30_000_000))
    second = swarm.claim(builder, code(3), base=first.id)
    state = swarm.quarantine.state()
    assert state.claims[first.id].stage is Stage.ADOPTED
    assert state.claims[second.id].stage is not Stage.ADOPTED
    seated = {seat.key for seat in state.claims[first.id].bench.seats}
    assert len(seated) == 2
    signed = {
        key.public: await adoptions_by(swarm, key, tmp_path / str(number))
        for number, key in enumerate([*swarm.researchers, *swarm.verifiers, swarm.founder])
    }
    assert {key for key, claims in signed.items() if claims} == {
        author.public, builder.public, *seated,
    }  # fmt: skip
    assert all(claims in ([], [first.id]) for claims in signed.values())
    assert signed[bystander.public] == []
    report = audit(swarm.swarm, first.id, [record.signed.to_bytes() for record in swarm.records])
    assert report.exit_code == 0, report.to_text()
    (adoptions,) = (check for check in report.checks if check.name == "adoptions")
    assert adoptions.detail.startswith("4 nodes")


@pytest.mark.parametrize("gain", [-9_000_000])
async def test_nobody_signs_what_was_rejected(tmp_path, gain):
    swarm = SmallSwarm()
    swarm.claim(swarm.researchers[0], code(2))
    swarm.run(measure(gain))
    assert await adoptions_by(swarm, swarm.researchers[0], tmp_path) == []

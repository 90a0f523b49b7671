"""An audit finds every changed byte, tells missing from wrong, and needs no torch, no network."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from swarm.charter import check_charter
from swarm.keys import peer_id, rotation_bytes
from swarm.records import Adoption, Charter, Rotation
from swarm.wire import sign
from tests.verification.small_swarm import BASE_CODE, SmallSwarm, digest, measure
from verification.audit import audit
from verification.findings import AuditReport, Outcome, printable
from verification.states import Stage

if TYPE_CHECKING:
    from swarm.envelope import Record

GOOD = measure(30_000_000)


def code(rate: int) -> bytes:
    return BASE_CODE.replace(b"RATE = 1", b"RATE = %d" % rate)


def adopted_chain() -> tuple[SmallSwarm, Record, Record]:
    """Two adopted claims, one on the other, one rejected; each adoption signed by a verifier."""
    swarm = SmallSwarm()
    first = swarm.claim(swarm.researchers[0], code(2))
    swarm.run(GOOD)
    swarm.adopt(swarm.verifiers[0], first.id)
    second = swarm.claim(swarm.researchers[1], code(3), base=first.id)
    swarm.run(GOOD)
    swarm.adopt(swarm.verifiers[1], second.id)
    bad = swarm.claim(swarm.researchers[0], code(4), slot=1, base=second.id)
    swarm.run(measure(-9_000_000))
    assert swarm.quarantine.state().claims[bad.id].stage is Stage.REJECTED
    return swarm, second, bad


def bytes_of(swarm: SmallSwarm) -> list[bytes]:
    return [record.signed.to_bytes() for record in swarm.records]


def named(report: AuditReport, outcome: Outcome) -> set[str]:
    return {check.name for check in report.checks if check.outcome is outcome}


def test_an_untouched_discovery_passes_every_check() -> None:
    swarm, claim, _ = adopted_chain()
    charter = swarm.records[0].payload
    assert isinstance(charter, Charter)
    check_charter(charter)
    report = audit(swarm.swarm, claim.id, reversed(bytes_of(swarm)))
    assert report.exit_code == 0, report.to_text()
    assert named(report, Outcome.PASS) == {
        "bytes and signatures",
        "feeds",
        "charter",
        "epoch",
        "code and base chain",
        "reproductions",
        "evidence",
        "verdict",
        "adoptions",
    }
    assert report.verdict == "adopted: evidence"
    assert any("trusts every verifier" in limit for limit in report.limits)
    assert len(report.facts["verifiers"]) == 2


def test_an_adoption_s_id_names_its_claim_and_a_rejection_can_be_audited_too() -> None:
    swarm, claim, bad = adopted_chain()
    adoption = [one for one in swarm.records if isinstance(one.payload, Adoption)][1]
    assert audit(swarm.swarm, adoption.id, bytes_of(swarm)).claim == claim.id
    rejected = audit(swarm.swarm, bad.id, bytes_of(swarm))
    assert rejected.exit_code == 0
    assert rejected.verdict == "rejected: not_reproduced"


def test_any_changed_byte_of_any_record_fails() -> None:
    swarm, claim, _ = adopted_chain()
    whole = bytes_of(swarm)
    rng = random.Random(11)
    for index, data in enumerate(whole):
        places = {0, 63, 64, len(data) - 1, *(rng.randrange(len(data)) for _ in range(2))}
        for place in places:
            changed = bytearray(data)
            changed[place] ^= 1 << rng.randrange(8)
            damaged = [*whole[:index], bytes(changed), *whole[index + 1 :]]
            report = audit(swarm.swarm, claim.id, damaged)
            assert report.exit_code == 4, (index, place, report.to_text())


@pytest.mark.parametrize("junk", [b"", b"\0" * 64, b"\xff" * 200, b"\0" * 100_000])
def test_bytes_that_are_no_record_fail(junk: bytes) -> None:
    swarm, claim, _ = adopted_chain()
    report = audit(swarm.swarm, claim.id, [*bytes_of(swarm), junk])
    assert named(report, Outcome.FAIL) == {"bytes and signatures"}
    assert report.exit_code == 4


def test_what_is_missing_is_told_from_what_is_wrong() -> None:
    swarm, claim, _ = adopted_chain()
    whole = bytes_of(swarm)
    for index in range(len(whole)):
        report = audit(swarm.swarm, claim.id, [*whole[:index], *whole[index + 1 :]])
        last_of_feed = not any(
            later.author == swarm.records[index].author for later in swarm.records[index + 1 :]
        )
        assert report.exit_code in ((0, 5) if last_of_feed else (5,)), report.to_text()
    empty = audit(swarm.swarm, claim.id, [])
    assert empty.exit_code == 5
    assert empty.verdict == "unknown"
    assert audit(swarm.swarm, digest("nothing"), whole).exit_code == 5
    assert audit(digest("another swarm"), claim.id, whole).exit_code == 5


def test_a_false_adoption_is_named_and_takes_nothing_from_the_evidence() -> None:
    swarm, claim, bad = adopted_chain()
    true = [one.payload for one in swarm.records if isinstance(one.payload, Adoption)][1]
    for lie in (
        {"e_value": "1E+30"},
        {"level_den": true.level_den + 1},
        {"positions_digest": digest("x")},
        {"crossing": replace(true.crossing, round=5)},
        {"r_ids": ()},
        {"n": 3},
        {"claim": bad.id},
    ):
        liar, _, _ = adopted_chain()
        liar.write(liar.verifiers[2], replace(true, **lie))  # type: ignore[arg-type]
        about = bad.id if "claim" in lie else claim.id
        report = audit(liar.swarm, about, bytes_of(liar))
        assert report.exit_code == 0, report.to_text()
        assert report.facts["signed_an_adoption_that_does_not_follow"] == [
            peer_id(liar.verifiers[2].public)
        ]


def test_a_fork_is_named_and_takes_nothing_from_the_evidence() -> None:
    """Else any member could discredit a true discovery by saying two things of something else."""
    swarm, claim, _ = adopted_chain()
    other, _, _ = adopted_chain()
    author = other.researchers[0]
    other.write(author, other.claim_payload(code(8), slot=3))
    swarm.write(author, swarm.claim_payload(code(9), slot=3))
    report = audit(swarm.swarm, claim.id, bytes_of(swarm) + bytes_of(other))
    assert report.exit_code == 0, report.to_text()
    assert report.facts["said_two_things_with_one_number"] == [peer_id(author.public)]
    assert "1 with a fork" in report.to_text()


def test_feeds_go_forward_and_end_where_their_key_is_handed_over() -> None:
    swarm, claim, _ = adopted_chain()
    author = swarm.researchers[0]
    swarm.write(author, swarm.claim_payload(code(8), slot=3), epoch=2)
    back = swarm.write(author, swarm.claim_payload(code(9), slot=3), epoch=1)
    report = audit(swarm.swarm, claim.id, bytes_of(swarm))
    assert named(report, Outcome.FAIL) == {"feeds"}
    swarm, claim, _ = adopted_chain()
    heir = swarm.outsider
    message = rotation_bytes(swarm.swarm, author.public, heir.public)
    proof = sign(heir.private, message).signature
    swarm.write(author, Rotation(heir.public, proof))
    assert audit(swarm.swarm, claim.id, bytes_of(swarm)).exit_code == 0
    swarm.write(author, swarm.claim_payload(code(9), slot=3))
    report = audit(swarm.swarm, claim.id, bytes_of(swarm))
    assert named(report, Outcome.FAIL) == {"feeds"}
    assert back.envelope.epoch == 1


def test_blobs_are_hashed_again() -> None:
    swarm, claim, _ = adopted_chain()
    text = b"holdout text"
    good = audit(swarm.swarm, claim.id, bytes_of(swarm), {hashlib.sha256(text).digest(): text})
    assert good.exit_code == 0
    bad = audit(swarm.swarm, claim.id, bytes_of(swarm), {hashlib.sha256(text).digest(): b"other"})
    assert named(bad, Outcome.FAIL) == {"blobs"}


def test_json_and_text_say_the_same_and_carry_no_control_characters() -> None:
    swarm = SmallSwarm()
    claim = swarm.claim(swarm.researchers[0], code(2), hypothesis="\x1b[2J\nclear \u202e screen")
    swarm.run(GOOD)
    report = audit(swarm.swarm, claim.id, bytes_of(swarm))
    assert report.exit_code == 5  # nobody has signed an adoption of it
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["schema"] == "lazaretto.audit/1"
    assert plain["exit_code"] == 5
    text = report.to_text()
    assert all(check["detail"] in text for check in plain["checks"])
    assert all(char == "\n" or " " <= char <= "~" for char in text)
    assert "NOT CHECKED" in text
    assert printable("a" * 500) == "a" * 200 + "..."


def test_an_audit_imports_neither_torch_nor_libp2p_nor_trio() -> None:
    swarm, claim, _ = adopted_chain()
    program = (
        "import sys\n"
        "from verification.audit import audit\n"
        "swarm, claim, *signed = (bytes.fromhex(line) for line in sys.stdin.read().split())\n"
        "report = audit(swarm, claim, signed)\n"
        "heavy = {'torch', 'libp2p', 'trio', 'numpy', 'socket', 'anthropic'} & set(sys.modules)\n"
        "print(report.exit_code, sorted(heavy))\n"
    )
    given = "\n".join(data.hex() for data in (swarm.swarm, claim.id, *bytes_of(swarm)))
    out = subprocess.run(
        [sys.executable, "-c", program],
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert out.strip() == "0 []"

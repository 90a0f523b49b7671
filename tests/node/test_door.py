"""What strangers can do at a node's door, and what a flood of them cannot."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from node import requests as requests_module
from node.door import MAX_OPEN_MEMBERS, Door
from node.epochs import open_epoch
from node.errors import UsageError
from node.invitations import Invitations
from node.requests import MAX_OF_A_SUBNET, MAX_WAITING, Requests
from node.settings import Home
from node.times import seconds_of
from swarm import wire
from swarm.keys import KeyPair, rotation_bytes
from swarm.log import SwarmLog
from swarm.records import Rotation
from tests.node.councils import Councils, line

IP = "8.8.8.7"
STRANGERS = [KeyPair.from_seed(n.to_bytes(2, "big") * 16) for n in range(300, 400)]
ASK = {"operator": "ada", "roles": ["researcher"], "note": ""}


class Hall:
    """A governor's door and a member's door, each with a home of its own."""

    def __init__(self, folder, **changes):
        self.council = Councils(folder, 3, **changes)
        keys, stores = self.council.keys, self.council.stores
        lines = [line(keys[0], "us", "governor"), line(keys[1], "vera", "verifier")]
        open_epoch(stores[0], keys[0], lines)
        self.council.spread()
        self.homes = [Home(folder / f"home-{n}") for n in range(2)]
        self.doors = []
        for home, store, key in zip(self.homes, stores, keys, strict=False):
            home.create()
            log = SwarmLog(store, key, lambda _: None)
            log.may_sign.set()
            self.doors.append(Door(home, log, lambda: False))

    def ask(self, key, request, ip=IP, door=0):
        data = request if isinstance(request, bytes) else wire.encode(request)
        return wire.decode(trio.run(self.doors[door].answer, key.public, ip, data))

    @property
    def rules(self):
        return self.council.stores[0].rules

    @property
    def requests(self):
        return Requests(self.homes[0])


@pytest.fixture
def hall(tmp_path):
    opened = Hall(tmp_path)
    with closing(opened.council):
        yield opened


# --- invitations ----------------------------------------------------------------------------------


def give(hall, uses=1, expires="7d", door=0, operator="ada", roles=("verifier",)):
    return Invitations(hall.homes[door]).give(operator, roles, expires, uses)


def test_an_invitation_admits_one_key_as_often_as_it_asks(hall):
    token = give(hall)
    first, second = STRANGERS[:2]
    for _ in range(2):
        assert hall.ask(first, {"token": token})["state"] == "admitted"
    refused = hall.ask(second, {"token": token})
    assert (refused["state"], refused["reason"]) == (
        "refused",
        "this invitation was used by another node",
    )
    assert hall.rules.admissions[first.public].operator == "ada"
    assert not hall.rules.is_member(second.public)


def test_an_invitation_for_one_admits_one_of_many_at_once(hall):
    keys = [KeyPair.generate().public for _ in range(8)]
    for _ in range(20):
        given = Invitations(hall.homes[0])
        token = given.give("bob", ("verifier",), "1d", 1)
        with ThreadPoolExecutor(len(keys)) as pool:
            found = list(pool.map(lambda key, to=given, by=token: to.use(by, key), keys))
        assert sum(not isinstance(one, str) for one in found) == 1


def test_a_stranger_hears_nothing_of_the_swarm_that_it_did_not_bring(hall):
    swarm, name = hall.rules.swarm, hall.rules.charter.name
    nobody, guest = STRANGERS[:2]
    for request in (b"?", {}, {"token": bytes(16)}, {"token": b""}, {"ask": ASK}, {"handover": []}):
        for door in (0, 1):
            answer = hall.ask(nobody, request, door=door)
            assert set(answer) == {"state", "reason"}
            assert name not in answer["reason"]
            assert swarm.hex()[:8] not in answer["reason"]
    admitted = hall.ask(guest, {"token": give(hall)})
    assert (admitted["swarm"], admitted["name"]) == (swarm, name)


def test_a_bounded_invitation_admits_so_many_under_one_operator(hall):
    token = give(hall, uses=2)
    states = [hall.ask(key, {"token": token})["state"] for key in STRANGERS[:3]]
    assert states == ["admitted", "admitted", "refused"]
    assert {one.operator for one in hall.rules.admissions.values()} == {"ada"}


def test_an_invitation_expires_and_can_be_revoked(hall, monkeypatch):
    late, withdrawn = give(hall, expires="30m"), give(hall)
    invitations = Invitations(hall.homes[0])
    used = hall.ask(STRANGERS[0], {"token": withdrawn})
    assert used["state"] == "admitted"
    (name,) = [one.id for one in invitations.listed() if one.used_by]
    assert invitations.revoke(name).revoked
    assert "withdrawn" in hall.ask(STRANGERS[1], {"token": withdrawn})["reason"]
    assert hall.rules.is_member(STRANGERS[0].public)
    now = time.time()
    monkeypatch.setattr("node.invitations.time.time", lambda: now + 1801)
    assert "expired" in hall.ask(STRANGERS[1], {"token": late})["reason"]
    with pytest.raises(UsageError):
        invitations.revoke("")


def test_the_token_is_not_kept(hall):
    token = give(hall)
    kept = b"".join(path.read_bytes() for path in hall.homes[0].invitations.iterdir())
    assert token not in kept
    assert token.hex().encode() not in kept


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "7w", "367d", "1 d", "\u0667d"])
def test_times_that_are_none(text):
    with pytest.raises(UsageError):
        seconds_of(text)


def test_a_member_vouches_for_researchers_under_its_own_operator_only(hall):
    good = give(hall, door=1, operator="vera", roles=("researcher",))
    assert hall.ask(STRANGERS[0], {"token": good}, door=1)["state"] == "admitted"
    hall.council.spread()
    line = hall.rules.admissions[STRANGERS[0].public]
    assert (line.operator, line.roles) == ("vera", ("researcher",))
    for operator, roles in (("vera", ("verifier",)), ("ada", ("researcher",))):
        bad = give(hall, door=1, operator=operator, roles=roles)
        assert (
            "vouches for researchers only"
            in hall.ask(STRANGERS[1], {"token": bad}, door=1)["reason"]
        )
        assert not hall.rules.is_member(STRANGERS[1].public)


def test_a_removed_key_is_told_so(hall):
    from node.epochs import Changes

    store, key = hall.council.stores[0], hall.council.keys[0]
    gone = hall.council.keys[1]
    open_epoch(store, key, changes=Changes(removed=((gone.public, "lies"),)))
    answer = hall.ask(gone, {"token": give(hall)})
    assert answer["state"] == "refused"
    assert "removed" in answer["reason"]


def test_a_key_that_told_two_stories_is_not_let_in(hall):
    liar = STRANGERS[0]
    log = hall.doors[0]._log
    proof = log.store.append(log.key, hall.council.fork(liar, told=False))
    hall.doors[0] = Door(hall.homes[0], SwarmLog(log.store, log.key, lambda _: None), bool)
    hall.doors[0]._log.may_sign.set()
    assert set(log.store.convictions()) == {liar.public}
    token = give(hall)
    for request in ({"token": token}, {"ask": ASK}):
        answer = hall.ask(liar, request)
        assert answer["state"] == "refused"
        assert "two stories" in answer["reason"]
    assert not hall.requests.listed()
    assert hall.ask(STRANGERS[1], {"token": token})["state"] == "admitted"  # it was not used up
    assert proof.id not in hall.rules.refused


# --- asking ---------------------------------------------------------------------------------------


def test_a_request_waits_over_restarts_until_somebody_decides(hall):
    stranger = STRANGERS[0]
    note = "hi\x1b[2J\n\u202eme" + "x" * 500
    answer = hall.ask(stranger, {"ask": {**ASK, "note": note}})
    assert answer["state"] == "waiting"
    hall.doors[0] = Door(hall.homes[0], hall.doors[0]._log, lambda: False)
    assert hall.ask(stranger, {"ask": {**ASK, "operator": "other"}})["state"] == "waiting"
    (kept,) = hall.requests.listed()
    assert (kept.key, kept.operator, kept.roles) == (stranger.public.hex(), "ada", ("researcher",))
    assert len(kept.note) <= 200
    assert kept.note.isprintable()
    assert kept.note.isascii()
    assert not hall.rules.is_member(stranger.public)


def test_ignored_is_for_good_and_dismissed_may_ask_again(hall):
    ignored, dismissed = STRANGERS[:2]
    for key in (ignored, dismissed):
        hall.ask(key, {"ask": ASK})
    hall.requests.ignore(ignored.public.hex())
    hall.requests.forget(dismissed.public.hex())
    assert hall.ask(ignored, {"ask": ASK})["state"] == "refused"
    assert hall.ask(dismissed, {"ask": ASK})["state"] == "waiting"


def test_only_a_governor_takes_requests(hall):
    answer = hall.ask(STRANGERS[0], {"ask": ASK}, door=1)
    assert answer["state"] == "refused"
    assert "governor" in answer["reason"]
    assert not Requests(hall.homes[1]).listed()


def test_a_flood_of_requests_is_bounded_by_subnet_and_in_all(hall):
    states = [hall.ask(key, {"ask": ASK}, ip=f"8.8.8.{n}")["state"]
              for n, key in enumerate(STRANGERS[:10])]  # fmt: skip
    assert states.count("waiting") == MAX_OF_A_SUBNET
    assert hall.ask(STRANGERS[10], {"ask": ASK}, ip="2600::1")["state"] == "waiting"
    for n, key in enumerate(STRANGERS[11:]):
        hall.ask(key, {"ask": ASK}, ip=f"8.9.{n}.1")
    assert len(hall.requests.listed()) == MAX_WAITING
    asked = hall.ask(KeyPair.generate(), {"ask": ASK}, ip="8.10.0.1")
    assert "too many nodes wait" in asked["reason"]
    assert asked["state"] == "refused"


def test_those_ignored_take_no_room_of_those_who_wait_and_are_bounded_too(hall, monkeypatch):
    monkeypatch.setattr(requests_module, "MAX_IGNORED", 3)
    monkeypatch.setattr(requests_module, "MAX_WAITING", 2)
    for n, key in enumerate(STRANGERS[:8]):
        hall.ask(key, {"ask": ASK}, ip=f"8.9.{n}.1")
        hall.requests.ignore(key.public.hex())
    assert len(hall.requests.listed()) == 5


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
said = st.dictionaries(
    st.sampled_from(["token", "ask", "handover", "x"]),
    values
    | st.fixed_dictionaries(
        {"operator": st.just("ada") | values, "roles": st.lists(values) | values, "note": values}
    ),
    max_size=3,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | said.map(wire.encode))
@example(wire.encode({"ask": {**ASK, "roles": [{}]}}))
def test_no_request_takes_the_door_down_or_lets_anybody_in(hall, request):
    before = hall.council.stores[0].heads()
    answer = hall.ask(STRANGERS[0], request)
    assert answer["state"] in ("waiting", "refused")
    assert hall.council.stores[0].heads() == before


# --- open swarms ----------------------------------------------------------------------------------


def test_an_open_swarm_lets_researchers_in_with_one_voice_and_nobody_else(tmp_path):
    opened = Hall(tmp_path, admission="open")
    with closing(opened.council):
        for n, key in enumerate(STRANGERS[: MAX_OPEN_MEMBERS + 3]):
            opened.ask(key, {"ask": ASK}, ip=f"8.9.{n}.1")
        lines = opened.rules.admissions.values()
        assert len(lines) == MAX_OPEN_MEMBERS
        assert {one.operator for one in lines} == {"open"}
        assert (
            opened.ask(STRANGERS[90], {"ask": {**ASK, "roles": ["verifier"]}})["state"] == "waiting"
        )
        open_epoch(opened.council.stores[0], opened.council.keys[0])
        roster = opened.rules.current.roster.values()
        assert sum(one.slots for one in roster if one.operator == "open") == 4


def test_an_open_door_lets_in_a_few_of_a_subnet(tmp_path):
    opened = Hall(tmp_path, admission="open")
    with closing(opened.council):
        for n, key in enumerate(STRANGERS[:9]):
            opened.ask(key, {"ask": ASK}, ip=f"8.8.8.{n}")
        assert len(opened.rules.admissions) == 4


# --- handovers ------------------------------------------------------------------------------------


def handover(hall, old, new, proof=None):
    message = rotation_bytes(hall.council.swarm, old.public, new.public)
    signature = wire.sign((proof or new).private, message).signature
    record = hall.council.stores[1].append(old, Rotation(new.public, signature))
    return record.signed.to_bytes()


def test_the_heir_of_a_member_is_let_in_by_its_own_records(hall):
    old, new = hall.council.keys[1], STRANGERS[0]
    record = handover(hall, old, new)
    assert hall.ask(STRANGERS[1], {"handover": [record]})["state"] == "refused"
    assert hall.ask(new, {"handover": [record]})["state"] == "admitted"
    assert hall.rules.is_member(new.public)
    assert not hall.rules.is_member(old.public)


def test_a_handover_that_proves_nothing_changes_nothing(hall):
    old, new = hall.council.keys[1], STRANGERS[0]
    record = handover(hall, old, new, proof=old)
    for records in ([record], [], [b""], [b"x" * 70], [record[:-1]], [record] * 200):
        assert hall.ask(new, {"handover": records})["state"] == "refused"
    assert hall.rules.is_member(old.public)


def test_a_damaged_file_lets_nobody_in(hall):
    token = give(hall)
    (path,) = hall.homes[0].invitations.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert hall.ask(STRANGERS[0], {"token": token})["state"] == "refused"
    hall.ask(STRANGERS[0], {"ask": ASK})
    (path,) = (hall.homes[0].path / "requests").iterdir()
    request = msgspec.json.decode(path.read_bytes(), type=requests_module.Request)
    assert replace(request, state="ignored") != request
    path.write_bytes(b"{")
    assert hall.requests.listed() == []

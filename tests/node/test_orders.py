"""Orders to a node, running or not; pausing; changing a key, cut off anywhere."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from node import orders
from node.chores import PAUSED, PAUSED_UNTIL, Chores
from node.cli import main
from node.epochs import Changes, admit, open_epoch
from node.errors import NodeError, UsageError
from node.invitations import make_invitation
from node.journal import Journal
from node.member import Node
from node.orders import answer_all, named, submit
from node.report import show_status, summary
from node.rotation import rotate_key
from node.settings import Home, Settings
from node.times import clock
from swarm.addressbook import AddressBook
from swarm.addresses import parse_address
from swarm.envelope import seal_record
from swarm.errors import SwarmError
from swarm.feed import prove_equivocation
from swarm.joining import Invitation
from swarm.keys import KeyPair, peer_id, rotation_bytes, short
from swarm.log import SwarmLog
from swarm.records import Equivocation, Open, Rotation
from swarm.store import Store
from swarm.wire import sign
from tests.node.commands import lazaretto
from tests.node.councils import KEYS, Councils, line

ADDRESS = f"/ip4/192.0.2.7/tcp/4001/p2p/{peer_id(KEYS[0].public)}"


@pytest.fixture
def homes(tmp_path):
    """The homes of a governor, a verifier and somebody who was removed; none of them runs."""
    with closing(Councils(tmp_path, 3)) as council:
        store, keys = council.stores[0], council.keys
        lines = [line(keys[0], "us", "governor"), line(keys[1], "vera", "verifier")]
        open_epoch(store, keys[0], [*lines, line(keys[2], "mallory", "verifier")])
        gone = Changes(removed=((keys[2].public, "lies\x1b[2J\u202e"),))
        open_epoch(store, keys[0], changes=gone)
        council.spread()
    found = []
    for number, key in enumerate(keys):
        home = Home(tmp_path / f"home-{number}")
        home.create()
        key.save(home.key)
        shutil.copy(tmp_path / f"{number}.sqlite", home.log)
        home.save(Settings("n", council.swarm.hex(), "o", bootstrap=(ADDRESS,)))
        found.append(home)
    return found


def opened(home: Home) -> Store:
    return Store(home.log, home.load().swarm_id)


# --- orders ---------------------------------------------------------------------------------------


def test_an_order_is_carried_out_here_when_no_node_runs(homes):
    order = {"do": "open_epoch", "remove": [], "reason": "", "governors": [], "no_governors": [],
             "retired": [3], "instead": False}  # fmt: skip
    answer = submit(homes[0], order)
    assert (answer["epoch"], answer["members"]) == (3, 2)
    with opened(homes[0]) as store:
        assert 3 not in store.rules.current.active_folds
    with pytest.raises(NodeError, match="only a governor"):
        submit(homes[1], order)
    with pytest.raises(UsageError, match="a reason"):
        submit(homes[0], {**order, "remove": ["vera"]})
    with pytest.raises(UsageError, match="unknown order"):
        submit(homes[0], {"do": "format_the_disk"})


def test_a_running_node_answers_and_its_errors_come_through(homes, monkeypatch):
    monkeypatch.setattr(orders, "read_state", lambda home: None)
    done = threading.Event()

    def work(order):
        if order["do"] == "ask":
            raise UsageError("no such thing", cure="do something else")
        if order["do"] == "break":
            raise TypeError("an order with a wrong field")
        return {"heard": order["do"]}

    def run():
        while not done.wait(0.01):
            answer_all(homes[0], work)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert submit(homes[0], {"do": "say"}) == {"heard": "say"}
        with pytest.raises(NodeError, match="no such thing") as caught:
            submit(homes[0], {"do": "ask"})
        assert (caught.value.cure, caught.value.exit_code) == ("do something else", 2)
        with pytest.raises(NodeError, match="cannot be read"):
            submit(homes[0], {"do": "break"})
    finally:
        done.set()
        thread.join()
    assert list((homes[0].path / "orders").iterdir()) == []


def test_a_node_that_does_not_answer_leaves_no_order_behind(homes, monkeypatch):
    monkeypatch.setattr(orders, "read_state", lambda home: None)
    monkeypatch.setattr(orders, "WAIT_SECONDS", 0.1)
    with pytest.raises(NodeError, match="did not answer"):
        submit(homes[0], {"do": "say"})
    assert list((homes[0].path / "orders").iterdir()) == []


def test_somebody_is_named_by_id_its_end_or_operator():
    keys = {key.public: operator for key, operator in zip(KEYS, ["a", "b", "b"], strict=False)}
    name = peer_id(KEYS[1].public)
    for who in (name, name[-8:], KEYS[1].public.hex()):
        assert named(keys, who) == KEYS[1].public
    assert named(keys, "a") == KEYS[0].public
    for who in ("b", "", name[-3:], "nobody"):
        with pytest.raises(UsageError, match="fit"):
            named(keys, who)


def test_members_says_who_left_and_why_without_what_a_terminal_obeys(homes, capsys):
    assert main(["members", "--home", str(homes[1].path)]) == 0
    shown = capsys.readouterr().out
    assert "removed in epoch 2" in shown
    assert "lies?[2J?" in shown
    assert main(["members", "--json", "--home", str(homes[1].path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "lazaretto.members/1"
    assert [one["operator"] for one in facts["members"]] == ["us", "vera"] or len(
        facts["members"]
    ) == 2


# --- inviting -------------------------------------------------------------------------------------


def test_who_may_invite_whom(homes, monkeypatch):
    state = SimpleNamespace(addresses=(ADDRESS,))
    monkeypatch.setattr("node.invitations.read_state", lambda home: state)
    for home, operator, roles, granted in (
        (homes[0], "ada", ("verifier",), "verifier"),
        (homes[0], "ada", None, "researcher,verifier"),
        (homes[1], None, None, "researcher"),
        (homes[1], "vera", ("researcher",), "researcher"),
    ):
        text = make_invitation(home, operator=operator, roles=roles)
        assert Invitation.parse(text).role == granted
    for home, operator, roles in (
        (homes[0], None, None),
        (homes[0], "open", ("researcher",)),
        (homes[0], "Ada!", None),
        (homes[0], "ada", ("governor",)),
        (homes[1], "ada", None),
        (homes[1], None, ("verifier",)),
        (homes[2], None, None),
    ):
        with pytest.raises(UsageError) as caught:
            make_invitation(home, operator=operator, roles=roles)
        assert caught.value.cure


# --- the side work of a node ----------------------------------------------------------------------


def a_node(home: Home, store: Store, key: KeyPair):
    log = SwarmLog(store, key, lambda _: None)
    log.may_sign.set()
    return SimpleNamespace(
        home=home, log=log, key=key, settings=home.load(), changed=trio.Event(), activity="",
        trouble=print, journal=Journal(home.journal), data=None, peers=tuple, at_hand=(),
        finishing=False, ending="",
    )  # fmt: skip


async def test_a_pause_stops_the_work_and_outlives_a_restart(homes):
    with opened(homes[1]) as store:
        node = a_node(homes[1], store, KEYS[1])
        chores = Chores(node)
        working: list[str] = []

        async def loops() -> None:
            working.append("on")
            try:
                await trio.sleep_forever()
            finally:
                working.append("off")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chores.work, loops)
            await trio.testing.wait_all_tasks_blocked()
            for do in ("pause", "pause", "resume"):
                await trio.to_thread.run_sync(chores._carry_out, {"do": do})
                await trio.testing.wait_all_tasks_blocked()
                paused = do == "pause"
                assert (node.activity == PAUSED) == paused
                assert homes[1].load().start == ("paused" if paused else "running")
            nursery.cancel_scope.cancel()
    assert working == ["on", "off", "on", "off"]


async def test_a_timed_pause_ends_by_itself_also_over_a_restart(homes):
    answer = submit(homes[1], {"do": "pause", "seconds": 3600})
    assert answer["paused"]
    assert 3590 < answer["until"] - time.time() <= 3600
    assert homes[1].load().paused_until == answer["until"]
    with pytest.raises(UsageError, match="impossible"):
        submit(homes[1], {"do": "pause", "seconds": -5})
    with opened(homes[1]) as store:
        node = a_node(homes[1], store, KEYS[1])
        assert Chores(node)._why_paused() == PAUSED_UNTIL.format(clock(answer["until"]))
        orders.turn(homes[1], {"do": "pause", "seconds": 1})
        node = a_node(homes[1], store, KEYS[1])
        chores, worked = Chores(node), trio.Event()

        async def loops() -> None:
            worked.set()
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chores.work, loops)
            nursery.start_soon(chores.end_pause)
            await trio.testing.wait_all_tasks_blocked()
            assert not worked.is_set()
            with trio.fail_after(30):
                await worked.wait()
            nursery.cancel_scope.cancel()
    settings = homes[1].load()
    assert (settings.start, settings.paused_until) == ("running", 0)


def test_pause_for_and_status_say_until_when(homes, capsys):
    assert main(["pause", "--for", "2h", "--home", str(homes[1].path)]) == 0
    until = clock(homes[1].load().paused_until)
    assert f"paused until {until}" in capsys.readouterr().out
    assert main(["status", "--home", str(homes[1].path)]) == 0
    assert f"until {until}" in capsys.readouterr().out
    assert main(["pause", "--for", "2 hours", "--home", str(homes[1].path)]) == 2
    assert main(["resume", "--home", str(homes[1].path)]) == 0
    assert homes[1].load().paused_until == 0
    assert main(["finish", "--home", str(homes[1].path)]) == 3  # no node runs


async def test_finish_waits_for_what_is_at_hand_and_resume_takes_it_back(homes):
    with opened(homes[1]) as store:
        node = Node(homes[1], homes[1].load(), KEYS[1], store)
        chores, ended = Chores(node), trio.Event()

        async def run(task_status=trio.TASK_STATUS_IGNORED) -> None:
            with trio.CancelScope() as scope:
                task_status.started()
                await chores.finish(scope)
            ended.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            with node.doing("experiment"):
                answer = await trio.to_thread.run_sync(chores._carry_out, {"do": "finish"})
                assert answer == {"waits": ["the experiment at hand"]}
                assert not node.may_begin()
                await trio.testing.wait_all_tasks_blocked()
                assert node.ending == "finishing; waits for the experiment at hand"
                await trio.to_thread.run_sync(chores._carry_out, {"do": "resume"})
                assert node.may_begin()
            await trio.sleep(1.2)
            assert (node.ending, ended.is_set()) == ("", False)
            await trio.to_thread.run_sync(chores._carry_out, {"do": "finish"})
            with trio.fail_after(10):
                await ended.wait()


async def wait_for_epoch(store: Store, number: int) -> None:
    with trio.fail_after(30):
        while store.rules.number < number:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_a_sole_governor_opens_epochs_for_newcomers_and_not_too_often(homes):
    with opened(homes[0]) as store:
        node = a_node(homes[0], store, KEYS[0])
        node.settings = replace(node.settings, epoch_pause_s=10**6)
        chores = Chores(node)
        admit(store, KEYS[0], line(KEYS[3], "ada", "verifier"))
        assert chores.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chores.govern)
            await wait_for_epoch(store, 3)
            for number, key in enumerate(KEYS[4:6]):
                admit(store, KEYS[0], line(key, f"op-{number}", "verifier"))
            fired, node.changed = node.changed, trio.Event()
            fired.set()
            await trio.sleep(0.3)
            assert store.rules.number == 3
            assert not chores.ready()
            chores._next_epoch_at = 0.0  # the pause is over
            fired, node.changed = node.changed, trio.Event()
            fired.set()
            await wait_for_epoch(store, 4)
            assert len(store.rules.newest.roster) == 5
            nursery.cancel_scope.cancel()


async def test_no_epoch_opens_for_a_new_key_and_the_next_one_takes_it_in(homes, capsys):
    """Each epoch gives fresh slots, folds and benches: a member could have them opened at will."""
    with opened(homes[0]) as store:
        node = a_node(homes[0], store, KEYS[0])
        chores, old = Chores(node), KEYS[1]
        for new in KEYS[3:6]:
            proof = sign(new.private, rotation_bytes(store.swarm, old.public, new.public)).signature
            rotation = seal_record(
                old, Rotation(new.public, proof), swarm=store.swarm, epoch=2, day=20_000,
                seq=head.seq + 1 if (head := store.heads().get(old.public)) else 0,
                prev=head.id if head else None,
            )  # fmt: skip
            assert store.ingest([rotation.signed.to_bytes()]).new
            assert chores.ready()
            assert not chores._is_due(store.rules)
            old = new
    assert summary(homes[0])["waits_for_epoch"] == [peer_id(old.public)]
    show_status(homes[0], as_json=False)
    assert "no claims and no seats until the next epoch; lazaretto epoch open" in (
        capsys.readouterr().out
    )
    with opened(homes[0]) as store:
        chores = Chores(a_node(homes[0], store, KEYS[0]))
        admit(store, KEYS[0], line(KEYS[6], "ada", "verifier"))
        assert chores._is_due(store.rules)
        open_epoch(store, KEYS[0])
        assert {old.public, KEYS[6].public} <= set(store.rules.newest.roster)
    assert summary(homes[0])["waits_for_epoch"] == []


async def test_by_hand_means_by_hand(homes):
    homes[0].save(replace(homes[0].load(), open_epochs="hand"))
    with opened(homes[0]) as store:
        chores = Chores(a_node(homes[0], store, KEYS[0]))
        admit(store, KEYS[0], line(KEYS[3], "ada", "verifier"))
        assert not chores.ready()
        with trio.move_on_after(0.3):
            await chores.govern()
        assert store.rules.number == 2


# --- who told two stories -------------------------------------------------------------------------


def two_stories(store: Store, key: KeyPair) -> tuple[Equivocation, list[bytes]]:
    """A proof against ``key``, and the two records."""
    head = store.heads().get(key.public)
    branches = [
        seal_record(
            key, Open(b"e" * 32, name.ljust(32)), swarm=store.swarm, epoch=1, day=20_000,
            seq=head.seq + 1 if head else 0, prev=head.id if head else None,
        )
        for name in (b"one", b"two")
    ]  # fmt: skip
    proof = prove_equivocation(*branches)
    assert proof is not None
    return proof, [record.signed.to_bytes() for record in branches]


async def test_a_sole_governor_opens_an_epoch_without_who_told_two_stories(homes):
    with opened(homes[0]) as store:
        node = a_node(homes[0], store, KEYS[0])
        chores = Chores(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chores.govern)
            await trio.sleep(0.2)
            assert store.rules.number == 2  # nothing to do
            await node.log.ingest(two_stories(store, KEYS[1])[1], KEYS[1].public)
            await wait_for_epoch(store, 3)
            (gone,) = store.rules.newest.removals
            assert gone.key == KEYS[1].public
            (proof,) = store.of_kind(Equivocation.KIND)
            assert proof.id.hex()[:12] in gone.reason
            with trio.fail_after(30):
                while chores.ready():  # noqa: ASYNC110
                    await trio.sleep(0.02)  # the pause begins once the epoch is told
            assert not chores._is_due(store.rules)
            nursery.cancel_scope.cancel()


async def test_a_proof_waits_for_the_pause_between_epochs_and_for_a_hand(homes):
    with opened(homes[0]) as store:
        node = a_node(homes[0], store, KEYS[0])
        chores = Chores(node)
        chores._next_epoch_at = trio.current_time() + 10**6
        await node.log.ingest(two_stories(store, KEYS[1])[1], KEYS[1].public)
        assert chores._is_due(store.rules)
        with trio.move_on_after(0.3):
            await chores.govern()
        assert store.rules.number == 2
        node.settings = replace(node.settings, open_epochs="hand")
        chores._next_epoch_at = 0.0
        with trio.move_on_after(0.3):
            await chores.govern()
        assert store.rules.number == 2


async def test_a_sole_governor_who_told_two_stories_opens_no_epoch_for_that(homes):
    with opened(homes[0]) as store:
        node = a_node(homes[0], store, KEYS[0])
        store.append(KEYS[0], two_stories(store, KEYS[0])[0])
        node.log = SwarmLog(store, KEYS[0], lambda _: None)
        assert node.log.convicted == {KEYS[0].public}
        assert not Chores(node)._is_due(store.rules)


def test_people_see_who_told_two_stories_and_what_to_do(homes):
    calm = lazaretto("status", "--home", str(homes[0].path)).out
    assert "convicted" not in calm
    vera = peer_id(KEYS[1].public)
    for home, key in zip(homes[:2], KEYS, strict=False):
        with opened(home) as store:
            proof, branches = two_stories(store, KEYS[1])
            store.ingest(branches)
            if key is KEYS[0]:
                said = store.append(KEYS[0], proof)
            else:
                store.ingest([said.signed.to_bytes()])
    short_proof = said.id.hex()[:12]
    for home, command in ((homes[0], "epoch open"), (homes[1], "members")):
        where = str(home.path)
        facts = json.loads(lazaretto("members", "--json", "--home", where).out)
        lines = {one["operator"]: one["told_two_stories"] for one in facts["members"]}
        assert lines == {"us": None, "vera": said.id.hex()}
        (shown,) = [
            one for one in lazaretto("members", "--home", where).out.splitlines() if "vera" in one
        ]
        assert f"told two stories, proof {short_proof}" in shown
        status = json.loads(lazaretto("status", "--json", "--home", where).out)
        assert status["told_two_stories"] == [{"id": vera, "proof": said.id.hex(), "stays": False}]
        (shown,) = [
            one
            for one in lazaretto("status", "--home", where).out.splitlines()
            if one.startswith("convicted")
        ]
        assert f"proof {short_proof}" in shown
        assert shown.endswith(f"lazaretto {command} --home {where}")
    done = lazaretto("epoch", "open", "--home", str(homes[0].path))
    assert f"removes {short(vera)}: told two stories, proof {short_proof}" in done.out
    assert "convicted" not in lazaretto("status", "--home", str(homes[0].path)).out
    assert "told two stories" in lazaretto("members", "--home", str(homes[0].path)).out


def test_status_and_epoch_open_say_that_a_sole_governor_stays(homes):
    where = str(homes[0].path)
    with opened(homes[0]) as store:
        store.append(KEYS[0], two_stories(store, KEYS[0])[0])
    (shown,) = [
        one
        for one in lazaretto("status", "--home", where).out.splitlines()
        if one.startswith("convicted")
    ]
    assert "this node told two stories" in shown
    assert "epoch open --governor WHO" in shown
    done = lazaretto("epoch", "open", "--home", where)
    assert done.code == 0
    assert "it governs, and stays" in done.out


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["save", "append", "link", "replace"])
def test_a_change_of_key_goes_on_where_it_was_cut_off(homes, monkeypatch, cut):
    home = homes[1]
    places = {
        "save": (KeyPair, "save"), "append": (Store, "append"), "link": (os, "link"),
        "replace": (os, "replace"),
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(*places[cut], lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rotate_key(home)
    assert KeyPair.load(home.key) == KEYS[1]
    old, new = rotate_key(home)
    assert old == peer_id(KEYS[1].public)
    assert peer_id(KeyPair.load(home.key).public) == new
    with opened(home) as store:
        assert store.rules.rotated == {KEYS[1].public: KeyPair.load(home.key).public}
        with pytest.raises(SwarmError):
            store.append(KEYS[1], next(iter(store.records()))[1].payload)
    assert not (home.path / "key.new").exists()


def test_a_key_is_not_changed_where_the_swarm_could_not_follow(homes):
    homes[1].save(replace(homes[1].load(), bootstrap=()))
    with pytest.raises(UsageError, match="no address of others"):
        rotate_key(homes[1])
    with pytest.raises(UsageError, match="no member"):
        rotate_key(homes[2])
    with opened(homes[1]) as store:
        assert not store.rules.rotated
    book = AddressBook(homes[1].path / "peers")
    book.reached(parse_address(ADDRESS))
    book.save()
    rotate_key(homes[1])  # it has met somebody

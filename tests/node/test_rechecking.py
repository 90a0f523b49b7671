"""Sealed weights scored again: real training, a member that invents a number, real libp2p."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from node import reproducing
from node.claiming import sign_claim
from node.cli import main
from node.data import Data, describe
from node.demo.local import LocalNode, Part
from node.epochs import open_epoch
from node.member import Node
from node.network import open_network
from node.recheck_table import recheck_here
from node.rechecking import NOT_TO_BE_HAD, rescore
from node.report import Held
from node.settings import Limits
from node.trials import Trials
from node.upkeep import is_due, upkeep_forever
from node.verifying import verify_forever
from swarm.blobs import BlobStore
from swarm.keys import KeyPair, peer_id, short
from swarm.records import Block, Contradiction, Seal, Upkeep
from swarm.store import Store
from tests.node.tiny import BETTER, FOLDS, tiny_swarm
from training import sandbox
from training.errors import SandboxUnavailable
from verification.folds import MOST_USES
from verification.rechecks import recheck_of, settled_blocks
from verification.states import CLOSED, Stage

pytestmark = pytest.mark.sandbox

INVENTED = 200_000_000
PARTS = {
    "ada": ("researcher", "governor"),
    "mallory": ("verifier",),
    "vera": ("archivist",),
}
LIMITS = Limits(recheck_share_milli=1000)


@asynccontextmanager
async def up(home, bootstrap=()):
    """A node of this home in this process: log, network, fold; its loops are the test's affair."""
    settings, key = replace(home.load(), bootstrap=tuple(bootstrap)), KeyPair.load(home.key)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(home.log, settings.swarm_id))
        node = Node(home, settings, key, store)
        network = await stack.enter_async_context(open_network(home, settings, key, node.log))
        node.peers, node.fetch = network.transport.peers, network.fetch
        node.data = Data(describe(store.rules.charter), node.blobs)
        node.log.may_sign.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.keep_folding)
            await node.caught_up()
            yield node, list(network.transport.addresses)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def working(*loops):
    async with trio.open_nursery() as nursery:
        for loop, node in loops:
            nursery.start_soon(loop, node)
        yield
        nursery.cancel_scope.cancel()


async def until(node, ready, seconds=120):
    with trio.fail_after(seconds):
        while not ready(await node.caught_up()):
            await node.changed.wait()


async def claim(node, slot=0) -> bytes:
    """A true claim of the researcher."""
    trials = Trials(node, None, await node.code_of(None))
    return await sign_claim(node, trials, BETTER, "a larger step", "test", (), 1000, slot)


def _done(home, kind):
    try:
        done = json.loads((home.work / "upkeep.json").read_text())["done"]
    except FileNotFoundError:
        return []
    return [thing for thing in done if thing.startswith(f"{kind} ")]


def upkeep_of(node, key):
    records = [record for _, record in node.log.store.records() if record.author == key]
    return [record.payload for record in records if isinstance(record.payload, Upkeep)]


def contradictions(node):
    return [r for _, r in node.log.store.records() if isinstance(r.payload, Contradiction)]


def invent(monkeypatch, wanted=lambda count: True):
    """From now on whoever publishes a pair says that the candidate is better than it is."""
    honest, count = reproducing.pair_of, []

    def pair_of(result, fold):
        pair = honest(result, fold)
        count.append(pair)
        if not wanted(len(count)):
            return pair
        return replace(
            pair,
            candidate_nano=pair.candidate_nano - INVENTED,
            d_nano=pair.d_nano + INVENTED,
        )

    monkeypatch.setattr(reproducing, "pair_of", pair_of)


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A decided claim whose verifier lied in its second block: homes, claim, lying block."""
    homes = tiny_swarm(
        tmp_path_factory.mktemp("settled"), PARTS, LIMITS, n=1, max_pairs=6, effect_pairs=0
    )
    with pytest.MonkeyPatch.context() as patch:
        invent(patch, lambda count: count == 2)
        found = trio.run(_settle, homes)
    return homes, *found


async def _settle(homes):
    async with up(homes["ada"]) as (ada, addresses), up(homes["mallory"], addresses) as (mal, _):
        one = await claim(ada)
        async with working((verify_forever, mal)):
            await until(ada, lambda state: state.claims[one].stage in CLOSED)
        blocks = [
            (record.envelope.seq, record.id)
            for _, record in ada.log.store.records()
            if isinstance(record.payload, Block)
        ]
        return one, sorted(blocks)[1][1]


def of_claim(node, one):
    state = node.state.claims[one]
    return [
        recheck_of(node.state, state, item, node.log.store.get) for item in settled_blocks(state)
    ]


async def test_an_invented_number_becomes_a_contradiction_over_the_network(settled):
    """Vera holds no weights: she fetches them from mallory, and mallory hears what she says."""
    homes, one, lie = settled
    async with (
        up(homes["mallory"]) as (mallory, addresses),
        up(homes["vera"], addresses) as (vera, _),
    ):
        await until(vera, lambda state: one in state.claims and state.claims[one].stage in CLOSED)
        before = vera.state.claims
        async with working((upkeep_forever, vera)):
            await until(mallory, lambda _: bool(contradictions(mallory)))
            count = len(settled_blocks(vera.state.claims[one]))
            adopted = vera.state.claims[one].stage is Stage.ADOPTED
            kinds = {"recheck", "audit", "store"} if adopted else {"recheck"}
            with trio.fail_after(120):
                while len(_done(vera.home, "recheck")) < count:  # noqa: ASYNC110
                    await trio.sleep(0.1)
                while not all(_done(vera.home, kind) for kind in kinds):  # noqa: ASYNC110
                    await trio.sleep(0.1)
                while not upkeep_of(mallory, vera.key.public):  # noqa: ASYNC110
                    await trio.sleep(0.1)
        (record,) = contradictions(mallory)
        said = record.payload
        assert (record.author, said.target) == (vera.key.public, lie)
        assert said.margin_nano == INVENTED  # to the nano: one machine, one version of torch
        (told, *_) = upkeep_of(mallory, vera.key.public)  # the first; the rest waits for its time
        hearsay, blocks = mallory.hearsay, {item.block for item in of_claim(vera, one)}
        assert set(told.rescored) | set(told.stored) <= blocks
        assert lie not in told.rescored
        heard = [(hearsay.rescored, told.rescored), (hearsay.audited, told.audited)]
        said_of = [words.who(thing) for words, things in heard for thing in things]
        assert set(said_of) == {("vera",)}
        assert await mallory.caught_up()
        assert vera.state.claims == before  # a word, not a verdict
        # she is an archivist: what she fetched stays with her
        for item in of_claim(vera, one):
            assert vera.blobs.has(item.base_weights)
            assert vera.blobs.has(item.candidate_weights)
        # and after a restart she does not look again, nor say it twice
        async with working((upkeep_forever, vera)):
            await trio.sleep(1)
        assert len(contradictions(vera)) == 1
    _is_shown(homes["vera"], one, lie)


def _is_shown(home, one, lie):
    held = Held(home)
    mallory = next(r.author for r in held.records if isinstance(r.payload, Block))
    (shown,) = held.describe(held.state.claims[one])["contradictions"]
    assert shown["block"] == lie.hex()
    assert shown["member"] == peer_id(mallory)
    assert (shown["by"], shown["margin_bpb"]) == (peer_id(held.key), INVENTED / 1e9)


def test_commands_show_who_contradicts_whom(settled, capsys):
    homes, one, _ = settled
    where = ["--home", str(homes["vera"].path)]
    assert main(["discoveries", *where]) == 0
    shown = capsys.readouterr().out
    assert "contradicted: claim" in shown
    assert f"by {short(Held(homes['vera']).key)}" in shown
    assert "no verdict is changed" in shown
    assert main(["status", *where]) == 0
    shown = capsys.readouterr().out
    assert "1 blocks of" in shown
    assert "10 active" in shown
    assert main(["audit", one.hex(), *where, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert len(facts["contradictions_that_change_no_verdict"]) == 1


async def test_honest_blocks_agree_to_the_nano(settled):
    homes, one, lie = settled
    async with up(homes["mallory"]) as (mallory, _):
        items = of_claim(mallory, one)
        honest = next(item for item in items if item.block != lie)
        finding, found = await rescore(mallory, honest)
        assert (finding.verdict, finding.margin_nano) == ("agrees", 0)
        assert found.status == "ok"


async def test_weights_that_are_larger_than_the_tier_allows_are_not_fetched(settled, monkeypatch):
    homes, one, lie = settled
    monkeypatch.setattr("node.rechecking.size_cap", lambda tier: 1000)
    async with (
        up(homes["mallory"]) as (_, addresses),
        up(homes["ada"], addresses) as (ada, _),
    ):
        with trio.fail_after(30):
            while not list(ada.peers()):  # noqa: ASYNC110
                await trio.sleep(0.05)
        item = next(item for item in of_claim(ada, one) if item.block == lie)
        finding, _ = await rescore(ada, item)
        assert (finding.verdict, finding.reason) == ("unsure", NOT_TO_BE_HAD)


async def test_weights_that_nobody_has_are_no_contradiction(settled):
    homes, one, _ = settled
    async with up(homes["ada"]) as (ada, _):  # alone, and without weights
        (item, *_) = of_claim(ada, one)
        finding, found = await rescore(ada, item)
        assert (finding.verdict, finding.reason, found) == ("unsure", NOT_TO_BE_HAD, None)
        assert not any(record.author == ada.key.public for record in contradictions(ada))


async def test_what_was_fetched_only_to_be_checked_is_removed_again(settled, monkeypatch):
    homes, one, lie = settled
    async with up(homes["ada"]) as (ada, _):
        source = BlobStore(homes["mallory"].blobs)

        async def fetch(digest, cap, likely):
            assert likely == item.member
            return ada.blobs.path(ada.blobs.put(source.get(digest, cap)))

        ada.fetch = fetch
        item = next(item for item in of_claim(ada, one) if item.block == lie)
        finding, _ = await rescore(ada, item)
        assert (finding.verdict, finding.margin_nano) == ("contradicts", INVENTED)
        assert not ada.blobs.has(item.candidate_weights)


HOSTILE = {
    "no weights at all": b"\xff" * 100,
    "a header without an end": b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", [*HOSTILE, "weights of another model"])
async def test_hostile_weights_are_found_out_and_hurt_nobody(settled, kind):
    """A member that sealed such bytes said that they score well."""
    homes, one, lie = settled
    async with up(homes["mallory"]) as (mallory, _):
        item = next(item for item in of_claim(mallory, one) if item.block != lie)
        if kind in HOSTILE:
            data = HOSTILE[kind]
        else:
            from training.weights import TensorBytes, pack

            data = pack([TensorBytes("table.weight", "F32", (4, 4), bytes(64))])
        digest = mallory.blobs.put(data)
        finding, found = await rescore(mallory, replace(item, candidate_weights=digest))
        assert finding.verdict == "contradicts"
        assert found.status == "bad_weights"


async def test_without_a_sandbox_nothing_is_loaded(settled, monkeypatch):
    homes, one, _ = settled

    def nowhere(*_args, **_more):
        raise SandboxUnavailable("there is no sandbox here", cure="install bubblewrap")

    async with up(homes["vera"]) as (vera, _):
        monkeypatch.setattr(sandbox, "require", nowhere)
        monkeypatch.setattr("training.evaluator.Sandbox", nowhere)
        (vera.home.work / "upkeep.json").unlink(missing_ok=True)
        async with working((upkeep_forever, vera)):
            with trio.fail_after(20):
                while "no sandbox" not in vera.home.journal.read_text():  # noqa: ASYNC110
                    await trio.sleep(0.05)
                while not _done(vera.home, "store"):  # noqa: ASYNC110 (she still keeps weights)
                    await trio.sleep(0.05)
        assert not _done(vera.home, "recheck")
        (item, *_) = of_claim(vera, one)
        with pytest.raises(SandboxUnavailable):
            await rescore(vera, item)


async def test_a_reproduction_goes_first(settled, monkeypatch):
    """The loop starts nothing while a bench waits for us, and drops what it does when one does."""
    homes, _, _ = settled
    due, started, ended = [True], trio.Event(), trio.Event()

    async def slow(node, item):
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    monkeypatch.setattr("node.upkeep.due", lambda state, key: int(due[0]))
    monkeypatch.setattr("node.upkeep.rescore", slow)
    async with up(homes["vera"]) as (vera, _):
        (vera.home.work / "upkeep.json").unlink(missing_ok=True)
        async with working((upkeep_forever, vera)):
            await trio.sleep(1)
            assert not started.is_set()
            due[0] = False
            await vera.fold_heard()
            with trio.fail_after(20):
                await started.wait()
            due[0] = True
            await vera.fold_heard()
            with trio.fail_after(20):
                await ended.wait()


async def test_whose_turn_it_is_has_a_reproduction_due(tmp_path):
    homes = tiny_swarm(tmp_path, PARTS, LIMITS, n=1)
    async with up(homes["ada"]) as (ada, _), up(homes["mallory"]) as (mallory, _):
        one = await claim(ada)
        await mallory.log.ingest(
            ada.log.store.records_after(ada.key.public, -1, 100, 2**20), ada.key.public
        )
        assert not is_due(await mallory.caught_up(), mallory.key.public)
        sealed = trio.Event()

        async def advance(node, duty, hw_class):
            sealed.set()
            await trio.sleep_forever()

        async with working((partial(verify_forever, advance=advance), mallory)):
            with trio.fail_after(60):
                await sealed.wait()
            assert is_due(await mallory.caught_up(), mallory.key.public)
            assert not is_due(mallory.state, ada.key.public)
        assert one in mallory.state.claims


@pytest.mark.slow
def test_a_running_node_does_it_by_itself(settled):
    """``lazaretto up``, as it is started by people: two processes that have only each other."""
    homes, _, lie = settled
    nodes = [LocalNode(Part(name, PARTS[name]), homes[name]) for name in ("mallory", "vera")]
    mallory, vera = nodes
    (vera.home.work / "upkeep.json").unlink(missing_ok=True)
    kept: list[bytes] = []
    for digest in {path.name for path in (vera.home.blobs).glob("??/*")}:
        if (mallory.home.blobs / digest[:2] / digest).stat().st_size > 200_000:  # the weights
            kept.append(BlobStore(vera.home.blobs).get(bytes.fromhex(digest)))
            BlobStore(vera.home.blobs).remove(bytes.fromhex(digest))
    before = vera.home.load()
    vera.new_entries()  # what the tests before have written
    found: list[dict] = []
    try:
        mallory.start()
        vera.home.save(replace(before, bootstrap=mallory.wait_started().addresses))
        vera.start()
        deadline = time.monotonic() + 120
        while not any(entry["verdict"] == "contradicts" for entry in found):
            assert time.monotonic() < deadline, vera.last_output()
            found += [entry for entry in vera.new_entries() if _of_now(entry, lie)]
            time.sleep(0.2)
    finally:
        for node in nodes:
            node.kill()
        vera.home.save(before)
        for weights in kept:  # for the tests that follow
            BlobStore(vera.home.blobs).put(weights)
    assert {(entry["block"], entry["margin_bpb"]) for entry in found} == {(lie.hex(), 0.2)}


def _of_now(entry, lie):
    return entry["what"] == "rechecked" and entry["block"] == lie.hex()


def test_a_worn_fold_is_left_out_of_the_next_epoch(tmp_path, monkeypatch):
    home = tiny_swarm(tmp_path, {"ada": ("researcher", "governor")})["ada"]
    key = KeyPair.load(home.key)
    with Store(home.log, home.load().swarm_id) as store:
        assert store.rules.current.active_folds == tuple(range(FOLDS))
        open_epoch(store, key, store.rules.current.roster.values())
        assert store.rules.current.active_folds == tuple(range(FOLDS))
        monkeypatch.setattr("node.epochs.fold_uses", lambda state: {3: MOST_USES})
        open_epoch(store, key, store.rules.current.roster.values())
        assert store.rules.current.number == 3
        assert set(range(FOLDS)) - set(store.rules.current.active_folds) == {3}


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch):
    """Nobody is there who could have our own feed; do not wait for them."""
    monkeypatch.setattr("node.service.OWN_FEED_SECONDS", 0.1)


def silent(*_args):
    """No progress."""


def test_recheck_prints_what_was_said_and_what_was_found(settled, alone, capsys):
    homes, one, lie = settled
    home, said = homes["vera"], []
    code = recheck_here(home, one.hex()[:12], as_json=True, say=said.append, stage=silent)
    assert code == 4
    rows = json.loads(capsys.readouterr().out)["blocks"]
    assert [row["verdict"] for row in rows if row["block"] == lie.hex()] == ["contradicts"]
    assert {row["verdict"] for row in rows if row["block"] != lie.hex()} == {"agrees"}
    (row,) = (row for row in rows if row["block"] == lie.hex())
    assert row["margin_nano"] == INVENTED
    assert row["signed"] is False  # the loop has signed it before
    assert row["found"]["candidate_nano"] == row["said"]["candidate_nano"] + INVENTED
    assert recheck_here(home, one.hex(), as_json=False, say=said.append, stage=silent) == 4
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == [
        "position", "member", "said", "found", "difference", "verdict", "why",
    ]  # fmt: skip
    assert "+0.200000" in table
    assert "changes no verdict" in said[-1]


def test_recheck_without_the_weights_is_incomplete(settled, alone, capsys):
    homes, one, _ = settled
    assert main(["recheck", one.hex(), "--home", str(homes["ada"].path)]) == 5
    assert NOT_TO_BE_HAD in capsys.readouterr().out
    assert main(["recheck", "0" * 12, "--home", str(homes["ada"].path)]) == 5
    assert main(["recheck", "xyz", "--home", str(homes["ada"].path)]) == 2


def test_seals_are_of_real_weights(settled):
    homes, _, _ = settled
    held, blobs = Held(homes["mallory"]), BlobStore(homes["mallory"].blobs)
    seals = [r.payload for r in held.records if isinstance(r.payload, Seal)]
    assert len(seals) >= 2
    assert all(blobs.has(seal.base_weights) and blobs.has(seal.candidate_weights) for seal in seals)

"""A peer that shares no code with ours: js-libp2p on Node.js, as a member and as an attacker."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from node.governing import new_member
from node.network import Network, open_network
from node.settings import Home, Settings
from swarm.blobs import PROTOCOL as BLOB
from swarm.keys import KeyPair, peer_id
from swarm.liveness import PROTOCOL as ALIVE
from swarm.log import SwarmLog
from swarm.records import Beacon, Open
from swarm.store import Store
from swarm.sync import PROTOCOL as SYNC
from tests.interop import javascript
from tests.swarm.founding import SECRET, Feed, founder_key, make_charter, make_epoch
from tests.swarm.network import eventually, seed

HOSTILE = [f"evil {number}" for number in range(20)]


@dataclass
class Ours:
    """One of our nodes, over the network that the service opens."""

    log: SwarmLog
    network: Network
    home: Home

    @property
    def address(self) -> str:
        return self.network.transport.addresses[0]

    def holds(self, record: str) -> bool:
        return self.log.store.get(bytes.fromhex(record)) is not None


class Swarm:
    """A founded swarm of our nodes "one" and "two", the peer "js" and the members in HOSTILE."""

    def __init__(self) -> None:
        founder = Feed(founder_key(), b"")
        founder.swarm = founder.say(make_charter()).id
        self.id = founder.swarm
        members = [
            new_member(
                key(name).public,
                name.replace(" ", "-"),
                ["verifier"],
                founder_key().public,
                ["quick"],
            )
            for name in ("one", "two", "js", *HOSTILE)
        ]
        self.epoch = founder.say(make_epoch(self.id, members))
        founder.say(Beacon(self.epoch.id, SECRET))
        self.records = [record.signed.to_bytes() for record in founder.records]

    @asynccontextmanager
    async def node(self, name: str, folder, bootstrap: tuple[str, ...] = ()):
        home = Home(folder / name)
        home.create()
        with Store(home.log, self.id) as store:
            store.ingest(self.records)
            log = SwarmLog(store, key(name), lambda _: None)
            log.may_sign.set()
            settings = Settings(name, self.id.hex(), name, bootstrap=bootstrap)
            async with open_network(home, settings, key(name), log) as network:
                yield Ours(log, network, home)


def key(name: str) -> KeyPair:
    return KeyPair.from_seed(seed(name))


def said(number: int) -> Open:
    return Open(bytes([number]) * 32, bytes(32))


@pytest.fixture(scope="module")
def libraries() -> None:
    javascript.install()


@asynccontextmanager
async def member(swarm: Swarm, ours: Ours):
    """The peer, once it is in our node's mesh."""
    async with javascript.run(
        "member.js", seed=seed("js").hex(), swarm=swarm.id.hex(), address=ours.address
    ) as peer:
        await peer.until(lambda peer: {"joined": peer_id(key("js").public)} in peer.news)
        await eventually(lambda: ours.network.transport.hears(key("js").public))
        yield peer


async def serves(ours: Ours, peer, content: bytes) -> None:
    """The peer hears what we say, pulls our feeds, fetches a blob; we hear what it says."""
    heads = ours.log.store.heads()
    said_before, own = heads.get(ours.log.key.public), heads.get(key("js").public)
    record = await ours.log.append(said(said_before.seq + 1 if said_before else 0))
    news = {
        "id": record.id.hex(),
        "author": record.author.hex(),
        "seq": record.envelope.seq,
        "kind": "open",
    }
    await peer.until(lambda peer: {"news": news} in peer.news)

    held = {found.id.hex() for _, found in ours.log.store.records()}
    pulled = await peer.ask("pull")
    assert {found["id"] for found in pulled} == held
    assert news in pulled

    digest = await trio.to_thread.run_sync(ours.network.blobs._store.put, content)
    blob = await peer.ask("blob", digest=digest.hex(), offset=len(content) // 3)
    assert blob == {"size": len(content), "right": True, "tail": True}

    spoken = await peer.ask(
        "publish",
        seq=own.seq + 1 if own else 0,
        prev=own.id.hex() if own else None,
        epoch=1,
        payload=os.urandom(32).hex(),
    )
    await eventually(lambda: ours.holds(spoken["id"]), 60)


def test_the_lock_file_names_no_registry():
    lock = json.loads((javascript.HERE / "package-lock.json").read_text())
    packages = [package for path, package in lock["packages"].items() if path]
    assert all("integrity" in package and "resolved" not in package for package in packages)


@pytest.mark.usefixtures("libraries")
async def test_a_javascript_member_takes_part(tmp_path):
    swarm = Swarm()
    async with swarm.node("one", tmp_path) as one, member(swarm, one) as peer:
        await serves(one, peer, os.urandom(700_000))
        await serves(one, peer, b"")
        assert one.network.transport.penalties.points(key("js").public) == 0


@pytest.mark.usefixtures("libraries")
async def test_garbage_from_javascript_costs_its_senders_and_nothing_else(tmp_path):
    swarm = Swarm()
    async with (
        swarm.node("one", tmp_path) as one,
        swarm.node("two", tmp_path, (one.address,)) as two,
        member(swarm, one) as peer,
    ):
        record = await one.log.append(said(0))
        await eventually(lambda: two.holds(record.id.hex()))
        blamed = blames_of(one)
        async with javascript.run(
            "attacker.js",
            address=one.address,
            swarm=swarm.id.hex(),
            seeds=[seed(name).hex() for name in HOSTILE],
            record=record.signed.to_bytes().hex(),
        ) as attacker:
            await attacker.until(lambda attacker: {"done": True} in attacker.news, 180)
            offered, *attacks, _ = attacker.news
            assert {attack["protocol"] for attack in attacks} >= set(offered["protocols"])
            assert {SYNC, BLOB, ALIVE} <= set(offered["protocols"])
            assert all(attack["outcomes"] for attack in attacks)
            costly = [one for one in attacks if not one["protocol"].startswith("/ipfs/")]
            for attack in costly:
                with trio.move_on_after(60):
                    await eventually(lambda key=attack["key"]: key in blamed, 90)
                assert attack["key"] in blamed, attack
            await attacker.end()
        await serves(one, peer, os.urandom(300_000))
        assert blamed <= {key(name).public.hex() for name in HOSTILE}
        last = await two.log.append(said(1))
        await eventually(lambda: one.holds(last.id.hex()))
        spoke = {founder_key(), *map(key, ("one", "two", "js"))}
        assert set(one.log.store.heads()) == {pair.public for pair in spoke}


def blames_of(ours: Ours) -> set[str]:
    """The keys, in hex, of whoever costs itself penalty points from now on."""
    blamed: set[str] = set()
    penalties = ours.network.transport.penalties
    add = penalties.add

    def watched(key: bytes, reason: str, points: float = 1.0) -> bool:
        blamed.add(key.hex())
        return add(key, reason, points)

    penalties.add = watched
    return blamed

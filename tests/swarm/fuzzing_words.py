"""What a peer says in one piece, as targets: questions and answers, gossip, the door, mDNS.

The door and its answers are the node's: strangers reach them over the network.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import trio
from libp2p.io.exceptions import IOException
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_varint_prefixed
from zeroconf import ServiceInfo

from node.knocking import _parse
from swarm import wire
from swarm.addressbook import MAX_KEYS, AddressBook
from swarm.addresses import parse_address
from swarm.discovery import MAX_TOLD, Discovery, addresses_in
from swarm.discovery import PROTOCOL as PEERS
from swarm.gossip import Gossip
from swarm.joining import PROTOCOL as JOIN
from swarm.joining import Joining
from swarm.keys import KeyPair, peer_id
from swarm.lan import SERVICE, announced, tag_of
from swarm.liveness import PROTOCOL as ALIVE
from swarm.liveness import Liveness
from swarm.log import SwarmLog
from swarm.safe_libp2p import peer_id_of
from swarm.safe_pubsub import SafePubsub, build_router
from swarm.store import Store
from tests.node.test_door import ASK, STRANGERS, Hall, give, handover
from tests.swarm.founding import make_founded
from tests.swarm.fuzzing_stubs import HOST, KEY, TOPIC, BytesStream, StubTransport

PEER = KeyPair.from_seed(b"peer".ljust(32, b"."))
PEER_ID = peer_id_of(PEER.public)
PEER_KEY = PEER_ID.extract_public_key().serialize()
TAG = tag_of(b"s" * 32)
FOUNDED = make_founded()


def _unlimited(*buckets) -> None:
    for bucket in buckets:
        bucket._rate = bucket._burst = 1e12


class Peers:
    """``/lazaretto/peers/1``: a question to this node, and the answer to one of its own."""

    def __init__(self) -> None:
        self._transport, self._book = StubTransport(), AddressBook()
        self._discovery = Discovery(self._transport, self._book)
        _unlimited(self._discovery._rate)

    def question(self, data: bytes) -> None:
        answer = trio.run(self._transport.responders[PEERS], PEER.public, data)
        addresses_in(answer, MAX_TOLD)
        assert len(self._book) <= MAX_KEYS

    def answer(self, data: bytes) -> None:
        self._transport.answer = data
        assert trio.run(self._discovery.ask, PEER.public) <= MAX_TOLD
        assert len(self._book) <= MAX_KEYS


class Alive:
    """``/lazaretto/alive/1``, asked and answered; sixteen bytes are all that is read."""

    def __init__(self) -> None:
        self._transport = StubTransport()
        self._liveness = Liveness(self._transport, 10.0, 2)

    def __call__(self, data: bytes) -> None:
        self._transport.answer = data[:16]
        trio.run(self._both, data[:16])

    async def _both(self, data: bytes) -> None:
        self._liveness._due[PEER.public] = 0.0
        assert len(await self._transport.responders[ALIVE](PEER.public, data)) == 9
        assert await self._liveness._good(PEER.public) == (data[:1] == b"\x01")
        ahead = self._liveness.clock_ahead()
        assert ahead is None or abs(ahead) <= 1e9


class Door:
    """The join door of a governor: what it answers is always understood, and lets nobody in for
    nothing. Each input comes from a key of its own, but for the one to which a key was handed over.
    """

    def __init__(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self._folder, self._hall = folder, Hall(Path(folder.name))
        keys = self._hall.council.keys
        self.token = give(self._hall, uses=100)
        self.rotation = handover(self._hall, keys[1], STRANGERS[0], proof=keys[1])
        self._transport = StubTransport()
        joining = Joining(self._transport, self._hall.doors[0].answer)
        _unlimited(joining._each, joining._subnets, joining._all)

    def __call__(self, data: bytes) -> None:
        peer = KeyPair.from_seed(hashlib.sha256(data).digest())
        if b"handover" in data:
            peer = STRANGERS[0]
        answer = wire.decode(trio.run(self._transport.responders[JOIN], peer.public, data))
        assert _parse(PEER.public, answer) is not None
        assert answer["state"] != "admitted" or self.token in data


def join_answer(data: bytes) -> None:
    found = _parse(PEER.public, wire.decode(data))
    assert found is None or (found.reason + found.name).isprintable()


def announcement(data: bytes) -> None:
    """The text of an mDNS service, as the library reads it from a datagram."""
    info = ServiceInfo(SERVICE, f"x.{SERVICE}", port=1, properties=data)
    for address in announced(info.properties, TAG):
        assert parse_address(str(address)) == address


class Messages:
    """An RPC of gossip, as the reader takes it; half of the messages in it are signed anew."""

    def __init__(self) -> None:
        self._router = build_router()
        self._pubsub = SafePubsub(
            HOST,
            self._router,
            topic=TOPIC,
            admits=lambda _: True,
            accept=self._accept,
            blame=lambda *_: None,
        )
        self._pubsub._manager = SimpleNamespace(is_running=True, run_task=lambda *_: None)
        self._router.mesh[TOPIC] = set()
        _unlimited(self._pubsub._rpc_rate)
        self.taken = 0

    async def _accept(self, forwarder: bytes, origin: bytes, data: bytes) -> bool:
        assert forwarder == PEER.public
        assert len(origin) == 32
        self.taken += 1
        return True

    def __call__(self, data: bytes) -> None:
        rpc = rpc_pb2.RPC()
        rpc.ParseFromString(data)
        if len(data) % 2:
            for message in rpc.publish:
                _sign(message)
        trio.run(self._read, rpc.SerializeToString())

    async def _read(self, data: bytes) -> None:
        stream = BytesStream(encode_varint_prefixed(data), 1 + len(data) % 977)
        with suppress(ValueError, IOException):  # what its sender pays for; the stream's end
            await self._pubsub._read_rpcs(stream, PEER_ID, PEER.public)
        self._router.mcache.shift()
        self._pubsub.seen_messages.cache.clear()
        assert set(self._router.mesh) == {TOPIC}
        assert set(self._pubsub.peer_topics) <= {TOPIC}


class Records:
    """The data of a gossip message that was sound: a record, or anything."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        store = Store(Path(self._folder.name) / "log.sqlite", FOUNDED.swarm)
        log = SwarmLog(store, KEY, lambda _: None)
        repair = SimpleNamespace(fetch_soon=lambda *_: None)
        self._transport = StubTransport()
        gossip = Gossip(self._transport, log, repair)
        _unlimited(gossip._peers, gossip._origins)

    def __call__(self, data: bytes) -> None:
        trio.run(self._transport.accept, PEER.public, KEY.public, data)


def _sign(message) -> None:
    message.ClearField("signature")
    message.ClearField("key")
    payload = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = PEER.private.sign(payload)
    message.key = PEER_KEY


def _message(number: int):
    message = rpc_pb2.Message(
        data=b"x" * 90,
        topicIDs=[TOPIC],
        from_id=PEER_ID.to_bytes(),
        seqno=number.to_bytes(8, "big"),
    )
    _sign(message)
    return message


DOOR = Door()
OWN = f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id(PEER.public)}"
SEEDS: dict[str, list[bytes]] = {
    "peers_question": [wire.encode([OWN]), wire.encode([OWN.replace("192.0.2.1", "0.0.0.0")])],
    "peers_answer": [wire.encode([OWN, OWN.replace("4001", "4002")])],
    "alive": [b"\x01" + (1_700_000_000_000).to_bytes(8, "big"), b"\x00" + bytes(8), b""],
    "door": [
        wire.encode({"token": DOOR.token}),
        wire.encode({"ask": ASK}),
        wire.encode({"handover": [DOOR.rotation]}),
    ],
    "join_answer": [
        wire.encode(
            {"state": "admitted", "reason": "", "swarm": b"s" * 32, "name": "n", "soon": True}
        )
    ],
    "announcement": [
        ServiceInfo(
            SERVICE, f"x.{SERVICE}", port=1, properties={b"swarm": TAG, b"dnsaddr0": OWN.encode()}
        ).text
    ],
    "gossip_message": [
        rpc_pb2.RPC(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)],
            publish=[_message(1), _message(2)],
        ).SerializeToString(),
        rpc_pb2.RPC(
            publish=[_message(3)],
            control=rpc_pb2.ControlMessage(
                ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"zz", b"yy"])],
                iwant=[rpc_pb2.ControlIWant(messageIDs=[b"zz"] * 3)],
                graft=[rpc_pb2.ControlGraft(topicID=TOPIC)],
            ),
        ).SerializeToString(),
    ],
    "gossip_record": FOUNDED.wire,
}


def targets() -> dict:
    """Name -> function of bytes."""
    peers = Peers()
    return {
        "peers_question": peers.question,
        "peers_answer": peers.answer,
        "alive": Alive(),
        "door": DOOR,
        "join_answer": join_answer,
        "announcement": announcement,
        "gossip_message": Messages(),
        "gossip_record": Records(),
    }

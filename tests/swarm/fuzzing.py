"""Everything that reads bytes of a peer, as targets for ``test_fuzz`` and ``make soak``.

A target takes any bytes. It may raise what its contract names and nothing else, and it returns
soon. ``SEEDS`` are honest inputs, which mutations start from: noise alone is refused at the door.
What a peer says in one piece is in ``fuzzing_words``. What libraries read before us is not here:
datagrams of mDNS, and yamux, noise and identify, which ``test_libp2p_attacks`` sends real bytes.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace

import trio
from google.protobuf.message import DecodeError
from libp2p.pubsub.pb import rpc_pb2

from swarm import blobs as blob_module
from swarm import sync as sync_module
from swarm import wire
from swarm.addresses import parse_address
from swarm.blobs import Blobs, BlobStore
from swarm.charter import check_charter, decode_roster, encode_roster, fold_rules
from swarm.envelope import parse
from swarm.errors import SwarmError
from swarm.feed import equivocator
from swarm.joining import Invitation
from swarm.keys import peer_id
from swarm.listening import parse_listen_address
from swarm.records import Charter, Equivocation, Open
from swarm.relay import CIRCUIT, RELAY, Relay
from swarm.safe_pubsub import SafePubsub
from swarm.store import Store
from swarm.streams import FramedStream, NetworkError
from swarm.sync import MarksRequest, Sync, decode_batch, encode_batch
from tests.swarm import fuzzing_words
from tests.swarm.founding import Feed, make_founded
from tests.swarm.fuzzing_stubs import KEY, TOPIC, BytesStream, StubTransport
from tests.swarm.network import MemoryLog, author, record
from tests.swarm.test_records import CLAIM


def _framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def _history():
    founded = make_founded()
    forker = founded.feeds[1]
    forker.say(CLAIM)
    other = Feed(forker.key, founded.swarm)
    other.say(Open(b"e" * 32, b"x" * 32))
    proof = Equivocation(
        *sorted(
            (forker.records[0].signed.to_bytes(), other.records[0].signed.to_bytes()),
            key=lambda data: parse(data).id,
        )
    )
    founded.feeds[2].say(proof)
    return founded, [*founded.wire, other.records[0].signed.to_bytes()]


FOUNDED, WIRES = _history()
BODIES = [data[64:] for data in WIRES]
OWN = Feed(KEY, FOUNDED.swarm)
for _data in WIRES[1:]:
    OWN.say(parse(_data).payload)
OWN_BODIES = [one.signed.body for one in OWN.records]
ROSTER = parse(WIRES[1]).payload.roster
LOG = MemoryLog()
for _name in ("one", "two"):
    LOG.add(author(_name), 5)
REQUEST = MarksRequest(bytes(32), b"\xff" * 32, {author("one"): ((3, b"i" * 32),)}).encode()
BATCH = encode_batch([record(author("one"), number) for number in range(4)])


def canonical(data: bytes) -> None:
    assert wire.encode(wire.decode(data)) == data


def signed_record(data: bytes) -> None:
    parse(data)


def record_signed_anew(data: bytes) -> None:
    """The bytes as the body of a record whose signature is right."""
    if len(data) <= wire.MAX_BODY:
        parse(wire.sign(KEY.private, data).to_bytes())


def governing(data: bytes) -> None:
    """The rules that follow when a governor signs these bytes, after a sound charter."""
    if len(data) > wire.MAX_BODY:
        return
    founder = FOUNDED.feeds[0].key
    said = parse(wire.sign(founder.private, data).to_bytes())
    if isinstance(said.payload, Charter):
        check_charter(said.payload)
    fold_rules([*FOUNDED.feeds[0].records, said])
    fold_rules([said])


def roster(data: bytes) -> None:
    assert encode_roster(decode_roster(data).values()) == data


def proof(data: bytes) -> None:
    half = len(data) // 2
    equivocator(Equivocation(data[:half], data[half:]))


def sync_request(data: bytes) -> None:
    assert MarksRequest.decode(data).encode() == data


def sync_batch(data: bytes) -> None:
    assert encode_batch(decode_batch(data)) == data


def invitation(data: bytes) -> None:
    Invitation.parse(data.decode("latin-1"))


def address(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert str(parse_address(text)) == text


def listen_address(data: bytes) -> None:
    parse_listen_address(data.decode("utf-8", "replace"))


def gossip_control(data: bytes) -> None:
    rpc = rpc_pb2.RPC()
    rpc.ParseFromString(data)
    clean = SafePubsub._clean_control(SimpleNamespace(_topic=TOPIC), rpc.control)
    assert clean.ByteSize() <= len(data) + 64


def _store_of(folder: str) -> Store:
    return Store(Path(folder) / "log.sqlite", FOUNDED.swarm)


class Arrivals:
    """Replayed, reordered and mutated records into one log: what is held stays a sound log."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._store = _store_of(self._folder.name)

    def __call__(self, data: bytes) -> None:
        pick = random.Random(data)
        batch = [data, *pick.sample(WIRES, pick.randint(0, len(WIRES)))]
        pick.shuffle(batch)
        self._store.ingest(batch)
        held = self._store.heads()
        assert set(held) <= {feed.key.public for feed in FOUNDED.feeds}


class Protocols:
    """The handlers of sync, blobs and relay, and askers, on streams of any bytes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._transport = StubTransport()
        self._sync = Sync(self._transport, LOG)
        self._blobs = Blobs(self._transport, BlobStore(Path(self._folder.name)))
        self._relay = Relay(self._transport, self._blobs.throttle)
        for bucket in (
            self._sync._rate,
            self._blobs._rate,
            self._relay._asked,
            self._relay._offered,
        ):
            bucket._rate = bucket._burst = 1e12
        self._digest = self._blobs._store.put(b"blob" * 1000)

    def __call__(self, data: bytes) -> None:
        trio.run(self._all, data)

    async def _all(self, data: bytes) -> None:
        size = 1 + len(data) % 61
        self._transport.answer = data
        for protocol in (sync_module.PROTOCOL, blob_module.PROTOCOL, RELAY, CIRCUIT):
            stream = BytesStream(data.replace(b"D" * 32, self._digest), size)
            try:
                with trio.fail_after(20):
                    framed = FramedStream(stream, host="192.0.2.1")
                    await self._transport.handlers[protocol](b"p" * 32, framed)
            except NetworkError:
                pass
            assert stream.written < 1 << 20
        log, self._sync._log = self._sync._log, MemoryLog()
        try:
            await self._sync.pull(b"p" * 32)
        except NetworkError:
            pass
        finally:
            self._sync._log = log
        missing = hashlib.sha256(data).digest()
        try:
            await self._blobs.fetch(missing, 1 << 20, [b"p" * 32])
        except SwarmError:
            pass


ADDRESS = parse_address(f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id(KEY.public)}")
INVITATION = str(Invitation(b"s" * 32, b"t" * 16, "researcher", (ADDRESS,)))
SEEDS: dict[str, list[bytes]] = {
    "canonical": BODIES,
    "signed_record": WIRES,
    "record_signed_anew": OWN_BODIES,
    "governing": BODIES[:3],
    "roster": [ROSTER],
    "proof": [WIRES[3] + WIRES[-1]],
    "sync_request": [REQUEST],
    "sync_batch": [BATCH],
    "invitation": [INVITATION.encode()],
    "address": [str(ADDRESS).encode()],
    "listen_address": [b"/ip4/127.0.0.1/tcp/4001", b"/ip6/::1/tcp/0"],
    "gossip_control": [
        rpc_pb2.RPC(
            control=rpc_pb2.ControlMessage(
                graft=[rpc_pb2.ControlGraft(topicID=TOPIC)],
                prune=[rpc_pb2.ControlPrune(topicID=TOPIC, backoff=9)],
                ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"zz"] * 9)],
            )
        ).SerializeToString()
    ],
    "arrivals": WIRES,
    "protocols": [
        _framed(REQUEST),
        _framed(blob_module._REQUEST.pack(b"D" * 32, 0, 1 << 20)),
        _framed(blob_module._RANGE.pack(b"D" * 32, 5, 1 << 20, 100)),
        _framed(BATCH, b"\x02"),
        _framed(b"K" * 32) + b"\x13/multistream/1.0.0\n\x07/noise\n",
        _framed(b"\x00") + b"\x13/multistream/1.0.0\n\x07/noise\n",
        _framed(blob_module._RESPONSE.pack(0, 4), b"blob"),
    ],
}
SIMPLE = {name: globals()[name] for name in SEEDS if name not in ("arrivals", "protocols")}
SEEDS.update(fuzzing_words.SEEDS)
ALLOWED = (SwarmError, DecodeError)


def targets() -> dict:
    """Name -> function of bytes; some keep state between inputs."""
    words = fuzzing_words.targets()
    return {**SIMPLE, "arrivals": Arrivals(), "protocols": Protocols(), **words}


def run(target, data: bytes) -> None:
    """Feed ``target`` one input; anything but a refusal by contract escapes."""
    try:
        target(data)
    except ALLOWED:
        return


def mutate(data: bytes, pick: random.Random, others: list[bytes]) -> bytes:
    """One input from an honest one: cut, flipped, repeated, spliced, or with a wrong length."""
    out = bytearray(data)
    for _ in range(pick.choice((1, 1, 1, 2, 3, 8))):
        at = pick.randint(0, len(out))
        span = pick.choice((1, 1, 2, 4, 32, 200))
        kind = pick.randrange(9)
        if kind == 0:
            out[at : at + 1] = bytes((pick.randrange(256),))
        elif kind == 1 and at < len(out):
            out[at] ^= 1 << pick.randrange(8)
        elif kind == 2:
            del out[at : at + span]
        elif kind == 3:
            out[at:at] = out[at : at + span]
        elif kind == 4:
            out[at:at] = pick.randbytes(span)
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            other = pick.choice(others)
            start = pick.randint(0, len(other))
            out[at:] = other[start:]
        elif kind == 7:
            out[at : at + 4] = pick.choice(
                (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\xff")
            )
        else:
            out[at : at + span] = b"\x91" * span
        if len(out) > 200_000:
            del out[200_000:]
    return bytes(out)

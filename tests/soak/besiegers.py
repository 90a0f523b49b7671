"""The attackers of ``tests.soak.siege``: one process each.

    python -m tests.soak.besiegers KIND ADDRESS SECONDS SWARM SEED...

``SEED`` are those of members, in hex. It ends by itself after SECONDS; the last line is JSON.
Everything goes to ADDRESS, a loopback address; the victims of ``names_victims`` are listeners of
this process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_delim, encode_varint_prefixed

from swarm import wire
from swarm.gossip import topic_of
from swarm.joining import ask_to_join
from swarm.keys import KeyPair, peer_id
from swarm.peers import Everybody
from swarm.safe_libp2p import peer_id_of
from swarm.transport import Transport
from tests.swarm.hostile import (
    GIB,
    HELLO,
    PING,
    SYN,
    WINDOW,
    fill_the_pipe,
    frame,
    said,
    secured,
    tcp,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MESHSUB = "/meshsub/1.1.0"
VICTIMS = 4


class Camp:
    """One attack: where to, for how long, as whom, and what was counted."""

    def __init__(self, address: str, seconds: float, swarm: bytes, seeds: list[bytes]) -> None:
        self.address = address
        self.end = time.monotonic() + seconds
        self.swarm = swarm
        self.seeds = seeds
        self.count: dict[str, int] = {}

    def tally(self, what: str, by: int = 1) -> None:
        self.count[what] = self.count.get(what, 0) + by

    async def again_and_again(self, attack: Callable[[Camp], Awaitable[None]]) -> None:
        """Until the end; what fails is begun anew, 20 times a second at most."""
        while time.monotonic() < self.end:
            with suppress(Exception):
                await attack(self)
            await trio.sleep(0.05)

    async def crowd(self, many: int, attack: Callable[[Camp], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(many):
                nursery.start_soon(self.again_and_again, attack)


async def deaf(camp: Camp, seed: bytes | None) -> None:
    """Pings until the pipe is full, and is never heard of again while it lasts."""
    session = await secured(camp.address, seed or os.urandom(32), deaf=True)
    camp.tally("connected")
    try:
        await fill_the_pipe(session, 1.5)
        while time.monotonic() < camp.end:
            await trio.sleep(1)
            await session.write(frame(PING, SYN, 0, 1))
    finally:
        await session.tcp.aclose()


async def never_reads_member(camp: Camp) -> None:
    await camp.crowd(112, partial(deaf, seed=camp.seeds[0]))


async def never_reads_strangers(camp: Camp) -> None:
    await camp.crowd(56, partial(deaf, seed=None))


async def length_bomb(camp: Camp) -> None:
    """A length of 1 GiB and zeros, before and after noise, and in streams."""
    zeros = bytes(60_000)

    async def plain(camp: Camp, begin: bytes) -> None:
        stream = await tcp(camp.address)
        try:
            await stream.send_all(begin)
            while True:
                await stream.send_all(zeros)
                camp.tally("bytes", len(zeros))
        finally:
            await stream.aclose()

    async def in_noise(camp: Camp, *, muxed: bool) -> None:
        session = await secured(camp.address, os.urandom(32), muxed=muxed)
        try:
            if muxed:
                for number in range(1, 128, 2):
                    begin = frame(WINDOW, SYN, number, 0) + said(number, HELLO + GIB)
                    await session.write(begin)
                while True:
                    for number in range(1, 128, 2):
                        await session.write(said(number, zeros))
                        camp.tally("bytes", len(zeros))
            await session.write(HELLO + GIB)
            while True:
                await session.write(zeros)
                camp.tally("bytes", len(zeros))
        finally:
            await session.tcp.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(camp.crowd, 20, partial(plain, begin=HELLO + GIB))
        nursery.start_soon(camp.crowd, 8, partial(plain, begin=GIB))
        nursery.start_soon(camp.crowd, 4, partial(in_noise, muxed=False))
        nursery.start_soon(camp.crowd, 4, partial(in_noise, muxed=True))


async def half_open(camp: Camp) -> None:
    """Connections that say hello and nothing more, replaced as they end."""

    async def one(camp: Camp) -> None:
        stream = await tcp(camp.address)
        camp.tally("opened")
        try:
            await stream.send_all(HELLO)
            while await stream.receive_some(1000):
                pass
        finally:
            await stream.aclose()

    await camp.crowd(200, one)


async def join_flood(camp: Camp) -> None:
    """Newcomers without number, each with an invitation that was never given."""

    async def one(camp: Camp) -> None:
        local = ["/ip4/127.0.0.1/tcp/0"]
        async with Transport(os.urandom(32), local, admission=Everybody()) as transport:
            victim = await transport.dial(camp.address)
            transport.forget(victim)
            while True:
                await ask_to_join(transport, victim, wire.encode({"token": os.urandom(16)}))
                camp.tally("asked")

    await camp.crowd(48, one)


async def half_noise(camp: Camp) -> None:
    """Connections that make the other side compute: the first message of noise, and no more."""

    async def one(camp: Camp) -> None:
        stream = await tcp(camp.address)
        camp.tally("opened")
        try:
            first = HELLO + encode_delim(b"/noise") + b"\0\x20" + os.urandom(32)
            await stream.send_all(first)
            while await stream.receive_some(1000):
                pass
        finally:
            await stream.aclose()

    await camp.crowd(64, one)


def _signed(seed: bytes, topic: str, data: bytes) -> Any:
    pair = KeyPair.from_seed(seed)
    message = rpc_pb2.Message(
        data=data,
        topicIDs=[topic],
        from_id=peer_id_of(pair.public).to_bytes(),
        seqno=os.urandom(8),
    )
    payload = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = pair.private.sign(payload)
    return message


async def _as_member(camp: Camp, seed: bytes, make: Callable[[], bytes]) -> None:
    """Connect as a member and write what ``make`` makes to its pubsub, without a pause."""
    async with Transport(seed, ["/ip4/127.0.0.1/tcp/0"], admission=Everybody()) as transport:
        victim = await transport.dial(camp.address)
        transport.forget(victim)
        stream = await transport._host.new_stream(peer_id_of(victim), [MESHSUB])
        topic = topic_of(camp.swarm)
        hello = rpc_pb2.RPC(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic)]
        ).SerializeToString()
        await stream.write(encode_varint_prefixed(hello))
        while time.monotonic() < camp.end:
            await stream.write(make())
            camp.tally("rpcs")


async def _gossip(camp: Camp, make: Callable[[], bytes]) -> None:
    async with trio.open_nursery() as nursery:
        for seed in camp.seeds:
            nursery.start_soon(camp.again_and_again, partial(_as_member, seed=seed, make=make))


async def gossip_of_strangers(camp: Camp) -> None:
    """Records well signed by keys that are no members'."""
    topic = topic_of(camp.swarm)
    ready = [_signed(os.urandom(32), topic, os.urandom(200)) for _ in range(64 * 40)]
    at = 0

    def make() -> bytes:
        nonlocal at
        at = (at + 64) % len(ready)
        return encode_varint_prefixed(rpc_pb2.RPC(publish=ready[at : at + 64]).SerializeToString())

    await _gossip(camp, make)


async def gossip_control(camp: Camp) -> None:
    """IHAVE, IWANT, GRAFT and PRUNE without end."""
    topic = topic_of(camp.swarm)

    def make() -> bytes:
        ids = [os.urandom(44) for _ in range(200)]
        control = rpc_pb2.ControlMessage(
            ihave=[rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids)],
            iwant=[rpc_pb2.ControlIWant(messageIDs=ids)],
            graft=[rpc_pb2.ControlGraft(topicID=topic)] * 32,
            prune=[rpc_pb2.ControlPrune(topicID=topic, backoff=1)] * 32,
        )
        return encode_varint_prefixed(rpc_pb2.RPC(control=control).SerializeToString())

    await _gossip(camp, make)


async def names_victims(camp: Camp) -> None:
    """Names foreign addresses as its own and leaves, and comes back to name them anew."""

    async def count(stream: trio.SocketStream) -> None:
        camp.tally("dials")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        named = []
        for number in range(VICTIMS):
            (listener,) = await trio.open_tcp_listeners(0, host=f"127.0.0.{20 + number}")
            nursery.start_soon(trio.serve_listeners, count, [listener])
            host, port = listener.socket.getsockname()[:2]
            named.append(f"/ip4/{host}/tcp/{port}")

        async def one(camp: Camp, seed: bytes) -> None:
            own = peer_id(KeyPair.from_seed(seed).public)
            request = wire.encode([f"{address}/p2p/{own}" for address in named])
            local = ["/ip4/127.0.0.1/tcp/0"]
            async with Transport(seed, local, admission=Everybody()) as transport:
                victim = await transport.dial(camp.address)
                transport.forget(victim)
                await transport.request(
                    victim, "/lazaretto/peers/1", request, max_response=16 * 1024
                )
                camp.tally("named")
            await trio.sleep(3)

        async with trio.open_nursery() as liars:
            for seed in camp.seeds:
                liars.start_soon(camp.again_and_again, partial(one, seed=seed))
        nursery.cancel_scope.cancel()


KINDS: dict[str, Callable[[Camp], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        never_reads_member,
        never_reads_strangers,
        length_bomb,
        half_open,
        half_noise,
        join_flood,
        gossip_of_strangers,
        gossip_control,
        names_victims,
    )
}
BY_STRANGERS = {"never_reads_strangers", "length_bomb", "half_open", "half_noise", "join_flood"}


async def main(kind: str, address: str, seconds: float, swarm: str, *seeds: str) -> None:
    logging.disable(logging.CRITICAL)
    camp = Camp(address, seconds, bytes.fromhex(swarm), list(map(bytes.fromhex, seeds)))
    with trio.move_on_after(seconds):
        await KINDS[kind](camp)
    print(json.dumps(camp.count), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:])

"""A transport and streams made of given bytes, for the targets of ``tests.swarm.fuzzing``."""

from __future__ import annotations

from contextlib import nullcontext

import trio

from swarm.circuits import connect_over
from swarm.dialling import Dials
from swarm.entrance import Entrance
from swarm.keys import KeyPair, peer_id
from swarm.safe_libp2p import build_host
from swarm.streams import FramedStream
from swarm.subnets import SubnetLimit

KEY = KeyPair.from_seed(b"fuzz".ljust(32, b"."))
TOPIC = "topic"
HOST, NETWORK = build_host(
    KEY.seed,
    max_connections=8,
    gate=lambda _: True,
    admits=lambda _: True,
    entrance=Entrance(6, 2, lambda _: True),
    subnets=SubnetLimit(8),
)


class BytesStream:
    """A libp2p stream whose other end has sent ``data``, in pieces of ``size``, and closed."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, max(1, size)
        self.written = 0

    async def read(self, n=None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = self._size if n is None else min(n, self._size)
        part, self._data = self._data[:size], self._data[size:]
        return part

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written += len(data)

    async def close(self) -> None: ...
    async def reset(self) -> None: ...


class StubTransport:
    """Keeps the handlers that protocols set, and opens streams on given bytes."""

    key = KEY.public

    def __init__(self) -> None:
        self.handlers = {}
        self.responders = {}
        self.answer = b""
        self.addresses = [f"/ip4/192.0.2.9/tcp/1/p2p/{peer_id(KEY.public)}"]

    def set_handler(self, protocol, handler, **_limits) -> None:
        self.handlers[protocol] = handler

    def set_responder(self, protocol, respond, **_limits) -> None:
        self.responders[protocol] = respond

    async def request(self, _peer, _protocol, _payload, **_limits) -> bytes:
        return self.answer

    def on_message(self, accept) -> None:
        self.accept = accept

    def hears(self, _key) -> bool:
        return True

    def on_connect(self, hook) -> None: ...
    def admits(self, _key) -> bool:
        return True

    def answering(self, _key):
        return nullcontext()

    @property
    def dials(self):
        return Dials(clock=lambda: 0.0)

    def refuses(self, _key) -> bool:
        return False

    def ip_of(self, _key) -> str:
        return "192.0.2.1"

    async def connect_over(self, stream, key, *, initiator):
        return await connect_over(NETWORK, stream, key, initiator=initiator)

    def penalise(self, key, reason, points=1.0) -> None: ...
    def peers(self):
        return {b"p" * 32}

    def stream(self, _peer, _protocol, _seconds=10.0):
        return _Opened(FramedStream(BytesStream(self.answer, 1 + len(self.answer) % 977)))


class _Opened:
    def __init__(self, stream) -> None:
        self._stream = stream

    async def __aenter__(self):
        return self._stream

    async def __aexit__(self, *_error) -> None: ...

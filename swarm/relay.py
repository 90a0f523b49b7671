"""Members that cannot reach one another, over a third to which both are connected.

    asker -> relay   /lazaretto/relay/1    key of the member wanted (32)
    relay -> wanted  /lazaretto/circuit/1  key of the asker (32)
    each answers     status (u8: 0 yes, 1 not connected here, 2 no)

After a 0 both streams carry whatever the two ends send, copied by the relay: a libp2p connection of
their own, with a handshake of its own (``swarm.circuits``). All three are members. Neither question
is answered that comes over a circuit, so no circuit leads over a circuit.

Circuit relay v2 as in py-libp2p 0.8.1 is not used: of two circuits of one peer it ends both when
one ends, it takes circuits from whoever offers one, and keeps addresses that askers sign for
themselves. Nor are there reservations to refresh: whoever is connected can be reached.

This module does not import libp2p.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from swarm.keys import short
from swarm.penalties import TokenBucket
from swarm.streams import Misbehaviour, NetworkError

if TYPE_CHECKING:
    from swarm.blobs import Throttle
    from swarm.streams import FramedStream
    from swarm.transport import Transport

log = logging.getLogger(__name__)

RELAY, CIRCUIT = "/lazaretto/relay/1", "/lazaretto/circuit/1"
YES, NOT_CONNECTED, NO = b"\x00", b"\x01", b"\x02"
KEY = 32
CIRCUIT_S = 900.0
"""A circuit ends after this time. What was fetched is kept: the next fetch goes on there."""
CIRCUIT_BYTES = 1 << 30
PER_MEMBER, IN_ALL = 2, 16
"""Circuits that one node carries, by the member who asked, and in all."""
LEAST_RATE = 64 * 1024
"""Bytes a second for each circuit, where a node lends no more than so many: with less, an end might
get no room to write for longer than the multiplexer waits."""
PER_ASKER, PER_RELAY, ACCEPTED = 2, 4, 16
"""Circuits that lead to one node, by who asked, by who carries, and in all."""
REACH_S = 15.0
MAX_ASKED = 16


class Relay:
    """Carries circuits for members, is reached over them, and reaches others.

    Args:
        transport: the node's transport; the handlers of both protocols are set here.
        throttle: what is carried is counted there, and slowed as it says.
        carries: whether this node carries circuits of others.
        circuit_bytes: of both directions together, after which a circuit ends.
        circuit_s: seconds after which it ends.
    """

    def __init__(
        self,
        transport: Transport,
        throttle: Throttle,
        *,
        carries: bool = True,
        circuit_bytes: int = CIRCUIT_BYTES,
        circuit_s: float = CIRCUIT_S,
    ) -> None:
        self._transport = transport
        self._throttle = throttle
        self._carries = carries
        self._circuit_bytes = circuit_bytes
        self._asked = TokenBucket(rate=0.5, burst=20.0)
        self._offered = TokenBucket(rate=0.5, burst=20.0)
        self._circuit_s = circuit_s
        self._accepted: Counter[bytes] = Counter()
        self.carrying = 0
        """Circuits that lead over this node now."""
        transport.set_handler(
            RELAY, self._carry, timeout=circuit_s, per_peer=PER_MEMBER, in_all=IN_ALL
        )
        transport.set_handler(
            CIRCUIT,
            self._accept,
            timeout=2 * circuit_s,
            per_peer=PER_RELAY,
            in_all=ACCEPTED,
        )

    # -- the ends ------------------------------------------------------------------------------

    async def reach(self, key: bytes) -> bool:
        """Connect to a member over others, asked one by one; returns whether it is connected now.

        The connection lasts as long as a circuit at most, and is not made again by itself.
        """
        transport = self._transport
        others = [peer for peer in transport.peers() if peer != key and transport.ip_of(peer)]
        random.shuffle(others)
        for relay in others[:MAX_ASKED]:
            if transport.connected(key):
                break
            if not transport.admits(key) or transport.refuses(key):
                return False
            await self._reach_over(relay, key)
        return transport.connected(key)

    async def _reach_over(self, relay: bytes, key: bytes) -> None:
        done, scope = trio.Event(), trio.CancelScope()

        async def circuit() -> None:
            try:
                with scope:
                    async with self._transport.stream(relay, RELAY, REACH_S) as stream:
                        await stream.write_frame(key)
                        if await stream.read_frame(1) == YES:
                            connection = await self._transport.connect_over(
                                stream, key, initiator=True
                            )
                            done.set()
                            await self._hold(connection)
            except NetworkError as error:
                log.debug("no way to %s over %s: %s", short(key), short(relay), error)
            finally:
                done.set()

        self._transport.spawn(circuit)
        with trio.move_on_after(REACH_S) as waiting:
            await done.wait()
        if waiting.cancelled_caught:
            scope.cancel()

    async def _accept(self, relay: bytes, stream: FramedStream) -> None:
        asker = await _key(stream)
        transport = self._transport
        if (
            not stream.host
            or asker == transport.key
            or not transport.admits(asker)
            or transport.refuses(asker)
            or self._accepted[asker] >= PER_ASKER
            or not self._offered.take(relay + asker)
        ):
            await stream.write_frame(NO)
            return
        self._accepted[asker] += 1
        try:
            await stream.write_frame(YES)
            await self._hold(await transport.connect_over(stream, asker, initiator=False))
        finally:
            self._accepted[asker] -= 1
            self._accepted += Counter()  # without those that have none

    async def _hold(self, connection: Any) -> None:
        with trio.move_on_after(self._circuit_s):
            await connection.event_closed.wait()
        await connection.close()

    # -- the middle ----------------------------------------------------------------------------

    async def _carry(self, asker: bytes, stream: FramedStream) -> None:
        wanted = await _key(stream)
        transport = self._transport
        if (
            not self._carries
            or not stream.host
            or not self._has_room()
            or not self._asked.take(asker)
        ):
            await stream.write_frame(NO)
            return
        if wanted == asker or not transport.admits(wanted) or not transport.ip_of(wanted):
            await stream.write_frame(NOT_CONNECTED)
            return
        try:
            async with transport.stream(wanted, CIRCUIT) as onward:
                await onward.write_frame(asker)
                status = await onward.read_frame(1)
                await stream.write_frame(YES if status == YES else NO)
                if status == YES:
                    await self._copy_both(stream, onward)
        except NetworkError:  # not the asker's fault, whatever it was
            await stream.write_frame(NOT_CONNECTED)

    def _has_room(self) -> bool:
        return not self._throttle.rate or self._throttle.rate >= LEAST_RATE * (self.carrying + 1)

    async def _copy_both(self, one: FramedStream, other: FramedStream) -> None:
        left = self._circuit_bytes

        async def copy(source: FramedStream, sink: FramedStream, ended: trio.CancelScope) -> None:
            nonlocal left
            with suppress(NetworkError):
                while chunk := await source.read_some(self._throttle.frame):
                    left -= len(chunk)
                    if left < 0:
                        log.info("a circuit has carried all that one may")
                        break
                    for _ in ("in", "out"):
                        await self._throttle.spend(len(chunk))
                    await sink.write_some(chunk)
            ended.cancel()

        self.carrying += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, one, other, nursery.cancel_scope)
                nursery.start_soon(copy, other, one, nursery.cancel_scope)
        finally:
            self.carrying -= 1
            await one.reset()
            await other.reset()


async def _key(stream: FramedStream) -> bytes:
    key: Any = await stream.read_frame(KEY)
    if len(key) != KEY:
        raise Misbehaviour("not a key")
    return bytes(key)

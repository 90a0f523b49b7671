"""Is a connected peer there, and do both sides hear one another's gossip?

A connection says little: a reset gossip stream leaves both sides listing a peer that neither
hears, and a machine that lost power keeps its TCP connections for minutes. So each peer is asked,
over a stream of its own, whether it hears us; whoever does not answer, does not hear us or is not
heard a few times in a row is disconnected, and dialled anew if its address is known. Who asks says
whether it hears the other side: one exchange in which both do serves them both.

    request  = response
    response = 0x01 (I read your gossip and know your subscription) or 0x00 | unix time in ms (u64)

A shorter request, or response, says less. Nothing is decided by a clock; the times only let a node
tell its owner that its clock is wrong.
"""

from __future__ import annotations

import logging
import random
import time
from statistics import median
from typing import TYPE_CHECKING

import trio

from swarm.keys import short
from swarm.streams import Misbehaviour, PeerGone, PeerSilent

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarm.transport import Transport

log = logging.getLogger(__name__)

PROTOCOL = "/lazaretto/alive/1"
ANSWER_S = 5.0
PATIENCE = 4


class Liveness:
    """Checks the members connected to one transport.

    Args:
        transport: the transport; the protocol's handler is set here.
        interval: seconds before the first check of a peer and after a failed one, +-20 %; after a
            good one, whoever asked, ``PATIENCE`` times that. Who does not answer something else in
            time (``suspect``) is checked at once.
        strikes: failed checks in a row after which it is disconnected.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        transport: Transport,
        interval: float,
        strikes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._interval = interval
        self._limit = strikes
        self._strikes: dict[bytes, int] = {}
        self._due: dict[bytes, float] = {}
        self._checking: set[bytes] = set()
        self._clock = clock
        self._ahead: dict[bytes, float] = {}
        transport.set_responder(PROTOCOL, self._answer, max_request=16)

    def _statement(self, peer: bytes) -> bytes:
        now = max(0, int(1000 * self._clock())).to_bytes(8, "big")
        return (b"\x01" if self._transport.hears(peer) else b"\x00") + now

    def _all_well(self, peer: bytes, statement: bytes) -> bool:
        if len(statement) == 9:
            theirs = int.from_bytes(statement[1:], "big") / 1000
            self._ahead[peer] = max(-1e9, min(1e9, theirs - self._clock()))
        return statement[:1] == b"\x01" and self._transport.hears(peer)

    async def _answer(self, peer: bytes, request: bytes) -> bytes:
        if (
            self._all_well(peer, request)
            and peer in self._due
            and peer not in self._checking
            and peer not in self._strikes
        ):
            self._due[peer] = self._in(PATIENCE)
        return self._statement(peer)

    def _in(self, intervals: int) -> float:
        return trio.current_time() + intervals * self._interval * random.uniform(0.8, 1.2)

    def clock_ahead(self) -> float | None:
        """By how many seconds connected peers' clocks are ahead of ours, in the median.

        None without peers. Half of the answer's way is in it.
        """
        return median(self._ahead.values()) if self._ahead else None

    def suspect(self, key: bytes) -> None:
        """Check a peer at once: it did not answer something else in time."""
        if key in self._due and key not in self._checking and key not in self._strikes:
            self._due[key] = trio.current_time()

    async def run(self) -> None:
        """Check until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                peers = self._transport.peers()
                self._due = {key: self._due.get(key) or self._in(1) for key in peers}
                self._strikes = {key: n for key, n in self._strikes.items() if key in peers}
                self._ahead = {key: s for key, s in self._ahead.items() if key in peers}
                for key in peers - self._checking:
                    if now >= self._due[key]:
                        self._checking.add(key)
                        nursery.start_soon(self._check, key)
                await trio.sleep(min(0.5, self._interval / 4))

    async def _check(self, key: bytes) -> None:
        try:
            good = await self._good(key)
        finally:
            self._checking.discard(key)
        if good:
            self._strikes.pop(key, None)
            self._due[key] = self._in(PATIENCE)
            return
        self._due[key] = self._in(1)
        self._strikes[key] = self._strikes.get(key, 0) + 1
        if self._strikes[key] >= self._limit and self._transport.connected(key):
            log.info("peer %s is connected but deaf; connecting anew", short(key))
            del self._strikes[key]
            await self._transport.disconnect(key)

    async def _good(self, key: bytes) -> bool:
        try:
            answer = await self._transport.request(
                key, PROTOCOL, self._statement(key), max_response=16, seconds=ANSWER_S
            )
        except (PeerSilent, Misbehaviour):
            return False
        except PeerGone:
            return True  # a reset is the answer of a living peer that does not admit us (yet)
        return self._all_well(key, answer)

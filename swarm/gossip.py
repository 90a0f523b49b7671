"""Announcing new records, and taking in those of others.

Gossip is a hint and never the only delivery: what is lost here, sync fetches. A message is one
signed record. It is relayed only after the log has taken it (or held it already); a refused one
costs the peer that handed it on, since an honest peer had checked it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from swarm.peers import MAX_RECORD_BYTES
from swarm.penalties import TokenBucket

if TYPE_CHECKING:
    from swarm.peers import Log
    from swarm.transport import Transport


class Repair(Protocol):
    """Where gaps are reported: the sync of the same node."""

    def fetch_soon(self, peer: bytes, authors: tuple[bytes, ...]) -> None:
        """Fetch what is missing of ``authors`` from ``peer``, in the background."""
        ...


def topic_of(swarm_id: bytes) -> str:
    """Return the gossip topic of a swarm."""
    return f"/lazaretto/records/1/{swarm_id.hex()}"


class Gossip:
    """The gossip of one swarm over a transport that was built with ``topic_of(swarm_id)``.

    Args:
        transport: the node's transport; its message callback is set here.
        log: takes the records in.
        repair: is told about gaps.
        peer_rate: messages per second taken from one forwarding peer (bursts of four seconds).
        origin_rate: messages per second taken from one publishing member (bursts of ten seconds).
    """

    def __init__(
        self,
        transport: Transport,
        log: Log,
        repair: Repair,
        *,
        peer_rate: float = 50.0,
        origin_rate: float = 10.0,
    ) -> None:
        self._transport = transport
        self._log = log
        self._repair = repair
        self._peers = TokenBucket(peer_rate, 4 * peer_rate)
        self._origins = TokenBucket(origin_rate, 10 * origin_rate)
        transport.on_message(self._accept)

    async def publish(self, record: bytes) -> None:
        """Announce a record of our own, after the log has made it durable. Best effort."""
        await self._transport.publish(record)

    async def _accept(self, forwarder: bytes, origin: bytes, data: bytes) -> bool:
        if len(data) > MAX_RECORD_BYTES:
            self._transport.penalise(forwarder, "gossip: a record above the size limit", 10.0)
            return False
        if not self._peers.take(forwarder) or not self._origins.take(origin):
            return False  # not relayed, not forgotten: sync brings it if it is any good
        result = await self._log.ingest([data], forwarder)
        if result.refused:
            self._transport.penalise(forwarder, f"gossip: {result.refused[0]}", 5.0)
            return False
        if result.gaps:
            self._repair.fetch_soon(forwarder, result.gaps)
            return False
        return result.new + result.known > 0

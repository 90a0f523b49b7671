"""GossipSub of py-libp2p, restricted to one topic, to members, and to input that it survives.

The library's reader is replaced: it handed malformed protobufs, bad keys and unbounded lists from
any connected peer to code that raises, and an exception there ended the process. This reader
parses one bounded RPC at a time and waits until it is dealt with before it reads the next, so a
flooding peer is slowed down and not buffered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from google.protobuf.message import DecodeError
from libp2p.exceptions import ParseError, ValidationError
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.utils import safe_bytes_from_hex
from libp2p.pubsub.validators import signature_validator
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from swarm.addresses import PEER_ID_PREFIX
from swarm.manners import Manners
from swarm.penalties import TokenBucket
from swarm.safe_libp2p import key_of

log = logging.getLogger(__name__)

MAX_RPC_BYTES = 512 * 1024
MAX_MESSAGES_PER_RPC = 64
MAX_CONTROL_ENTRIES = 32
MAX_IDS_PER_ENTRY = 256
MAX_SENT_AGAIN, SENT_AGAIN_S = 3, 120.0
"""How often one message is sent to one peer that asks for it, and in how many seconds: in the few
seconds that messages are kept for this, nobody is told of one more often than three times."""
MAX_BACKOFF_S = 120
MAX_READERS_PER_PEER = 4
QUEUE_ROOM = 24
"""Outbound RPCs of one peer above which we wait before publishing; the library drops at 32."""

Accept = Callable[[bytes, bytes, bytes], Awaitable[bool]]
"""(forwarder key, origin key, data) -> whether to deliver and relay the message."""


class SafePubsub(Pubsub):  # type: ignore[misc]
    """Pubsub for one topic.

    Args:
        host: the libp2p host.
        router: the GossipSub router.
        topic: the only topic there is.
        admits: whether a key may send and receive messages.
        accept: decides about each message; an exception in it counts as a refusal.
        blame: called with (key, reason, points) for input that no honest peer sends.
    """

    def __init__(
        self,
        host: Any,
        router: GossipSub,
        *,
        topic: str,
        admits: Callable[[bytes], bool],
        accept: Accept,
        blame: Callable[[bytes, str, float], None],
    ) -> None:
        super().__init__(
            host,
            router,
            strict_signing=True,
            allowed_topics={topic},
            max_inbound_rpc_size=MAX_RPC_BYTES,
        )
        self.counter = time.time_ns()  # message numbers go on after a restart
        self._topic = topic
        self._admits = admits
        self._accept = accept
        self._blame = blame
        self._manners = Manners(blame)
        self._readers: dict[Any, int] = {}
        self._deciding: set[bytes] = set()
        self._watched: dict[Any, Any] = {}
        self._rpc_rate = TokenBucket(rate=100.0, burst=400.0)

    def hears(self, peer_id: Any) -> bool:
        """Say whether this side reads the peer's messages and knows that it is subscribed."""
        return peer_id in self._readers and peer_id in self.peer_topics.get(self._topic, ())

    async def have_room(self) -> None:
        """Wait, a second at most, until no peer's outbound queue is nearly full: what does not fit
        is dropped without a word."""
        with trio.move_on_after(1.0):
            while any(len(queue) >= QUEUE_ROOM for queue in self.peer_queues.values()):  # noqa: ASYNC110
                await trio.sleep(0.01)

    def blame(self, peer_id: Any, reason: str, points: float) -> None:
        """Count something that a peer did wrong."""
        key = key_of(peer_id)
        if key is not None:
            self._blame(key, reason, points)

    def wants(self, peer_id: Any) -> None:
        """Open the outbound stream to a connected peer that has none, in the background."""
        if peer_id not in self.peers:
            self._schedule_peer_stream_retry(peer_id)

    async def _handle_new_peer(self, peer_id: Any) -> None:
        key = key_of(peer_id)
        if key is not None and self._admits(key):
            await super()._handle_new_peer(peer_id)
            stream = self.peers.get(peer_id)
            if stream is not None and stream is not self._watched.get(peer_id):
                self._watched[peer_id] = stream
                self.manager.run_task(self._watch, peer_id, stream)

    async def stream_handler(self, stream: Any) -> None:
        """Read the RPCs of one peer until the stream ends. Never raises."""
        peer_id = stream.muxed_conn.peer_id
        key = key_of(peer_id)
        readers = self._readers.get(peer_id, 0)
        if key is None or not self._admits(key) or readers >= MAX_READERS_PER_PEER:
            await stream.reset()
            return
        self._readers[peer_id] = readers + 1
        try:
            await self._read_rpcs(stream, peer_id, key)
        except (DecodeError, ParseError, ValueError, MessageTooLarge) as error:
            self._blame(key, f"bad pubsub message: {type(error).__name__}", 10.0)
        except (StreamError, IOException) as error:
            log.debug("a pubsub stream ended: %.200r", error)
        except Exception as error:
            log.info("a pubsub stream failed: %.200r", error)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                await stream.reset()
            left = self._readers.pop(peer_id) - 1
            if left > 0:
                self._readers[peer_id] = left
            else:
                self._forget_all_subscriptions(peer_id)
                for mesh in self.router.mesh.values():
                    mesh.discard(peer_id)

    def _handle_dead_peer(self, peer_id: Any) -> None:
        """Give up the outbound stream to a peer. ``wants`` opens another while it is connected."""
        self._clear_pending_announce_retries_for_peer(peer_id)
        if peer_id not in self._readers:
            self._forget_all_subscriptions(peer_id)
        if self.peers.pop(peer_id, None) is not None:
            queue = self.peer_queues.pop(peer_id, None)
            if queue is not None:
                queue.close()
            self.router.remove_peer(peer_id)

    async def _watch(self, peer_id: Any, stream: Any) -> None:
        """Wait for the end of an outbound stream: nothing is ever sent back on it."""
        try:
            await stream.read(1)
        except Exception as error:
            log.debug("an outbound pubsub stream ended: %.200r", error)
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            await stream.reset()
        await trio.sleep(0.5)  # a peer that does not admit us (yet) is not asked in a tight loop
        if self._watched.get(peer_id) is stream:
            del self._watched[peer_id]
        if self.peers.get(peer_id) is stream:
            self._handle_dead_peer(peer_id)

    async def _read_rpcs(self, stream: Any, peer_id: Any, key: bytes) -> None:
        while self.manager.is_running and self._admits(key):
            data = await read_varint_prefixed_bytes_limited(stream, MAX_RPC_BYTES)
            await trio.sleep(self._rpc_rate.delay(key))
            self._rpc_rate.take(key)
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(data)
            if len(rpc.publish) > MAX_MESSAGES_PER_RPC or len(rpc.subscriptions) > 16:
                raise ValueError("too much in one RPC")
            ours = [one for one in rpc.subscriptions if one.topicid == self._topic]
            if self._manners.allow(key, "subscriptions", len(ours)):
                for subscription in ours[-1:]:
                    self.handle_subscription(peer_id, subscription)
            if self._manners.allow(key, "messages", len(rpc.publish)):
                for message in rpc.publish:
                    if not await self._take_in(peer_id, key, message):
                        break  # nor anything else in this RPC
            if rpc.HasField("control"):
                clean = self._mannerly(key, self._clean_control(rpc.control))
                await self.router.handle_rpc(rpc_pb2.RPC(control=clean), peer_id)

    async def _take_in(self, peer_id: Any, key: bytes, message: Any) -> bool:
        """Take a message, unless its sender sends too many such; returns whether it may go on."""
        if self._is_msg_seen(message):
            return self._manners.allow(key, "messages known already")
        if message.from_id[:6] == PEER_ID_PREFIX and not self._admits(message.from_id[6:]):
            return self._manners.allow(key, "messages of who is no member")
        await self.push_msg(peer_id, message)
        return True

    def _mannerly(self, key: bytes, control: Any) -> Any:
        """Leave out what is too much of."""
        ids = sum(len(one.messageIDs) for one in control.ihave)
        if not (
            self._manners.allow(key, "announcements", bool(control.ihave))
            and self._manners.allow(key, "announced messages", ids)
        ):
            control.ClearField("ihave")
        if not self._manners.allow(key, "requests", bool(control.iwant)):
            control.ClearField("iwant")
        changes = len(control.graft) + len(control.prune)
        if not self._manners.allow(key, "grafts and prunes", changes):
            control.ClearField("graft")
            control.ClearField("prune")
        return control

    def _clean_control(self, control: Any) -> Any:
        """Keep what concerns our topic, bounded, without the peers that a PRUNE suggests."""
        clean = rpc_pb2.ControlMessage()
        for ihave in control.ihave[:MAX_CONTROL_ENTRIES]:
            if ihave.topicID == self._topic:
                entry = clean.ihave.add(topicID=self._topic)
                entry.messageIDs.extend(dict.fromkeys(ihave.messageIDs[:MAX_IDS_PER_ENTRY]))
        wanted = [wanted for iwant in control.iwant for wanted in iwant.messageIDs]
        if wanted:
            clean.iwant.add().messageIDs.extend(wanted[:MAX_IDS_PER_ENTRY])
        if any(graft.topicID == self._topic for graft in control.graft[:MAX_CONTROL_ENTRIES]):
            clean.graft.add(topicID=self._topic)
        pruned = [one for one in control.prune[:MAX_CONTROL_ENTRIES] if one.topicID == self._topic]
        for prune in pruned[-1:]:
            clean.prune.add(topicID=self._topic, backoff=min(prune.backoff, MAX_BACKOFF_S))
        return clean

    async def push_msg(self, msg_forwarder: Any, msg: Any) -> None:
        """Check, deliver and relay one message.

        Raises:
            ValueError: a message that no honest peer sends or relays.
        """
        if msg_forwarder == self.host.get_id():
            await super().push_msg(msg_forwarder, msg)
            return
        if (
            list(msg.topicIDs) != [self._topic]
            or len(msg.seqno) != 8
            or len(msg.from_id) != len(PEER_ID_PREFIX) + 32
            or not msg.from_id.startswith(PEER_ID_PREFIX)
        ):
            raise ValueError("a message that is not of this swarm")
        name = msg.from_id + msg.seqno
        if self._is_msg_seen(msg) or msg.from_id == self.host.get_id().to_bytes():
            return
        if name in self._deciding:
            return  # the same from another neighbour, while the log takes the first one in
        if not signature_validator(msg):
            raise ValueError("a message whose signature is wrong")
        self._deciding.add(name)
        try:
            await self.validate_msg(msg_forwarder, msg)
        except ValidationError:
            return
        finally:
            self._deciding.discard(name)
        self._mark_msg_seen(msg)
        await self.router.publish(msg_forwarder, msg)

    async def validate_msg(self, msg_forwarder: Any, msg: Any) -> None:
        """Ask ``accept``; raise ``ValidationError`` if it says no."""
        if msg_forwarder == self.host.get_id():
            return
        forwarder, origin = key_of(msg_forwarder), msg.from_id[6:]
        if forwarder is None or not self._admits(origin):
            raise ValidationError("not from a member")
        try:
            accepted = await self._accept(forwarder, origin, msg.data)
        except Exception as error:
            log.exception("deciding about a message failed")
            raise ValidationError("undecided") from error
        if not accepted:
            raise ValidationError("refused")

    def notify_subscriptions(self, publish_message: Any) -> None:
        """Do nothing: ``accept`` has had the message already."""


class _Router(GossipSub):  # type: ignore[misc]
    """GossipSub v1.1 among members: what a message costs is what v1.1 asks for."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._given = TokenBucket(MAX_SENT_AGAIN / SENT_AGAIN_S, MAX_SENT_AGAIN)
        self._again = TokenBucket(rate=1.0, burst=MAX_MESSAGES_PER_RPC)

    async def handle_iwant(self, iwant_msg: Any, sender_peer_id: Any) -> None:
        """Send a peer what it asks for; the library sends a message as often as it is named."""
        if not self._check_iwant_rate_limit(sender_peer_id):
            return
        held = self.mcache.msgs
        asked = [mid for mid in map(safe_bytes_from_hex, iwant_msg.messageIDs) if mid in held]
        distinct = list(dict.fromkeys(asked))
        again = len(asked) - len(distinct) + self._send_held(sender_peer_id, distinct)
        if again and not self._again.take(sender_peer_id.to_bytes(), again):
            self.pubsub.blame(sender_peer_id, "asks for the same messages again and again", 2.0)

    async def send_recent_messages(self, peer_id: Any, topic: str) -> None:
        """Send a peer that has just subscribed what it may have missed, however often it does so.

        The library does not count what it sends here, and writes past the queue.
        """
        self._send_held(peer_id, self.mcache.window(topic))

    def _send_held(self, peer_id: Any, mids: list[bytes]) -> int:
        """Send messages that are held here, in one RPC of a size that an honest peer takes.

        Returns how many were not sent because the peer was sent them often enough. What does not
        fit comes with another request, or by sync.
        """
        again = size = 0
        rpc = rpc_pb2.RPC()
        for mid in mids:
            message = self.mcache.msgs[mid]
            size += message.ByteSize() + 8  # what names and measures it in an RPC
            if size > MAX_RPC_BYTES or len(rpc.publish) == MAX_MESSAGES_PER_RPC:
                break
            if self._given.take(peer_id.to_bytes() + mid):
                rpc.publish.append(message)
            else:
                again += 1
        if rpc.publish:
            self.send_rpc(peer_id, rpc)
        return again

    async def publish(self, msg_forwarder: Any, pubsub_msg: Any) -> None:
        """Hand on a message that was taken in.

        As the library does it, but for what later versions and strangers ask for: a signed address
        record in each message, IDONTWANT, observers, scores.
        """
        self.mcache.put(pubsub_msg)
        pubsub, origin = self.pubsub, ID(pubsub_msg.from_id)
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        for peer_id in self._get_peers_to_send(pubsub_msg.topicIDs, msg_forwarder, origin):
            if peer_id in pubsub.peers:
                self.send_rpc(peer_id, rpc)
        (topic,) = pubsub_msg.topicIDs
        for peer_id in pubsub.peers.keys() - pubsub.peer_topics.get(topic, set()):
            if peer_id not in (msg_forwarder, origin):  # sent as soon as it says that it listens
                self._prune_pending_messages(peer_id)
                self._pending_messages[peer_id].append((time.time(), rpc))
        self.time_since_last_publish[topic] = int(time.time())


def build_router() -> GossipSub:
    """Build a GossipSub v1.1 router with settings that deliver: 1 s heartbeat, no rate cap of
    the router's own (it would cap our own messages too), no self-adaptation."""
    return _Router(
        [PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        spam_protection_enabled=False,
        adaptive_gossip_enabled=False,
        do_px=False,
    )

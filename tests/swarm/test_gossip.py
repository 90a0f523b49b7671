"""Announcing and receiving records between real hosts."""

from __future__ import annotations

import trio

from swarm.gossip import topic_of
from swarm.peers import MAX_RECORD_BYTES
from tests.swarm.network import Members, MemoryLog, author, eventually, meshed, node, record


async def test_topics_are_per_swarm():
    assert topic_of(b"a" * 32) != topic_of(b"b" * 32)


async def test_a_record_reaches_everybody_through_a_relay():
    async with node("hub") as hub, node("a") as a, node("b") as b:
        await a.transport.dial(hub.address)
        await b.transport.dial(hub.address)
        await meshed(hub, a, b)
        assert a.transport.peers() == {hub.key}
        for seq in range(5):
            item = await a.say(seq)
            for other in (hub, b):
                await other.log.until(lambda log, item=item: item in log.records())
        senders = {sender for _, sender in b.log.batches}
        assert senders == {hub.key}


async def test_the_largest_record_is_carried():
    async with node("a") as a, node("b") as b:
        await b.transport.dial(a.address)
        await meshed(a, b)
        item = await a.say(0, MAX_RECORD_BYTES)
        await b.log.until(lambda log: item in log.records())


async def test_a_record_above_the_limit_is_not_ingested_and_costs_the_sender():
    async with node("a") as a, node("b") as b:
        await b.transport.dial(a.address)
        await meshed(a, b)
        await a.gossip.publish(record(a.key, 0, MAX_RECORD_BYTES + 1))
        await eventually(lambda: b.transport.penalties.points(a.key) > 5)
        assert not b.log.batches


async def test_what_the_log_refuses_is_not_relayed_and_costs_the_sender():
    async with node("hub") as hub, node("a") as a, node("b") as b:
        await a.transport.dial(hub.address)
        await b.transport.dial(hub.address)
        await meshed(hub, a, b)
        await a.gossip.publish(b"not a record at all" * 4)
        await eventually(lambda: hub.transport.penalties.points(a.key) > 0)
        item = await a.say(0)
        await b.log.until(lambda log: item in log.records())
        assert hub.transport.penalties.points(a.key) > 0
        assert hub.transport.connected(a.key)
        assert b.transport.penalties.points(hub.key) == 0
        assert all(count == 1 for count, _ in b.log.batches)
        assert len(b.log.batches) == 1


async def test_a_member_that_goes_on_sending_rubbish_is_refused():
    async with node("a") as a, node("b") as b:
        await a.transport.dial(b.address)
        await meshed(a, b)
        for number in range(5):
            await a.gossip.publish(b"rubbish %d " % number * 8)
        await eventually(lambda: b.transport.refuses(a.key) and not b.transport.connected(a.key))


async def test_a_gap_is_filled_by_sync():
    async with node("a") as a, node("b") as b:
        await b.transport.dial(a.address)
        await meshed(a, b)
        for seq in range(3):
            await a.log.ingest([record(a.key, seq)], a.key)  # never announced
        item = await a.say(3)
        await b.log.until(lambda log: item in log.records())
        assert b.log.records() == a.log.records()
        assert b.transport.penalties.points(a.key) == 0


async def test_one_member_cannot_flood():
    async with node("a") as a, node("b") as b:
        await b.transport.dial(a.address)
        await meshed(a, b)
        for seq in range(300):
            await a.gossip.publish(record(author("flood"), seq, 60))
        await trio.sleep(1.0)
        taken = sum(count for count, sender in b.log.batches if sender == a.key)
        assert 50 <= taken <= 200
        assert b.transport.connected(a.key)


async def test_non_members_hear_nothing_and_are_not_heard():
    members = Members()
    async with (
        node("a", admission=members) as a,
        node("b", admission=members) as b,
        node("stranger") as stranger,
    ):
        members.keys |= {a.key, b.key}
        await b.transport.dial(a.address)
        await stranger.transport.dial(a.address)
        await meshed(a, b)
        item = await a.say(0)
        await b.log.until(lambda log: item in log.records())
        await stranger.gossip.publish(record(stranger.key, 0))
        await trio.sleep(0.5)
        assert not stranger.log.batches
        assert stranger.key not in {sender for _, sender in a.log.batches}
        assert not stranger.transport._pubsub.peer_topics, "it may not even learn the topic"


async def test_a_member_cannot_relay_for_a_non_member():
    """``hub`` admits everybody, ``b`` does not admit ``a``."""
    only_hub = Members()
    async with (
        node("hub") as hub,
        node("a") as a,
        node("b", admission=only_hub) as b,
    ):
        only_hub.keys |= {hub.key, b.key}
        await a.transport.dial(hub.address)
        await b.transport.dial(hub.address)
        await meshed(hub, a, b)
        item = await a.say(0)
        await hub.log.until(lambda log: item in log.records())
        await trio.sleep(0.3)
        assert not b.log.batches
        assert b.transport.penalties.points(hub.key) == 0


async def test_a_newcomer_is_heard_as_soon_as_it_is_admitted():
    members = Members()
    async with node("a", admission=members) as a, node("b") as b:
        await b.transport.dial(a.address)
        await eventually(lambda: a.transport.connected(b.key))
        await trio.sleep(0.3)
        assert not a.transport.hears(b.key)
        members.keys |= {a.key, b.key}
        await meshed(a, b)
        item = await b.say(0)
        await a.log.until(lambda log: item in log.records())


async def test_a_log_that_fails_loses_nothing_but_the_message(monkeypatch):
    async with node("a") as a, node("b") as b:
        await b.transport.dial(a.address)
        await meshed(a, b)

        async def fail(records, sender):
            raise RuntimeError("a bug in the log")

        with monkeypatch.context() as patch:
            patch.setattr(b.log, "ingest", fail)
            await a.say(0)
            await trio.sleep(0.5)
        item = await a.say(1)
        await b.log.until(lambda log: item in log.records())
        assert b.transport.penalties.points(a.key) == 0


class SlowLog(MemoryLog):
    """As slow as a disk under load."""

    async def ingest(self, records, sender):
        await trio.sleep(0.5)
        return await super().ingest(records, sender)


async def test_a_message_is_decided_once_whoever_else_sends_it_meanwhile():
    slow = SlowLog()
    async with node("a") as a, node("b") as b, node("c") as c, node("d", log=slow) as d:
        for one, other in ((b, a), (c, a), (c, b), (d, a), (d, b), (d, c)):
            await one.transport.dial(other.address)
        await meshed(a, b, c, d)
        slow.batches.clear()
        item = await a.say(0)
        await slow.until(lambda log: item in log.records())
        await trio.sleep(1.0)
        assert len(slow.batches) == 1

"""Two nodes with different parts of a history end with the same log, forks and proofs included.

Real logs, real signatures, real streams. Gossip is off: only sync is at work.
"""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.feed import Head
from swarm.forks import MAX_BRANCH_RECORDS, MAX_MARKS
from swarm.log import SwarmLog
from swarm.records import Equivocation, Open, Removed
from swarm.store import Store
from swarm.sync import Sync
from swarm.transport import Transport
from tests.swarm.council import FOUNDER, KEYS, Council, line
from tests.swarm.founding import Feed, Founded, make_founded
from tests.swarm.network import FAST, LOCAL, eventually

QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def said(name: str) -> Open:
    return Open(b"e" * 32, name.encode().ljust(32, b"."))


def history(length: int, fork_at: int | None, branch: int):
    """A founded swarm whose second author forks at ``fork_at``; and the wires of its branch."""
    founded = make_founded()
    _, first, forker = founded.feeds
    for number in range(length):
        first.say(said(f"first {number}"))
    other = Feed(forker.key, founded.swarm)
    for number in range(length):
        if number == fork_at:
            for extra in range(branch):
                other.say(said(f"branch {extra}"))
        record = forker.say(said(f"main {number}"))
        if fork_at is None or number < fork_at:
            other.seq, other.prev = forker.seq, record.id
    return founded, [record.signed.to_bytes() for record in other.records]


@asynccontextmanager
async def member(folder, founded, feed, wires):
    """A node with a log that took ``wires`` in, and sync over real streams."""
    with Store(folder / "log.sqlite", founded.swarm) as store:
        store.ingest([record.signed.to_bytes() for record in founded.feeds[0].records])
        store.ingest(wires)
        log = SwarmLog(store, feed.key, lambda _: None)
        log.may_sign.set()
        transport = Transport(feed.key.seed, LOCAL, admission=log, settings=FAST)
        sync = Sync(transport, log, interval=0.1)
        async with trio.open_nursery() as nursery, transport:
            nursery.start_soon(sync.run)
            yield log, transport
            nursery.cancel_scope.cancel()


def held(log: SwarmLog) -> set[bytes]:
    return {record.id for _, record in log.store.records()}


async def converge(founded, ours, theirs) -> tuple[set[bytes], SwarmLog, SwarmLog]:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        async with (
            member(Path(one), founded, founded.feeds[0], ours) as (a, here),
            member(Path(two), founded, founded.feeds[1], theirs) as (b, there),
        ):
            union = held(a) | held(b)
            await here.dial(there.addresses[0])

            def same() -> bool:
                return held(a) == held(b) and held(a) >= union

            await eventually(same, 30.0)
            forked = bool(a.store.contradictions())
            if forked:
                await eventually(lambda: same() and bool(a.convicted) and bool(b.convicted), 30.0)
            assert a.convicted == b.convicted
            assert a.convicted == ({founded.feeds[2].key.public} if forked else set())
            proofs = {
                record.id
                for _, record in a.store.records()
                if isinstance(record.payload, Equivocation)
            }
            assert held(a) - union <= proofs
            assert not here.penalties.points(there.key)
            assert not there.penalties.points(here.key)
            return held(a)


@settings(max_examples=8, suppress_health_check=QUIET)
@given(
    length=st.integers(1, 12),
    fork_at=st.none() | st.integers(0, 11),
    branch=st.integers(1, 9),
    random=st.randoms(use_true_random=False),
)
def test_any_two_subsets_converge(length, fork_at, branch, random):
    founded, other = history(length, fork_at, branch)
    main = [record.signed.to_bytes() for feed in founded.feeds[1:] for record in feed.records]
    parts = []
    for favourite in (main, other):
        pool = [*favourite, *random.sample(main, len(main) // 2), *random.sample(other, len(other))]
        cut = random.randint(0, len(pool))
        parts.append(pool[:cut] if random.random() < 0.5 else random.sample(pool, cut))
    trio.run(converge, founded, *parts)


async def test_a_fork_that_each_has_seen_one_side_of_is_found_by_sync_alone():
    """Equal lengths, so that heads by number alone would look the same."""
    founded, other = history(6, 2, 4)
    first, main = ([r.signed.to_bytes() for r in feed.records] for feed in founded.feeds[1:])
    ends = await converge(founded, main + first, main[:2] + other)
    assert {record.id for record in founded.feeds[2].records} < ends
    assert len(ends) >= 3 + 6 + 6 + 4 + 1


async def test_a_long_feed_with_a_late_fork_is_not_sent_twice():
    founded, other = history(600, 590, 3)
    main = [record.signed.to_bytes() for record in founded.feeds[2].records]
    await converge(founded, main, main[:590] + other)


async def test_a_late_joiner_gets_what_a_removed_member_had_said(tmp_path):
    """Up to the record that the removal names: or an audit of old claims would miss something."""
    council, (ada, bob) = Council(), KEYS[3:5]
    council.open(line(ada, "ada", "researcher"), line(bob, "bob", "researcher"))
    old = [council.feed(ada).say(said(f"ada {number}")) for number in range(5)]
    gone = Removed(ada.public, 4, old[-1].id, "left")
    council.open(line(bob, "bob", "researcher"), removed=(gone,))
    founder = council.feed(FOUNDER)
    knows_all = Founded(council.swarm, [founder])
    knows_nothing = Founded(council.swarm, [replace(founder, records=[])])
    for folder in ("old", "late"):
        (tmp_path / folder).mkdir()
    wires = [record.signed.to_bytes() for record in old]
    async with (
        member(tmp_path / "old", knows_all, founder, wires) as (held, here),
        member(tmp_path / "late", knows_nothing, council.feed(bob), []) as (late, there),
    ):
        assert not late.store.heads()
        await there.dial(here.addresses[0])
        await eventually(lambda: late.store.heads() == held.store.heads(), 30.0)
        assert late.store.heads()[ada.public] == Head(gone.last_seq, gone.last_id)
        assert late.store.rules.removed == {ada.public: 2}
        assert {record.id for record in old} < {record.id for _, record in late.store.records()}
        assert not there.penalties.points(here.key)


def test_a_forker_cannot_fill_the_disk(store, founded):
    """Beside the branch that came first, a bounded number of records is kept."""
    store.ingest(founded.wire)
    key = founded.feeds[1].key
    many = [Feed(key, founded.swarm) for _ in range(MAX_BRANCH_RECORDS + 50)]
    wires = [
        feed.say(said(f"version {number}")).signed.to_bytes() for number, feed in enumerate(many)
    ]
    result = store.ingest(wires)
    assert len(result.new) == 1 + MAX_BRANCH_RECORDS
    assert result.forked == 49
    assert len(result.proofs) == 1
    assert len(store.marks()[key.public]) <= MAX_MARKS
    assert store.beyond(key.public, store.marks()[key.public], 0, 1000, 1 << 30) == []


def test_a_proof_is_published_after_a_restart_if_it_could_not_be_before(tmp_path):
    founded, other = history(3, 1, 2)
    main = [record.signed.to_bytes() for record in founded.feeds[2].records]

    async def restart():
        with Store(tmp_path / "log.sqlite", founded.swarm) as store:
            log = SwarmLog(store, founded.feeds[1].key, lambda _: None)
            await log.ingest([*founded.wire, *main, *other], b"p" * 32)
            assert not log.convicted  # no leave to sign yet
        with Store(tmp_path / "log.sqlite", founded.swarm) as store:
            log = SwarmLog(store, founded.feeds[1].key, lambda _: None)
            log.may_sign.set()
            await log.ingest(main[:1], b"p" * 32)
            assert log.convicted == {founded.feeds[2].key.public}
            assert set(store.convictions()) == log.convicted

    trio.run(restart)

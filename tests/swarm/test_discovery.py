"""Members find one another through members; addresses survive restarts; lies lead nowhere."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from swarm import wire
from swarm.addressbook import MAX_FIRST_HAND, MAX_HEARD, MAX_KEYS, AddressBook
from swarm.addresses import PeerAddress, parse_address
from swarm.dialling import SUBNET_BURST, Dials
from swarm.discovery import MAX_TOLD, PROTOCOL, Discovery, addresses_in, as_seen
from swarm.keys import KeyPair
from swarm.streams import Misbehaviour, PeerGone
from tests.swarm.network import Members, bare, eventually

KEYS = [KeyPair.from_seed(bytes([n]) * 32).public for n in range(1, 9)]


def address(key: bytes, port: int = 4001, host: str = "192.0.2.1") -> PeerAddress:
    return PeerAddress("ip4", host, port, key)


@asynccontextmanager
async def finding(name, *, admission=None, path=None, **options):
    async with bare(name, admission=admission) as transport:
        book = AddressBook(path)
        discovery = Discovery(transport, book, interval=0.2, **options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery.run)
            yield transport, book, discovery
            nursery.cancel_scope.cancel()


async def test_strangers_to_each_other_meet_through_a_third():
    async with (
        finding("hub") as (hub, _, _),
        finding("a") as (a, _, _),
        finding("b") as (b, _, _),
        finding("c") as (c, _, _),
    ):
        for one in (a, b, c):
            await one.dial(hub.addresses[0])
        others = {hub.key, a.key, b.key, c.key}
        for one in (a, b, c):
            await eventually(lambda one=one: one.peers() == others - {one.key})


async def test_addresses_survive_a_restart_and_the_end_of_the_bootstrap_peer(tmp_path):
    path = tmp_path / "peers"
    async with finding("b") as (b, _, _):
        async with finding("hub") as (hub, _, _):
            await b.dial(hub.addresses[0])
            async with finding("a", path=path) as (a, _, _):
                await a.dial(hub.addresses[0])
                await eventually(lambda: b.key in a.peers())
        assert path.read_text().count("/p2p/") >= 1
        async with finding("a", path=path) as (a, book, _):  # nobody has told it anything
            assert b.key in book._entries
            await eventually(lambda: b.key in a.peers())


async def test_no_more_are_dialled_than_wanted():
    async with (
        finding("hub") as (hub, _, _),
        finding("a", wanted=1) as (a, _, _),
        finding("b", wanted=1) as (b, _, _),
    ):
        for one in (a, b):
            await one.dial(hub.addresses[0])
        await trio.sleep(1.5)
        assert not a.connected(b.key)


async def test_one_that_is_asked_for_is_reached_beyond_what_is_wanted():
    async with (
        finding("hub") as (hub, _, _),
        finding("a", wanted=1) as (a, book, discovery),
        finding("b", wanted=1) as (b, _, _),
    ):
        for one in (a, b):
            await one.dial(hub.addresses[0])
        await eventually(lambda: bool(book.addresses(b.key)))
        assert not a.connected(b.key)
        assert await discovery.reach(b.key)
        assert b.key in a.peers()
        assert await discovery.reach(b.key)
        assert not await discovery.reach(KEYS[0])
        assert not await discovery.reach(a.key)


async def test_only_members_are_told_noted_and_dialled():
    members = Members()
    async with (
        finding("a", admission=members) as (a, book, discovery),
        bare("liar") as liar,
        bare("stranger") as stranger,
    ):
        members.keys |= {liar.key, KEYS[0]}
        told = [str(address(KEYS[0], 1, "127.0.0.1")), stranger.addresses[0]]

        async def answer(peer: bytes, request: bytes) -> bytes:
            return wire.encode(told)

        liar.set_responder(PROTOCOL, answer, max_request=4096)
        await a.dial(liar.addresses[0])
        assert await discovery.ask(liar.key) == 2
        assert book.addresses(KEYS[0])
        assert not book.addresses(stranger.key)
        assert not book.to_tell(9, lambda _: True)  # what others say is not passed on
        await stranger.dial(a.addresses[0])
        with pytest.raises(PeerGone):
            await stranger.request(a.key, PROTOCOL, wire.encode([]), max_response=1000)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff", wire.encode({}), wire.encode([1]), wire.encode(["x"]), wire.encode([""] * 99)],
)
async def test_a_broken_answer_costs_its_sender(answer):
    async with finding("a") as (a, _book, discovery), bare("liar") as liar:

        async def respond(peer: bytes, request: bytes) -> bytes:
            return answer

        liar.set_responder(PROTOCOL, respond, max_request=4096)
        await a.dial(liar.addresses[0])
        with pytest.raises(Misbehaviour):
            await discovery.ask(liar.key)
        assert a.penalties.points(liar.key) > 0


async def test_nobody_speaks_for_somebody_else():
    async with finding("a") as (a, book, _), bare("liar") as liar:
        await liar.dial(a.addresses[0])
        request = wire.encode([str(address(KEYS[0]))])
        with pytest.raises(PeerGone):
            await liar.request(a.key, PROTOCOL, request, max_response=1000)
        await eventually(lambda: a.penalties.points(liar.key) > 0)
        assert not book.addresses(KEYS[0])


@asynccontextmanager
async def counting(host: str):
    """A third party, and how often it is dialled."""
    dialled = []

    async def note(stream):
        dialled.append(stream)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, note, [listener])
        yield listener.socket.getsockname()[1], dialled
        nursery.cancel_scope.cancel()


async def test_who_names_others_addresses_and_leaves_has_nobody_dial_them_again_and_again():
    async with counting("127.0.0.9") as (port, dialled), finding("a") as (a, book, _):
        for name in ("liar", "liar", "another", "liar", "a third", "liar"):
            async with bare(name) as liar:
                await liar.dial(a.addresses[0])
                told = [address(liar.key, port, "127.0.0.9"), address(liar.key, 1, "127.0.0.8")]
                request = wire.encode(list(map(str, told)))
                await liar.request(a.key, PROTOCOL, request, max_response=20_000)
                assert not book.to_tell(9, lambda _, key=liar.key: True)
            await eventually(lambda key=liar.key: not a.connected(key))
            await trio.sleep(0.3)
        await trio.sleep(1.0)
        assert len(dialled) <= 2, len(dialled)


async def test_a_member_is_believed_about_the_host_that_it_is_seen_at():
    async with finding("a") as (a, book, _), bare("b") as b:
        await b.dial(a.addresses[0])
        request = wire.encode([str(address(b.key, 7, "127.0.0.1"))])
        await b.request(a.key, PROTOCOL, request, max_response=20_000)
        assert book.to_tell(9, lambda _: True) == [address(b.key, 7, "127.0.0.1")]


def dials_at(now: list[float]) -> Dials:
    return Dials(clock=lambda: now[0])


def tried(dials: Dials, where: PeerAddress, **how: bool) -> bool:
    """Dial in vain, if it may be dialled."""
    may = dials.ready(where, **how)
    if may:
        dials.began(where)
    return may


def test_the_pause_belongs_to_the_address_and_ends_when_its_key_answers():
    now = [1000.0]
    dials = dials_at(now)
    assert tried(dials, address(KEYS[0]))
    for key in KEYS:  # whoever names it
        assert not tried(dials, address(key))
    count = 0
    for _ in range(3600):
        now[0] += 1
        count += tried(dials, address(KEYS[0]))
    assert 4 <= count <= 10
    dials.began(address(KEYS[0]))
    dials.answered(address(KEYS[0]))
    assert dials.ready(address(KEYS[0]))
    assert dials.is_proven(address(KEYS[0]))
    assert not dials.is_proven(address(KEYS[1]))


def test_addresses_that_never_answered_share_what_their_subnet_may_have():
    now = [1000.0]
    dials = dials_at(now)
    wheres = [address(KEYS[0], port, f"192.0.2.{port % 250}") for port in range(1, 500)]
    assert sum(tried(dials, where) for where in wheres) == SUBNET_BURST
    assert tried(dials, address(KEYS[0], host="198.51.100.1"))
    names = [PeerAddress("dns", f"n{n}.example.org", 1, KEYS[0]) for n in range(99)]
    assert sum(tried(dials, where) for where in names) == SUBNET_BURST
    waiting = address(KEYS[1], 600)  # who runs this node waits for it
    assert not tried(dials, waiting, named_by_owner=True)
    now[0] += 60
    assert sum(tried(dials, waiting, named_by_owner=True) for _ in range(9)) == SUBNET_BURST


def test_addresses_that_answer_cost_their_subnet_nothing():
    dials = dials_at([1000.0])
    for port in range(1, 100):
        assert tried(dials, address(KEYS[0], port))
        dials.answered(address(KEYS[0], port))


def test_what_others_say_replaces_nothing_that_is_first_hand():
    book = AddressBook()
    for port in range(1, 9):
        book.reached(address(KEYS[0], port))
    for port in range(100, 200):
        book.hear(address(KEYS[0], port))
    listed = [one.port for one in book.addresses(KEYS[0])]
    assert listed[:MAX_FIRST_HAND] == [8, 7, 6, 5]
    assert len(listed) == MAX_FIRST_HAND + MAX_HEARD


def test_a_flood_of_keys_pushes_out_only_what_is_hearsay():
    book = AddressBook()
    for key in KEYS:
        book.reached(address(key))
    for number in range(2 * MAX_KEYS):
        book.hear(PeerAddress("ip4", "192.0.2.1", 4001, number.to_bytes(32, "big")))
    assert len(book) == MAX_KEYS
    assert all(book.addresses(key) for key in KEYS)


def test_a_damaged_or_unwritable_file_is_survived(tmp_path):
    path = tmp_path / "peers"
    path.write_bytes(b"\xff\xfe\n12 nonsense\nx " + str(address(KEYS[0])).encode() + b"\n")
    assert len(AddressBook(path)) == 0
    lost = AddressBook(tmp_path / "no" / "folder")
    lost.reached(address(KEYS[0]))
    lost.save()
    book = AddressBook(path)
    book.reached(address(KEYS[0]))
    book.save()
    assert AddressBook(path).addresses(KEYS[0]) == [address(KEYS[0])]
    far = AddressBook(path, clock=lambda: 4e9)
    assert not far.addresses(KEYS[0])  # too old to be worth a dial


def test_a_peer_that_listens_everywhere_is_noted_where_it_is_seen():
    everywhere = parse_address(str(address(KEYS[0], host="0.0.0.0")))
    assert as_seen(everywhere, "198.51.100.7") == address(KEYS[0], host="198.51.100.7")
    assert as_seen(everywhere, "") is None
    local = address(KEYS[0], host="127.0.0.1")
    assert as_seen(local, "127.0.0.1") == local
    assert as_seen(local, "198.51.100.7") is None
    assert as_seen(local, "") is None


@given(st.binary(max_size=200))
def test_any_bytes_are_addresses_or_misbehaviour(data):
    try:
        found = addresses_in(data, MAX_TOLD)
    except Misbehaviour:
        return
    assert wire.encode([str(one) for one in found]) == data

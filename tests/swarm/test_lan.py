"""Two members of one swarm on one network find each other without any address."""

from __future__ import annotations

import pytest
import trio
from zeroconf import Zeroconf

from swarm.addressbook import AddressBook
from swarm.discovery import Discovery
from swarm.keys import KeyPair, peer_id
from swarm.lan import announced, on_the_lan, tag_of
from tests.swarm.network import bare, eventually

KEY = KeyPair.from_seed(b"l" * 32).public
ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id(KEY)}"


async def test_members_on_one_network_find_each_other():
    try:
        Zeroconf(interfaces=["127.0.0.1"]).close()
    except OSError as error:
        pytest.skip(f"no multicast on loopback: {error.strerror}")
    swarm = b"s" * 32
    async with bare("a") as a, bare("b") as b, bare("c") as c:
        async with trio.open_nursery() as nursery:
            books = []

            async def look(transport, swarm):
                book = AddressBook()
                books.append(book)
                nursery.start_soon(Discovery(transport, book, interval=0.5).run)
                async with on_the_lan(swarm, transport.addresses, book.hear, ["127.0.0.1"]):
                    await trio.sleep_forever()

            nursery.start_soon(look, a, swarm)
            nursery.start_soon(look, b, swarm)
            nursery.start_soon(look, c, b"t" * 32)
            await eventually(lambda: a.connected(b.key) and b.connected(a.key), 30.0)
            assert not c.peers()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {b"swarm": b"other", b"dnsaddr0": ADDRESS.encode()},
        {b"swarm": tag_of(b"s" * 32), b"dnsaddr0": None},
        {b"swarm": tag_of(b"s" * 32), b"dnsaddr0": b"\xff"},
        {b"swarm": tag_of(b"s" * 32), b"dnsaddr0": b"/ip4/1.2.3.4/tcp/99999999"},
    ],
)
def test_other_announcements_say_nothing(properties):
    assert announced(properties, tag_of(b"s" * 32)) == []


def test_a_few_addresses_of_an_announcement_are_read():
    many = {b"dnsaddr%d" % n: ADDRESS.replace("4001", str(4001 + n)).encode() for n in range(99)}
    found = announced({b"swarm": tag_of(b"s" * 32), **many}, tag_of(b"s" * 32))
    assert [one.port for one in found] == [4001, 4002, 4003, 4004]

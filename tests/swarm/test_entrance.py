"""Who has to go when somebody else comes."""

from __future__ import annotations

from swarm import entrance
from swarm.entrance import Entrance


class Door:
    """An entrance without sockets: who was cut, and who was sent away."""

    def __init__(self, places=8, strangers=2, members=()):
        self.busy: set[bytes] = set()
        self.cut: list[object] = []
        self.entrance = Entrance(
            places, strangers, lambda key: key in members, lambda key: key in self.busy
        )

    def arrive(self, host: str):
        name = object()
        return self.entrance.arrive(host, lambda: self.cut.append(name))


def test_the_oldest_of_the_most_crowded_address_gives_way(monkeypatch):
    monkeypatch.setattr(entrance, "MAX_UNPROVEN", 4)
    door = Door()
    alone = door.arrive("8.8.8.8")
    crowd = [door.arrive("9.9.9.9") for _ in range(3)]
    newest = door.arrive("9.9.9.7")  # of the same subnet
    assert [one.gone for one in (alone, *crowd, newest)] == [False, True, False, False, False]
    for _ in range(20):
        door.arrive("9.9.9.9")
    assert not alone.gone


def test_hosts_of_members_have_places_of_their_own(monkeypatch):
    monkeypatch.setattr(entrance, "MAX_UNPROVEN", 3)
    monkeypatch.setattr(entrance, "MAX_UNPROVEN_KNOWN", 2)
    door = Door(members={b"m"})
    door.entrance.proved(door.arrive("10.0.0.1"), b"m")
    crowd = [door.arrive(f"10.9.{n}.1") for n in range(3)]
    known = door.arrive("10.0.0.1")
    for n in range(50):
        door.arrive(f"10.8.{n}.1")
    assert not known.gone
    assert all(one.gone for one in crowd)
    more = [door.arrive("10.0.0.1") for _ in range(3)]
    assert known.gone
    assert not more[-1].gone


def test_strangers_take_one_another_s_places_and_no_member_s():
    door = Door(places=4, strangers=2, members={b"m", b"n", b"o", b"p"})

    def prove(key: bytes, host: str = "10.0.0.1"):
        guest = door.arrive(host)
        return guest, door.entrance.proved(guest, key)

    first, _ = prove(b"1")
    second, _ = prove(b"2")
    third, let_in = prove(b"3")
    assert (let_in, first.gone, second.gone) == (True, True, False)
    door.busy = {b"2", b"3"}
    assert not prove(b"4")[1]  # both are being answered
    door.busy = {b"2"}
    members = [prove(key) for key in (b"m", b"n", b"o")]
    assert all(let_in for _, let_in in members)
    assert third.gone
    assert not any(guest.gone for guest, _ in members[1:])


def test_who_reads_nothing_goes_first():
    door = Door(places=9, strangers=3)
    guests = [door.arrive("10.0.0.1") for _ in range(3)]
    for number, guest in enumerate(guests):
        assert door.entrance.proved(guest, bytes([number]))
    guests[1].takes_nothing = lambda: True
    assert door.entrance.proved(door.arrive("10.0.0.2"), b"new")
    assert [guest.gone for guest in guests] == [False, True, False]


def test_a_place_is_held_until_the_descriptor_is_closed(monkeypatch):
    monkeypatch.setattr(entrance, "MAX_UNPROVEN", 2)
    door = Door(places=1, strangers=1)
    first = door.arrive("10.0.0.1")
    assert door.entrance.proved(first, b"1")
    door.busy = {b"1"}
    second = door.arrive("10.0.0.1")
    assert not door.entrance.proved(second, b"2")
    door.entrance.leave(first)
    assert door.entrance.proved(door.arrive("10.0.0.1"), b"2")

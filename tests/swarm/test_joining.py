"""Invitations as text, and the one protocol that is open to strangers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from swarm.addresses import AddressError, PeerAddress, parse_address
from swarm.joining import (
    MAX_REQUEST,
    MAX_RESPONSE,
    PROTOCOL,
    Invitation,
    InvitationError,
    Joining,
    ask_to_join,
)
from swarm.keys import KeyPair, peer_id
from swarm.streams import NetworkError, PeerGone
from tests.swarm.network import Members, bare, raw_stream, seed

KEY = KeyPair.from_seed(seed("inviter")).public
HOSTS = [
    ("ip4", "192.0.2.1"),
    ("ip6", "2001:db8::1"),
    ("dns", "node.example.org"),
    ("dns4", "a.example"),
    ("dns6", "b-2.example"),
]
addresses = st.builds(
    lambda host, port, key: PeerAddress(*host, port, key),
    st.sampled_from(HOSTS),
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
)
invitations = st.builds(
    Invitation,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["researcher", "verifier", "researcher,verifier"]),
    st.lists(addresses, min_size=1, max_size=8).map(tuple),
)
ONE = Invitation(
    b"\7" * 32, b"\1" * 16, "researcher", (PeerAddress("ip4", "192.0.2.1", 4001, KEY),)
)


@given(addresses)
def test_addresses_survive_text(address):
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/ip4/192.0.2.1/tcp/4001",
        "/ip4/192.0.2.1/udp/4001/p2p/" + peer_id(KEY),
        "/ip4/192.0.2.1/tcp/0/p2p/" + peer_id(KEY),
        "/ip4/192.0.2.1/tcp/65536/p2p/" + peer_id(KEY),
        "/ip4/192.0.2.1/tcp/04001/p2p/" + peer_id(KEY),
        "/ip4/192.0.2.1/tcp/\u0664/p2p/" + peer_id(KEY),
        "/ip4/192.0.2.256/tcp/4001/p2p/" + peer_id(KEY),
        "/ip4/node.example/tcp/4001/p2p/" + peer_id(KEY),
        "/ip6/2001:DB8::1/tcp/4001/p2p/" + peer_id(KEY),
        "/dns/Node.example/tcp/4001/p2p/" + peer_id(KEY),
        "/dns/-a/tcp/4001/p2p/" + peer_id(KEY),
        "/dns/a..b/tcp/4001/p2p/" + peer_id(KEY),
        "/dns/a\n/tcp/4001/p2p/" + peer_id(KEY),
        "/ip4/192.0.2.1/tcp/4001/p2p/" + peer_id(KEY)[:-1],
        "/ip4/192.0.2.1/tcp/4001/p2p/1" + peer_id(KEY),
        "/ip4/192.0.2.1/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "/ip4/192.0.2.1/tcp/4001/p2p/" + peer_id(KEY) + "/p2p-circuit",
    ],
)
def test_other_addresses_are_refused(text):
    with pytest.raises(AddressError) as raised:
        parse_address(text)
    assert raised.value.cure


@given(invitations)
def test_invitations_survive_text(invitation):
    text = str(invitation)
    assert Invitation.parse(text) == invitation
    assert Invitation.parse(f"  {text}\n") == invitation
    assert text.isascii()
    assert text.isalnum()
    assert text == text.lower()


def test_an_invitation_is_short_enough_to_paste():
    assert len(str(ONE)) < 200


def test_the_token_is_not_in_the_repr():
    assert "01010101" not in repr(ONE)
    assert "\\x01" not in repr(ONE)


@given(invitations, st.data())
def test_one_wrong_character_is_noticed(invitation, data):
    text = str(invitation)
    place = data.draw(st.integers(4, len(text) - 1))
    wrong = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
    if text[place] == wrong:
        return
    with pytest.raises(InvitationError) as raised:
        Invitation.parse(text[:place] + wrong + text[place + 1 :])
    assert raised.value.cure


@given(invitations, st.data())
def test_a_cut_invitation_is_called_cut(invitation, data):
    text = str(invitation)
    cut = text[: data.draw(st.integers(10, len(text) - 1))]
    with pytest.raises(InvitationError, match="cut off"):
        Invitation.parse(cut)


@given(st.text(max_size=300))
def test_any_text_is_an_invitation_or_an_error(text):
    for candidate in (text, "laz1" + text):
        with pytest.raises(InvitationError):
            Invitation.parse(candidate)


def test_what_is_wrong_is_said():
    text = str(ONE)
    for wrong, words in (
        ("hello", "does not start"),
        (text.upper(), "does not start"),
        (text[:20] + "!" + text[20:], "character 21"),
        (text[:20] + text[20].upper() + text[21:], "character 21"),
        (text + "aaaaaaaa", "mistyped"),
        (text[:-1] + ("a" if text[-1] != "a" else "b"), "mistyped"),
        ("laz1" + "a" * 5000, "too long"),
        ("laz1", "cut off"),
    ):
        if words == "character 21" and not wrong[20].isupper() and wrong[20] != "!":
            continue  # a digit has no upper case
        with pytest.raises(InvitationError, match=words):
            Invitation.parse(wrong)


def test_bad_invitations_cannot_be_made():
    address = ONE.addresses
    for arguments in (
        (b"short", bytes(16), "researcher", address),
        (bytes(32), b"short", "researcher", address),
        (bytes(32), bytes(16), "", address),
        (bytes(32), bytes(16), "Two words", address),
        (bytes(32), bytes(16), "researcher", ()),
        (bytes(32), bytes(16), "researcher", address * 9),
    ):
        with pytest.raises(InvitationError):
            Invitation(*arguments)


def test_invitations_and_blob_stores_need_no_libp2p():
    code = (
        "import sys; import swarm.joining, swarm.blobs, swarm.sync, swarm.gossip; "
        "sys.exit('libp2p' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_stranger_can_ask_and_nothing_else():
    asked: list[tuple[bytes, bytes]] = []

    async def answer(peer: bytes, ip: str, request: bytes) -> bytes:
        asked.append((peer, ip, request))
        return b"welcome" * 1000

    async def secret(peer: bytes, ip: str, request: bytes) -> bytes:
        return b"secret"

    async with bare("a", admission=Members()) as a, bare("stranger") as stranger:
        Joining(a, answer)
        a.set_responder("/test/secret/1", secret, max_request=10)
        await stranger.dial(a.addresses[0])
        assert await ask_to_join(stranger, a.key, b"please") == b"welcome" * 1000
        assert asked == [(stranger.key, "127.0.0.1", b"please")]
        with pytest.raises(PeerGone):
            await stranger.request(a.key, "/test/secret/1", b"", max_response=10)


async def test_sizes_are_capped_on_both_sides():
    async def answer(peer: bytes, ip: str, request: bytes) -> bytes:
        return bytes(MAX_RESPONSE + 1) if request == b"much" else request

    async with bare("a", admission=Members()) as a, bare("stranger") as stranger:
        Joining(a, answer)
        await stranger.dial(a.addresses[0])
        with pytest.raises(NetworkError):
            await ask_to_join(stranger, a.key, bytes(MAX_REQUEST + 1))
        with pytest.raises(PeerGone):
            await stranger.request(a.key, PROTOCOL, bytes(MAX_REQUEST + 1), max_response=10)
        with pytest.raises(PeerGone):
            await ask_to_join(stranger, a.key, b"much")
        request = bytes(MAX_REQUEST)
        assert await ask_to_join(stranger, a.key, request) == request


async def test_asking_too_often_gets_no_answer():
    count = 0

    async def answer(peer: bytes, ip: str, request: bytes) -> bytes:
        nonlocal count
        count += 1
        return b"no"

    async with bare("a", admission=Members()) as a, bare("stranger") as stranger:
        Joining(a, answer)
        await stranger.dial(a.addresses[0])
        failures = 0
        for _ in range(15):
            try:
                await ask_to_join(stranger, a.key, b"please")
            except PeerGone:
                failures += 1
        assert count == 15 - failures
        assert 10 <= count <= 12


async def test_a_decision_that_fails_or_hangs_holds_nobody_up():
    async def answer(peer: bytes, ip: str, request: bytes) -> bytes:
        if request == b"fail":
            raise RuntimeError("a bug")
        if request == b"hang":
            await trio.sleep_forever()
        return b"yes"

    async with (
        bare("a", admission=Members()) as a,
        bare("stranger") as stranger,
        bare("other") as other,
    ):
        Joining(a, answer)
        await stranger.dial(a.addresses[0])
        await other.dial(a.addresses[0])
        stream = await raw_stream(other, a.key, PROTOCOL)
        await stream.write(b"\0\0\0\x09half")
        await stream.reset()
        with pytest.raises(PeerGone):
            await ask_to_join(stranger, a.key, b"fail")
        with pytest.raises(PeerGone):
            await ask_to_join(stranger, a.key, b"hang", seconds=0.3)
        assert await ask_to_join(other, a.key, b"please") == b"yes"

"""Joining from one string: two real nodes on loopback, and what happens when it cannot work."""

from __future__ import annotations

import os
import socket

import pytest

from node.demo.local import LocalSwarm, Part
from node.errors import UsageError
from node.invitations import reachable
from node.report import summary
from node.settings import Home
from swarm.addresses import parse_address
from swarm.joining import Invitation
from swarm.keys import KeyPair, peer_id
from tests.node.commands import lazaretto
from training import leakscan


def an_invitation(port: int) -> str:
    key = KeyPair.generate()
    address = parse_address(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(key.public)}")
    return str(Invitation(os.urandom(32), os.urandom(16), "verifier", (address,)))


def test_an_unreachable_inviter_is_said_in_one_line(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = lazaretto("join", an_invitation(closed.getsockname()[1]), "--home", str(tmp_path))
    assert done.code == 6
    assert "could not reach the inviting node" in done.err
    assert "next:" in done.err


@pytest.mark.parametrize(
    "listen", ["foo", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1", "/dns/x/tcp/1"]
)
def test_a_wrong_listen_address_changes_nothing(listen, tmp_path):
    home = tmp_path / "home"
    done = lazaretto("join", an_invitation(1), "--listen", listen, "--home", str(home))
    assert done.code == 2
    assert not home.exists()


def test_an_invitation_names_an_address_that_others_can_dial():
    loopback = ("/ip4/127.0.0.1/tcp/7/p2p/x",)
    everywhere = ("/ip4/0.0.0.0/tcp/7/p2p/x",)
    assert reachable(loopback, None) == loopback
    assert reachable(everywhere, "192.0.2.7") == ("/ip4/192.0.2.7/tcp/7/p2p/x",)
    for addresses, host in (
        (everywhere, None),
        (everywhere, "example.org"),
        (everywhere, "2001:db8::7"),
        (loopback, "192.0.2.7"),
    ):
        with pytest.raises(UsageError) as caught:
            reachable(addresses, host)
        assert caught.value.cure


@pytest.mark.sandbox
@pytest.mark.slow
def test_one_string_is_enough_for_one_node(tmp_path, monkeypatch):
    """init, up, invite, join, status: from the string alone to charter, roster, records, data."""
    monkeypatch.setattr(leakscan, "sandbox_files", lambda devices: [])  # 100 MB to read
    parts = (Part("lab", ("archivist", "governor")),)
    with LocalSwarm(tmp_path, parts, progress=print) as swarm:
        swarm.start()
        founder = swarm["lab"].home
        invited = lazaretto("invite", "--operator", "bob", "--home", str(founder.path))
        assert invited.code == 0, invited.err
        (invitation,) = invited.out.split()
        bob, eve = tmp_path / "bob", tmp_path / "eve"
        joined = lazaretto("join", invitation, "--home", str(bob))
        assert joined.code == 0, joined.err
        again = lazaretto("join", invitation, "--home", str(bob))
        assert again.code == 0, again.err
        used = lazaretto("join", invitation, "--home", str(eve))
        assert used.code == 1
        assert "used by another node" in used.err
        over = lazaretto("join", invitation, "--home", str(founder.path))
        assert over.code == 2
        assert "governor" in founder.load().roles
    mine, theirs = summary(Home(bob)), summary(founder)
    assert mine["swarm"] == theirs["swarm"]
    assert mine["records"] == theirs["records"]
    assert mine["epoch"] == theirs["epoch"] == 2
    assert mine["roles"] == ["researcher", "verifier"]
    blobs = {path.name for path in founder.blobs.rglob("*") if path.is_file()}
    assert blobs <= {path.name for path in (bob / "blobs").rglob("*") if path.is_file()}

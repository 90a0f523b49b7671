"""``lazaretto rotate-key``: this node goes on under a new key, and the old one says so itself.

The old key's last record names the new key, which agrees by its signature; nothing can follow it.
So the swarm needs nobody's word for it, and a copy of the old key is worth little afterwards. A key
that is lost cannot say so: governors remove it, and admit a new one under the same operator.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from node.errors import NodeError, NotRunning, UsageError
from node.knocking import doors
from node.state import read_state
from swarm.keys import KeyPair, peer_id, rotation_bytes
from swarm.records import Rotation
from swarm.store import Store
from swarm.wire import sign

if TYPE_CHECKING:
    from node.settings import Home


def rotate_key(home: Home) -> tuple[str, str]:
    """Hand over to a new key; returns the peer ids of the old and the new one. The node is down.

    Cut off at any point, it goes on when it is called again: the new key is on disk before the old
    one signs, and it takes its place last.

    Raises:
        UsageError: the node runs, is no member, or would not find anybody under its new key.
        NodeError: something that only the old key can do is not done yet.
    """
    settings, old = home.load(), KeyPair.load(home.key)
    try:
        read_state(home)
    except NotRunning:
        pass
    else:
        raise UsageError("this node is running", cure="stop it, then run the same command again")
    waiting = home.path / "key.new"
    new = KeyPair.load(waiting) if waiting.exists() else KeyPair.generate()
    with Store(home.log, settings.swarm_id) as store:
        rules = store.stand
        if rules is None or not (rules.is_member(old.public) or old.public in rules.rotated):
            raise UsageError("this node is no member", cure="lazaretto status")
        newest = rules.newest
        others = set(newest.roster) - {old.public} if newest else set()
        if others and not doors(home, settings, old.public):
            raise UsageError(
                "no address of others is known here, and they cannot find a new key",
                cure=f"put the address of another member into bootstrap in {home.settings}",
            )
        unrevealed = [one for one in rules.epochs.values() if one.beacon is None]
        if any(old.public in one.signers for one in unrevealed):
            raise NodeError(
                "the beacon of an epoch still needs this key", cure="lazaretto up, for a moment"
            )
        if old.public not in rules.rotated:
            if not waiting.exists():
                new.save(waiting)
            message = rotation_bytes(rules.swarm, old.public, new.public)
            proof = sign(new.private, message).signature
            store.append(old, Rotation(new.public, proof))
        elif rules.rotated[old.public] != new.public:
            raise NodeError("this key was handed over from elsewhere", cure="lazaretto members")
    kept = home.path / f"key.{peer_id(old.public)[-8:]}"
    if not kept.exists():
        os.link(home.key, kept)
    os.replace(waiting, home.key)
    return peer_id(old.public), peer_id(new.public)

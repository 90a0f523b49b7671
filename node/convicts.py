"""Members who told two stories: the next epoch leaves them out, and people are told before.

A proof takes effect with an epoch that names it as the reason, never on arrival: nodes that hold
different records must not differ about who may speak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.records import Rotation

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from node.settings import Home
    from swarm.charter import Rules
    from swarm.feed import Conviction
    from swarm.store import Store

STORIES = "told two stories"
MOST_OUT = 64
"""How many one epoch leaves out: their lines are part of a record. The others are for the next."""
STAYS = (
    "it governs, and stays while an epoch needs its signature; with more governors the next one "
    "leaves it out: lazaretto epoch open --governor WHO"
)


def _answered_for(
    store: Store, rules: Rules, author: bytes, proofs: Sequence[Conviction]
) -> list[Conviction]:
    """Those of the ``proofs`` against ``author`` for which the key that goes on for it answers.

    A new key is no way out of what the old one signed before it handed over. What it signed
    afterwards is somebody else's: its owner has given it up, perhaps because it was stolen. Nor
    does a proof count that comes when an epoch has the new key: a thief signs under any number.
    """
    if author not in rules.rotated:
        return list(proofs)
    taken = [
        (view.id, item.last_seq)
        for view in rules.epochs.values()
        for item in view.handovers
        if item.old == author
    ]
    if taken:
        before, last = store.arrival(taken[0][0]), taken[0][1]
        return [one for one in proofs if one.seq <= last and one.arrival < before]
    said = [one for one in store.of_kind(Rotation.KIND) if one.author == author]
    last = max((one.envelope.seq for one in said), default=0)
    return [one for one in proofs if one.seq <= last]


def leaving(rules: Rules, members: Collection[bytes]) -> frozenset[bytes]:
    """Those of the convicted ``members`` whom the next epoch leaves out.

    Governors stay while an epoch needs the signature of one of them: nobody can be relied on to
    sign himself out, and a swarm that opens no epoch any more is worse.
    """
    governors = set(rules.governors) & set(members)
    others = len(rules.governors) - len(governors)
    return frozenset(members) - (governors if others < rules.quorum else set())


def convicts(store: Store) -> dict[bytes, bytes]:
    """Members who told two stories -> the id of the record with the proof."""
    rules = store.stand
    if rules is None:
        return {}
    found: dict[bytes, bytes] = {}
    for author, proofs in sorted(store.convicted().items()):
        key = rules.heir(author)
        if rules.is_member(key) and (told := _answered_for(store, rules, author, proofs)):
            found[key] = min(one.id for one in told)
    return found


def removals(store: Store) -> tuple[tuple[bytes, str], ...]:
    """Whom the next epoch leaves out for a proof, and the reason that it gives."""
    found = convicts(store)
    if store.stand is None or not found:
        return ()
    roster = store.stand.current.roster if store.stand.current else {}
    out = sorted(leaving(store.stand, found), key=lambda key: (key not in roster, key))
    return tuple((key, story(found[key])) for key in out[:MOST_OUT])


def story(proof: bytes) -> str:
    """What a convicted member did, with the proof."""
    return f"{STORIES}, proof {proof.hex()[:12]}"


def staying(store: Store) -> list[bytes]:
    """Convicted governors whom the next epoch cannot leave out."""
    found = convicts(store)
    return sorted(found.keys() - leaving(store.stand, found)) if store.stand else []


def outlook(home: Home, *, stays: bool, opens: bool) -> str:
    """What becomes of a convicted member, and what to type; ``opens``: this node governs."""
    where = f"--home {home.path}"
    if stays:
        return f"{STAYS} {where}"
    command = "epoch open" if opens else "members"
    who = "leave it out" if opens else "the governors' next epoch leaves it out"
    return f"{who}, for good: lazaretto {command} {where}"

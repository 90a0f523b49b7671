"""Rosters: who is in an epoch, for whom they speak, and how many claims they may make in it.

One operator has one voice, however many keys it runs: its slots together are those of one
researcher, and a member that others did not check (vouched for, or come through an open door) never
counts as somebody new.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from swarm import wire
from swarm.errors import CharterError, RecordError, WireError
from swarm.fields import from_map, to_map
from swarm.keys import is_valid_public, short
from swarm.records import Member

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

OPEN_OPERATOR = "open"
"""The one operator of all who came through the door of an ``open`` swarm without an invitation."""
MAX_ROSTER = 40 * 1024
"""Bytes of a roster in an epoch record: about 200 members."""
MAX_VOUCHED = 8
"""Keys for which one member may vouch; its first ones count."""


def encode_roster(members: Iterable[Member]) -> bytes:
    """Canonical bytes of a roster, ordered by key."""
    ordered = sorted(members, key=lambda member: member.key)
    return wire.encode([to_map(member) for member in ordered])


def decode_roster(data: bytes) -> dict[bytes, Member]:
    """Inverse of :func:`encode_roster`.

    Raises:
        CharterError: malformed, unordered, repeated keys, unsound keys, or gammas above one.
    """
    try:
        items = wire.decode(data)
        if not isinstance(items, list):
            raise CharterError("a roster is a list")
        members = [from_map(Member, item) for item in items]
    except (WireError, RecordError) as error:
        raise CharterError(f"roster: {error}") from None
    keys = [member.key for member in members]
    if keys != sorted(set(keys)):
        raise CharterError("a roster is ordered by key, each key once")
    if not all(is_valid_public(key) for key in keys):
        raise CharterError("a roster holds a key that is not a sound Ed25519 key")
    # in exact integers
    if sum((Fraction(one.gamma_num, one.gamma_den) for one in members), Fraction(0)) > 1:
        raise CharterError("the shares (gamma) of a roster add up to more than one")
    return {member.key: member for member in members}


@lru_cache(maxsize=512)
def read_roster(data: bytes) -> Mapping[bytes, Member]:
    """:func:`decode_roster`, remembered: every fold reads the rosters of all epochs again."""
    return MappingProxyType(decode_roster(data))


def share_alpha(members: Iterable[Member], slots: int) -> tuple[Member, ...]:
    """Give every operator that researches an equal share of the epoch and ``slots`` claims.

    Several keys of one operator share both, earlier keys first where it does not come out even.
    An epoch shares out claims, not alpha: that is shared out once for the life of a swarm.
    """
    listed = tuple(members)
    keys = defaultdict(list)
    for member in listed:
        if "researcher" in member.roles:
            keys[member.operator].append(member.key)
    allowed = {
        key: slots // len(group) + (place < slots % len(group))
        for group in keys.values()
        for place, key in enumerate(sorted(group))
    }
    whole = max(1, len(keys) * slots)
    return tuple(
        replace(
            member,
            slots=allowed.get(member.key, 0),
            gamma_num=allowed.get(member.key, 0),
            gamma_den=whole,
        )
        for member in listed
    )


def governors_of(roster: Mapping[bytes, Member]) -> tuple[bytes, ...]:
    """Keys of the members with the role ``governor``, in order."""
    return tuple(sorted(key for key, one in roster.items() if "governor" in one.roles))


def roster_fault(
    roster: Mapping[bytes, Member],
    *,
    governors: Collection[bytes],
    earlier: Mapping[bytes, Member],
    out: Collection[bytes],
    is_open: bool,
    slots: int | None,
) -> str:
    """The rule that ``roster`` breaks; empty when it breaks none.

    Args:
        governors: every key that has governed, those of this roster included.
        earlier: lines of earlier rosters, the latest of each key.
        out: keys that were removed or handed over; they never come back.
        is_open: the charter admits anybody to research.
        slots: claims that one operator may make in an epoch; None for no limit.
    """
    claims: dict[str, int] = defaultdict(int)
    judges: dict[str, bytes] = {}
    for key, one in roster.items():
        if key in out:
            return f"{short(key)} was removed or handed over and cannot come back"
        unchecked = one.voucher_root not in governors
        if unchecked or one.operator == OPEN_OPERATOR:
            if one.roles != ("researcher",):
                return f"{short(key)} was not admitted by governors, so it can be a researcher only"
            if unchecked:
                voucher = roster.get(one.voucher_root) or earlier.get(one.voucher_root)
                if voucher is None:
                    return f"{short(key)} was vouched for by somebody who is no member"
                if voucher.operator != one.operator:
                    return (
                        f"{short(key)} is not under the operator of the member who vouched for it"
                    )
        if one.operator == OPEN_OPERATOR and not is_open:
            return f"the operator {OPEN_OPERATOR!r} belongs to open swarms"
        claims[one.operator] += one.slots
        if slots is not None and claims[one.operator] > slots:
            return f"the operator {one.operator} has more than {slots} claims"
        if "governor" in one.roles and judges.setdefault(one.operator, key) != key:
            return f"the operator {one.operator} has two governors, and one voice"
    return ""

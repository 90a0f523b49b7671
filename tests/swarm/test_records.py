"""Records are parsed strictly: any deviation refuses the whole record."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from node.governing import new_member
from swarm import wire
from swarm.envelope import parse, seal_record
from swarm.errors import RecordError, SwarmError, WireError
from swarm.fields import from_map, to_map
from swarm.keys import KeyPair, is_valid_public, peer_id, public_from_peer_id
from swarm.records import (
    KINDS,
    MOST_NULL_PAIRS,
    MOST_PROBES,
    Beacon,
    BeaconCommit,
    Block,
    Calibration,
    Charter,
    Claim,
    Commit,
    Cosignature,
    DevPair,
    Epoch,
    FoldBatch,
    Handover,
    Member,
    Pair,
    Removed,
)
from swarm.roster import MAX_ROSTER
from tests.swarm.founding import TIER, make_charter, make_epoch
from training.documents import MAX_FOLDS

KEY = KeyPair.from_seed(b"k" * 32)
CLAIM = Claim(
    tier="quick",
    type="improvement",
    slot=0,
    base=None,
    merges=(),
    code=b"x = 1\n",
    code_hash=b"c" * 32,
    ast_hash=b"a" * 32,
    hypothesis="a larger step",
    proposer="tpe",
    env_digest=b"e" * 32,
    dev_pairs=(DevPair(2**63 - 1, 12_000_000),),
    cost_ms=9000,
)


def sealed(payload=CLAIM, **changes):
    values = {"swarm": b"s" * 32, "seq": 0, "prev": None, "epoch": 1, "day": 20_000}
    return seal_record(KEY, payload, **{**values, **changes})


def resigned(change) -> bytes:
    """A record whose body was changed and signed anew: only the fields can be wrong."""
    body = wire.decode(sealed().signed.body)
    change(body)
    return wire.sign(KEY.private, wire.encode(body)).to_bytes()


def test_a_record_survives_the_wire():
    record = sealed()
    again = parse(record.signed.to_bytes())
    assert again == record
    assert again.payload == CLAIM
    assert again.id == record.signed.id


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("unknown envelope field", lambda b: b.update(extra=1)),
        ("missing envelope field", lambda b: b.pop("day")),
        ("unknown payload field", lambda b: b["payload"].update(extra=1)),
        ("missing payload field", lambda b: b["payload"].pop("base")),
        ("unknown kind", lambda b: b.update(kind="gospel")),
        ("another version", lambda b: b.update(v=2)),
        ("negative number", lambda b: b.update(seq=-1)),
        ("bool for a number", lambda b: b.update(seq=True)),
        ("text for bytes", lambda b: b["payload"].update(code="x")),
        ("short hash", lambda b: b["payload"].update(code_hash=b"short")),
        ("unknown claim type", lambda b: b["payload"].update(type="miracle")),
        ("line break in a name", lambda b: b["payload"].update(tier="quick\n")),
        ("too much code", lambda b: b["payload"].update(code=b"x" * (48 * 1024 + 1))),
        ("too many refs", lambda b: b.update(refs=[b"r" * 32] * 33)),
        ("first record with a predecessor", lambda b: b.update(prev=b"p" * 32)),
        ("later record without one", lambda b: b.update(seq=1)),
        ("no swarm", lambda b: b.update(swarm=None)),
        ("an impossible gain", lambda b: b["payload"]["dev_pairs"][0].update(d_nano=10**13)),
        ("payload that is a list", lambda b: b.update(payload=[])),
    ],
)
def test_wrong_fields_are_refused(what, change):
    with pytest.raises(SwarmError):
        parse(resigned(change))


def test_another_author_than_the_signer_is_refused():
    other = KeyPair.from_seed(b"o" * 32).public
    with pytest.raises(WireError, match="signature"):
        parse(resigned(lambda body: body.update(author=other)))


# Encodings of points of small order, under which one signature fits every message.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_keys_of_small_order_are_refused(point):
    assert not is_valid_public(bytes.fromhex(point))


def test_a_forgery_under_the_identity_key_is_refused():
    """``cryptography`` alone accepts this signature for any message; neither of ours does."""
    identity = bytes.fromhex(SMALL_ORDER[0])
    body = wire.decode(sealed().signed.body)
    body["author"] = identity
    forged = wire.Signed(wire.encode(body), identity + bytes(32))
    Ed25519PublicKey.from_public_bytes(identity).verify(forged.signature, wire.pae(forged.body))
    with pytest.raises(WireError):
        wire.verify(identity, forged)
    with pytest.raises(RecordError, match="sound"):
        parse(forged.to_bytes())


def test_sealing_refuses_what_a_peer_would_refuse():
    with pytest.raises(RecordError):
        sealed(Beacon(b"short", b"r" * 32))


@given(st.binary(min_size=0, max_size=300))
def test_any_bytes_parse_or_raise_our_error(data):
    try:
        parse(data)
    except SwarmError:
        return
    pytest.fail("random bytes were taken for a signed record")


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_go_both_ways(public):
    assert public_from_peer_id(peer_id(public)) == public


def test_peer_ids_are_those_of_libp2p():
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    theirs = ID.from_pubkey(create_new_key_pair(KEY.seed).public_key)
    assert peer_id(KEY.public) == str(theirs)


def test_every_kind_is_named_after_its_class():
    assert all(kind == cls.__name__.lower() for kind, cls in KINDS.items())
    assert from_map(Claim, to_map(CLAIM)) == CLAIM
    assert set(KINDS) >= {"charter", "epoch", "claim", "commit", "seal", "block", "adoption"}
    assert Commit.KIND == "commit"


# --- how many items there may be ------------------------------------------------------------------

PAIR = Pair(0, 7, "base_first", 1, "ok", 1, 0, 9, 9, 9)
BLOCK = Block(
    *(b"c" * 32, 0, 0, "verdict", (), b"s" * 32, b"n" * 32, b"f" * 32, "own", (PAIR,), {}),
    hw_class="cpu",
    env_digest=b"e" * 32,
)
CALIBRATION = Calibration(
    *("quick", "same-start", "cpu", b"d" * 32, b"e" * 32, ("rows",), (1, 2), 2, 1, 1550, 2, (1,))
)


def unbounded(where: str, kind: inspect.Type) -> list[str]:
    """The lists and maps in a type that have no largest length."""
    if isinstance(kind, inspect.DataclassType):
        return [
            name for field in kind.fields for name in unbounded(f"{where}.{field.name}", field.type)
        ]
    if isinstance(kind, inspect.UnionType):
        return [name for one in kind.types for name in unbounded(where, one)]
    if isinstance(kind, inspect.CollectionType | inspect.DictType):
        inner = kind.value_type if isinstance(kind, inspect.DictType) else kind.item_type
        return [where] * (kind.max_length is None) + unbounded(where, inner)
    return []


def test_every_list_and_map_that_a_member_may_sign_has_a_largest_length():
    assert {Block, Epoch} <= set(KINDS.values())
    found = [
        name for kind in KINDS.values() for name in unbounded(kind.KIND, inspect.type_info(kind))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("whole", "field", "most"),
    [
        (BLOCK, "probes", MOST_PROBES),
        (CALIBRATION, "pairs", MOST_NULL_PAIRS),
        (CALIBRATION, "null_changes", 64),
        (CALIBRATION, "epochs", 64),
    ],
)
def test_one_item_too_many_refuses_the_record(whole, field, most):
    def of(count):
        some = {f"p{n}": n for n in range(count)} if field == "probes" else (0,) * count
        if field == "null_changes":
            some = ("",) * count
        return dataclasses.replace(whole, **{field: some})

    assert parse(sealed(of(most)).signed.to_bytes()).payload == of(most)
    with pytest.raises(RecordError, match=field):
        sealed(of(most + 1))


@pytest.mark.parametrize(
    ("field", "item", "most"),
    [
        ("active_folds", 2**40, 1024),
        ("removed", Removed(b"k" * 32, 9, b"i" * 32, "r"), 1024),
        ("handovers", Handover(b"k" * 32, b"n" * 32, 9, b"i" * 32), 1024),
        ("beacon_commits", BeaconCommit(b"k" * 32, b"c" * 32), 65),
    ],
)
def test_an_epoch_has_so_many_items_and_no_more(field, item, most):
    def of(count):
        return to_map(dataclasses.replace(make_epoch(b"s" * 32), **{field: (item,) * count}))

    assert len(getattr(from_map(Epoch, of(most)), field)) == most
    with pytest.raises(RecordError, match=field):
        from_map(Epoch, of(most + 1))


def test_a_line_of_a_roster_has_each_role_at_most_once_in_number():
    line = new_member(b"k" * 32, "op", ["verifier"] * 4, b"v" * 32, ["quick"] * 64)
    assert from_map(Member, to_map(line)) == line
    for change in ({"roles": ("verifier",) * 5}, {"tiers": ("quick",) * 65}):
        with pytest.raises(RecordError, match=next(iter(change))):
            from_map(Member, to_map(dataclasses.replace(line, **change)))


def test_the_largest_epoch_that_governors_can_sign_fits():
    """A full roster, 65 signers and every fold that a corpus can have."""
    whole = dataclasses.replace(
        make_epoch(b"s" * 32),
        roster=bytes(MAX_ROSTER),
        active_folds=tuple(range(MAX_FOLDS)),
        beacon_commits=(BeaconCommit(b"k" * 32, b"c" * 32),) * 65,
        cosignatures=(Cosignature(b"k" * 32, b"s" * 64),) * 64,
    )
    assert sealed(whole).payload == whole


def test_a_charter_has_so_many_items_and_no_more():
    def charter(**changes):
        return from_map(Charter, to_map(make_charter(**changes)))

    names = {f"n{number}": number for number in range(65)}
    for field in ("challenge", "screen", "sizes"):
        assert charter(**{field: dict(list(names.items())[:64])})
        with pytest.raises(RecordError, match=field):
            charter(**{field: names})
    assert charter(governors=(b"g" * 32,) * 127, tiers=(TIER,) * 64, k=64)
    for change in (
        {"governors": (b"g" * 32,) * 128},
        {"tiers": (TIER,) * 65},
        {"tiers": (dataclasses.replace(TIER, classes=("cpu",) * 65),)},
        {"approval_rules": ({},) * 65},
        {"approval_rules": (names,)},
        {"fold_batches": (FoldBatch(b"f" * 32),) * 1025},
    ):
        with pytest.raises(RecordError, match=next(iter(change))):
            charter(**change)


def test_what_our_own_scorer_and_calibration_say_fits():
    from node.calibrating import MAX_PAIRS, NULL_ROWS
    from training.sheet import Sheet
    from training.windows import Windows

    rows = np.zeros((1, 4), dtype=np.int64)
    probes = Sheet(Windows(rows, rows, rows[0], rows[0], 1)).findings()
    assert 2 * len(probes) <= MOST_PROBES
    assert sealed(dataclasses.replace(BLOCK, probes=probes)).payload.probes == probes
    assert MAX_PAIRS <= MOST_NULL_PAIRS
    assert len(NULL_ROWS) <= 64

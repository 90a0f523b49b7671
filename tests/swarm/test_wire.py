"""Canonical bytes: one meaning, one form, and nothing else is accepted."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import wire
from swarm.errors import WireError
from swarm.keys import KeyPair

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@given(plain)
def test_decoding_gives_back_what_was_encoded(value):
    assert wire.decode(wire.encode(value)) == value


@given(st.dictionaries(st.text("abcdef", max_size=4), st.integers(0, 9), max_size=8), st.randoms())
def test_the_order_of_insertion_does_not_show(mapping, random):
    items = list(mapping.items())
    random.shuffle(items)
    assert wire.encode(dict(items)) == wire.encode(mapping)


@given(st.binary(max_size=200))
def test_any_bytes_are_canonical_or_refused(data):
    try:
        value = wire.decode(data)
    except WireError:
        return
    assert wire.encode(value) == data


@given(plain, st.data())
def test_a_changed_byte_changes_the_meaning_or_is_refused(value, data):
    encoded = bytearray(wire.encode(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        changed = wire.decode(bytes(encoded))
    except WireError:
        return
    assert wire.encode(changed) == bytes(encoded) != wire.encode(value)


HOSTILE = {
    "duplicate keys": b"\x82\xa1a\x01\xa1a\x01",
    "unsorted keys": b"\x82\xa1b\x01\xa1a\x01",
    "integer longer than needed": b"\xcc\x01",
    "integer much longer than needed": b"\xd3" + struct.pack(">q", 1),
    "text header longer than needed": b"\xd9\x01a",
    "bytes header longer than needed": b"\xc5\x00\x01a",
    "list header longer than needed": b"\xdc\x00\x01\x01",
    "map header longer than needed": b"\xde\x00\x01\xa1a\x01",
    "float64": msgpack.packb(1.0),
    "float32": b"\xca" + struct.pack(">f", 1.0),
    "extension": msgpack.packb(msgpack.ExtType(4, b"x")),
    "timestamp": msgpack.packb(msgpack.Timestamp(1, 2)),
    "key that is not text": b"\x81\x01\x01",
    "key of bytes": b"\x81\xc4\x01a\x01",
    "trailing bytes": b"\x01\x01",
    "cut short": b"\x92\x01",
    "nothing": b"",
    "invalid UTF-8": b"\xa1\xff",
    "surrogate": b"\xa3\xed\xa0\x80",
    "a list that claims four billion items": b"\xdd\xff\xff\xff\xff",
    "nested deeper than allowed": b"\x91" * 40 + b"\x01",
    "bytes one level too deep": b"\x91" * (wire.MAX_DEPTH + 1) + b"\xc4\x00",
    "nested a thousand deep": b"\x91" * 5000 + b"\x01",
    "above 63 bits": b"\xcf" + b"\xff" * 8,
    "never used byte": b"\xc1",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    with pytest.raises(WireError):
        wire.decode(HOSTILE[name])


@pytest.mark.parametrize("value", [1.5, {1: 2}, {"a": {2, 3}}, "\ud800", 2**63, object()])
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(WireError):
        wire.encode(value)


def test_the_pre_authentication_encoding_is_that_of_the_dsse_specification():
    # The test vector of the DSSE v1 protocol document.
    assert wire.pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.integers(0, 63 + 64), st.integers(1, 255))
def test_a_changed_byte_breaks_the_signature(place, flip):
    key = KeyPair.from_seed(b"k" * 32)
    signed = wire.sign(key.private, wire.encode({"text": "x" * 57}))
    data = bytearray(signed.to_bytes())
    data[place] ^= flip
    with pytest.raises(WireError):
        wire.verify(key.public, wire.Signed.from_bytes(bytes(data)))


def test_a_record_id_does_not_cover_the_signature():
    body = wire.encode([1])
    one, other = wire.Signed(body, bytes(64)), wire.Signed(body, b"\x01" * 64)
    assert one.id == other.id

"""Feeds are chains; saying two things with one number convicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.errors import FeedError
from swarm.feed import Fit, Head, equivocator, fit, prove_equivocation
from swarm.keys import KeyPair
from swarm.records import Beacon
from tests.swarm.founding import Feed

SWARM = b"s" * 32


def feed(number: int = 1) -> Feed:
    return Feed(KeyPair.from_seed(bytes([number]) * 32), SWARM)


def beacon(byte: bytes) -> Beacon:
    return Beacon(b"e" * 32, byte * 32)


def test_where_a_record_fits():
    author = feed()
    first, second, third = (author.say(beacon(bytes([n]))) for n in range(3))
    other = feed()
    other.say(beacon(b"x"))
    forked = other.say(beacon(b"y"))
    head = Head(0, first.id)
    assert fit(None, first) is Fit.NEXT
    assert fit(None, second) is Fit.GAP
    assert fit(head, first) is Fit.OLD
    assert fit(head, second) is Fit.NEXT
    assert fit(head, third) is Fit.GAP
    assert fit(head, forked) is Fit.FORK


def test_two_records_with_one_number_are_a_proof_that_convicts():
    one, other = feed().say(beacon(b"a")), feed().say(beacon(b"b"))
    proof = prove_equivocation(one, other)
    assert proof is not None
    assert proof == prove_equivocation(other, one)
    assert equivocator(proof) == one.author


def test_the_same_record_twice_proves_nothing():
    record = feed().say(beacon(b"a"))
    assert prove_equivocation(record, record) is None


def test_records_of_two_authors_or_two_swarms_prove_nothing():
    one, other = feed(1).say(beacon(b"a")), feed(2).say(beacon(b"b"))
    assert prove_equivocation(one, other) is None
    elsewhere = Feed(one_key := KeyPair.from_seed(bytes([1]) * 32), b"t" * 32).say(beacon(b"b"))
    assert elsewhere.author == one_key.public == one.author
    assert prove_equivocation(one, elsewhere) is None


def test_a_doctored_proof_is_refused():
    one, other = feed().say(beacon(b"a")), feed().say(beacon(b"b"))
    proof = prove_equivocation(one, other)
    assert proof is not None
    for bad in (
        replace(proof, second=proof.first),
        replace(proof, first=proof.second, second=proof.first),
        replace(proof, second=proof.second[:-1] + bytes([proof.second[-1] ^ 1])),
        replace(proof, second=b""),
    ):
        with pytest.raises(FeedError):
            equivocator(bad)

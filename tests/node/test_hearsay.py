"""What members say of their own work orders what this node does, and bounds what it remembers."""

from __future__ import annotations

from types import SimpleNamespace

from node.hearsay import MOST_OF_ONE, RETRIED, Hearsay, Words
from swarm.records import Experiment, Upkeep

IDEAS = [bytes([number % 256, number // 256]) * 16 for number in range(400)]


def tried(idea: bytes, base: bytes | None = None, tier: str = "quick") -> SimpleNamespace:
    said = Experiment(tier, base, idea, "a text of a peer", "tpe", "not_better", "", (), 1)
    return SimpleNamespace(payload=said)


def heard(*operators: str, own: str = "me", key: bytes = b"k" * 32) -> Hearsay:
    hearsay = Hearsay(key, own)
    for operator in operators:
        for idea in IDEAS:
            hearsay.hear(tried(idea), operator)
    return hearsay


def test_two_operators_are_believed_and_the_own_one() -> None:
    for hearsay in (heard("ada", "otto"), heard("me")):
        assert all(hearsay.is_tried("quick", None, idea) for idea in IDEAS)
        assert not any(hearsay.is_tried("quick", b"b" * 32, idea) for idea in IDEAS)
        assert not any(hearsay.is_tried("cpu", None, idea) for idea in IDEAS)
        assert not hearsay.is_tried("quick", None, b"?" * 32)


def test_one_operator_with_many_keys_and_records_is_one_voice_that_hides_nothing() -> None:
    """A quarter of what only one tells of is tried all the same, another quarter on every node."""
    nodes = [heard("liar", "liar", key=bytes([number]) * 32) for number in range(40)]
    left = [[not node.is_tried("quick", None, idea) for idea in IDEAS] for node in nodes]
    assert all(0.15 < sum(one) / len(IDEAS) < 0.35 for one in left)
    assert all(any(node[number] for node in left) for number in range(len(IDEAS)))
    assert RETRIED == 4


def test_nothing_but_hashes_is_kept() -> None:
    hearsay = heard("ada")
    assert "a text of a peer" not in repr(vars(hearsay._tried))


def test_upkeep_is_counted_by_operator() -> None:
    hearsay = Hearsay(b"k" * 32, "me")
    a, b, c = b"a" * 32, b"b" * 32, b"c" * 32
    for operator in ("ada", "ada", "otto"):
        hearsay.hear(SimpleNamespace(payload=Upkeep((a, a), (b,), (c,))), operator)
    assert hearsay.rescored.who(a) == hearsay.audited.who(b) == hearsay.stored.who(c)
    assert hearsay.rescored.who(a) == ("ada", "otto")
    assert hearsay.audited.who(a) == ()


def test_a_flood_forgets_the_flooder_first_and_then_the_oldest() -> None:
    words = Words(most_of_one=10, most_in_all=25)
    words.say("ada", IDEAS[:5])
    words.say("liar", IDEAS[100:300])
    assert all(words.who(idea) for idea in IDEAS[:5])
    assert [idea for idea in IDEAS[100:300] if words.who(idea)] == IDEAS[290:300]
    for operator in "abcdefgh":
        words.say(operator, IDEAS[10 * ord(operator) - 900 :][:10])
    assert len(words._said) <= 25
    assert MOST_OF_ONE == 4096

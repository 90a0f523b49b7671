from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.baselines import QUICK, load
from training.challenge import (
    Challenge,
    ChallengeError,
    TierSpec,
    check_diff_cap,
    max_diff_bytes,
)
from training.documents import CorpusError, Manifest, SplitRef


def _ref(number: int) -> SplitRef:
    return SplitRef(bytes([number]) * 32, 8 + 4 + 4 + 100, 1)


MANIFEST = Manifest((_ref(1), _ref(5)), _ref(2), (_ref(3), _ref(4)))
WHOLE = MANIFEST.to_map()
CHALLENGE = Challenge("demo", "bytes", 256, load("quick"), (QUICK,), MANIFEST)


def test_a_challenge_comes_back_the_same():
    again = Challenge.from_map(CHALLENGE.to_map())
    assert again == CHALLENGE
    assert again.content_hash == CHALLENGE.content_hash


def test_the_map_holds_only_what_canonical_bytes_can():
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return type(value) in (str, int, bytes)

    assert plain(CHALLENGE.to_map())


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TierSpec)])
def test_every_field_of_a_tier_changes_the_content_hash(name):
    value = getattr(QUICK, name)
    other = {"name": "slow", "device": "cuda"}.get(name) if isinstance(value, str) else value + 1
    tier = dataclasses.replace(QUICK, **{name: other})
    assert dataclasses.replace(CHALLENGE, tiers=(tier,)).content_hash != CHALLENGE.content_hash


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TierSpec)])
@pytest.mark.parametrize("bad", [None, True, -1, 1.5, "", "ü", "a" * 99, b"x", 2**70, [], {}])
def test_a_tier_refuses_a_wrong_value(name, bad):
    with pytest.raises(ChallengeError, match=f"tier.{name}"):
        TierSpec.from_map({**QUICK.to_map(), name: bad})


def test_a_tier_refuses_missing_and_unknown_fields():
    whole = QUICK.to_map()
    for name in whole:
        with pytest.raises(ChallengeError, match="lacks"):
            TierSpec.from_map({key: value for key, value in whole.items() if key != name})
    with pytest.raises(ChallengeError, match="unknown"):
        TierSpec.from_map({**whole, "colour": "red"})
    for bad in (None, [], "tier", {1: 2}):
        with pytest.raises(ChallengeError):
            TierSpec.from_map(bad)


@pytest.mark.parametrize(
    "change",
    [
        {"context": QUICK.max_batch_tokens + 1},
        {"max_batch_tokens": QUICK.budget_tokens + 1},
        {"name": "Quick!"},
        {"max_code_bytes": 49_153},
    ],
)
def test_a_tier_refuses_what_cannot_be_measured(change):
    with pytest.raises(ChallengeError):
        TierSpec.from_map({**QUICK.to_map(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"base_code": b"other"},
        {"base_sha256": bytes(32)},
        {"base_code": b""},
        {"tiers": []},
        {"tiers": [QUICK.to_map()] * 2},
        {"tokenizer": "words"},
        {"vocab_size": 512},
        {"vocab_size": True},
        {"name": "a b"},
        {"manifest": None},
    ],
)
def test_a_challenge_refuses_what_is_not_one(change):
    with pytest.raises((ChallengeError, CorpusError)):
        Challenge.from_map({**CHALLENGE.to_map(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"folds": b""},
        {"folds": WHOLE["train"]},
        {"folds": WHOLE["folds"] * 2},
        {"folds": b"".join(bytes([a, b]) + WHOLE["dev"][2:] for a in range(3) for b in range(200))},
        {"folds": [WHOLE["dev"]]},
        {"train": b""},
        {"train": WHOLE["folds"]},
        {"train": WHOLE["train"][:-1]},
        {"dev": WHOLE["train"][:40]},
        {"dev": WHOLE["folds"]},
        {"dev": WHOLE["dev"][:36] + bytes(4)},
        {"dev": WHOLE["dev"][:36] + struct.pack("<I", 90)},
        {"dev": WHOLE["dev"][:32] + struct.pack("<II", 1 << 30, 1)},
        {"extra": 1},
    ],
)
def test_a_manifest_refuses_what_is_not_one(change):
    with pytest.raises(CorpusError):
        Manifest.from_map({**MANIFEST.to_map(), **change})


def test_the_error_for_an_unknown_tier_names_the_known_ones():
    assert CHALLENGE.tier("quick") == QUICK
    with pytest.raises(ChallengeError, match="quick"):
        CHALLENGE.tier("huge")


@given(st.integers(1, 10**12), st.integers(1, 10**9))
def test_the_largest_diff_cap_is_exactly_at_the_rule(holdout, effect):
    cap = max_diff_bytes(holdout, effect)
    # bits that the diff can carry, spread over the holdout, against a quarter of the effect
    assert 4 * 8 * cap * 10**9 <= effect * holdout
    assert 4 * 8 * (cap + 1) * 10**9 > effect * holdout
    check_diff_cap(cap, holdout, effect)
    with pytest.raises(ChallengeError, match="smuggle"):
        check_diff_cap(cap + 1, holdout, effect)


def test_diff_caps_of_the_quick_tier():
    assert max_diff_bytes(72 * 49_152, 3_000_000) == 331
    with pytest.raises(ChallengeError):
        max_diff_bytes(0, 3_000_000)

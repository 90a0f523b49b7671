from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.test_source import HOSTILE
from training.baselines import load
from training.source import replace_literals
from verification.screen import ScreenRules, ScreenRulesError, screen

BASE = load("quick")
RULES = ScreenRules()
BETTER = replace_literals(BASE, {"HEAD_LR": 0.0081})


def reasons(candidate: bytes, **rules: int) -> tuple[str, ...]:
    return screen(BASE, candidate, rules).reasons


def test_an_edit_to_a_literal_is_in_scope():
    result = screen(BASE, BETTER, RULES)
    assert result.ok
    assert result.reasons == ()
    assert result.regions == ("HEAD_LR",)
    assert 0 < result.diff_bytes < 20
    assert 0 < result.added_bytes < 120


def test_a_candidate_that_reads_ahead_is_in_scope_too():
    """The screen judges the text; what the code does is found by running it."""
    assert screen(BASE, BASE.replace(b"is_causal=True", b"is_causal=False"), RULES).ok


@pytest.mark.parametrize(
    "candidate",
    [
        BASE,
        BASE + b"# a comment\n",
        BASE.replace(b"few seconds", b"few moments"),
        BASE.replace(b"DEPTH = 2 ", b"DEPTH = (2) "),
    ],
    ids=["same", "comment", "docstring", "layout"],
)
def test_no_change_is_no_claim(candidate):
    assert reasons(candidate) == ("no_change",)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"def train(", b"def training(", "lacks_train"),
        (b"def build_model(", b"def build(", "lacks_build_model"),
        (b"def train(model, batches, budget)", b"def train(model, batches)", "wrong_arguments"),
        (b"def train(model, batches, budget)", b"def train(*all)", "wrong_arguments"),
        (b"def train(model,", b"async def train(model,", "wrong_arguments"),
        (b"def train(model,", b"@torch.compile\ndef train(model,", "wrong_arguments"),
        (b"def train(", b"def train(): pass\n\n\ndef train(", "twice"),
        (b"def build_model(vocab_size, context)", b"def build_model(a, b, c=1)", ""),
    ],
)
def test_both_functions_are_there(old, new, reason):
    found = reasons(BASE.replace(old, new))
    assert (found == ()) if not reason else any(reason in item for item in found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# \u202e reversed", "odd_characters"),
        ("x = 'zero\u200bwidth'", "odd_characters"),
        ("# non\u00a0breaking", "odd_characters"),
        ("# e\u0301 combined", "odd_characters"),
        ("# \ue000 private", "odd_characters"),
        ("# \u3164 blank letter", "odd_characters"),
        ("# \u2800 blank braille", "odd_characters"),
        ("# \U000e0041 tag", "odd_characters"),
        ("# \ufb01 ligature", "odd_characters"),
        ("# \x1b[31m", "odd_characters"),
        ("# \x7f", "odd_characters"),
        ("é = 1", "non_ascii_code"),
        ("x = f'{1}'", "f_string"),
        ("# résumé, μ and 漢字", "no_change"),
    ],
)
def test_characters(text, reason):
    assert reasons(BASE + text.encode() + b"\n") == (reason,)


@pytest.mark.parametrize(
    ("extra", "rule", "reason"),
    [
        (b"X = '" + b"ab" * 150 + b"'\n", {"max_text_bytes": 299}, "text_too_long"),
        (b"X = 1  # " + b"ab" * 150 + b"\n", {"max_text_bytes": 299}, "text_too_long"),
        (b"X = [71, 72, 73]\nY = 77\n", {"max_new_numbers": 2}, "too_many_new_numbers"),
        (b"aa, bb, cc = 1, 1, 1\n", {"max_new_identifiers": 2}, "too_many_new_identifiers"),
        (b"def f(aa, *, bb=1, **cc):\n    pass\n", {"max_new_identifiers": 2}, "too_many_new_iden"),
        (b"X = 1\n" * 30, {"max_added_bytes": 100}, "added_too_much"),
        (b"X = 8675309\n", {"max_diff_bytes": 8}, "diff_too_large"),
        (b"X = 1\n", {"max_code_bytes": len(BASE)}, "code_too_large"),
    ],
)
def test_caps(extra, rule, reason):
    assert reasons(BASE + extra) == ()
    found = reasons(BASE + extra, **rule)
    assert len(found) == 1
    assert found[0].startswith(reason)


def test_a_table_of_the_holdout_does_not_fit():
    rows = b"".join(b"T%d = 0x%064x\n" % (n, pow(3, 1000 + n, 2**256)) for n in range(60))
    assert set(reasons(BASE + rows)) == {
        "diff_too_large",
        "added_too_much",
        "too_many_new_identifiers",
        "too_many_new_numbers",
    }


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_get_a_reason_and_little_memory(code):
    tracemalloc.start()
    result = screen(BASE, code, RULES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not result.ok
    assert all(reason.isascii() and reason.replace("_", "").isalnum() for reason in result.reasons)
    assert peak < 64 << 20


@settings(max_examples=80)
@given(st.binary(max_size=200), st.integers(0, len(BASE)), st.integers(0, 200))
def test_any_bytes_anywhere_get_a_result(junk, place, dropped):
    result = screen(BASE, BASE[:place] + junk + BASE[place + dropped :], RULES)
    assert result == screen(BASE, BASE[:place] + junk + BASE[place + dropped :], RULES.to_map())


def test_nothing_is_run(tmp_path):
    mark = tmp_path / "ran"
    code = BASE + f"open({str(mark)!r}, 'w')\n".encode()
    screen(BASE, code, RULES)
    assert not mark.exists()


def test_rules_come_back_the_same_and_defaults_fill_in():
    assert ScreenRules.from_map(RULES.to_map()) == RULES
    assert ScreenRules.from_map({}) == RULES
    assert ScreenRules.from_map({"max_diff_bytes": 7}).max_diff_bytes == 7


@pytest.mark.parametrize(
    "rules",
    [
        {"max_colour": 1},
        {"max_diff_bytes": -1},
        {"max_diff_bytes": True},
        {"max_diff_bytes": "7"},
        {"max_diff_bytes": 2**40},
        {"max_code_bytes": 0},
        {"max_code_bytes": 49_153},
    ],
)
def test_rules_that_cannot_be_read_are_an_error(rules):
    with pytest.raises(ScreenRulesError) as caught:
        screen(BASE, BETTER, rules)
    assert caught.value.cure


def test_named_characters_are_refused_alike_on_every_python():
    """Python versions know different names, so one claim would be a program here and none there."""
    result = screen(BASE, BASE + b'NAME = "\\N{KAWI LETTER A}"\n', {})
    known = screen(BASE, BASE + b'NAME = "\\N{LATIN SMALL LETTER A}"\n', {})
    assert not result.ok
    assert result.reasons == known.reasons

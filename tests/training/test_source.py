from __future__ import annotations

import gc
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.baselines import load
from training.source import (
    SourceError,
    added_lines,
    ast_hash,
    changed_regions,
    compressed_diff_bytes,
    literals,
    parse,
    replace_literals,
    scan,
)

BASE = load("quick")
HOSTILE = {
    "nested-parentheses": b"(" * 40_000,
    "nested-parentheses-in-lines": b"(\n" * 1_900,
    "closed-brackets": b"[" * 150 + b"]" * 150,
    "brackets-behind-comments": b"(#)\n" * 1_900,
    "unary-chain": b"-\\\n" * 1_900 + b"1",
    "not-chain": b"not\\\n" * 1_900 + b"1",
    "attribute-chain": b"a" + b".a" * 190 + b"\\\n.a" * 1_800,
    "sum-of-sums": b"(" * 50 + b"1" + b"+1)" * 50 + b"\\\n+1" * 1_900,
    "elif-chain": b"if a:\n pass\n" + b"elif a:\n pass\n" * 900,
    "indentation": b"\n".join(b" " * depth + b"if a:" for depth in range(300)),
    "lambda-chain": b"lambda:\\\n" * 1_900 + b"1",
    "huge-integer": b"x = " + b"9" * 48_000,
    "huge-hex": b"x = 0x" + b"f" * 48_000,
    "garbage": bytes(range(1, 256)) * 190,
    "letters": b"a " * 24_000,
    "quotes": b'"""\\' * 12_000,
    "quotes-in-lines": b'"""\\\n"""\\""\n' * 900,
    "nul": b"x = 1\0",
    "surrogate": b"x = '\xed\xa0\x80'",
    "form-feed": b"x = 1\n\fy = 2\n",
    "carriage-return": b"x = 1\r# \ry = 2\n",
    "byte-order-mark": b"\xef\xbb\xbfx = 1\n",
    "too-large": b"#\n" * 25_000,
    "f-string": b'x = f"{1}"\n',
    "f-string-of-3.12": b'x = f"{d["a"]}"\n',
    "type-statement": b"type X = int\n",
    "generic-function": b"def f[T](x): pass\n",
    "latin-1": b"# -*- coding: latin-1 -*-\nx = '\xe4'\n",
}


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_programs_are_refused_and_nothing_else(code):
    for read in (parse, ast_hash, literals, lambda item: changed_regions(BASE, item)):
        with pytest.raises(SourceError):
            read(code)


@settings(max_examples=60)
@given(
    st.binary(max_size=300)
    | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_read_or_refused(code):
    for read in (scan, ast_hash, literals):
        try:
            read(code)
        except SourceError:
            pass
    assert compressed_diff_bytes(BASE, code) >= 0
    added_lines(BASE, code)


def test_identity_ignores_layout_comments_and_docstrings():
    layout = BASE.replace(b"  # hidden size of the MLP over WIDTH", b"").replace(b"\n\n\n", b"\n\n")
    assert layout != BASE
    assert ast_hash(layout) == ast_hash(BASE)
    assert ast_hash(BASE.replace(b"few seconds", b"few minutes")) == ast_hash(BASE)
    assert ast_hash(b"def f():\n 'doc'\n") == ast_hash(b"def f():\n    pass\n")
    assert ast_hash(BASE.replace(b"WIDTH = 64", b"WIDTH = 65")) != ast_hash(BASE)
    assert ast_hash(b"x = 1\n") != ast_hash(b"x = True\n")
    assert ast_hash(b"x = 1\n") != ast_hash(b"x = 1.0\n")
    assert ast_hash(b"x = 'a'\n") != ast_hash(b"x = b'a'\n")


def test_identity_is_the_same_on_every_python():
    """Pinned: a change here makes nodes of different versions disagree on resubmissions."""
    code = (
        b"import a.b as c\n\nasync def f(x, *y, z=1, **k) -> int:\n"
        b"    return [i async for i in x]\n"
        b"class A(B):\n    w: int = 0x10\n    def g(self): yield 1.5e3, -2j, b'q', None, ...\n"
    )
    assert ast_hash(code).hex()[:16] == "d5637a79a616d3a6"


def test_the_diffs_size_is_small_for_small_edits_and_bounds_what_is_added():
    assert compressed_diff_bytes(BASE, BASE) == 0
    one = replace_literals(BASE, {"HEAD_LR": 0.0079})
    assert 5 <= compressed_diff_bytes(BASE, one) <= 16
    import random

    noise = random.Random(1)
    secret = "".join(noise.choice("0123456789abcdef") for _ in range(2_000))
    table = BASE + b"\n".join(
        b"T%d = '%s'" % (row, secret[row * 200 : row * 200 + 200].encode()) for row in range(10)
    )
    assert compressed_diff_bytes(BASE, table) >= 1_000  # 4 bits for each hex digit


def test_the_diffs_size_is_pinned():
    """It decides whether a claim is in scope, so all nodes must count alike."""
    assert compressed_diff_bytes(b"", b"") == 0
    assert compressed_diff_bytes(b"", b"abc") == 4
    assert compressed_diff_bytes(b"abcdefgh" * 4, b"abcdefgh" * 2 + b"!" + b"abcdefgh" * 2) == 6
    assert compressed_diff_bytes(b"abcdefgh" * 4, b"") == 0


def test_added_lines():
    assert added_lines(b"a\nb\nb\n", b"b\nc\na\nb\nb\n") == (b"c", b"b")
    assert added_lines(BASE, BASE) == ()


def test_changed_regions():
    code = replace_literals(BASE, {"WIDTH": 72}).replace(b"import math\n", b"import math, json\n")
    code = code.replace(b"is_causal=True", b"is_causal=False").replace(b"# Model", b"# Modell")
    assert changed_regions(BASE, code) == ("<top>", "Block", "WIDTH")
    assert changed_regions(BASE, BASE + b"\ndef new():\n    pass\n") == ("new",)


def test_literals_and_their_replacement():
    code = (
        b"A = 1  # one\nB: float = -2.5e-3\nC = True\nD = 'relu'\nlower = 3\nE = (1)\n"
        b"F = 1 + 1\nG = H = 2\nA2 = [1]\nI = 1\nI = 2\nif A:\n    J = 1\nK = None\n"
    )
    found = {item.name: item.value for item in literals(code)}
    assert found == {"A": 1, "B": -2.5e-3, "C": True, "D": "relu", "E": 1}
    edited = replace_literals(code, {"A": 12345, "B": 4.0, "C": False, "E": 9})
    assert edited == (
        code.replace(b"A = 1 ", b"A = 12345 ")
        .replace(b"-2.5e-3", b"4.0")
        .replace(b"True", b"False")
        .replace(b"E = (1)", b"E = (9)")
    )
    assert replace_literals(code, {}) == code


@pytest.mark.parametrize("change", [{"Z": 1}, {"A": 1.0}, {"A": True}, {"lower": 4}, {"I": 3}])
def test_replacements_that_do_not_fit_are_refused(change):
    with pytest.raises(SourceError):
        replace_literals(b"A = 1\nlower = 3\nI = 1\nI = 2\n", change)


def test_a_scan_sees_comments_and_characters():
    shape = scan('x = "# no" # yes é\ny = 1 # two'.encode())
    assert shape.comments == ("# yes é", "# two")
    assert shape.ascii_code
    assert not shape.f_strings
    assert not scan("é = 1".encode()).ascii_code
    assert scan("x = 'é'".encode()).ascii_code
    assert scan(b"x = rF'''a'''").f_strings
    assert not scan(b"x = b'f' if 1else'f\"'").f_strings


def test_many_threads_may_read_programs_at_once():
    """Python counts the depth of a tree per process. Where its garbage collector lets other threads
    run in the middle of a tree, those upset the count, and ``ast.parse`` raises SystemError."""
    failures = []

    def read() -> None:
        for _ in range(15):
            try:
                parse(BASE)
            except BaseException as error:
                failures.append(error)

    def yield_to_others(*_: object) -> None:
        time.sleep(0)

    thresholds = gc.get_threshold()
    gc.set_threshold(200)
    gc.callbacks.append(yield_to_others)
    try:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(yield_to_others)
        gc.set_threshold(*thresholds)
    assert failures == []

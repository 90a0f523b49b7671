"""What a candidate finds in the memory of its own process is known, and is not held out."""

from __future__ import annotations

import os

import pytest

from tests.training.nonsense import nonsense
from training.leakscan import found_in, sandbox_files
from training.residue import MIN_RUN, runs, text_in_memory
from training.sandbox import Limits, Sandbox

LINE = b"a passage of some words that stands in memory"


@pytest.mark.parametrize("odd", [0, 1])
def test_text_is_found_in_memory_narrow_and_wide(odd):
    assert len(LINE) >= MIN_RUN
    noise = bytes(range(128, 256)) * 3
    wide = LINE.decode().encode("utf-16-le")
    for data in (LINE, wide, noise[:odd] + LINE + noise, noise[:odd] + wide + noise):
        assert LINE in list(runs(data))
    assert list(runs(noise + LINE[: MIN_RUN - 1] + noise)) == []
    assert list(runs(b"")) == []


@pytest.mark.sandbox
def test_what_a_real_process_holds_is_what_was_measured():
    """Passages in the heaps of a process that waits for its program, read from outside."""
    found = []
    with Sandbox(Limits(60_000, 60_000, 1 << 29)) as inside:
        try:
            memory = os.open(f"/proc/{inside._pid}/mem", os.O_RDONLY)
        except PermissionError:
            pytest.skip("this user may not look into a sandbox")
        with open(f"/proc/{inside._pid}/maps") as maps:
            for line in maps:
                span, rights, _, _, _, *path = line.split(None, 5)
                low, high = (int(part, 16) for part in span.split("-"))
                if rights.startswith("rw") and not (path and path[0].startswith(("/", "[v"))):
                    found += runs(os.pread(memory, high - low, low))
        os.close(memory)
    held, known = worded(b"\n".join(found)), worded(text_in_memory().read_bytes())
    assert len(held) > 1000
    assert len(held & known) > 0.9 * len(held)  # what is left in freed memory is not always alike


def worded(text):
    """Lines that have words in them."""
    return {line for line in text.split(b"\n") if len(line.split()) > 5 and len(line) > 60}


@pytest.mark.sandbox
def test_a_document_that_says_what_is_in_memory_is_not_held_out():
    assert text_in_memory() in set(sandbox_files(["cpu"]))
    lines = sorted(worded(text_in_memory().read_bytes()))
    groups = [lines[at : at + 80] for at in range(0, 800, 80)]
    documents = [nonsense(1, 4000), *(nonsense(2, 2000) + b"\n".join(group) for group in groups)]
    found = found_in(documents, [text_in_memory()])
    assert 0 not in found
    assert len(found) == len(groups)

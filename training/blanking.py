"""Prose in mapped libraries: found once with the layout, overwritten in every cell.

A library holds manuals and messages, three megabytes of English in all, and a candidate can read
any address of its process: free training text, and no file is opened for it. Where the text lies in
each file is measured once. A cell then overwrites it with blanks in its own private copy of those
pages, before it takes files away and before any candidate is near. Texts that are read later by
their owner (one-line signatures, which torch parses on first use) are left alone.

What is not covered: texts that Python objects hold on the heap.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from typing import Any, Final

NAME: Final = "texts.json"
MIN_RUN: Final = 48
_PROSE: Final = re.compile(rb"[\t\n -~]{%d,}" % MIN_RUN)
_SIGNATURE: Final = re.compile(rb"[\w.:]+\([^\n]*\Z")
_LETTERS_A_WORD: Final = 14
_READ, _WRITE, _EXECUTE = 1, 2, 4


def find() -> dict[str, Any]:
    """Where prose lies in the files that this process has mapped: name to size and (offset, length)
    of each run, in bytes of the file. Takes seconds."""
    found: dict[str, Any] = {}
    for path in sorted({path for _, _, _, _, path in _mappings()}):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            continue
        runs = [
            (match.start(), match.end() - match.start())
            for match in _PROSE.finditer(data)
            if _is_prose(match.group())
        ]
        if runs:
            found[os.path.basename(path)] = {"size": len(data), "runs": runs}
    return found


def blank(folder: str) -> int:
    """Overwrites the runs that ``folder/texts.json`` names, wherever mapped; returns their bytes.

    Raises OSError where a page cannot be written: then nothing may run here.
    """
    with open(os.path.join(folder, NAME)) as file:
        known = json.load(file)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    total = 0
    for low, high, flags, offset, path in _mappings():
        entry = known.get(os.path.basename(path))
        if entry is None or os.stat(path).st_size != entry["size"]:
            continue
        end = offset + high - low
        runs = [(at, size) for at, size in entry["runs"] if offset <= at and at + size <= end]
        if not runs:
            continue
        if libc.mprotect(low, high - low, flags | _WRITE) != 0:
            raise OSError(ctypes.get_errno(), "a library's text could not be overwritten")
        for at, size in runs:
            start = low + at - offset
            if _PROSE.fullmatch(ctypes.string_at(start, size)):  # not changed since it was loaded
                ctypes.memset(start, 32, size)
                total += size
        libc.mprotect(low, high - low, flags)
    return total


def _is_prose(text: bytes) -> bool:
    if text.count(b" ") * _LETTERS_A_WORD < len(text):
        return False
    return b"\n" in text or _SIGNATURE.match(text) is None


def _mappings() -> list[tuple[int, int, int, int, str]]:
    """Private readable mappings of files: first and last address, flags, file offset, path."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, rights, offset, _, _, *path = line.split(None, 5)
            name = path[0].strip() if path else ""
            if rights[0] != "r" or rights[3] != "p" or not name.startswith("/"):
                continue
            low, high = (int(part, 16) for part in span.split("-"))
            flags = _READ | (_WRITE if rights[1] == "w" else 0)
            flags |= _EXECUTE if rights[2] == "x" else 0
            found.append((low, high, flags, int(offset, 16), name))
    return found

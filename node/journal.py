"""What a node did, one JSON object a line, for people, the display and the tests.

A line is ``{"t": seconds since 1970, "what": kind, ...}``. A diary, not evidence: records are.
Text from peers never enters it, only ids, numbers and our own words.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Journal:
    """Appends to ``path``; thread-safe. A line that cannot be written (full disk) is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.lost = 0
        self._end_cut_line()

    def _end_cut_line(self) -> None:
        """A crash in the middle of a line leaves one without an end; close it."""
        try:
            with open(self.path, "rb+") as file:
                if file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
                    file.write(b"\n")
        except OSError:
            return  # no journal yet

    def write(self, what: str, **fields: Any) -> None:
        """Append one line: ``what`` names its kind, ``fields`` are plain JSON values."""
        line = json.dumps({"t": round(time.time(), 3), "what": what, **fields}, ensure_ascii=True)
        with self._lock:
            try:
                with open(self.path, "a", encoding="ascii") as file:
                    file.write(line + "\n")
            except OSError:
                self.lost += 1


def read_new(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of ``path`` from byte ``offset`` on, and the offset to go on from."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return list(_parse(data[:end])), offset + end


def _parse(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut by a crash in the middle of a line
        if isinstance(entry, dict):
            yield entry

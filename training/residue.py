"""Text that a candidate finds in the memory of its own process, measured on this machine once.

Everything that a process holds can be read by who runs in it, whatever was closed: an address is
enough. So a clean process gets ready as a cell does (``training.contract``) and writes down all the
printable text in its readable memory: heaps, libraries, what was freed and not used again. What
survives the overwriting (``training.blanking``, ``training.startup.blank_texts``) is looked up like
a file that a sandbox can read, wherever text is chosen to be held out (``training.leakscan``).

What that covers: passages. What is left are names and short messages, the same for whatever text is
held out. Where that text is Python code they are training text of a kind.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from training.layout import FLAGS, SHIM_MODULES, layout
from training.measured import kept, run_clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIN_RUN: Final = 32
"""Shorter runs are names, and hold no passage that could be found (``training.fingerprint``)."""
_PIECE: Final = 16 << 20
_NAME: Final = "memory.txt"


def text_in_memory() -> Path:
    """The file with the text, one run a line, made on first use (some ten seconds); raises
    LayoutError."""
    modules = (*SHIM_MODULES, "layout", "measured", "residue")
    return kept("memory", modules, _measure) / _NAME


def report(extra: tuple[str, ...], texts: str, out: str) -> None:
    """Runs in the measuring process: gets ready, then writes its own text to the file ``out``."""
    import gc

    from training import blanking, contract, startup

    startup.preload(extra)
    blanking.blank(texts)
    gc.collect()
    del contract  # imported for what it imports
    found = dict.fromkeys(run for piece in _own_memory() for run in runs(piece))
    Path(out).write_bytes(b"\n".join(found))


def runs(data: bytes) -> Iterator[bytes]:
    """Printable text in memory, of characters of one byte or two."""
    plain = np.zeros(256, bool)
    plain[[9, 10, 13, *range(32, 127)]] = True
    shown = np.frombuffer(data, np.uint8)
    yield from _long(data, plain[shown])
    for first in (0, 1):  # low bytes at even addresses, or at odd ones
        low, high = data[first::2], data[first + 1 :: 2]
        size = min(len(low), len(high))
        wide = plain[np.frombuffer(low, np.uint8)[:size]]
        yield from _long(low, wide & (np.frombuffer(high, np.uint8)[:size] == 0))


def _long(data: bytes, marked: NDArray[np.bool_]) -> Iterator[bytes]:
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False))
    for start, end in edges.reshape(-1, 2)[np.diff(edges)[::2] >= MIN_RUN]:
        yield data[start:end]


def _own_memory() -> Iterator[bytes]:
    """Pieces of all that this process can read in its address space."""
    with open("/proc/self/maps") as maps:
        lines = maps.read().splitlines()
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    for line in lines:
        span, rights, _, _, _, *path = line.split(None, 5)
        low, high = (int(part, 16) for part in span.split("-"))
        if rights[0] != "r" or (path and path[0].startswith("[v")):
            continue
        for start in range(low, high, _PIECE):
            try:
                yield os.pread(memory, min(_PIECE, high - start), start)
            except OSError:  # gone meanwhile
                continue
    os.close(memory)


def _measure(built: Path) -> None:
    """Fills the new folder ``built``."""
    found = layout()
    code = f"from training.residue import report; report({found.extra_modules!r}, {found.pyc!r}, "
    run_clean(f"{code}{str(built / _NAME)!r})", built, FLAGS)
    shutil.rmtree(built / "pyc")

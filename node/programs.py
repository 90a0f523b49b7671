"""What this node tried, in full: each program with its numbers, in a file of the home.

The signed ``experiment`` record is the short form that peers see. The program itself, its scores
and its memory stay at home, in ``HOME/programs``, written before the record is
signed, so that every experiment of the feed can be shown again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from node.settings import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from node.settings import Home


@dataclass(frozen=True, slots=True)
class Tried:
    """One program as it was tried: times in seconds since 1970, scores in nano-bits per byte.

    ``base_code`` is the program that it was compared with; ``base_bpb`` and ``bpb`` have a score
    for each seed.
    """

    tried: float
    base_code: str
    code: str
    base_bpb: tuple[int, ...] = ()
    bpb: tuple[int, ...] = ()
    peak_bytes: int = 0


def _path(home: Home, syntax_hash: bytes, base: bytes | None) -> Path:
    return home.programs / f"{syntax_hash.hex()}-{base.hex()[:12] if base else 'genesis'}.json"


def keep(home: Home, syntax_hash: bytes, base: bytes | None, tried: Tried) -> None:
    """Keep what was tried on ``base``, durably; again on the same base, it is replaced.

    Raises OSError.
    """
    home.programs.mkdir(exist_ok=True, mode=0o700)
    write_atomic(_path(home, syntax_hash, base), msgspec.json.encode(tried))


def find(home: Home, syntax_hash: bytes, base: bytes | None) -> Tried | None:
    """The program of an experiment; None where it was not kept, or is damaged."""
    try:
        return msgspec.json.decode(_path(home, syntax_hash, base).read_bytes(), type=Tried)
    except (OSError, msgspec.MsgspecError):
        return None

"""Lengths of time as people write them, and times as they read them."""

from __future__ import annotations

import re
import time
from typing import Final

from node.errors import UsageError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_SECONDS: Final = 366 * _UNITS["d"]


def seconds_of(text: str) -> int:
    """Seconds of a time such as ``45s``, ``30m``, ``12h`` or ``7d``.

    Raises:
        UsageError: not such a time, or more than a year.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,7})([smhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"{text[:20]!r} is not a time", cure="for example 30m, 12h or 7d")
    return seconds


def clock(when: float) -> str:
    """A time (seconds since 1970) as read here, with the day where that is not today."""
    then, today = time.localtime(when), time.localtime()
    same = (then.tm_year, then.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", then)

"""What a running node says of itself in ``state.json``, for commands that look from outside."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from node.errors import NotRunning

if TYPE_CHECKING:
    from node.settings import Home


def read_state(home: Home) -> dict[str, Any]:
    """What the running node of this home last said of itself.

    Raises:
        NotRunning: no node runs here.
    """
    try:
        state: dict[str, Any] = json.loads(home.state.read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        raise NotRunning(f"no node is running in {home.path}", cure="lazaretto up") from None
    return state

"""The demo on screen: a live view on a terminal, plain lines anywhere else.

Everything goes to stderr; stdout is for ``--json``.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

    from node.demo.watch import ClaimSeen, Watch

_STATE = {
    "quarantined": "[yellow]… quarantine[/]",
    "adopt": "[green]✓ adopted[/]",
    "reject": "[red]✗ rejected[/]",
}


class Display(Protocol):
    """Where the demo's progress goes."""

    def say(self, text: str) -> None:
        """One line of what happened."""

    def show(self, watch: Watch) -> None:
        """The state as it is now."""

    def close(self) -> None:
        """Leave the screen as a person wants to find it."""


class PlainDisplay:
    """Lines with seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"[{time.monotonic() - self._start:5.0f} s] {text}", file=sys.stderr, flush=True)

    def show(self, watch: Watch) -> None:
        """Nothing to redraw."""

    def close(self) -> None:
        """Nothing to tidy up."""


class LiveDisplay:
    """Nodes, claims and the last lines, redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._start = time.monotonic()
        self._lines: deque[str] = deque(maxlen=200)
        self._watch: Watch | None = None
        self._console = Console(stderr=True)
        self._live = Live(
            self, console=self._console, refresh_per_second=4, transient=True, screen=False
        )
        self._live.start()

    def say(self, text: str) -> None:
        """Add a line to the log part."""
        self._lines.append(f"[{time.monotonic() - self._start:5.0f} s] {text}")

    def show(self, watch: Watch) -> None:
        """Draw this state from now on."""
        self._watch = watch

    def close(self) -> None:
        """Stop drawing and leave the log behind in plain lines."""
        self._live.stop()
        for line in self._lines:
            self._console.print(line, markup=False, highlight=False)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        rows = max(4, self._console.size.height - 26)
        log = Text("\n".join(list(self._lines)[-rows:]), style="dim", no_wrap=True)
        if self._watch is None:
            return log
        return Group(self._nodes(self._watch), self._claims(self._watch), log)

    def _nodes(self, watch: Watch) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        seconds = time.monotonic() - self._start
        table = Table(title=f"Lazaretto demo, {seconds:.0f} s", expand=True, title_justify="left")
        for column in ("node", "roles", "experiments", "reproductions", "now"):
            table.add_column(column, no_wrap=True)
        for node in watch.swarm.nodes:
            busy = watch.busy[node.part.name]
            table.add_row(
                node.part.name,
                node.part.blurb or ", ".join(node.part.roles),
                str(busy.experiments),
                str(busy.reproductions),
                Text(busy.now),
            )
        return table

    def _claims(self, watch: Watch) -> RenderableType:
        from rich.table import Table

        table = Table(title="Claims", expand=True, title_justify="left")
        for column in ("claim", "by", "says", "pairs", "last pair", "state", "on nodes"):
            table.add_column(column, no_wrap=True)
        for claim in sorted(watch.claims.values(), key=lambda claim: claim.first_seen)[-10:]:
            state, count = _majority(claim)
            planted = " (planted)" if claim.id in watch.plants else ""
            reasons = ", ".join(sorted(claim.reasons)).replace("_", " ")
            table.add_row(
                claim.id[:8],
                claim.author + planted,
                f"{claim.claimed_bpb:+.4f}",
                str(claim.pairs),
                claim.last_pair,
                _STATE[state] + (f" ({reasons})" if state == "reject" else ""),
                f"{count} of {len(watch.busy)}",
            )
        return table


def _majority(claim: ClaimSeen) -> tuple[str, int]:
    decided = [state for state in claim.states.values() if state != "quarantined"]
    state = decided[0] if decided else "quarantined"
    return state, list(claim.states.values()).count(state)


def open_display(quiet: bool = False) -> Display:
    """The live view on a terminal, else plain lines."""
    if sys.stderr.isatty() and not quiet:
        return LiveDisplay()
    return PlainDisplay()

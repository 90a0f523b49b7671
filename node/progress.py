"""How far long work is: a bar on a terminal, a line now and then anywhere else. All on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Stage = Callable[[str, int, int], None]
    """Told (what is done, how much of it, of how much)."""

EVERY_SECONDS: Final = 10.0


def lines(say: Callable[[str], None]) -> Stage:
    """A line for a stage that takes longer than ``EVERY_SECONDS``, and so on as long as it does."""
    running = ""
    last = time.monotonic()

    def stage(name: str, done: int, total: int) -> None:
        nonlocal running, last
        now = time.monotonic()
        if name != running:
            running, last = name, now
        elif now - last >= EVERY_SECONDS:
            last = now
            say(f"{name}: {100 * done // max(1, total)} %")

    return stage


@contextlib.contextmanager
def bar(say: Callable[[str], None]) -> Iterator[Stage]:
    """A bar for each stage, gone when it is done, where stderr is a terminal; else ``lines``.

    Lines that are printed to stderr meanwhile stand above the bar.
    """
    if not sys.stderr.isatty():
        yield lines(say)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        running, task = "", shown.add_task("", visible=False)

        def stage(name: str, done: int, total: int) -> None:
            nonlocal running, task
            if name != running:
                shown.remove_task(task)
                running, task = name, shown.add_task(name)
            shown.update(task, completed=done, total=total)

        yield stage

"""Memory in which a process on ``cuda`` puts its logits: a pipe would cost more than training.

It belongs to one process and ends with it. It has a fixed size, sealed, so no reader can be made to
fall off its end; and the trusted side never maps it, but reads it like a file: each part once, into
memory of its own. The process may write at any time: what was read is not changed by that.
"""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_THREADS: Final = min(8, os.cpu_count() or 1)
_PART_BYTES: Final = 4 << 20


class AnswerMemory:
    """``size`` bytes behind ``descriptor``, which is passed into the sandbox."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="answers")
        self.descriptor = os.memfd_create("answers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    def read(self, view: memoryview, offset: int) -> None:
        """Fills ``view`` from ``offset`` on; raises ValueError beyond the end."""
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError("beyond the end of the answers")
        part = max(_PART_BYTES, -(-len(view) // _THREADS))
        starts = range(0, len(view), part)
        done = [self._pool.submit(self._copy, view[at : at + part], offset + at) for at in starts]
        for future in done:
            future.result()

    def _copy(self, view: memoryview, offset: int) -> None:
        while view:
            got = os.preadv(self.descriptor, [view], offset)
            view, offset = view[got:], offset + got

    def close(self) -> None:
        """Gives the memory back; harmless when repeated."""
        self._pool.shutdown(wait=True)
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

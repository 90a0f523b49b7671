"""A cell without bubblewrap: Landlock, seccomp and rlimits, on ``cpu`` tiers only.

For machines where bubblewrap or user namespaces cannot be had, and only where it was asked for
(``training.kinds``). A candidate runs under the same two locks as everywhere: Landlock without a
single right, and a filter that refuses every call but those that computing needs. What it lacks is
what lies beneath them elsewhere:

- no namespaces: should a hole be found in both locks, the candidate stands in the host, among its
  processes and on its network; here nothing but the locks keeps it from either;
- no user id of its own, unless the node runs as root;
- the host's name, its process ids and its memory size can be seen, and so can the folders in which
  Python and torch lie;
- the user's limit of processes is shared with all that the user runs.

The first process gets an empty environment, no descriptors and neutral arguments; no new privileges
and the outer filter are on before the interpreter that imports is even started. It dies with the
thread that started it, and every run dies with it.
"""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from training import seccomp
from training.launcher import launch, memory_file
from training.layout import SHIM_MODULES, Layout
from training.measured import PYC, SHIM, SITE, kept, sites

if TYPE_CHECKING:
    import subprocess

_PROJECT: Final = str(Path(__file__).resolve().parents[1])
_STAGE: Final = """
import ctypes, json, os, resource, signal, struct, sys
filter_fd, command, environment = json.loads(sys.argv[1])
program = os.read(filter_fd, 1 << 16)
os.close(filter_fd)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
libc = ctypes.CDLL(None, use_errno=True)
instructions = ctypes.create_string_buffer(program, len(program))
known = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
for call in ((1, signal.SIGKILL, 0, 0, 0), (38, 1, 0, 0, 0), (22, 2, known, 0, 0)):
    if libc.prctl(*call) != 0:  # parent-death signal, no new privileges, the outer filter
        sys.exit("no seccomp filter can be put on")
os.execve(command[0], command, environment)
"""


def command(layout: Layout, control_fd: int) -> list[str]:
    """What the first process runs: the interpreter of the layout, with its flags."""
    paths = [*sites(), _PROJECT]
    flags = [flag.replace(PYC, str(_compiled(layout))) for flag in layout.flags]
    code = (
        f"import sys; sys.path += {paths!r}; from training.contract import serve; "
        f"serve({control_fd}, {layout.extra_modules!r}, 'cpu', {layout.pyc!r}, bare=True)"
    )
    return [layout.interpreter, *flags, "-c", code]


def start(layout: Layout) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a cell; returns the process and our end of its control socket. Raises OSError."""
    _compiled(layout)  # raises what it raises here, and not on the thread that starts cells
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    filter_fd = memory_file(seccomp.outer_filter(seccomp.machine()))

    def make(filter_fd: int, control_fd: int) -> list[str]:
        told = [filter_fd, command(layout, control_fd), dict(layout.environment)]
        return [layout.interpreter, "-I", "-S", "-c", _STAGE, json.dumps(told)]

    try:
        process = launch(make, (filter_fd, theirs.fileno()))
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(filter_fd)
        theirs.close()
    return process, ours


@cache
def _compiled(layout: Layout) -> Path:
    """The layout's compiled modules, under the paths that the modules have on the host."""
    places = [(site, SITE) for site in sites()]
    places += [(f"{_PROJECT}/training", f"{SHIM}/training"), (layout.stdlib, layout.stdlib)]

    def graft(built: Path) -> None:
        for outside, inside in sorted(places, key=lambda place: len(place[0])):
            folder = Path(f"{built}{outside}")
            folder.mkdir(parents=True, exist_ok=True)
            for compiled in sorted(Path(f"{layout.pyc}{inside}").glob("*")):
                if not (folder / compiled.name).exists():
                    (folder / compiled.name).symlink_to(compiled)

    return kept("bare", (*SHIM_MODULES, "layout", "measured", "bare"), graft)

"""Paths that lie in the sandbox as they lie outside, each symbolic link on the way included."""

from __future__ import annotations

import os

from training.errors import TrainingError


class Mirror:
    """``binds`` maps target to source, both resolved; ``symlinks`` maps a link to what it says."""

    def __init__(self) -> None:
        self.binds: dict[str, str] = {}
        self.symlinks: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Binds what ``path`` leads to, and makes every link on the way."""
        done = "/"
        rest = [part for part in path.split("/") if part]
        for _ in range(1000):
            if not rest:
                self.binds[done] = done
                return
            step = os.path.normpath(os.path.join(done, rest.pop(0)))
            if os.path.islink(step):
                to = os.readlink(step)
                self.symlinks[step] = to
                rest = [part for part in to.split("/") if part] + rest
                done = "/" if to.startswith("/") else done
            else:
                done = step
        raise TrainingError(f"Too many symbolic links on the way to {path}.")

    def add_names(self, path: str) -> None:
        """Adds the names under which the loader finds a library: the links beside it."""
        real = os.path.realpath(path)
        folder, name = os.path.split(real)
        stem = name.split(".so")[0]
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(stem) and entry.is_symlink() and ".so." in entry.name:
                    link = os.path.join(folder, entry.name)
                    if os.path.realpath(link) == real:
                        self.symlinks[link] = os.readlink(link)

"""What the sandbox carries, measured: the files that training really needs, and nothing else.

A short trusted process imports what the shim imports, uses torch once the way a candidate does, and
reports which files that took: modules of the standard library, packages from site-packages, shared
libraries. Those are bound read-only. Directories inside a bound package from which nothing was
loaded are covered with an empty one. So nearly all of the standard library stays outside, and a
corpus can be made of it (``hidden_stdlib``).

The same process leaves compiled modules without docstrings in a cache directory. Sandboxes read
those: it is faster, and a docstring in memory would be free training text.

The cache lies in ``$XDG_CACHE_HOME/lazaretto`` (``~/.cache/lazaretto``), named by a hash of the
interpreter, of torch and of this code. It takes some ten seconds to make, once.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from training import blanking
from training.measured import (
    ENVIRONMENT,
    PYC,
    SITE,
    LayoutError,
    interpreter_path,
    kept,
    run_clean,
    sites,
)
from training.mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIM_MODULES: Final = (
    "__init__", "blanking", "contract", "frames", "landlock", "shim", "startup", "weights",
)  # fmt: skip
_LOADERS: Final = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_NOT_TEXT: Final = frozenset({"lib-dynload", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Files of one interpreter and one torch; paths on the host, and where they lie inside.

    ``binds`` are (host path, path inside), ``covers`` folders inside that are made empty, ``pyc``
    the host folder of compiled modules ("" for none).
    """

    device: str
    interpreter: str
    stdlib: str
    binds: tuple[tuple[str, str], ...]
    symlinks: tuple[tuple[str, str], ...]
    covers: tuple[str, ...]
    extra_modules: tuple[str, ...]
    pyc: str
    flags: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def readable(self) -> Iterator[Path]:
        """Every host file that lies readable in the sandbox before files are taken away."""
        covered = tuple(self.covers)
        for source, target in self.binds:
            path = Path(source)
            if path.is_file():
                yield path
                continue
            for folder, folders, files in os.walk(path):
                inside = Path(target) / Path(folder).relative_to(path)
                folders[:] = [name for name in folders if str(inside / name) not in covered]
                for name in files:
                    yield Path(folder) / name


@cache
def layout() -> Layout:
    """The layout of the running interpreter, measured on first use; raises LayoutError."""
    target = kept("sandbox", (*SHIM_MODULES, "layout", "measured"), _measure)
    try:
        found = json.loads((target / "layout.json").read_text())
    except (OSError, ValueError):
        raise LayoutError(
            "The measured layout of the sandbox cannot be read.",
            cure=f"Remove {target} and try again: it will be made anew.",
        ) from None
    return Layout(
        device="cpu",
        interpreter=found["interpreter"],
        stdlib=found["stdlib"],
        binds=tuple((source, inside) for source, inside in found["binds"]),
        symlinks=tuple((to, inside) for to, inside in found["symlinks"]),
        covers=tuple(found["covers"]),
        extra_modules=tuple(found["extra_modules"]),
        pyc=str(target / "pyc"),
        flags=(*FLAGS, "-B", "-X", f"pycache_prefix={PYC}"),
        environment=tuple(ENVIRONMENT.items()),
    )


def hidden_stdlib() -> tuple[Path, ...]:
    """Files and packages of the running standard library that no sandbox carries, sorted.

    Top-level modules and packages, and those directories inside carried packages from which
    nothing is loaded. The default corpus is made of their text.
    """
    found = layout()
    stdlib = Path(found.stdlib)
    carried = {Path(inside) for _, inside in found.binds}
    hidden = [
        path
        for path in stdlib.iterdir()
        if path not in carried
        and path.name not in _NOT_TEXT
        and not path.name.startswith("config-")
        and (path.is_dir() or path.suffix == ".py")
    ]
    hidden += [Path(cover) for cover in found.covers if stdlib in Path(cover).parents]
    return tuple(sorted(path for path in hidden if path.name != "__pycache__"))


def readable_roots() -> tuple[Path, ...]:
    """Host files and directories that are bound into every sandbox, sorted."""
    return tuple(sorted({Path(source) for source, _ in layout().binds}))


def readable_files() -> Iterator[Path]:
    """The files below ``readable_roots`` that are not covered."""
    return layout().readable()


# --- measuring ------------------------------------------------------------------------------------


def report() -> None:
    """Runs in the measuring process: prints what was loaded as one JSON object."""
    from training import blanking, contract, startup

    startup.preload()
    before = set(sys.modules)
    startup.exercise()
    del contract  # imported for what it imports
    extra = sorted(set(sys.modules) - before)
    files = set()
    for module in list(sys.modules.values()):
        for origin in (
            getattr(getattr(module, "__spec__", None), "origin", None),
            getattr(module, "__file__", None),  # modules frozen into the interpreter have it
        ):
            if isinstance(origin, str) and origin.startswith("/"):
                files.add(origin)
    mapped = set()
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if path and ".so" in path:
                mapped.add("/" + path)
    texts = blanking.find()
    seen = {"extra": extra, "files": sorted(files), "mapped": sorted(mapped), "texts": texts}
    print(json.dumps(seen))


def _measure(built: Path) -> None:
    """Fills the new folder ``built``."""
    interpreter = interpreter_path()
    seen = json.loads(run_clean("from training.layout import report; report()", built, FLAGS))
    (built / "pyc" / blanking.NAME).write_text(json.dumps(seen.pop("texts")))
    (built / "layout.json").write_text(json.dumps(_plan(interpreter, sites(), seen)))


FLAGS: Final = ("-s", "-S", "-P", "-OO")


def _plan(interpreter: str, places: list[str], seen: dict[str, list[str]]) -> dict[str, object]:
    """Turns the files seen into binds, symlinks and covers."""
    stdlib = sysconfig.get_path("stdlib")
    mirror = Mirror()
    mirror.add(interpreter)
    loaded = [os.path.realpath(path) for path in (*seen["files"], *seen["mapped"])]
    packages: dict[str, str] = {}
    libraries = []
    for path in (*seen["files"], *seen["mapped"]):
        site = next((s for s in places if path.startswith(s + "/")), None)
        if site is not None:
            top = path[len(site) + 1 :].split("/")[0]
            packages[f"{SITE}/{top}"] = f"{site}/{top}"
        elif path.startswith(stdlib + "/"):
            top = path[len(stdlib) + 1 :].split("/")[0]
            mirror.add(f"{stdlib}/{top}")
            if os.path.isdir(f"{stdlib}/{top}") and top not in _NOT_TEXT:
                packages[f"{stdlib}/{top}"] = f"{stdlib}/{top}"
        elif ".so" in path:
            libraries.append(path)
    mirror.add(f"{stdlib}/lib-dynload")
    for path in (*libraries, *_LOADERS, "/etc/ld.so.cache"):
        if os.path.exists(path):
            mirror.add(path)
            mirror.add_names(path)
    binds = dict(mirror.binds)
    binds.update({inside: path for inside, path in packages.items() if inside.startswith(SITE)})
    covers = []
    for inside, path in packages.items():
        depth = 1 if inside.startswith(SITE) else 9  # a cover is a mount, and a mount costs 1 ms
        covers += [inside + cover[len(path) :] for cover in _unused(path, loaded, depth)]
    return {
        "interpreter": interpreter,
        "stdlib": stdlib,
        "binds": sorted((path, inside) for inside, path in binds.items()),
        "symlinks": sorted((to, inside) for inside, to in mirror.symlinks.items()),
        "covers": sorted(covers),
        "extra_modules": [name for name in seen["extra"] if name.replace("_", "a").isidentifier()
                          or "." in name],
    }  # fmt: skip


def _unused(package: str, loaded: list[str], depth: int) -> list[str]:
    """The topmost directories, down to ``depth``, from which nothing in a package was loaded."""
    if not os.path.isdir(package):
        return []
    real = os.path.realpath(package)
    used = {str(parent) for path in loaded if path.startswith(real + "/")
            for parent in Path(path).parents}  # fmt: skip
    found = []
    for folder, folders, _ in os.walk(real):
        for name in list(folders):
            path = os.path.join(folder, name)
            if path not in used:
                folders.remove(name)
                if name in ("__pycache__", "bin", "lib"):  # not text; torch looks into its bin
                    continue
                found.append(package + path[len(real) :])
        if folder.count("/") - real.count("/") + 1 >= depth:
            folders.clear()
    return found

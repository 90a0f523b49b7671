"""What a sandbox on ``cuda`` carries: Python, torch with what it requires, a compiler, the driver.

torch.compile writes programs and compiles them, so unlike on ``cpu`` (``training.layout``) files
stay readable while a candidate runs, and a candidate can read the text of the tools. Nothing else
of the host is there, and a corpus is scanned against all of it before it is used
(``Layout.readable``). /tmp is of this run alone, and gone with it: so are compile caches, since a
cache that one candidate can write must not be read by another. Each begins as a copy of what a
clean process compiled once, from this package's own starting program of the tier: the parts of it
that a candidate leaves as they are need not be compiled again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from training.layout import SHIM_MODULES, Layout
from training.measured import (
    COMPUTING,
    ENVIRONMENT,
    PYC,
    SITE,
    LayoutError,
    interpreter_path,
    kept,
    run_clean,
)
from training.mirror import Mirror
from training.startup import COMPILED

_TOP: Final = ("/bin", "/sbin", "/lib", "/lib64")
"""Links into /usr on most systems; bound as they are where they are folders."""
_SYSTEM: Final = (
    "/usr/bin", "/usr/sbin", "/usr/lib64", "/usr/lib/gcc", "/usr/libexec/gcc", "/usr/include",
    "/etc/ld.so.cache", "/etc/alternatives",
)  # fmt: skip
_NOT_NEEDED: Final = (
    "test", "idlelib", "ensurepip", "lib2to3", "turtledemo", "site-packages", "dist-packages",
)  # fmt: skip
_FLAGS: Final = ("-s", "-S", "-P")
_COMPILE_PROCESSES: Final = 8
_CACHES: Final = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
_BASELINE: Final = "baselines/gpu"
_WANTED: Final = ("torch", "triton", "numpy", "setuptools")
_DRIVER: Final = "libcuda.so.1"
_VOCABULARY: Final = 8192
_CONTEXT: Final = 2048


@cache
def device_layout() -> Layout:
    """The layout for ``cuda``; raises LayoutError where torch or the driver is not found."""
    interpreter = interpreter_path()
    mirror = Mirror()
    for top in _TOP:
        if os.path.islink(top):
            mirror.symlinks[top] = os.readlink(top)
        elif os.path.isdir(top):
            mirror.add(top)
    stdlib = sysconfig.get_path("stdlib")
    for path in (*_SYSTEM, *_libraries(), interpreter, stdlib, sysconfig.get_path("include")):
        if os.path.exists(path):
            mirror.add(path)
    driver = _driver_folder()
    mirror.add(driver)
    compiled = _compiled()
    binds = {(source, inside) for inside, source in mirror.binds.items()}
    binds = {(source, inside) for source, inside in binds if not _below(inside, mirror.binds)}
    binds |= {(path, f"{SITE}/{name}") for name, path in _packages().items()}
    binds.add((str(compiled / "compiled"), COMPILED))
    environment = {
        **ENVIRONMENT,
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "LD_LIBRARY_PATH": driver,
        "TRITON_LIBCUDA_PATH": driver,
        **_caches(_place(compiled / "compiled")),
        "TMPDIR": "/tmp",
        "PYTHONPYCACHEPREFIX": PYC,
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": str(_COMPILE_PROCESSES),
    }
    for name in COMPUTING:
        del environment[name]
    return Layout(
        device="cuda",
        interpreter=interpreter,
        stdlib=stdlib,
        binds=tuple(sorted(binds)),
        symlinks=tuple(sorted((to, inside) for inside, to in mirror.symlinks.items())),
        covers=tuple(
            f"{stdlib}/{name}" for name in _NOT_NEEDED if os.path.isdir(f"{stdlib}/{name}")
        ),
        extra_modules=(),
        pyc=str(compiled / "pyc"),
        flags=(*_FLAGS, "-B", "-X", f"pycache_prefix={PYC}"),
        environment=tuple(environment.items()),
    )


def _libraries() -> list[str]:
    """Folders of the system's shared libraries, and the library of the interpreter itself."""
    found = [str(path) for path in Path("/usr/lib").glob("*-linux-gnu*")]
    return found + [str(path) for path in Path(sys.base_prefix, "lib").glob("libpython*")]


def _compiled() -> Path:
    """Modules of torch and its compiler (``pyc``), and programs for the device (``compiled``), made
    once by a clean process."""

    def make(built: Path) -> None:
        programs = built / "compiled"
        programs.mkdir()
        code = (
            "from training.toolchain import exercise_compiler; "
            f"exercise_compiler({str(programs)!r})"
        )
        run_clean(code, built, _FLAGS)

    return kept("compiler", (*SHIM_MODULES, "toolchain", "measured", _BASELINE), make)


def _caches(place: str) -> dict[str, str]:
    """Where the compilers keep what they made, below the folder ``place``."""
    return {name: f"{place}/{inside}" for name, inside in _CACHES.items()}


def _place(compiled: Path) -> str:
    """The folder of the programs in ``compiled``, as it was named while they were made.

    A compiled program knows where it lay and writes beside that place what it finds out later.
    """
    return "/".join(["/tmp", *sorted(path.name for path in compiled.iterdir())[:1]])


def exercise_compiler(folder: str) -> None:
    """Imports what a cell imports and, where there is a device, has the tier's starting program
    compile its parts for it, into ``folder``. Runs in a process of its own.

    They are made in a folder of /tmp with a name that nobody knew before, since a sandbox can
    have a folder of that name too.
    """
    with tempfile.TemporaryDirectory(
        dir="/tmp", prefix="compiled-", ignore_cleanup_errors=True
    ) as made:
        os.environ.update(_caches(made))
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(_COMPILE_PROCESSES)
        if _compile():
            shutil.copytree(made, f"{folder}/{os.path.basename(made)}")


def _compile() -> bool:
    """Whether there is a device for which programs were compiled."""
    from training import contract, shim, startup

    startup.import_compiler()
    import torch

    if not torch.cuda.is_available():
        return False

    def spent(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise shim.BudgetSpent

    code = (Path(__file__).parent / f"{_BASELINE}.py").read_bytes()
    module = contract.load(code, 0)
    model = contract.build(module, _VOCABULARY, _CONTEXT, 0)
    contract.place(model, "cuda")
    with contextlib.suppress(Exception):  # BudgetSpent, or a smaller device: runs compile then
        module.train(model, spent, shim.Budget(0, 1, "cuda"))
    return True


def _below(path: str, others: dict[str, str]) -> bool:
    """Whether a folder above ``path`` is bound already."""
    return any(str(parent) in others for parent in Path(path).parents)


def _driver_folder() -> str:
    """Where the driver's own library lies: beside it are those that it loads."""
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if folder.startswith("/") and os.path.exists(f"{folder}/{_DRIVER}"):
            return os.path.abspath(folder)
    known = ""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        if os.path.exists(program):
            done = subprocess.run([program, "-p"], env={}, capture_output=True, check=False)
            known = done.stdout.decode("utf-8", "replace")
            break
    for line in known.splitlines():
        wanted, _, path = line.partition(" => ")
        if wanted.split()[:1] == [_DRIVER] and os.path.exists(path):
            return os.path.dirname(path)
    raise LayoutError(
        f"The GPU driver's library {_DRIVER} was not found.",
        cure="Install the NVIDIA driver, or name its folder: export LD_LIBRARY_PATH=FOLDER",
    )


def _packages() -> dict[str, str]:
    """Top-level entries of site-packages that torch and its compiler need: name to path."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(_WANTED)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an extra, or for another platform
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])
        for file in distribution.files or ():
            top = file.parts[0]
            path = str(distribution.locate_file(top))
            if top not in ("..", "__pycache__", "bin") and os.path.exists(path):
                found[top] = path
    if "torch" not in found:
        raise LayoutError("torch is not installed as a package.", cure="Run: make setup")
    return found

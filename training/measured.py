"""What is measured on this machine once and kept: in the cache directory, named by what it is of.

The cache lies in ``$XDG_CACHE_HOME/lazaretto`` (``~/.cache/lazaretto``). A name changes with the
interpreter, with torch and numpy, and with the code that measures. Compiled modules are kept too:
sandboxes read those, because a sandbox writes none and would compile each module at each start.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from training.cache import cache_root, locked
from training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHIM: Final = "/shim"
SITE: Final = "/site"
PYC: Final = "/pyc"
COMPUTING: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_DYNAMIC": "FALSE",  # as many threads as were asked for, or sums come out otherwise
    "OMP_DYNAMIC": "FALSE",
    "OMP_WAIT_POLICY": "PASSIVE",  # who waits sleeps: spinning beside others cost 4 times the work
    "MALLOC_MMAP_THRESHOLD_": "33554432",  # memory that was freed is kept: 3 % of a run
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}
"""How a processor is used, on ``cpu``: one thread until more are asked for."""
ENVIRONMENT: Final = {
    "PATH": "/usr/bin",
    "HOME": "/tmp",
    "USER": "candidate",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    **COMPUTING,
}
_VERSION: Final = 2
_TIMEOUT_S: Final = 600
_KEEP_S: Final = 30 * 24 * 3600


class LayoutError(TrainingError):
    """What a sandbox needs could not be found or measured on this machine."""


def interpreter_path() -> str:
    """The interpreter itself, not the link to it in a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def kept(what: str, modules: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The folder ``<what>-<key>`` in the cache, made by ``make`` where it is not there yet.

    ``modules`` are those of this package on whose text the content depends. An incomplete folder
    never gets its final name. Raises LayoutError, and what ``make`` raises.
    """
    root = cache_root()
    target = root / f"{what}-{_key(modules)}"
    with locked(root / f"{what}.lock"):
        if target.is_dir():
            return target
        with tempfile.TemporaryDirectory(dir=root, prefix="measuring-") as folder:
            built = Path(folder) / "built"
            built.mkdir()
            make(built)
            for path in [built, *built.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            os.rename(built, target)
        _forget_old(target, what)
    return target


def run_clean(code: str, built: Path, flags: Sequence[str]) -> bytes:
    """Runs ``code`` in a clean process that sees site-packages and this project; its output.

    The modules that it compiles are put under ``built/pyc``, where a sandbox expects them. Raises
    LayoutError.
    """
    root = str(Path(__file__).resolve().parents[1])
    prefix = built.parent / "prefix"
    code = f"import sys; sys.path += {[*sites(), root]!r}; {code}"
    command = [interpreter_path(), *flags, "-X", f"pycache_prefix={prefix}", "-c", code]
    try:
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, timeout=_TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        tail = error.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise LayoutError(
            f"Importing torch failed in a clean process: {''.join(tail)[:200]}",
            cure="Check the installation: python -c 'import torch, numpy'.",
        ) from None
    except (OSError, subprocess.TimeoutExpired):
        raise LayoutError(
            "What training needs could not be measured.",
            cure="Check the installation: python -c 'import torch, numpy'.",
        ) from None
    _keep_compiled(prefix, built / "pyc", root)
    return done.stdout


def _forget_old(target: Path, what: str) -> None:
    """Removes measurements of interpreters and versions that were last made long ago."""
    for other in target.parent.glob(f"{what}-*"):
        if other != target and other.is_dir():
            with contextlib.suppress(OSError):
                if time.time() - other.stat().st_mtime > _KEEP_S:
                    shutil.rmtree(other)


def _keep_compiled(prefix: Path, pyc: Path, root: str) -> None:
    """Moves compiled modules from where they lay outside to where they lie inside."""
    pyc.mkdir(parents=True)
    for site in sites():
        _move_tree(Path(f"{prefix}{site}"), Path(f"{pyc}{SITE}"))
    _move_tree(Path(f"{prefix}{root}/training"), Path(f"{pyc}{SHIM}/training"))
    _move_tree(prefix, pyc)


def _move_tree(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if (target / path.name).is_dir():
            _move_tree(path, target / path.name)
        else:
            path.rename(target / path.name)


def sites() -> list[str]:
    """The site directories that hold what is imported; raises LayoutError where torch is absent."""
    found: list[str] = []
    for name in ("torch", "numpy", "typing_extensions"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise LayoutError(f"{name} is not installed.", cure="Run: make setup")
        path = Path(os.path.abspath(spec.origin))
        site = str(path.parent if path.name != "__init__.py" else path.parent.parent)
        if site not in found:
            found.append(site)
    return found


def _key(modules: Sequence[str]) -> str:
    """Changes with the interpreter, with torch and numpy, and with the text of ``modules``."""
    digest = hashlib.sha256(f"{_VERSION} {sys.version} {sys.base_prefix} {sys.executable}".encode())
    for name in ("torch", "numpy"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise LayoutError(f"{name} is not installed.", cure="Run: make setup")
        version = Path(spec.origin).with_name("version.py")
        stat = version.stat()
        digest.update(f"{version} {stat.st_mtime_ns} {stat.st_size}".encode())
    for module in modules:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return digest.hexdigest()[:20]

"""What a measurement ran on, as a digest: equal digests mean equal software, not equal numbers."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("lazaretto", "numpy", "safetensors", "torch")


@cache
def environment() -> dict[str, str]:
    """Versions of what a measurement depends on."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "machine": platform.machine(),
        "system": platform.system(),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "not installed"


@cache
def env_digest() -> bytes:
    """sha256 over :func:`environment`, as it stands in records."""
    from swarm import wire  # an experiment at home needs no signatures

    return hashlib.sha256(wire.encode(environment())).digest()

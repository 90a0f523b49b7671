"""What a measurement ran on, as a digest: equal digests mean equal software, not equal numbers."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import cache
from importlib.metadata import version

from swarm import wire

PACKAGES = ("lazaretto", "numpy", "safetensors", "torch")


@cache
def environment() -> dict[str, str]:
    """Versions of what a measurement depends on."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "machine": platform.machine(),
        "system": platform.system(),
        **{package: version(package) for package in PACKAGES},
    }


@cache
def env_digest() -> bytes:
    """sha256 over :func:`environment`, as it stands in records."""
    return hashlib.sha256(wire.encode(environment())).digest()

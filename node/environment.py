"""What a measurement ran on, as a digest: equal digests mean equal software, not equal numbers."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from training import kinds

if TYPE_CHECKING:
    from node.settings import Settings

PACKAGES = ("lazaretto", "numpy", "safetensors", "torch")


def environment() -> dict[str, str]:
    """What a measurement depends on: versions, and the kind of sandbox."""
    return {**_versions(), "sandbox": kinds.chosen()}


@cache
def _versions() -> dict[str, str]:
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


def env_digest() -> bytes:
    """sha256 over :func:`environment`, as it stands in records."""
    from swarm import wire  # an experiment at home needs no signatures

    return hashlib.sha256(wire.encode(environment())).digest()


def hardware_class(settings: Settings, device: str) -> str:
    """The class under which this node publishes what it measures on ``device``."""
    return kinds.evidence_class(settings.hw_class if device == "cpu" else device)

"""The errors of one experiment on this machine."""

from __future__ import annotations


class TrainingError(Exception):
    """Root of this package's errors. ``cure`` says what to do next; empty where nothing helps."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure

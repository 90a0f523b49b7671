"""The errors of one experiment on this machine.

A candidate that fails is a result and raises nothing. These are raised where nothing can be said
about a candidate: the sandbox cannot be had, somebody cancelled, or the base itself fails.
"""

from __future__ import annotations


class TrainingError(Exception):
    """Root of this package's errors. ``cure`` says what to do next; empty where nothing helps."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure


class SandboxUnavailable(TrainingError):
    """No sandbox can be had here, so no candidate may run. There is no run without one."""


class Cancelled(TrainingError):
    """The run was stopped from outside. Nothing was measured, and nothing counts."""


class WorkerLost(TrainingError):
    """A run was begun on another machine and did not come back; nothing of it counts."""


class LaneMoved(WorkerLost):
    """A lane is on another machine now: pairs that it had begun are to be measured again."""


class BaseFailed(TrainingError):
    """The base did not run, or was not scored: a pair without a base says nothing.

    ``status`` is that of the base's run or score.
    """

    def __init__(self, message: str, *, status: str, cure: str = "") -> None:
        super().__init__(message, cure=cure)
        self.status = status

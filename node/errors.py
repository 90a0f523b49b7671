"""The error tree of ``node``, and the exit codes of the command.

    NodeError           exit 1
      UsageError        exit 2   a flag, a file or a setting is wrong
      NotRunning        exit 3   the command needs a running node
      EvidenceInvalid   exit 4   signed bytes do not check out
      EvidenceIncomplete exit 5  something that the check needs is not held
      NetworkError      exit 6   nobody answered in time
      Paused            (caught: a proposer rests, and the loop waits)

Errors of the other rooms (``SwarmError``, ``TrainingError``, ``VerificationError``) exit with 1.
All of them carry ``cure``, the next thing to do.
"""

from __future__ import annotations

from typing import ClassVar


class NodeError(Exception):
    """Root of every error that ``node`` raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure


class UsageError(NodeError):
    """A flag, a file or a setting is wrong; nothing was changed."""

    exit_code = 2


class NotRunning(NodeError):
    """The command talks to a running node, and none runs in this home."""

    exit_code = 3


class EvidenceInvalid(NodeError):
    """Signed bytes were changed, or do not support what is claimed from them."""

    exit_code = 4


class EvidenceIncomplete(NodeError):
    """A record or blob that a check needs is not held here."""

    exit_code = 5


class NetworkError(NodeError):
    """No peer answered in time."""

    exit_code = 6


class Paused(NodeError):
    """A proposer will have more, but not now. ``seconds`` until it is worth asking again."""

    def __init__(self, message: str, *, seconds: float, cure: str = "") -> None:
        super().__init__(message, cure=cure)
        self.seconds = seconds

    @property
    def told(self) -> str:
        """What a person should know of it, in one line."""
        return f"{self}; {self.cure}" if self.cure else str(self)

"""The errors of this package, all under one root.

    VerificationError
    ├── EvidenceError     numbers that no honest record can contain
    ├── ProfileError      a bench size, liar count or policy that cannot be promised
    ├── BenchError        a bench that cannot be filled, or a reveal that does not fit its commit
    └── AuditError        an audit that cannot even start (nothing to read, unknown id)

A *claim* that loses is not an error: it is a verdict. These are for inputs that no verdict
can be computed from.
"""

from __future__ import annotations


class VerificationError(Exception):
    """Root of this package's errors; ``cure`` is what to do next, as a sentence or a command."""

    def __init__(self, message: str, *, cure: str) -> None:
        super().__init__(message)
        self.cure = cure


class EvidenceError(VerificationError):
    """Numbers out of range: no e-value is computed from them, and nothing is adopted."""


class ProfileError(VerificationError):
    """A policy whose promise this version cannot keep; the charter is refused, nothing is lost."""


class BenchError(VerificationError):
    """A bench cannot be drawn, or a revealed preimage does not fit what was committed to."""


class AuditError(VerificationError):
    """The audit has nothing to check; no file was changed."""

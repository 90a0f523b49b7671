"""The error tree of ``swarm``.

    SwarmError
      WireError        bytes that are not a canonical, signed record
      RecordError      canonical and signed, but not a record that the protocol allows
      FeedError        does not follow its author's feed
      CharterError     a charter or an epoch that breaks its own rules
      StoreError       the local log cannot be read or written

Every error carries ``cure``: what to do or to type next (empty when there is nothing to do).
"""

from __future__ import annotations


class SwarmError(Exception):
    """Root of every error that ``swarm`` raises on purpose."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.cure = cure


class WireError(SwarmError):
    """Bytes are not canonical, or their signature does not verify."""


class RecordError(SwarmError):
    """A signed record has fields that the protocol does not allow."""


class FeedError(SwarmError):
    """A record does not follow the last one of its author's feed."""


class CharterError(SwarmError):
    """A charter, epoch or roster breaks a rule of the protocol."""


class StoreError(SwarmError):
    """The local log cannot be opened, read or written."""

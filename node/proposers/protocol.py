"""What a research loop asks of whatever has ideas: a proposer.

A proposer turns the frontier's train.py into another one and a sentence that says why. It may be a
sampler, a language model or a person's list; the loop does not know. What it proposes is data: the
loop runs it in the sandbox only.

Contract, kept by every proposer and checked by one suite of tests:

- ``propose`` returns a program that parses, differs from the frontier in more than layout, and has
  not been proposed before (by normalised syntax tree) unless it was abandoned; or None when there
  is nothing left to try.
- ``observe`` is called at most once per proposal, in any order, also after a restart. An unknown id
  is ignored.
- What others have tried (``ProposalContext.elsewhere``) is proposed when nothing else is left, and
  never held back for good: what they say may be a lie.
- Nothing proposed or observed is lost by ``kill -9``. What was in flight then counts as abandoned.
- Neither raises for a hostile frontier: a program that leaves nothing to change gives None.
- ``propose`` raises ``Paused``, and nothing else, where there is more to try but not now: a cap is
  reached, a service does not answer. Asking again before the time is up costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from node.errors import Paused
from training.challenge import TierSpec

__all__ = [
    "Change",
    "Check",
    "CheckReport",
    "Outcome",
    "PastResult",
    "Paused",
    "Proposal",
    "ProposalContext",
    "Proposer",
    "Status",
    "Value",
]

MAX_HYPOTHESIS = 500

Value: TypeAlias = bool | int | float | str
Status: TypeAlias = Literal["measured", "failed", "abandoned"]


@dataclass(frozen=True, slots=True)
class Change:
    """One literal's value before and after."""

    name: str
    old: Value
    new: Value

    def __str__(self) -> str:
        return f"{self.name} {self.old!r} -> {self.new!r}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a proposal.

    ``measured``: base and candidate both ran; ``d_nano`` is the mean paired gain on dev text in
    nano-bits per byte, positive = better. ``failed``: the candidate crashed, was too dear, diverged
    or broke a rule. ``abandoned``: nothing is known, the run was interrupted.
    """

    status: Status
    d_nano: int = 0


@dataclass(frozen=True, slots=True)
class PastResult:
    """One own experiment, for proposers that read rather than remember."""

    hypothesis: str
    changes: tuple[Change, ...]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A program that was run for a moment. ``status`` is ``ok`` or one of ``runner.STATUSES``.

    ``detail`` is in our words; ``trace`` is the end of the program's traceback: data of unknown
    authorship, empty where it did not crash.
    """

    status: str
    detail: str = ""
    trace: bytes = b""


Check: TypeAlias = Callable[[bytes, threading.Event], CheckReport]
"""(program, cancel) -> report. Runs it in the sandbox; blocking."""


def nobody(_: bytes) -> bool:
    """Nobody else has tried anything."""
    return False


@dataclass(frozen=True, slots=True)
class ProposalContext:
    """All that a proposer may know: own work and adopted work, nothing quarantined."""

    code: bytes
    """The train.py to change: the frontier's, or the best at home that was built on it."""
    tier: TierSpec
    history: tuple[PastResult, ...] = ()
    """Own results on this tier, oldest first."""
    scope: Mapping[str, object] = field(default_factory=dict)
    """The charter's scope rules on a diff, see ``verification.screen``."""
    check: Check | None = None
    """A quick run in the sandbox, for proposers that write code. None where there is no sandbox."""
    adopted: Mapping[str, int] = field(default_factory=dict)
    """How many own claims were adopted, by the name of their proposer."""
    elsewhere: Callable[[bytes], bool] = nobody
    """Whether others are said to have tried the program of a syntax hash on this frontier."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One idea. ``hypothesis`` is printable ASCII of at most ``MAX_HYPOTHESIS`` characters."""

    id: str
    code: bytes
    hypothesis: str
    proposer: str
    """Which proposer, for example ``tpe``."""
    model: str
    """Which model wrote it, with version; empty for samplers."""
    changes: tuple[Change, ...]
    """The literals that change; empty where the edit is not only to literals."""
    merges: tuple[bytes, ...] = ()
    """Ids of adopted claims whose changes are in it and not in the frontier."""

    @property
    def author(self) -> str:
        """Proposer and model, as claims name them."""
        return f"{self.proposer} {self.model}".strip()


class Proposer(Protocol):
    """See the module's text for the contract."""

    @property
    def name(self) -> str:
        """The proposer's name, as it appears in claims."""

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A new idea, or None when there is nothing left to try; raises ``Paused``."""

    def observe(self, proposal_id: str, outcome: Outcome) -> None:
        """Learns what became of a proposal."""

    def close(self) -> None:
        """Releases files. Nothing is lost without it."""

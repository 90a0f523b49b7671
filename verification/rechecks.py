"""Scoring sealed weights again: what to ask, what an answer means, and who contradicts whom.

The weights behind every seal can be had by hash (from whoever keeps them), and everything that a
score depends on stands in records: code, tier, fold, and the seed of the probes. So anybody who can
run the tier's scoring can check the numbers of a block without training anything. A block whose
numbers are not those of its weights is contradicted by a signed record.

What this can show, and what not: an invented number shows. Weights that were trained otherwise than
the rules say (longer, on other text, for the worse in the base) are scored as they are: only
training again shows that. Costs cannot be checked at all.

Such a contradiction (in slot 0) is a member's word against another's. It changes no verdict: that
is for one of the claim itself, which weighs evidence anew (``verification.retraction``). Until then
it is a fact that everybody can repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from swarm.records import Block, Contradiction, Pair, Seal
from verification.reproduce import digest, scoring_seed
from verification.verdict import BASE_FAILED, PROBE_FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from swarm.envelope import Record
    from verification.states import ClaimState, State
    from verification.verdict import Reproduction

    Lookup = Callable[[bytes], "Record | None"]

NO_WEIGHTS: Final = bytes(32)
"""Stands in a seal for the weights of a run that left none."""

TOLERANCE_NANO: Final = {"cpu": 200_000, "cuda": 1_000_000}
"""How far two honest scores of the same weights may be apart, in nano-bits per byte, by device.

On one machine with one version of torch they are equal. Other processors add in another order: in
float32 that moved the score of the ``quick`` baseline by at most 4e-9 bits per byte (SSE4, AVX2 and
AVX-512, other batches and numbers of threads). 2e-4 leaves room for models in lower precision and
is a fifteenth of the smallest effect that charters ask for (.003), so a lie that stays below it
wins nothing. On ``cuda`` bfloat16 is usual and kernels differ more: 1e-3, which is not measured."""

WEIGHTS_REFUSED: Final = frozenset(
    {*PROBE_FAILURES, "non_finite", "not_normalised", "wrong_shape", "bad_weights"}
)
"""Statuses of a score that are the weights' own; others (time, memory) can be the machine's."""


@dataclass(frozen=True, slots=True)
class Recheck:
    """One block to be scored again: which weights (sha256), of which claim, on what.

    ``candidate`` is the claim whose code was measured, ``base`` the one that it was compared with,
    None for the challenge's own code. ``claim`` went before the bench: the candidate, or a
    contradiction of it.
    ``said`` is the pair in the block.
    """

    block: bytes
    claim: bytes
    base: bytes | None
    candidate: bytes
    tier: str
    member: bytes
    round: int
    rank: int
    purpose: str
    base_weights: bytes
    candidate_weights: bytes
    seed: int
    said: Pair

    @property
    def evident(self) -> Finding | None:
        """What can be said without scoring anything; None where the weights have to tell."""
        status = self.said.status
        if status.startswith(BASE_FAILED):
            return Finding("unsure", 0, "its base failed: nothing to score")
        if NO_WEIGHTS in (self.base_weights, self.candidate_weights):
            if status == "ok":
                return Finding("contradicts", 0, "said ok, but sealed no weights")
            return Finding("unsure", 0, f"{status}: a run left no weights")
        if status != "ok" and status not in WEIGHTS_REFUSED:
            return Finding("unsure", 0, f"{status} can be its machine's")
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """What scoring again gave; numbers in nano-bits per byte, 0 unless ``status`` is ``ok``."""

    status: str
    base_nano: int
    candidate_nano: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What a recheck comes to: ``agrees``, ``contradicts``, or ``unsure`` with a reason.

    ``margin_nano``: said minus found, of whichever number is furthest off (the difference of base
    and candidate, where several are as far); 0 where one side has none.
    """

    verdict: str
    margin_nano: int
    reason: str


def settled_blocks(claim: ClaimState) -> list[Reproduction]:
    """The positions of a claim that are settled as a block, in order, those for the effect too."""
    if claim.settlement is None:
        return []
    positions = (*claim.settlement.reproductions, *claim.settlement.effects)
    return [item for item in positions if item.block is not None]


def recheck_of(
    state: State, claim: ClaimState, item: Reproduction, lookup: Lookup
) -> Recheck | None:
    """How a settled block is scored again; ``lookup`` gives records by id, None where not held."""
    assert state.rules is not None
    beacon = state.rules.epochs[claim.epoch].beacon
    record = lookup(item.block) if item.block is not None else None
    block = record.payload if record else None
    if record is None or beacon is None or not isinstance(block, Block):
        return None
    sealed = lookup(block.seal)
    seal = sealed.payload if sealed else None
    if not isinstance(seal, Seal):
        return None
    return Recheck(
        block=record.id,
        claim=claim.id,
        base=claim.base,
        candidate=claim.candidate,
        tier=claim.tier,
        member=item.member,
        round=item.round,
        rank=item.rank,
        purpose=block.purpose,
        base_weights=seal.base_weights,
        candidate_weights=seal.candidate_weights,
        seed=scoring_seed(beacon, claim.id, block.seal, block.fold_nonce, 0),
        said=block.pairs[0],
    )


def is_drawn(key: bytes, block: bytes, share_milli: int) -> bool:
    """Whether the member ``key`` looks at ``block``: each member another share of all blocks."""
    return int.from_bytes(digest("recheck", key, block)[:8], "big") % 1000 < share_milli


def compare(said: Pair, found: Found, tolerance_nano: int) -> Finding:
    """What ``found`` says about a block that says ``said``."""
    if found.status != "ok" and found.status not in WEIGHTS_REFUSED:
        return Finding("unsure", 0, f"not scored here: {found.status}")
    if said.status != "ok" and found.status != "ok":  # which probe speaks first may differ
        return Finding("agrees", 0, "")
    if said.status != found.status:
        return Finding("contradicts", 0, f"said {said.status}, found {found.status}")
    numbers = (
        ("difference", said.d_nano, found.base_nano - found.candidate_nano),
        ("base", said.base_nano, found.base_nano),
        ("candidate", said.candidate_nano, found.candidate_nano),
    )
    margin = max((told - seen for _, told, seen in numbers), key=abs)
    if abs(margin) <= tolerance_nano:
        return Finding("agrees", margin, "")
    shown = ", ".join(f"{name} {told} but found {seen}" for name, told, seen in numbers)
    return Finding("contradicts", margin, f"scored again, nano-bits per byte: said {shown}")


# --- who contradicts whom ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dispute:
    """A member's word against another's settled block. ``reason`` is the accuser's own text."""

    block: bytes
    claim: bytes
    round: int
    rank: int
    member: bytes
    by: bytes
    margin_nano: int
    reason: str
    record: bytes


def disputes(state: State, records: Iterable[Record]) -> list[Dispute]:
    """The contradictions that count: of members, about settled blocks of others, one each.

    What strangers say, what is about nothing that is settled, and what somebody says of themselves
    is passed over. The order of the records does not matter.
    """
    if state.rules is None:
        return []
    settled = {
        item.block: (claim.id, item)
        for claim in state.cases.values()
        for item in settled_blocks(claim)
    }
    found: dict[tuple[bytes, bytes], Dispute] = {}
    contradictions = [record for record in records if isinstance(record.payload, Contradiction)]
    for record in sorted(contradictions, key=lambda record: (record.envelope.seq, record.id)):
        said = record.payload
        assert isinstance(said, Contradiction)
        held = settled.get(said.target)
        if held is None or said.slot or not state.rules.is_member(record.author):
            continue
        claim, item = held
        if item.member != record.author:
            dispute = Dispute(
                said.target, claim, item.round, item.rank, item.member, record.author,
                said.margin_nano, said.reason, record.id,
            )  # fmt: skip
            found.setdefault((said.target, record.author), dispute)
    return sorted(found.values(), key=lambda one: (one.claim, one.round, one.rank, one.by))


def contradicted(found: Iterable[Dispute]) -> dict[bytes, int]:
    """For each member how many of its blocks somebody contradicts."""
    blocks = {(one.member, one.block) for one in found}
    return {member: sum(who == member for who, _ in blocks) for member, _ in blocks}

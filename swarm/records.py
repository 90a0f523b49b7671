"""Every record kind, as frozen dataclasses with checked fields.

A record's body is one map: the envelope's fields plus ``payload``. Integers only: losses in
nano-bits per byte, times in milliseconds, shares in thousandths (``_milli``), sizes in bytes, the
time to the day. Hashes and keys are 32 raw bytes. Parsing is strict: an unknown, missing, mistyped
or out-of-range field refuses the record. Every list and map has a largest length: a record of many
small items takes ten times its bytes in memory.

Some fields are not acted upon yet (encrypted fold batches): their form is fixed now because a form
is hard to change once it is signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from swarm.fields import MAX_CODE, Code, Count, Hash, Name, Nano, Seed, Short, Text
from swarm.governance import (
    Admission,
    Beacon,
    BeaconCommit,
    Charter,
    Consent,
    Cosignature,
    Draft,
    Epoch,
    FoldBatch,
    Handover,
    Member,
    Removed,
    Rotation,
    TierPolicy,
)

__all__ = [
    "KINDS",
    "MAX_CODE",
    "Admission",
    "Adoption",
    "Attest",
    "Beacon",
    "BeaconCommit",
    "Block",
    "Calibration",
    "Charter",
    "Claim",
    "Commit",
    "Consent",
    "Contradiction",
    "Cosignature",
    "DevPair",
    "Draft",
    "Epoch",
    "Equivocation",
    "Experiment",
    "FoldBatch",
    "Handover",
    "Member",
    "Open",
    "Pair",
    "Payload",
    "Position",
    "Removed",
    "Retraction",
    "Rotation",
    "Seal",
    "Seating",
    "TierPolicy",
    "Upkeep",
]

MOST_PROBES = 32
"""Numbers that a scorer's probes may leave in a block. Ours leaves nine."""
MOST_NULL_PAIRS = 256
"""Null pairs of one calibration. ``lazaretto calibrate`` measures 200 at most."""


@dataclass(frozen=True, slots=True)
class DevPair:
    """A claimant's own pair. Told for the record; never evidence."""

    seed: Seed
    d_nano: Nano


@dataclass(frozen=True, slots=True)
class Claim:
    """Candidate C beats base B in tier T. ``base`` is an adopted claim's id, null: genesis."""

    KIND: ClassVar[str] = "claim"
    tier: Name
    type: Annotated[str, Meta(pattern=r"^(improvement|simplification|economy)\Z")]
    slot: Annotated[int, Meta(ge=0, le=10_000)]
    base: Hash | None
    merges: Annotated[tuple[Hash, ...], Meta(max_length=4)]
    code: Code
    code_hash: Hash
    ast_hash: Hash
    hypothesis: Text
    proposer: Short
    env_digest: Hash
    dev_pairs: Annotated[tuple[DevPair, ...], Meta(max_length=64)]
    cost_ms: Count


@dataclass(frozen=True, slots=True)
class Commit:
    """A bench member takes its seat before it runs anything.

    ``place`` names the seats, which rivals for one slot share (``verification.admit.place_of``): a
    member sits in a place once, for one of them. ``nonce_hash`` is the anchor of a hash chain:
    round ``r`` reveals the preimage of what round ``r-1`` revealed, so that nobody can foresee the
    seeds of a round. ``fold_nonce_hash`` anchors a second chain, with a link for every position of
    the bench: see :class:`Open`.
    """

    KIND: ClassVar[str] = "commit"
    claim: Hash
    place: Hash
    rank: Annotated[int, Meta(ge=0, le=14)]
    nonce_hash: Hash
    fold_nonce_hash: Hash
    calibration: Hash | None


@dataclass(frozen=True, slots=True)
class Seating:
    """Whom a bench member saw take its seat, by rank: the id of its commit, null for nobody.

    Said once, when all seats are taken or the member's patience is over.
    """

    KIND: ClassVar[str] = "seating"
    claim: Hash
    commits: Annotated[tuple[Hash | None, ...], Meta(min_length=1, max_length=15)]


@dataclass(frozen=True, slots=True)
class Seal:
    """Digests of the trained weights, published before the holdout fold is known."""

    KIND: ClassVar[str] = "seal"
    claim: Hash
    round: Annotated[int, Meta(ge=0, le=63)]
    base_weights: Hash
    candidate_weights: Hash
    init_identical: bool


@dataclass(frozen=True, slots=True)
class Open:
    """A bench member opens its fold nonce for the seal of another: now that one learns its fold.

    ``fold_nonce`` is the link of the opener's fold chain for the seal's position.
    """

    KIND: ClassVar[str] = "open"
    seal: Hash
    fold_nonce: Hash


@dataclass(frozen=True, slots=True)
class Position:
    """What a bench member holds of one earlier position: a block id, or null for absent."""

    round: Annotated[int, Meta(ge=0, le=63)]
    rank: Annotated[int, Meta(ge=0, le=14)]
    block: Hash | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One measured pair. ``d_nano = bpb(base) - bpb(candidate)``; 0 when ``status`` is not ok."""

    index: Annotated[int, Meta(ge=0, le=63)]
    fold: Count
    order: Annotated[str, Meta(pattern=r"^(base_first|candidate_first)\Z")]
    d_nano: Nano
    status: Name
    base_nano: Nano
    candidate_nano: Nano
    base_cost_ms: Count
    candidate_cost_ms: Count
    tokens: Count


@dataclass(frozen=True, slots=True)
class Block:
    """One position of the evidence: the pair of one bench member in one round.

    ``fold_nonce`` drew the fold: another member's, opened after the seal (``fold_source`` "other"),
    or its own where it sits alone on the bench ("own").
    """

    KIND: ClassVar[str] = "block"
    claim: Hash
    round: Annotated[int, Meta(ge=0, le=63)]
    rank: Annotated[int, Meta(ge=0, le=14)]
    purpose: Annotated[str, Meta(pattern=r"^(verdict|effect)\Z")]
    prefix: Annotated[tuple[Position, ...], Meta(max_length=960)]
    seal: Hash
    nonce: Hash
    fold_nonce: Hash
    fold_source: Annotated[str, Meta(pattern=r"^(own|other)\Z")]
    pairs: Annotated[tuple[Pair, ...], Meta(min_length=1, max_length=8)]
    probes: Annotated[dict[Name, Nano], Meta(max_length=MOST_PROBES)]
    hw_class: Name
    env_digest: Hash


@dataclass(frozen=True, slots=True)
class Attest:
    """What a bench member holds of a position of another: its block, or null for absent.

    ``prefix_digest`` covers the claim and all that was settled before the position;
    ``member_head_seen`` is the last that was seen of the position's member in this claim: its
    commit, seal or block.
    """

    KIND: ClassVar[str] = "attest"
    claim: Hash
    round: Annotated[int, Meta(ge=0, le=63)]
    rank: Annotated[int, Meta(ge=0, le=14)]
    block: Hash | None
    member_head_seen: Hash
    prefix_digest: Hash


@dataclass(frozen=True, slots=True)
class Adoption:
    """A node's own statement that it adopted a claim, and from what it computed that."""

    KIND: ClassVar[str] = "adoption"
    claim: Hash
    rule_version: Annotated[int, Meta(ge=1, le=2)]
    positions_digest: Hash
    crossing: Position
    e_value: Annotated[str, Meta(max_length=80, pattern=r"^[0-9.E+]+\Z")]
    level_num: Count
    level_den: Count
    r_ids: Annotated[tuple[Hash, ...], Meta(max_length=512)]
    n: Annotated[int, Meta(ge=1, le=15)]
    f: Annotated[int, Meta(ge=0, le=7)]
    g: Annotated[int, Meta(ge=0, le=7)]
    approvals: Annotated[tuple[Hash, ...], Meta(max_length=64)]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """In slot 0: the settled block ``target`` does not say what its sealed weights do, and is off
    by ``margin_nano``. Else: the adopted claim ``target`` is worth less than ``margin_nano``, half
    of what it was adopted for; a fresh bench will tell.
    """

    KIND: ClassVar[str] = "contradiction"
    target: Hash
    slot: Annotated[int, Meta(ge=0, le=10_000)]
    margin_nano: Nano
    reason: Text


@dataclass(frozen=True, slots=True)
class Retraction:
    """A node's statement that a claim is retracted, by which contradiction, and what it froze."""

    KIND: ClassVar[str] = "retraction"
    target: Hash
    contradiction: Hash
    positions_digest: Hash
    e_value: Annotated[str, Meta(max_length=80, pattern=r"^[0-9.E+]+\Z")]
    level_num: Count
    level_den: Count
    frozen: Annotated[tuple[Hash, ...], Meta(max_length=512)]


@dataclass(frozen=True, slots=True)
class Calibration:
    KIND: ClassVar[str] = "calibration"
    tier: Name
    noise_class: Name
    hw_class: Name
    detail_hash: Hash
    env_digest: Hash
    null_changes: Annotated[tuple[Short, ...], Meta(max_length=64)]
    pairs: Annotated[tuple[Nano, ...], Meta(max_length=MOST_NULL_PAIRS)]
    n: Count
    s_nano: Nano
    factor_milli: Count
    sigma0_nano: Nano
    epochs: Annotated[tuple[Count, ...], Meta(max_length=64)]


@dataclass(frozen=True, slots=True)
class Experiment:
    """Digest of one experiment at home, negative ones too, so that peers need not repeat it.

    ``better``: better than what it was run against, the base or the best that its author has built
    on it at home (``reason`` says which); ``dev_pairs`` are those runs, or one on a part of the
    budget where that was enough (``reason`` says so too). ``claimed``: the same, as nodes said it
    that claimed each find by itself.
    """

    KIND: ClassVar[str] = "experiment"
    tier: Name
    base: Hash | None
    ast_hash: Hash
    hypothesis: Text
    proposer: Short
    outcome: Annotated[str, Meta(pattern=r"^(claimed|better|not_better|failed)\Z")]
    reason: Short
    dev_pairs: Annotated[tuple[DevPair, ...], Meta(max_length=64)]
    cost_ms: Count


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What its author did for the work of others: a receipt, and a hint what needs no more hands.

    ``rescored``: blocks whose sealed weights gave the numbers that they say (what they did not give
    is a ``Contradiction``); ``audited``: adopted claims that follow from signed bytes; ``stored``:
    blocks whose weights its author keeps and serves. Nobody can check that it is true, so it is
    never evidence.
    """

    KIND: ClassVar[str] = "upkeep"
    rescored: Annotated[tuple[Hash, ...], Meta(max_length=64)]
    audited: Annotated[tuple[Hash, ...], Meta(max_length=64)]
    stored: Annotated[tuple[Hash, ...], Meta(max_length=64)]


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two signed records of one author with one ``seq``: a proof that needs no witness."""

    KIND: ClassVar[str] = "equivocation"
    first: Annotated[bytes, Meta(max_length=30 * 1024)]
    second: Annotated[bytes, Meta(max_length=30 * 1024)]


Payload = (
    Charter | Epoch | Beacon | Draft | Consent | Admission | Rotation | Claim | Commit | Seating
    | Seal | Open | Block | Attest | Adoption | Contradiction | Retraction | Calibration
    | Experiment | Upkeep | Equivocation
)  # fmt: skip
KINDS: dict[str, type[Any]] = {kind.KIND: kind for kind in Payload.__args__}

"""Every record kind, as frozen dataclasses with checked fields.

A record's body is one map: the envelope's fields plus ``payload``. Integers only: losses in
nano-bits per byte, times in milliseconds, shares in thousandths (``_milli``), sizes in bytes, the
time to the day. Hashes and keys are 32 raw bytes. Parsing is strict: an unknown, missing, mistyped
or out-of-range field refuses the record.

Some kinds and fields are not acted upon yet (``retraction``, encrypted fold batches): their form is
fixed now because a form is hard to change once it is signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from swarm.fields import MAX_CODE, Code, Count, Hash, Key, Name, Nano, Seed, Short, Signature, Text


@dataclass(frozen=True, slots=True)
class FoldBatch:
    plain_hash: Hash
    cipher_hash: Hash | None = None
    unlock: Hash | None = None


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """The deciding half of a tier. The measuring half has the same name inside ``challenge``."""

    name: Name
    n: Annotated[int, Meta(ge=1, le=15)]
    f: Annotated[int, Meta(ge=0, le=7)]
    g: Annotated[int, Meta(ge=0, le=7)]
    max_pairs: Annotated[int, Meta(ge=1, le=64)]
    effect_pairs: Annotated[int, Meta(ge=0, le=64)]
    clip_milli: Annotated[int, Meta(ge=1000, le=10_000)]
    min_effect_nano: Annotated[int, Meta(ge=1, le=10**9)]
    tolerance_nano: Annotated[int, Meta(ge=0, le=10**9)]
    tolerance_total_nano: Annotated[int, Meta(ge=0, le=10**9)]
    min_saving_milli: Annotated[int, Meta(ge=0, le=1000)]
    classes: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Charter:
    """Genesis of a swarm. Its record's id is the swarm id. Envelope: ``swarm`` null, ``seq`` 0."""

    KIND: ClassVar[str] = "charter"
    name: Name
    governors: tuple[Key, ...]
    k: Annotated[int, Meta(ge=1, le=64)]
    admission: Annotated[str, Meta(pattern=r"^(invite|open)\Z")]
    rule_version: Annotated[int, Meta(ge=1, le=2)]
    challenge: dict[str, Any]
    tiers: tuple[TierPolicy, ...]
    alpha_milli: Annotated[int, Meta(ge=1, le=500)]
    alpha_retract_milli: Annotated[int, Meta(ge=0, le=500)]
    liar_share_milli: Annotated[int, Meta(ge=0, le=500)]
    capture_max_milli: Annotated[int, Meta(ge=0, le=1000)]
    max_code_bytes: Annotated[int, Meta(ge=256, le=MAX_CODE)]
    max_diff_bytes: Annotated[int, Meta(ge=1, le=MAX_CODE)]
    screen: dict[str, Any]
    fold_batches: tuple[FoldBatch, ...]
    approval_rules: tuple[dict[str, Any], ...]
    sizes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Member:
    """One line of a roster. The level of a claim is ``alpha * gamma / slots * (R + 1)``."""

    key: Key
    operator: Name
    voucher_root: Key
    roles: tuple[Annotated[str, Meta(pattern=r"^(researcher|verifier|archivist|governor)\Z")], ...]
    tiers: tuple[Name, ...]
    hw_class: Name
    slots: Annotated[int, Meta(ge=0, le=10_000)]
    gamma_num: Annotated[int, Meta(ge=0, le=10**9)]
    gamma_den: Annotated[int, Meta(ge=1, le=10**9)]


@dataclass(frozen=True, slots=True)
class Removed:
    key: Key
    last_seq: Count
    last_id: Hash
    reason: Short


@dataclass(frozen=True, slots=True)
class Handover:
    old: Key
    new: Key
    last_seq: Count
    last_id: Hash


@dataclass(frozen=True, slots=True)
class BeaconCommit:
    governor: Key
    commit: Hash


@dataclass(frozen=True, slots=True)
class Cosignature:
    governor: Key
    signature: Signature


@dataclass(frozen=True, slots=True)
class Epoch:
    """A period with fixed rules, signed by more than half of the governors.

    ``roster`` is the canonical encoding of a list of :class:`Member`, inline up to 40 KiB;
    ``roster_hash`` is its sha256. Every governor who signs commits to a secret for the beacon; what
    a co-signature covers is in ``swarm.epochs.consent_bytes``.
    """

    KIND: ClassVar[str] = "epoch"
    number: Annotated[int, Meta(ge=1, le=2**31)]
    prev_epoch: Hash | None
    policy_id: Hash
    rule_version: Annotated[int, Meta(ge=1, le=2)]
    roster_hash: Hash
    roster: Annotated[bytes, Meta(max_length=40 * 1024)]
    active_folds: tuple[Count, ...]
    removed: tuple[Removed, ...]
    handovers: tuple[Handover, ...]
    beacon_commits: tuple[BeaconCommit, ...]
    cosignatures: Annotated[tuple[Cosignature, ...], Meta(max_length=64)]


@dataclass(frozen=True, slots=True)
class Beacon:
    """A governor's reveal: ``sha256(reveal)`` equals its commit in the epoch ``epoch_id``."""

    KIND: ClassVar[str] = "beacon"
    epoch_id: Hash
    reveal: Hash


@dataclass(frozen=True, slots=True)
class Draft:
    """A governor asks the others to sign ``epoch``, which has its author's commitment only."""

    KIND: ClassVar[str] = "draft"
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Consent:
    """A governor signs the epoch of ``draft`` and commits to its own secret for the beacon."""

    KIND: ClassVar[str] = "consent"
    draft: Hash
    commit: Hash
    signature: Signature


@dataclass(frozen=True, slots=True)
class Admission:
    """A governor admits a key, or a member vouches for one; on the roster from the next epoch."""

    KIND: ClassVar[str] = "admission"
    member: Member


@dataclass(frozen=True, slots=True)
class Rotation:
    """The last record of a feed: its author goes on under the key ``new``.

    ``proof`` is a signature by ``new`` (``swarm.keys.rotation_bytes``): nobody can be made the heir
    of a key without taking part.
    """

    KIND: ClassVar[str] = "rotation"
    new: Key
    proof: Signature


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

    ``nonce_hash`` is the anchor of a hash chain: round ``r`` reveals the preimage of what round
    ``r-1`` revealed, so that nobody can foresee the seeds of a round. ``fold_nonce_hash`` anchors a
    second chain, with a link for every position of the bench: see :class:`Open`.
    """

    KIND: ClassVar[str] = "commit"
    claim: Hash
    claimant: Key
    claim_epoch: Count
    slot: Annotated[int, Meta(ge=0, le=10_000)]
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
    probes: dict[Name, Nano]
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
    KIND: ClassVar[str] = "contradiction"
    target: Hash
    slot: Annotated[int, Meta(ge=0, le=10_000)]
    margin_nano: Nano
    reason: Text


@dataclass(frozen=True, slots=True)
class Retraction:
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
    null_changes: tuple[Short, ...]
    pairs: tuple[Nano, ...]
    n: Count
    s_nano: Nano
    factor_milli: Count
    sigma0_nano: Nano
    epochs: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class Experiment:
    """Digest of one experiment at home, negative ones too, so that peers need not repeat it.

    ``better``: better than its base, but not claimed at once; ``reason`` says why.
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
class Equivocation:
    """Two signed records of one author with one ``seq``: a proof that needs no witness."""

    KIND: ClassVar[str] = "equivocation"
    first: Annotated[bytes, Meta(max_length=30 * 1024)]
    second: Annotated[bytes, Meta(max_length=30 * 1024)]


Payload = (
    Charter | Epoch | Beacon | Draft | Consent | Admission | Rotation | Claim | Commit | Seating
    | Seal | Open | Block | Attest | Adoption | Contradiction | Retraction | Calibration
    | Experiment | Equivocation
)  # fmt: skip
KINDS: dict[str, type[Any]] = {kind.KIND: kind for kind in Payload.__args__}

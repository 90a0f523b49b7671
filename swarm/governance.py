"""The records with which a swarm is governed: its charter, its epochs, and who belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from swarm.fields import MAX_CODE, Count, Hash, Key, Name, Short, Signature

MOST_NAMES = 64
"""Tiers, hardware classes, rules, and names in the free parts of a charter."""
MOST_GOVERNORS = 127
"""Of as many as this, 64 are more than half, and 64 others can co-sign an epoch."""
MOST_FOLDS = 1024
"""Folds that an epoch names, or batches of them. A corpus of ours has 512 at most."""
MOST_GONE = 1024
"""Keys that one epoch takes out: more than fit into a record."""


Role = Annotated[str, Meta(pattern=r"^(researcher|verifier|archivist|governor)\Z")]


@dataclass(frozen=True, slots=True)
class FoldBatch:
    plain_hash: Hash
    cipher_hash: Hash | None = None
    unlock: Hash | None = None


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """The deciding half of a tier. The measuring half has the same name inside ``challenge``.

    ``noise_nano`` bounds the standard deviation of a pair of members without a calibration; 0
    stands for ``min_effect_nano``.
    """

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
    classes: Annotated[tuple[Name, ...], Meta(max_length=MOST_NAMES)]
    noise_nano: Annotated[int, Meta(ge=0, le=10**9)] = 0

    @property
    def noise_bound_nano(self) -> int:
        """The bound of a pair's standard deviation for members without a calibration."""
        return self.noise_nano or self.min_effect_nano


@dataclass(frozen=True, slots=True)
class Charter:
    """Genesis of a swarm. Its record's id is the swarm id. Envelope: ``swarm`` null, ``seq`` 0."""

    KIND: ClassVar[str] = "charter"
    name: Name
    governors: Annotated[tuple[Key, ...], Meta(max_length=MOST_GOVERNORS)]
    k: Annotated[int, Meta(ge=1, le=64)]
    admission: Annotated[str, Meta(pattern=r"^(invite|open)\Z")]
    rule_version: Annotated[int, Meta(ge=1, le=3)]
    challenge: Annotated[dict[str, Any], Meta(max_length=MOST_NAMES)]
    tiers: Annotated[tuple[TierPolicy, ...], Meta(max_length=MOST_NAMES)]
    alpha_milli: Annotated[int, Meta(ge=1, le=500)]
    alpha_retract_milli: Annotated[int, Meta(ge=0, le=500)]
    liar_share_milli: Annotated[int, Meta(ge=0, le=500)]
    capture_max_milli: Annotated[int, Meta(ge=0, le=1000)]
    max_code_bytes: Annotated[int, Meta(ge=256, le=MAX_CODE)]
    max_diff_bytes: Annotated[int, Meta(ge=1, le=MAX_CODE)]
    screen: Annotated[dict[str, Any], Meta(max_length=MOST_NAMES)]
    fold_batches: Annotated[tuple[FoldBatch, ...], Meta(max_length=MOST_FOLDS)]
    approval_rules: Annotated[
        tuple[Annotated[dict[str, Any], Meta(max_length=MOST_NAMES)], ...],
        Meta(max_length=MOST_NAMES),
    ]
    sizes: Annotated[dict[str, int], Meta(max_length=MOST_NAMES)]


@dataclass(frozen=True, slots=True)
class Member:
    """One line of a roster: who it is, what it may do, and how many claims it may make here.

    ``gamma_num / gamma_den`` is its part of the claims of the epoch. None of who has 0 is adopted;
    what part of alpha a claim may spend is no matter of an epoch (``verification.budget``).
    """

    key: Key
    operator: Name
    voucher_root: Key
    roles: Annotated[tuple[Role, ...], Meta(max_length=4)]
    tiers: Annotated[tuple[Name, ...], Meta(max_length=MOST_NAMES)]
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
    rule_version: Annotated[int, Meta(ge=1, le=3)]
    roster_hash: Hash
    roster: Annotated[bytes, Meta(max_length=40 * 1024)]
    active_folds: Annotated[tuple[Count, ...], Meta(max_length=MOST_FOLDS)]
    removed: Annotated[tuple[Removed, ...], Meta(max_length=MOST_GONE)]
    handovers: Annotated[tuple[Handover, ...], Meta(max_length=MOST_GONE)]
    beacon_commits: Annotated[tuple[BeaconCommit, ...], Meta(max_length=65)]
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

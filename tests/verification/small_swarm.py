"""A whole swarm in memory, with real keys and signatures: everything but training and a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from swarm.charter import beacon_commit, encode_roster
from swarm.envelope import NO_EPOCH, Record, seal_record
from swarm.keys import KeyPair
from swarm.records import (
    Adoption,
    Beacon,
    Block,
    Calibration,
    Charter,
    Claim,
    Epoch,
    FoldBatch,
    Member,
    Pair,
    Payload,
    Position,
    TierPolicy,
)
from verification.budget import RESEARCHERS, series
from verification.calibration import SAME_START, bound_of
from verification.duty import Duty, PairDuty, duties
from verification.evidence import RULE_VERSION, level
from verification.quarantine import Quarantine

if TYPE_CHECKING:
    import random

BASE_CODE = b"""RATE = 1


def build_model(vocab_size, context):
    return None


def train(model, batches, budget):
    return None
"""
TIER = TierPolicy(
    name="quick",
    n=2,
    f=0,
    g=0,
    max_pairs=10,
    effect_pairs=0,
    clip_milli=3000,
    min_effect_nano=3_000_000,
    tolerance_nano=2_000_000,
    tolerance_total_nano=5_000_000,
    min_saving_milli=100,
    classes=("cpu",),
)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def no_screen(base: bytes, code: bytes, rules: object) -> tuple[str, ...]:
    """A real, if small, scope rule."""
    return ("out_of_scope",) if b"FORBIDDEN" in code else ()


Measure = Callable[[PairDuty], Pair]
"""What a member measures for a duty whose fold is known."""


def measure(gain: int, noise: int = 1_000_000, **changes: object) -> Measure:
    """Pairs with a mean ``gain`` and a spread ``noise`` (nano), drawn from the duty's own seed."""

    def run(duty: PairDuty) -> Pair:
        wobble = duty.training_seed % (2 * noise + 1) - noise
        ok = changes.get("status", "ok") == "ok"
        pair = Pair(
            index=0,
            fold=duty.fold(),
            order="base_first",
            d_nano=gain + wobble if ok else 0,
            status="ok",
            base_nano=3_000_000_000,
            candidate_nano=3_000_000_000 - gain - wobble,
            base_cost_ms=4000,
            candidate_cost_ms=4100,
            tokens=100_000,
        )
        return replace(pair, **changes)  # type: ignore[arg-type]

    return run


SHARE = Fraction(3, 4) / RESEARCHERS * Fraction(3, 4)
"""What the first operators who research have of alpha, with their first key, for their life."""


def level_of_claim(number: int, adopted_ancestors: int) -> Fraction:
    """The level of a researcher's claim, the ``number``-th that it makes in a small swarm."""
    return level(Fraction(1, 10), SHARE * series(number), 1, adopted_ancestors)


def is_early(duty: Duty) -> bool:
    """Whether a duty is for when patience is over."""
    return not getattr(duty, "due", True)


class SmallSwarm:
    """One governor, ``researchers`` with four slots each, ``verifiers``; tier ``quick``."""

    def __init__(
        self,
        researchers: int = 2,
        verifiers: int = 3,
        tier: TierPolicy = TIER,
        approval_rules: tuple[dict[str, object], ...] = (),
        base_code: bytes = BASE_CODE,
        sizes: dict[str, int] | None = None,
        alpha_milli: int = 100,
        alpha_retract_milli: int = 0,
    ) -> None:
        self.records: list[Record] = []
        self._heads: dict[bytes, tuple[int, bytes]] = {}
        self._epochs: dict[int, bytes] = {}
        self.founder = KeyPair.from_seed(digest("founder"))
        self.researchers = [KeyPair.from_seed(digest(f"r{i}")) for i in range(researchers)]
        self.verifiers = [KeyPair.from_seed(digest(f"v{i}")) for i in range(verifiers)]
        self.outsider = KeyPair.from_seed(digest("outsider"))
        self.tier = tier
        self.calibrations: dict[bytes, dict[str, bytes]] = {}
        charter = Charter(
            name="small",
            governors=(self.founder.public,),
            k=1,
            admission="invite",
            rule_version=RULE_VERSION,
            challenge={
                "base_code": base_code,
                "base_sha256": hashlib.sha256(base_code).digest(),
                "tiers": [{"name": "quick", "max_cost_ratio_milli": 1500}],
            },
            tiers=(tier,),
            alpha_milli=alpha_milli,
            alpha_retract_milli=alpha_retract_milli or alpha_milli // 10,
            liar_share_milli=0,
            capture_max_milli=0,
            max_code_bytes=4096,
            max_diff_bytes=4096,
            screen={},
            fold_batches=(FoldBatch(digest("fold")),),
            approval_rules=approval_rules,
            sizes={"holdout_bytes": 10**9, **(sizes or {})},
        )
        record = seal_record(
            self.founder, charter, swarm=None, seq=0, prev=None, epoch=0, day=20_000
        )
        self.swarm = record.id
        self._keep(record)
        self.quarantine = Quarantine(self.swarm, no_screen)
        self.quarantine.add(record)
        self.open_epoch(1, None)

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        self._heads[record.author] = (record.envelope.seq, record.id)

    def line(self, key: KeyPair, roles: tuple[str, ...], name: str) -> Member:
        count = len(self.researchers)
        researcher = "researcher" in roles
        return Member(
            key=key.public,
            operator=name,
            voucher_root=self.founder.public,
            roles=roles,
            tiers=("quick",),
            hw_class="cpu",
            slots=4 if researcher else 0,
            gamma_num=1 if researcher else 0,
            gamma_den=count,
        )

    def open_epoch(self, number: int, previous: bytes | None) -> Record:
        members = [
            self.line(key, ("researcher",), f"r{i}") for i, key in enumerate(self.researchers)
        ] + [self.line(key, ("verifier",), f"v{i}") for i, key in enumerate(self.verifiers)]
        roster = encode_roster(members)
        reveal = digest(f"reveal {number}")
        epoch = Epoch(
            number=number,
            prev_epoch=previous,
            policy_id=self.swarm,
            rule_version=RULE_VERSION,
            roster_hash=hashlib.sha256(roster).digest(),
            roster=roster,
            active_folds=tuple(range(16)),
            removed=(),
            handovers=(),
            beacon_commits=(beacon_commit(self.founder.public, reveal),),
            cosignatures=(),
        )
        record = self.write(self.founder, epoch, epoch=number)
        self.write(self.founder, Beacon(record.id, reveal), epoch=number)
        return record

    def write(self, key: KeyPair, payload: Payload, epoch: int = 1) -> Record:
        """Append to the feed of ``key`` and show the record to the quarantine.

        It names the epoch of that number, the first one that was written here.
        """
        seq, prev = self._heads.get(key.public, (-1, None))
        record = seal_record(
            key, payload, swarm=self.swarm, seq=seq + 1, prev=prev, epoch=epoch, day=20_000,
            epoch_id=self._epochs.get(epoch, NO_EPOCH),
        )  # fmt: skip
        if isinstance(payload, Epoch):
            self._epochs.setdefault(payload.number, record.id)
        self._keep(record)
        self.quarantine.add(record)
        return record

    def claim_payload(
        self, code: bytes, slot: int = 0, base: bytes | None = None, **changes: object
    ) -> Claim:
        claim = Claim(
            tier="quick",
            type="improvement",
            slot=slot,
            base=base,
            merges=(),
            code=code,
            code_hash=hashlib.sha256(code).digest(),
            ast_hash=digest("ast"),
            hypothesis="a larger step at the start",
            proposer="test",
            env_digest=digest("env"),
            dev_pairs=(),
            cost_ms=8000,
        )
        return replace(claim, **changes)  # type: ignore[arg-type]

    def claim(
        self,
        author: KeyPair,
        code: bytes,
        slot: int = 0,
        base: bytes | None = None,
        **changes: object,
    ) -> Record:
        return self.write(author, self.claim_payload(code, slot, base, **changes))

    def secret(self, key: KeyPair) -> bytes:
        return digest(f"secret of {key.public.hex()}")

    def duties_of(self, key: KeyPair) -> list[Duty]:
        named = self.calibrations.get(key.public)
        return duties(self.quarantine.state(), key.public, self.secret(key), named)

    def calibrate(self, key: KeyPair, noise: int = 1_000_000, **changes: object) -> Record:
        """Publish a calibration of ``key`` (its pairs are +-``noise`` nano) and commit with it."""
        pairs = tuple((-1) ** i * noise for i in range(20))
        bound = bound_of(pairs)
        said = Calibration(
            tier="quick",
            noise_class=SAME_START,
            hw_class="cpu",
            detail_hash=digest("machine"),
            env_digest=digest("env"),
            null_changes=("order-31",),
            pairs=pairs,
            n=bound.n,
            s_nano=bound.s_nano,
            factor_milli=bound.factor_milli,
            sigma0_nano=bound.sigma0_nano,
            epochs=(1,),
        )
        record = self.write(key, replace(said, **changes))  # type: ignore[arg-type]
        self.calibrations[key.public] = {"quick": record.id}
        return record

    def seal(self, key: KeyPair, duty: PairDuty) -> Record:
        """Publish the seal of a duty."""
        return self.write(key, duty.seal(digest("base"), digest("candidate"), True))

    def block(self, duty: PairDuty, how: Measure) -> Block:
        """The block that fits a duty whose fold is known, unpublished."""
        return duty.block(how(duty), probes={"suffix": 0}, hw_class="cpu", env_digest=digest("env"))

    def do(self, key: KeyPair, duty: Duty, how: Measure) -> Record:
        """What an honest member does; a pair is sealed by one step and told by another."""
        if not isinstance(duty, PairDuty):
            return self.write(key, duty.payload)
        if duty.sealed is None:
            return self.seal(key, duty)
        return self.write(key, self.block(duty, how))

    def todo(
        self, members: Sequence[KeyPair] | None = None, patient: bool = True
    ) -> list[tuple[KeyPair, Duty]]:
        """What ``members`` (all verifiers by default) can do now: words first."""
        found = [
            (key, duty)
            for key in (self.verifiers if members is None else members)
            for duty in self.duties_of(key)
            if not (duty.waits if isinstance(duty, PairDuty) else patient and is_early(duty))
        ]
        return sorted(found, key=lambda item: isinstance(item[1], PairDuty))

    def step(
        self,
        how: Measure,
        rng: random.Random | None = None,
        members: Sequence[KeyPair] | None = None,
        patient: bool = True,
    ) -> bool:
        """One duty of one verifier: any with ``rng``, else words first; False without any.

        Not ``patient``: members say at once what they would say when time is up, if nobody has
        anything better to do.
        """
        due = self.todo(members) or ([] if patient else self.todo(members, patient=False))
        if not due:
            return False
        key, duty = rng.choice(due) if rng else due[0]
        self.do(key, duty, how)
        return True

    def run(
        self,
        how: Measure,
        members: Sequence[KeyPair] | None = None,
        patient: bool = True,
    ) -> None:
        while self.step(how, members=members, patient=patient):
            pass

    def adopt(self, key: KeyPair, claim: bytes) -> Record:
        """The adoption record that a node signs for a claim that the state holds as adopted."""
        state = self.quarantine.state().claims[claim]
        verdict = state.verdict
        assert verdict is not None
        assert verdict.crossing is not None
        round_, rank, block = verdict.crossing
        return self.write(
            key,
            Adoption(
                claim=claim,
                rule_version=verdict.rule_version,
                positions_digest=verdict.positions_digest,
                crossing=Position(round_, rank, block),
                e_value=verdict.e_value,
                level_num=verdict.level.numerator,
                level_den=verdict.level.denominator,
                r_ids=state.r_ids,
                n=verdict.n,
                f=verdict.f,
                g=verdict.g,
                approvals=(),
            ),
        )

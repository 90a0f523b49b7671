"""What governors do: found a swarm, open epochs, invite and admit.

A swarm is founded from a commented TOML file (``configs/``). Its charter and every later decision
are signed records in the founder's feed; nothing here is a setting that others must trust unseen.
"""

from __future__ import annotations

import hashlib
import time
import tomllib
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from node.errors import UsageError
from node.settings import write_atomic
from swarm.charter import check_charter
from swarm.envelope import seal_record
from swarm.errors import CharterError
from swarm.fields import to_map
from swarm.records import (
    Charter,
    FoldBatch,
    Member,
    TierPolicy,
)
from swarm.roster import share_alpha as share_alpha
from swarm.store import SECONDS_PER_DAY, Store
from swarm.wire import MAX_BODY, encode
from training.challenge import Challenge, FileRef, diff_cap
from verification.budget import RESEARCHERS
from verification.closing import LIFE
from verification.evidence import RULE_VERSION
from verification.verdict import check_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from node.progress import Stage
    from swarm.keys import KeyPair
    from training.challenge import TierSpec
    from training.documents import Documents, Manifest

DEFAULT_CHARTER = "demo.toml"
ENVELOPE_BYTES = 1024
"""Room for what a record holds besides its payload."""


@dataclass(frozen=True, slots=True)
class ChallengePlan:
    """Which base to start from, how text becomes tokens, and how much of it goes where.

    ``fold_bytes``: text of a holdout fold; ``dev_bytes``: of the dev split; ``train_bytes``: of the
    train split, at most; ``excerpt_bytes``: what one document gives to dev or a fold.
    ``budget_tokens``: tokens of one training run in the tiers that count them, 0 for their own.
    """

    baseline: str
    folds: Annotated[int, msgspec.Meta(ge=8, le=512)]
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocab_size: Annotated[int, msgspec.Meta(ge=256, le=65_536)] = 256
    fold_bytes: Annotated[int, msgspec.Meta(ge=1 << 10, le=64 << 20)] = 48 << 10
    dev_bytes: Annotated[int, msgspec.Meta(ge=1 << 10, le=64 << 20)] = 64 << 10
    train_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=30 << 30)] = 8 << 20
    excerpt_bytes: Annotated[int, msgspec.Meta(ge=1 << 10, le=1 << 20)] = 8 << 10
    budget_tokens: Annotated[int, msgspec.Meta(ge=0, le=10**13)] = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A charter file as read: the charter's numbers, before keys and data are known."""

    name: str
    admission: str
    alpha_milli: int
    alpha_retract_milli: int
    liar_share_milli: int
    capture_max_milli: int
    slots: int
    challenge: ChallengePlan
    tiers: tuple[TierPolicy, ...]
    screen: dict[str, Any]
    claim_epochs: Annotated[int, msgspec.Meta(ge=0)] = LIFE
    researchers: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = RESEARCHERS


def shipped_charter(name: str) -> Path:
    """The commented charter file ``name`` (demo, cpu or gpu) that comes with the program."""
    with as_file(files("configs").joinpath(f"{name}.toml")) as path:
        return path


def load_plan(path: Path | None) -> Plan:
    """Read a charter file; None reads the one that the demo uses.

    Raises:
        UsageError: unreadable, or with an unknown, missing or impossible value.
    """
    source = path if path is not None else files("configs").joinpath(DEFAULT_CHARTER)
    try:
        data = tomllib.loads(source.read_text())
        plan = msgspec.convert(data, Plan, strict=True)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{source}: {error}", cure="compare with configs/demo.toml") from None
    unknown = sorted(set(data) - set(Plan.__dataclass_fields__))
    if unknown:
        raise UsageError(f"{source}: unknown setting {unknown[0]!r}", cure=f"edit {source}")
    if (plan.challenge.tokenizer == "bpe") != (plan.challenge.vocab_size > 256):
        raise UsageError(
            f"{source}: the tokenizer {plan.challenge.tokenizer!r} and a vocab_size of "
            f"{plan.challenge.vocab_size} do not go together",
            cure='bytes has vocab_size = 256; with tokenizer = "bpe" say for example 8192',
        )
    return plan


def _tier(name: str, budget_tokens: int) -> TierSpec:
    """A tier as it stands, or with another budget of tokens."""
    from training import baselines
    from training.challenge import TierSpec

    tier = baselines.tier(name)
    if budget_tokens and tier.budget_tokens:
        return TierSpec.from_map({**tier.to_map(), "budget_tokens": budget_tokens})
    return tier


def build_challenge(
    plan: Plan, out: Path, corpus: str | None, say: Callable[[str], None], stage: Stage
) -> Challenge:
    """Cut the corpus into splits under ``out`` and describe what is to be researched.

    ``corpus`` is a folder, a file or an ``hf://`` name (None: the standard library). Every file of
    the challenge is ``out/<sha256 hex>`` then. Cut off, it goes on when it is called again.

    Raises:
        TrainingError: too little text, or text that a candidate could read in the sandbox.
    """
    from training import baselines
    from training.corpus import build, default_documents, load
    from training.leakscan import leak_scan, sandbox_files
    from training.readers import Source, open_source

    wanted = plan.challenge
    tiers = tuple(_tier(policy.name, wanted.budget_tokens) for policy in plan.tiers)
    devices = {tier.device for tier in tiers}
    compared = {"cpu"} if corpus is None else set()  # default_documents has done it
    source = default_documents() if corpus is None else open_source(corpus)
    say(f"reading {source.name}" if isinstance(source, Source) else "reading the corpus")
    manifest = build(
        source,
        out,
        seed=0,
        folds=wanted.folds,
        fold_bytes=wanted.fold_bytes,
        dev_bytes=wanted.dev_bytes,
        train_bytes=wanted.train_bytes,
        excerpt_bytes=wanted.excerpt_bytes,
        readable=lambda: sandbox_files(devices - compared),
        progress=stage,
    )
    if isinstance(source, Source) and source.passed_over:
        say(f"read{source.report()}")
    say("checking that no holdout text can be read in the sandbox")
    sealed = [load(out, part) for part in (manifest.dev, *manifest.folds)]
    leak_scan(sealed, sandbox_files(devices))
    file = None
    if wanted.tokenizer == "bpe":
        say(f"learning a vocabulary of {wanted.vocab_size} tokens")
        file = _learn_tokenizer(out, manifest, sealed, wanted.vocab_size, stage)
    base = baselines.load(wanted.baseline)
    return Challenge(plan.name, wanted.tokenizer, wanted.vocab_size, base, tiers, manifest, file)


def _learn_tokenizer(
    out: Path, manifest: Manifest, sealed: list[Documents], vocab_size: int, stage: Stage
) -> FileRef:
    """Learn merges from the train text, check that they give all text back, and keep them."""
    from training.corpus import load
    from training.documents import Shards
    from training.tokenizer import check_round_trip, learn_bpe

    text = Shards(manifest.train, lambda part: load(out, part))
    learned = learn_bpe(text, vocab_size, lambda *done: stage("learning a vocabulary", *done))
    for split in (*sealed, text.shard(0)):
        check_round_trip(learned, split)
    data = learned.to_bytes()
    file = FileRef.of(data)
    write_atomic(out / file.sha256.hex(), data)
    return file


def make_charter(plan: Plan, founder: bytes, challenge: Challenge) -> Charter:
    """The charter of ``plan`` with one governor, checked against the rules that bind charters.

    Raises:
        CharterError: the plan cannot keep its promise.
    """
    holdout = challenge.manifest.holdout_bytes
    folds = b"".join(fold.sha256 for fold in challenge.manifest.folds)
    smallest = min(tier.min_effect_nano for tier in plan.tiers)
    most = diff_cap(holdout, smallest)
    code_cap = min(tier.max_code_bytes for tier in challenge.tiers)
    charter = Charter(
        name=plan.name,
        governors=(founder,),
        k=1,
        admission=plan.admission,
        rule_version=RULE_VERSION,
        challenge=challenge.to_map(),
        tiers=plan.tiers,
        alpha_milli=plan.alpha_milli,
        alpha_retract_milli=plan.alpha_retract_milli,
        liar_share_milli=plan.liar_share_milli,
        capture_max_milli=plan.capture_max_milli,
        max_code_bytes=code_cap,
        max_diff_bytes=most,
        screen={"max_code_bytes": code_cap, "max_diff_bytes": most, **plan.screen},
        fold_batches=(FoldBatch(hashlib.sha256(folds).digest()),),
        approval_rules=(),
        sizes={
            "holdout_bytes": holdout,
            "slots": plan.slots,
            "claim_epochs": plan.claim_epochs,
            "researchers": plan.researchers,
            "folds": len(challenge.manifest.folds),
        },
    )
    check_charter(charter)
    if (size := len(encode(to_map(charter)))) > MAX_BODY - ENVELOPE_BYTES:
        raise CharterError(
            f"this charter has {size} bytes, too many for a record; the text is not lost",
            cure="ask for fewer folds or for less train_bytes: each file takes 40 bytes",
        )
    for tier in charter.tiers:
        check_profile(tier.n, tier.f, tier.g)
    return charter


def found(log: Path, key: KeyPair, charter: Charter, members: Iterable[Member]) -> Store:
    """Sign the charter, make the log, and open epoch 1 with ``members``."""
    genesis = seal_record(
        key,
        charter,
        swarm=None,
        seq=0,
        prev=None,
        epoch=0,
        day=int(time.time()) // SECONDS_PER_DAY,
    )
    store = Store(log, genesis.id)
    store.ingest([genesis.signed.to_bytes()])
    from node.epochs import open_epoch

    open_epoch(store, key, members)
    return store


def new_member(
    key: bytes, operator: str, roles: Sequence[str], voucher: bytes, tiers: Sequence[str]
) -> Member:
    """A roster line without a share of alpha yet; :func:`open_epoch` gives the shares."""
    return Member(
        key=key,
        operator=operator,
        voucher_root=voucher,
        roles=tuple(roles),
        tiers=tuple(tiers),
        hw_class="cpu",
        slots=0,
        gamma_num=0,
        gamma_den=1,
    )

"""What is researched: base code, data by hash, metric, and the tiers it is measured in.

A ``Challenge`` lives inside a charter as a plain map of text, integers, bytes, lists and maps.
Everything that could change a measurement is in that map, and ``content_hash`` covers all of it.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import msgpack

from training.documents import Manifest
from training.errors import TrainingError
from training.strict import Reader
from training.tokenizer import BYTES, MAX_FILE_BYTES, MAX_VOCAB, BpeTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.tokenizer import Tokenizer

MAX_CODE_BYTES = 48 << 10
MAX_TIERS = 8
MAX_DIFF_BYTES = 4096
"""No diff is worth more, however much text is held out."""
NANO = 1_000_000_000
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")


class ChallengeError(TrainingError):
    """A challenge or tier that is malformed, or that breaks a rule of honest measurement."""


@dataclass(frozen=True, slots=True)
class TierSpec:
    """The measuring half of a tier: all text and integers, so that it can live in a charter."""

    name: str
    """Lower-case name, for example ``quick``."""
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """torch threads in the sandbox."""
    budget_tokens: int
    """Tokens that the runner hands out in one training run; 0 where time alone is the budget."""
    budget_ms: int
    """Milliseconds of training on the tier's clock; 0 where tokens alone are the budget. With both,
    whichever is spent first. The clock is CPU time on ``cpu`` and wall time on ``cuda``; it starts
    with the first token, or when ``startup_ms`` have passed since the first byte of code."""
    context: int
    """Sequence length for scoring, in tokens."""
    max_batch_tokens: int
    """Largest batch_size * seq_len of one request."""
    max_cpu_ms: int
    """Outer compute clock of one training run, milliseconds."""
    max_wall_ms: int
    """Outer wall clock of one training run, milliseconds; generous, a machine may be busy."""
    startup_ms: int
    """Start-up allowance: milliseconds on the tier's clock, from the first byte of code to the
    first token, that are not counted as cost. The same for base and candidate; no token, no text
    and no other run is within reach while it lasts."""
    max_cost_ratio_milli: int
    """Largest candidate cost / base cost, in thousandths (1000 = equal)."""
    max_params: int
    """Largest number of parameters of the model."""
    max_memory_bytes: int
    """Memory limit of the sandbox."""
    max_device_bytes: int
    """Memory limit on the accelerator; 0 on ``cpu``."""
    max_code_bytes: int
    """Largest train.py, at most ``MAX_CODE_BYTES``."""

    @classmethod
    def from_map(cls, value: Mapping[str, object] | object) -> TierSpec:
        """Reads a map; raises ``ChallengeError`` on an unknown, missing or impossible field."""
        read = Reader(value, [field.name for field in fields(cls)], ChallengeError, "tier")
        tier = cls(
            name=read.text("name", 32),
            device=read.text("device", 8, ("cpu", "cuda")),
            threads=read.integer("threads", 1, 1024),
            budget_tokens=read.integer("budget_tokens", 0, 10**13),
            budget_ms=read.integer("budget_ms", 0, 10**9),
            context=read.integer("context", 2, 1 << 20),
            max_batch_tokens=read.integer("max_batch_tokens", 1, 1 << 26),
            max_cpu_ms=read.integer("max_cpu_ms", 1, 10**10),
            max_wall_ms=read.integer("max_wall_ms", 1, 10**10),
            startup_ms=read.integer("startup_ms", 0, 10**8),
            max_cost_ratio_milli=read.integer("max_cost_ratio_milli", 1000, 10**5),
            max_params=read.integer("max_params", 1, 10**12),
            max_memory_bytes=read.integer("max_memory_bytes", 64 << 20, 1 << 44),
            max_device_bytes=read.integer("max_device_bytes", 0, 1 << 44),
            max_code_bytes=read.integer("max_code_bytes", 1, MAX_CODE_BYTES),
        )
        if not _NAME.match(tier.name):
            raise read.fail("name", "is not lower-case letters, digits and hyphens")
        if not tier.budget_tokens and not tier.budget_ms:
            raise read.fail("budget_tokens", "and budget_ms are both 0: a tier needs a budget")
        if tier.budget_tokens and tier.max_batch_tokens > tier.budget_tokens:
            raise read.fail("max_batch_tokens", "is larger than budget_tokens")
        if (tier.device == "cpu") != (tier.max_device_bytes == 0):
            raise read.fail("max_device_bytes", "is for tiers on cuda, and only for those")
        if tier.context > tier.max_batch_tokens:
            raise read.fail("context", "is larger than max_batch_tokens")
        return tier

    def to_map(self) -> dict[str, int | str]:
        """The tier as a plain map, one entry per field."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file by its SHA-256 (raw) and its size in bytes."""

    PACKED: ClassVar = struct.Struct("<32sI")
    sha256: bytes
    size: int

    @classmethod
    def of(cls, data: bytes) -> FileRef:
        """The reference of these bytes."""
        return cls(hashlib.sha256(data).digest(), len(data))

    def to_bytes(self) -> bytes:
        """Hash and size (u32, little-endian)."""
        return self.PACKED.pack(self.sha256, self.size)

    @classmethod
    def from_bytes(cls, data: bytes) -> FileRef | None:
        """Inverse of ``to_bytes``; None for no bytes. Raises ``ChallengeError``."""
        if not data:
            return None
        if len(data) != cls.PACKED.size:
            raise ChallengeError("challenge.tokenizer_file is neither empty nor hash and size")
        ref = cls(*cls.PACKED.unpack(data))
        if not 1 <= ref.size <= MAX_FILE_BYTES:
            raise ChallengeError(f"challenge.tokenizer_file is larger than {MAX_FILE_BYTES} bytes")
        return ref


@dataclass(frozen=True, slots=True)
class Challenge:
    """A research question: better ``base_code`` for ``tiers`` on the text of ``manifest``."""

    name: str
    tokenizer: str
    """``bytes``: a token is a byte of UTF-8 text; ``bpe``: the merges of ``tokenizer_file``."""
    vocab_size: int
    """256 for ``bytes``."""
    base_code: bytes
    """The starting train.py, the same for all tiers."""
    tiers: tuple[TierSpec, ...]
    manifest: Manifest
    tokenizer_file: FileRef | None = None
    """The file of a ``bpe`` tokenizer; None for ``bytes``."""

    def read_tokenizer(self, data: bytes) -> Tokenizer:
        """The tokenizer, from its file (nothing for ``bytes``); raises ``ChallengeError``, or
        ``TokenizerError`` for the file."""
        if self.tokenizer_file is None:
            return BYTES
        if self.tokenizer_file != FileRef.of(data):
            raise ChallengeError(
                "the tokenizer's file is damaged: its bytes do not have its hash",
                cure="fetch it again from a peer",
            )
        tokenizer = BpeTokenizer.from_bytes(data)
        if tokenizer.vocab_size != self.vocab_size:
            raise ChallengeError("the tokenizer's file has another vocab_size than the challenge")
        return tokenizer

    def tier(self, name: str) -> TierSpec:
        """The tier called ``name``; raises ``ChallengeError`` where there is none."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        known = ", ".join(tier.name for tier in self.tiers)
        raise ChallengeError(f"the challenge {self.name} has no such tier; it has: {known}")

    @property
    def base_sha256(self) -> bytes:
        """Raw SHA-256 of the base code."""
        return hashlib.sha256(self.base_code).digest()

    def to_map(self) -> dict[str, Any]:
        """The challenge as a plain map; the base code's hash travels beside the code."""
        return {
            "name": self.name,
            "tokenizer": self.tokenizer,
            "vocab_size": self.vocab_size,
            "base_code": self.base_code,
            "base_sha256": self.base_sha256,
            "tiers": [tier.to_map() for tier in self.tiers],
            "manifest": self.manifest.to_map(),
            "tokenizer_file": self.tokenizer_file.to_bytes() if self.tokenizer_file else b"",
        }

    @classmethod
    def from_map(cls, value: Mapping[str, object] | object) -> Challenge:
        """Reads a map; raises ``ChallengeError``, or ``CorpusError`` for the manifest."""
        keys = (
            "name", "tokenizer", "vocab_size", "base_code", "base_sha256", "tiers", "manifest",
            "tokenizer_file",
        )  # fmt: skip
        read = Reader(value, keys, ChallengeError, "challenge")
        challenge = cls(
            name=read.text("name", 32),
            tokenizer=read.text("tokenizer", 16, ("bytes", "bpe")),
            vocab_size=read.integer("vocab_size", 256, MAX_VOCAB),
            base_code=read.blob("base_code", 1, MAX_CODE_BYTES),
            tiers=tuple(TierSpec.from_map(item) for item in read.items("tiers", 1, MAX_TIERS)),
            manifest=Manifest.from_map(read.raw("manifest")),
            tokenizer_file=FileRef.from_bytes(read.blob("tokenizer_file", 0, FileRef.PACKED.size)),
        )
        if (challenge.tokenizer == "bpe") != (challenge.tokenizer_file is not None):
            raise read.fail("tokenizer_file", "is for the tokenizer bpe, and only for that")
        if (challenge.tokenizer == "bpe") != (challenge.vocab_size > BYTES.vocab_size):
            raise read.fail("vocab_size", "does not go with the tokenizer")
        if not _NAME.match(challenge.name):
            raise read.fail("name", "is not lower-case letters, digits and hyphens")
        if read.blob("base_sha256", 32, 32) != challenge.base_sha256:
            raise read.fail("base_sha256", "is not the hash of base_code")
        if len({tier.name for tier in challenge.tiers}) != len(challenge.tiers):
            raise read.fail("tiers", "have the same name twice")
        if any(len(challenge.base_code) > tier.max_code_bytes for tier in challenge.tiers):
            raise read.fail("base_code", "is larger than a tier's max_code_bytes")
        return challenge

    @property
    def content_hash(self) -> bytes:
        """Raw SHA-256 over the canonical msgpack of ``to_map``: names the challenge."""
        return hashlib.sha256(_canonical(self.to_map())).digest()


def max_diff_bytes(holdout_bytes: int, min_effect_nano: int) -> int:
    """The largest cap on compressed diff, in bytes, cumulative from genesis, a charter may set.

    ``holdout_bytes`` is the text of all folds together (``Manifest.holdout_bytes``), because the
    fold of a pair is drawn after the diff is fixed: a diff of n bytes carries 8 n bits, and what it
    wins on a fold drawn at random is on average at most 8 n / holdout_bytes bits per byte, however
    it spreads or concentrates them. That must stay at or below a quarter of ``min_effect_nano``,
    the smallest effect that counts, in nano-bits per byte. Returns 0 where no diff would be safe.
    """
    if holdout_bytes < 1 or min_effect_nano < 1:
        raise ChallengeError("holdout_bytes and min_effect_nano must be positive")
    return holdout_bytes * min_effect_nano // (4 * 8 * NANO)


def diff_cap(holdout_bytes: int, min_effect_nano: int) -> int:
    """The cap that a charter on such text gets where nobody asks for less: at least a byte."""
    return max(1, min(MAX_DIFF_BYTES, max_diff_bytes(holdout_bytes, min_effect_nano)))


def check_diff_cap(diff_cap_bytes: int, holdout_bytes: int, min_effect_nano: int) -> None:
    """Raises ``ChallengeError`` where ``diff_cap_bytes`` would let a diff carry the holdout in."""
    largest = max_diff_bytes(holdout_bytes, min_effect_nano)
    if not 0 <= diff_cap_bytes <= largest:
        raise ChallengeError(
            f"a cap of {diff_cap_bytes} bytes on the compressed diff could smuggle the holdout in: "
            f"with {holdout_bytes} bytes of holdout text it may be at most {largest}"
        )


def _canonical(value: Any) -> bytes:
    """msgpack with sorted keys; the maps of this module hold only str, int, bytes, list, map."""
    return bytes(msgpack.packb(_sorted(value), use_bin_type=True))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value

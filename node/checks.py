"""What was checked in a pair: every probe and limit, what was measured, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from training.sheet import (
    GAIN_ERRORS,
    GAIN_FLOOR_NANO,
    KINDS,
    NANO,
    NOISE_FLOOR_NANO,
    NOISE_RATIO,
    TOLERANCES,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from node.measuring import Measured
    from training.challenge import TierSpec
    from training.pair import PairResult

WORDS: Final = {
    "repeat": "same question again",
    "neighbours": "other rows beside it",
    "future": "another future, or none",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was measured, of base and candidate, against its limit.

    ``unit``: ``nats`` (values in nano-nats), ``bytes``, ``ms``, ``ratio`` (thousandths) or ``""``
    for numbers. A value is None where there was nothing to measure; a limit of None is reported
    only. ``ok`` is about the candidate.
    """

    group: str
    name: str
    base: int | None
    candidate: int | None
    limit: int | None
    unit: str

    @property
    def ok(self) -> bool:
        """Whether the candidate kept to it."""
        return self.limit is None or self.candidate is None or self.candidate <= self.limit


def checks_of(measured: Measured, codes: Sequence[bytes], tier: TierSpec) -> list[Check]:
    """Everything that was checked in one pair."""
    result = measured.result
    return [*_probes(result, tier), *_limits(result, codes, tier)]


def _probes(result: PairResult, tier: TierSpec) -> Iterable[Check]:
    base = result.base.probes if result.base else {}
    candidate = result.candidate.probes if result.candidate else {}
    tolerance = TOLERANCES[tier.device]
    for kind in KINDS:
        key = f"{kind}_nano"
        yield Check(
            "probe", f"{WORDS[kind]}: largest gap",
            base.get(key), candidate.get(key), tolerance.largest_nano, "nats",
        )  # fmt: skip
    for kind in KINDS:
        key = f"{kind}_rms_nano"
        limit = tolerance.rms_nano
        if key in base and tier.device != "cpu":
            limit = min(limit, NOISE_RATIO * base[key] + NOISE_FLOOR_NANO)
        yield Check(
            "probe", f"{WORDS[kind]}: RMS gap",
            base.get(key), candidate.get(key), limit, "nats",
        )  # fmt: skip
    error = candidate.get("mean_gain_error_nano", 0)
    yield Check(
        "probe", "mean gain from seeing the future",
        base.get("mean_gain_nano"), candidate.get("mean_gain_nano"),
        GAIN_FLOOR_NANO + candidate.get("future_rms_nano", 0) ** 2 // NANO
        + round(GAIN_ERRORS * error), "nats",
    )  # fmt: skip


def _limits(result: PairResult, codes: Sequence[bytes], tier: TierSpec) -> Iterable[Check]:
    base, candidate = result.trained.base, result.trained.candidate
    broken = int(candidate.status in ("bad_weights", "non_finite"))
    yield Check("weights", "weights not finite, or not canonical", 0, broken, 0, "")
    yield Check("weights", "parameters", base.params, candidate.params or None, tier.max_params, "")
    yield Check("limit", "code", len(codes[0]), len(codes[1]), tier.max_code_bytes, "bytes")
    yield Check("limit", "tokens", base.tokens, candidate.tokens, tier.budget_tokens or None, "")
    yield Check(
        "limit", "CPU time of training", base.cpu_ms, candidate.cpu_ms, tier.max_cpu_ms, "ms"
    )
    yield Check(
        "limit", "wall time of training", base.wall_ms, candidate.wall_ms, tier.max_wall_ms, "ms"
    )
    if result.candidate is not None and result.base is not None:
        yield Check(
            "limit", "cost, of the base's", 1000, result.cost_ratio_milli,
            tier.max_cost_ratio_milli, "ratio",
        )  # fmt: skip
    # Enforced by the kernel on what is allocated; what is measured counts shared libraries too.
    peaks = base.peak_memory_bytes, candidate.peak_memory_bytes
    yield Check(
        "memory", f"peak memory ({_size(tier.max_memory_bytes)} enforced)", *peaks, None, "bytes"
    )
    if tier.device != "cpu":
        peaks = base.peak_device_bytes, candidate.peak_device_bytes
        yield Check("limit", "peak device memory", *peaks, tier.max_device_bytes, "bytes")


def worst(pairs: Sequence[Sequence[Check]]) -> list[Check]:
    """One line for each check: the candidate's pair that came closest to its limit."""
    found: dict[str, Check] = {}
    for check in (check for pair in pairs for check in pair):
        known = found.setdefault(check.name, check)
        if _closeness(check) > _closeness(known):
            found[check.name] = check
    return list(found.values())


def _closeness(check: Check) -> float:
    if check.candidate is None:
        return -1.0
    return check.candidate / check.limit if check.limit else float(check.candidate)


def shown(check: Check, value: int | None) -> str:
    """A value of a check for people."""
    if value is None:
        return "-"
    if check.unit == "nats":
        return f"{value / 1e9:.2g}" if value else "0"
    if check.unit == "bytes":
        return _size(value)
    if check.unit == "ms":
        return f"{value / 1000:.1f} s"
    return f"{value / 1000:.2f}x" if check.unit == "ratio" else f"{value:,}"


def _size(value: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"

"""An experiment as plain values: what ``--json`` prints and what the screen is made of."""

from __future__ import annotations

import hashlib
import statistics
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from node.checks import Check, checks_of
from node.environment import environment
from node.escaping import escaped_lines
from node.runs import device_name, harness_digest
from node.weighing import NANO, NOTE, Rules, weigh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.measuring import Measured, Question
    from training.evaluator import Score
    from training.runner import TrainedRun
    from verification.screen import ScreenResult

SCREENED: Final = "screened"
SCHEMA: Final = "lazaretto.experiment/1"


def facts(
    question: Question,
    measured: Sequence[Measured],
    rules: Rules,
    pairs: int,
    overridden: bool,
    trace: bytes = b"",
    scope: ScreenResult | None = None,
) -> dict[str, Any]:
    """All that is known of an experiment of ``pairs`` pairs, of which ``measured`` took place.
    ``scope`` is what the screen says of the change; None where it was not asked."""
    corpus, tier, last = question.corpus, question.tier, measured[-1]
    gains = [pair.result.d_nano for pair in measured if pair.status == "ok"]
    weighed = weigh(gains, rules, "" if last.status == "ok" else last.status)
    status, detail = last.status, last.detail
    if scope is not None and not scope.ok:
        reasons = ", ".join(scope.reasons).replace("_", " ")
        weighed = replace(
            weighed, outcome="refused", words=f"no bench would measure it: {reasons}"
        )  # fmt: skip
        if status == "ok":
            status, detail = SCREENED, f"no claim may have this change: {reasons}"
    programs = [
        {"name": name, "sha256": hashlib.sha256(code).hexdigest(), "bytes": len(code)}
        for name, code in zip(question.names, question.codes, strict=True)
    ]
    answer: dict[str, Any] = {
        "schema": SCHEMA,
        "status": status,
        "detail": detail,
        "screen": None if scope is None else _screen(scope),
        "base": programs[0],
        "candidate": programs[1],
        "tier": {**tier.to_map(), "budget_overridden": overridden},
        "seed": question.seed,
        "corpus": {
            "source": corpus.source,
            "train_bytes": corpus.train().text_bytes,
            "folds": len(corpus.manifest.folds),
            "holdout_bytes": corpus.manifest.holdout_bytes,
            "vocab_size": corpus.tokenizer.vocab_size,
            "tokenizer": corpus.tokenizer.name.hex(),
        },
        "machine": {
            **environment(),
            "device": device_name(tier.device),
            "harness": harness_digest().hex(),
        },
        "pairs_wanted": pairs,
        "pairs": [_pair(pair, question) for pair in measured],
        **_summary(gains),
        "evidence": {
            **asdict(weighed),
            "min_effect_bpb": rules.tier.min_effect_nano / NANO,
            "level": str(rules.level),
            "note": NOTE,
        },
        "trace": escaped_lines(trace),
    }
    named = f"{programs} {tier.to_map()} {question.seed} {corpus.folder.name} {pairs}"
    return {**answer, "id": hashlib.sha256(named.encode()).hexdigest()}


def _summary(gains: list[int]) -> dict[str, float | None]:
    """Mean and SD of bpb(base) - bpb(candidate), and their quotient d."""
    mean = statistics.fmean(gains) / NANO if gains else None
    spread = statistics.stdev(gains) / NANO if len(gains) > 1 else None
    return {
        "mean_bpb": mean,
        "sd_bpb": spread,
        "d": mean / spread if mean is not None and spread else None,
    }


def _pair(pair: Measured, question: Question) -> dict[str, Any]:
    result, trained = pair.result, pair.result.trained
    return {
        "index": pair.index,
        "seed": pair.seed,
        "fold": pair.fold,
        "fold_sha256": question.corpus.manifest.folds[pair.fold].sha256.hex(),
        "status": pair.status,
        "detail": pair.detail,
        "d_bpb": result.d_nano / NANO if result.status == "ok" else None,
        "order": trained.order,
        "init_identical": trained.init_identical,
        "cost_ratio": result.cost_ratio_milli / 1000 if result.candidate and result.base else None,
        "base": _side("base", trained.base, result.base, pair.kept),
        "candidate": _side("candidate", trained.candidate, result.candidate, pair.kept),
        "checks": [_check(check) for check in checks_of(pair, question.codes, question.tier)],
    }


def _side(name: str, run: TrainedRun, score: Score | None, kept: frozenset[str]) -> dict[str, Any]:
    return {
        "status": run.status if run.status != "ok" or score is None else score.status,
        "bpb": score.nano_bpb / NANO if score is not None and score.status == "ok" else None,
        "cost_s": (run.cost_ms + (score.cost_ms if score is not None else 0)) / 1000,
        "training_cost_s": run.cost_ms / 1000,
        "training_cpu_s": run.cpu_ms / 1000,
        "training_wall_s": run.wall_ms / 1000,
        "scoring_cost_s": score.cost_ms / 1000 if score is not None else None,
        "tokens": run.tokens,
        "parameters": run.params,
        "peak_memory_bytes": run.peak_memory_bytes,
        "peak_device_bytes": run.peak_device_bytes,
        "weights_sha256": run.weights_digest.hex() if any(run.weights_digest) else None,
        "init_sha256": run.init_digest.hex() if any(run.init_digest) else None,
        "probes": score.probes if score is not None else {},
        "kept": sorted(what for what in kept if what.startswith(name)),
    }


def _screen(scope: ScreenResult) -> dict[str, Any]:
    return {
        "reasons": list(scope.reasons),
        "diff_bytes": scope.diff_bytes,
        "added_bytes": scope.added_bytes,
        "regions": list(scope.regions),
    }


def _check(check: Check) -> dict[str, Any]:
    return {**asdict(check), "ok": check.ok}

"""What the rules of deciding are worth, as figures beside the marks they are held against.

    python -m tests.benchmarks.decisions      # also part of make bench; a few minutes

Every figure comes from the code that judges real claims (``verification.verdict``): walks over
simulated pairs of a claim at one level, and whole epochs of ``lazaretto simulate``. ln(1/level) is
9.7 throughout: 1 of 16,318, about that of a first claim among 1,600.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from fractions import Fraction
from random import Random
from statistics import fmean, median
from typing import TYPE_CHECKING, get_args

from swarm.charter import capture_milli
from swarm.records import TierPolicy
from tests.benchmarks.rows import Row, show
from verification import approximate, evidence, futility, pooling
from verification.simulate import simulate
from verification.simulate_noise import read_bank, shipped_bank, unit_noise
from verification.simulate_setting import SD_NANO, Noise, Setting
from verification.simulate_swarm import FOLDS, measured
from verification.simulate_sweep import sweep
from verification.verdict import Deliberation, Reproduction, Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVEL = Fraction(1, 16_318)
BENCHES = ((3, 1, 24), (5, 1, 12), (5, 2, 24), (7, 3, 24))
MARKS = {(3, 1, 24): ".99", (5, 1, 12): ".99", (7, 3, 24): ".98"}
CLAIMS = 300
BIG = 10 * SD_NANO


def terms(n: int, f: int, rounds: int, *, calibrated: bool = False) -> Terms:
    """A claim on a bench of ``n``, judged at ``LEVEL``."""
    policy = TierPolicy(
        name="quick", n=n, f=f, g=0, max_pairs=rounds, effect_pairs=0, clip_milli=3000,
        min_effect_nano=1, tolerance_nano=0, tolerance_total_nano=0, min_saving_milli=0, classes=(),
    )  # fmt: skip
    bounds = (SD_NANO,) * n if calibrated else ()
    return Terms(bytes(32), "improvement", policy, 1000, LEVEL, bounds)


def walk(
    about: Terms, gain: float, rng: Random, *, liars: int = 0, lie: int = 0, noise: Noise = "normal"
) -> tuple[str, list[Reproduction]]:
    """Outcome, and positions up to it: pairs worth ``gain`` SDs; liars, by lot, say ``lie``."""
    n = about.policy.n
    lying = set(rng.sample(range(n), liars))
    open_ = Deliberation(about)
    walked = []
    shared = [rng.gauss(0, 1) for _ in range(max(n, FOLDS))]
    for index in range(n * about.policy.max_pairs):
        round_, rank = divmod(index, n)
        d = lie * rng.uniform(0.9, 1.1) if rank in lying else 0.0
        if rank not in lying:
            d = (gain + unit_noise(noise, rng)) * SD_NANO
            if noise in ("machine", "fold"):  # no fold twice while others are left
                d += shared[rank if noise == "machine" else index % FOLDS] * SD_NANO
        walked.append(Reproduction(round_, rank, bytes(32), bytes(32), measured(round(d))))
        if open_.add(walked[-1]) != "pending":
            break
    return open_.outcome, walked


def many(
    about: Terms, gain: float, *, claims: int = CLAIMS, liars: int = 0, lie: int = 0,
    noise: Noise = "normal",
) -> tuple[float, list[int]]:  # fmt: skip
    """Share adopted, and pairs spent on each claim."""
    walks = [
        walk(about, gain, Random(f"{gain} {liars} {index}"), liars=liars, lie=lie, noise=noise)
        for index in range(claims)
    ]
    adopted = sum(outcome == "adopt" for outcome, _ in walks)
    return adopted / claims, [len(found) for _, found in walks]


def single_rows() -> Iterator[Row]:
    """One honest verifier."""
    for calibrated in (False, True):
        pairs = [median(many(terms(1, 0, 24, calibrated=calibrated), d)[1])
                 for d in (27, 9, 5, 3, 2)]  # fmt: skip
        yield Row(
            f"one verifier{', calibrated' * calibrated}: pairs to a decision",
            " / ".join(f"{item:g}" for item in pairs),
            f"medians of {CLAIMS} claims at d = 27 / 9 / 5 / 3 / 2",
            "5 / 6 / 8 / 11 / 15",
        )
    _, null = many(terms(1, 0, 24), 0)
    _, worse = many(terms(1, 0, 24), -1)
    yield Row("one verifier: pairs of a claim worth nothing", f"{fmean(null):.1f}",
              f"at d = -1: {fmean(worse):.1f}", "6")  # fmt: skip


def bench_rows() -> Iterator[Row]:
    """Benches with f liars in either direction."""
    for n, f, rounds in BENCHES:
        claims = CLAIMS if n < 7 else CLAIMS // 2
        power, with_no, costs = [], [], []
        for calibrated in (False, True):
            about = terms(n, f, rounds, calibrated=calibrated)
            power.append(many(about, 2, claims=claims)[0])
            with_no.append(many(about, 2, claims=claims, liars=f, lie=-BIG)[0])
            costs.append(fmean(many(about, 0, claims=claims)[1]))
        false, yes = many(terms(n, f, rounds), 0, claims=claims, liars=f, lie=BIG)
        name = f"{n} verifiers, f = {f}, {rounds} pairs each"
        yield Row(
            f"{name}: power at d = 2, f always say no",
            " / ".join(f"{item:.3f}" for item in with_no),
            f"E_t / calibrated; nobody lies {power[0]:.3f} / {power[1]:.3f} (+-.01)",
            MARKS.get((n, f, rounds), ""),
        )
        yield Row(
            f"{name}: pairs of a claim worth nothing",
            " / ".join(f"{item:.1f}" for item in costs),
            f"E_t / calibrated; f always say yes: {fmean(yes):.1f}, adopted {false:.4f}",
            "6",
        )


def contradicted(n: int, f: int, adopted_for: float, level: Fraction = LEVEL) -> Terms:
    """A contradiction of a discovery that was adopted for a gain of so many SDs."""
    about = replace(terms(n, f, 24), kind="contradiction", level=level)
    return replace(about, margin_nano=round(adopted_for * SD_NANO / 2))


def retraction_rows() -> Iterator[Row]:
    """Discoveries put before a fresh bench: true ones, false ones, and f liars for or against."""
    claims = CLAIMS // 2
    for n, f in ((1, 0), (3, 1), (5, 2)):
        for liars in sorted({0, f}):
            found = [
                many(contradicted(n, f, d), 0, claims=claims, liars=liars, lie=BIG)
                for d in (9, 5, 3, 2)
            ]
            said = f"{liars} say it is worth much" if liars else "nobody lies"
            yield Row(
                f"{n} verifiers, f = {f}: pairs to retract what is worth nothing",
                " / ".join(f"{median(pairs):g}" for _, pairs in found),
                f"adopted for d = 9 / 5 / 3 / 2; {said}; share retracted "
                f"{' / '.join(f'{share:.2f}' for share, _ in found)}",
            )
        share, pairs = many(contradicted(n, f, 2), 2, claims=claims, liars=f, lie=-BIG)
        yield Row(
            f"{n} verifiers, f = {f}: true discoveries retracted",
            f"{share:.4f}",
            f"d = 2 as adopted; f say it is worth nothing; {fmean(pairs):.1f} pairs each",
        )
    alpha = Fraction(1, 100)
    for n, f in ((1, 0), (3, 1)):
        share, _ = many(contradicted(n, f, 2, alpha), 1, claims=1000, liars=f, lie=-BIG)
        yield Row(
            f"{n} verifiers, f = {f}: worth exactly half, retracted",
            f"{share:.4f}",
            "the worst that is still true, all of alpha_retract = .01 in one test; f say it is "
            "worth nothing; 1,000 discoveries",
            "<= .01",
        )


def noise_rows() -> Iterator[Row]:
    """False adoptions under nulls of every shape, at a level that a first claim may have."""
    for n, f in ((1, 0), (2, 0), (3, 1)):
        for noise in get_args(Noise):
            if noise == "bank":
                continue
            about = replace(terms(n, f, 24), level=Fraction(17, 1000))
            share, pairs = many(about, 0, claims=1000, noise=noise)
            yield Row(
                f"{noise}: false adoptions, N = {n}, f = {f}",
                f"{share:.3f}",
                f"worth nothing, noise of one sigma0, 1,000 claims; {fmean(pairs):.1f} pairs each",
                "<= .017",
            )


def epoch_rows() -> Iterator[Row]:
    """Whole epochs: speed, false discoveries, effects as published."""
    for bench, f, pairs in ((3, 1, 16), (5, 2, 12), (7, 3, 24)):
        setting = Setting(bench=bench, liars_tolerated=f, pairs=pairs)
        began = time.process_time()
        row = simulate(setting, repeats=1, seed=0)
        seconds = time.process_time() - began
        greedy, t_test, ours = row.figures
        yield Row(
            f"700 claims, all policies, bench {bench}, f = {f}",
            f"{seconds:.1f} s of CPU",
            f"FDR/power: greedy {greedy.fdr:.2f}/{greedy.power:.2f}, "
            f"t test {t_test.fdr:.2f}/{t_test.power:.2f}, ours {ours.fdr:.3f}/{ours.power:.2f}",
            "30 s",
        )
    for effect in (2.0, 5.0):
        row = simulate(Setting(claims=1500, true_share=1.0, effect=effect), repeats=1, seed=0)
        ours = row.figures[-1]
        yield Row(
            f"effects as published at d = {effect:g}",
            f"{ours.published:.3f} of the truth",
            f"4 fresh pairs of each verifier after adoption; the deciding pairs say "
            f"{ours.inflation:.3f}; {ours.adopted} adopted",
            "within .03",
        )
    bank = read_bank(shipped_bank(), 5_000_000)
    rows = [
        simulate(setting, repeats=1, seed=0, bank=bank)
        for _, setting in sweep(Setting())
        if setting.nodes <= 1000
    ]
    bound = [row for row in rows if not row.broken]
    worst = max(row.figures[-1].fdr for row in bound)
    yield Row(
        "sweep: rows in which FDR <= alpha",
        f"{sum(row.kept for row in bound)} of {len(bound)}",
        f"rows that keep the assumptions, f liars of every kind included; worst {worst:.3f} of "
        f"{Setting().alpha:g}; an epoch each",
        "all",
    )


def bank_rows() -> Iterator[Row]:
    """Real training noise: the shipped bank through every policy."""
    bank = read_bank(shipped_bank(), 5_000_000)
    for bench, f, pairs in ((2, 0, 10), (3, 1, 24), (5, 2, 24)):
        setting = Setting(noise="bank", bench=bench, liars_tolerated=f, pairs=pairs)
        row = simulate(setting, repeats=4, seed=0, bank=bank)
        greedy, t_test, ours = row.figures
        yield Row(
            f"real noise, bench {bench}, f = {f}: FDR / power",
            f"{ours.fdr:.3f} / {ours.power:.2f}",
            f"greedy {greedy.fdr:.2f} / {greedy.power:.2f}, t test {t_test.fdr:.2f} / "
            f"{t_test.power:.2f}; {bank.null} null and {bank.real} true edits; "
            f"{ours.pairs:.1f} pairs a claim; published {ours.published:.2f}",
            "FDR .1",
        )


def speed_rows() -> Iterator[Row]:
    """A verdict from nothing: every cache empty, 168 positions, all sets of a bench of 7."""
    about = replace(terms(7, 3, 24, calibrated=True), level=Fraction(1, 10**12))
    _, walked = walk(about, 1, Random(1))
    times = []
    for _ in range(5):
        for cached in (
            evidence.evidence_of_sums, pooling._log_of_set, futility._log_against,
            approximate._at_zero, evidence._integral_at_zero,         ):  # fmt: skip
            cached.cache_clear()
        began = time.process_time()
        deliberation = Deliberation(about)
        last = 0.0
        for item in walked:
            before = time.process_time()
            deliberation.add(item)
            last = max(last, time.process_time() - before)
        before = time.process_time()
        deliberation.verdict()
        times.append((time.process_time() - began, last, time.process_time() - before))
    whole, step, said = (1000 * median(item) for item in zip(*times, strict=True))
    yield Row(
        f"a verdict of {len(walked)} positions, N = 7, f = 3",
        f"{said:.1f} ms",
        f"E in decimals; the slowest of the positions before it took {step:.1f} ms, all of them "
        f"{whole:.0f} ms, calibrated, no cache",
        "50 ms",
    )


def capture_rows() -> Iterator[Row]:
    """The chance of more than f liars on a bench, which a charter's loader holds to its limit."""
    benches = ((3, 1), (5, 1), (5, 2), (7, 3))
    yield Row(
        "benches captured, (N,f) = (3,1) (5,1) (5,2) (7,3)",
        ", ".join(
            f"{capture_milli(n, f, 100) / 10:g}/{capture_milli(n, f, 200) / 10:g} %"
            for n, f in benches
        ),
        "hypergeometric, 100 verifiers with 10 / 20 % liars, rounded up to .1 %",
        "2.6/10, 7.7/26, .7/5.3, .16/2.8 %",
    )


def decision_rows() -> Iterator[Row]:
    """Every row."""
    parts: tuple[Callable[[], Iterator[Row]], ...] = (
        single_rows, bench_rows, retraction_rows, noise_rows, epoch_rows, bank_rows, speed_rows,
        capture_rows,
    )  # fmt: skip
    for rows in parts:
        yield from rows()


if __name__ == "__main__":
    assert math.isclose(-math.log(LEVEL), 9.7, abs_tol=1e-3)
    for one in decision_rows():
        show([one])

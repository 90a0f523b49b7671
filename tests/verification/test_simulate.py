"""The simulation: the real verdicts on claims whose truth is known, and three ways to lie to it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from random import Random
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

import pytest

from node.cli import main
from node.simulation import share, times
from tests.benchmarks.bank import EDITS, Edit
from training import baselines
from verification import simulate as sim
from verification import simulate_swarm
from verification.budget import series, share_of_key, share_of_operator
from verification.errors import EvidenceError
from verification.evidence import level
from verification.simulate_noise import Nature, draw_claims, read_bank, shipped_bank, unit_noise
from verification.simulate_setting import SD_NANO, Setting
from verification.simulate_sweep import sweep
from verification.verdict import Deliberation, Terms

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

SMALL = Setting(claims=60, true_share=0.1, effect=3.0, pairs=12)
CLOSED = replace(SMALL, nodes=4, liar_share=0.25, pairs=24)  # one liar, and one is tolerated
BANK = {
    "tier": "quick",
    "pairs": 4,
    "edits": [
        {"name": "null", "d_nano": [100_000, -100_000, 50_000, -20_000]},
        {"name": "better", "d_nano": [31_000_000, 29_000_000, 33_000_000, 27_000_000]},
        {"name": "worse", "d_nano": [-19_000_000, -21_000_000, -20_000_000, -18_000_000]},
    ],
}  # fmt: skip


def run(setting: Setting, repeats: int = 2, seed: int = 5, **more: object) -> sim.Row:
    return sim.simulate(setting, repeats=repeats, seed=seed, **more)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_row_and_another_seed_another() -> None:
    first = run(SMALL)
    assert run(SMALL) == first
    assert run(SMALL, seed=6).figures != first.figures
    assert [item.policy for item in first.figures] == list(sim.POLICIES)


def test_greedy_keeps_mostly_luck_and_ours_does_not() -> None:
    row = run(replace(SMALL, claims=333, true_share=0.03, effect=2.0), repeats=3)
    greedy, t_test, ours = row.figures
    assert greedy.fdr > 0.5
    assert t_test.fdr > 0.4
    assert ours.fdr <= row.setting.alpha
    assert ours.power is not None
    assert ours.power > 0.8
    assert row.kept
    assert not row.broken


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("liar", ["always-yes", "always-no", "colluding", "copy"])
def test_tolerated_liars_in_either_direction_break_nothing(liar: str, calibrated: bool) -> None:
    row = run(replace(CLOSED, liar=liar, calibrated=calibrated), repeats=3)
    assert row.captured == 0
    assert not row.broken
    assert row.figures[-1].fdr <= row.setting.alpha
    assert (row.figures[-1].power or 0) > 0.5


def test_captured_benches_are_counted_and_told_apart() -> None:
    setting = replace(SMALL, nodes=20, liar_share=0.4, liar="always-yes")
    row = run(setting)
    # hypergeometric: 8 liars, one honest author left out, 3 seats: P(2 or 3 liars) = .393
    assert row.captured / row.benches == pytest.approx(0.393, abs=0.12)
    assert row.broken == "liars"
    assert row.figures[-1].fdr > 0.5
    assert row.figures[-1].fdr_within <= row.setting.alpha


def test_verdicts_and_levels_are_those_of_the_real_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Terms] = []

    class Spy(Deliberation):
        def __init__(self, terms: Terms) -> None:
            seen.append(terms)
            super().__init__(terms)

    monkeypatch.setattr(simulate_swarm, "Deliberation", Spy)
    row = run(SMALL, repeats=1)
    levels = {terms.level for terms in seen}
    assert len(seen) == SMALL.claims
    share = share_of_operator(1, SMALL.researchers) * share_of_key(1)
    assert levels <= {
        level(SMALL.alpha_exact, share * series(number), 1, r)
        for number in range(1, SMALL.claims + 1)
        for r in range(SMALL.claims)
    }
    assert len(levels) > 1, "R must grow with the frontier"
    assert row.figures[-1].adopted > 0

    class Never(Deliberation):
        def add(self, item: object) -> str:  # type: ignore[override]
            return self._decide("reject", "not_reproduced")

    monkeypatch.setattr(simulate_swarm, "Deliberation", Never)
    assert run(SMALL, repeats=1).figures[-1].adopted == 0


def test_a_frontier_that_is_not_there_yet_lends_no_level() -> None:
    """Claims that all come before the first verdict stand on nothing adopted."""
    levels: list[Fraction] = []

    class Spy(Deliberation):
        def __init__(self, terms: Terms) -> None:
            levels.append(terms.level)
            super().__init__(terms)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate_swarm, "Deliberation", Spy)
        run(replace(SMALL, epoch_hours=0.01, minutes_per_pair=60, researchers=1), repeats=1)
    share = share_of_operator(1, 1) * share_of_key(1)
    assert levels == [
        level(SMALL.alpha_exact, share * series(number), 1, 0)
        for number in range(1, SMALL.claims + 1)
    ]


def test_busy_nodes_take_longer() -> None:
    crowd = run(replace(SMALL, nodes=1000), repeats=1).figures[-1]
    few = run(replace(SMALL, nodes=4, epoch_hours=10), repeats=1).figures[-1]
    assert few.hours > 2 * crowd.hours
    assert few.pairs == pytest.approx(crowd.pairs, rel=0.3)


def test_silent_liars_are_lost_pairs_and_wait() -> None:
    silent = run(replace(CLOSED, liar="silent")).figures[-1]
    assert silent.fdr <= 0.1
    assert silent.adopted > 0
    everybody = run(replace(CLOSED, liar="silent", liar_share=1.0)).figures[-1]
    assert everybody.adopted == 0
    assert everybody.pairs == 0


@pytest.mark.parametrize(
    "setting",
    [
        replace(SMALL, null_sd=0.0, true_share=0.0),  # every pair is exactly zero
        replace(SMALL, true_share=1.0, claims=5),
        replace(SMALL, claims=1, true_share=0.0),
        replace(SMALL, bench=1, liars_tolerated=0, nodes=2, pairs=1, effect_pairs=0),
        replace(SMALL, bench=2, liars_tolerated=0, nodes=3, effect=1000.0, pairs=64),
        replace(CLOSED, liar="copy", liar_share=1.0),
    ],
)
def test_edges_do_not_crash(setting: Setting) -> None:
    assert not setting.problem()
    row = run(setting, repeats=1)
    json.dumps(row.to_json(), allow_nan=False)
    if not setting.true_share:
        assert row.figures[-1].power is None
        assert row.figures[-1].adopted == 0


@pytest.mark.parametrize(
    "change",
    [
        {"claims": 0},
        {"true_share": 1.5},
        {"bench": 2},
        {"nodes": 3},
        {"pairs": 65},
        {"alpha": 0.9},
        {"effect": math.nan},
        {"noise": "bank", "calibrated": True},
        {"epoch_hours": 0.0},
    ],
)
def test_settings_that_make_no_sense_say_so(change: dict[str, object]) -> None:
    assert not SMALL.problem()
    assert replace(SMALL, **change).problem()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape",
    ["normal", "t3", "scale", "two_values", "rare_losses", "three_values", "rounded", "skewed"],
)
def test_noise_has_mean_zero_and_one_sd(shape: str) -> None:
    rng = Random(3)
    drawn = [unit_noise(shape, rng) for _ in range(40_000)]  # type: ignore[arg-type]
    assert abs(fmean(drawn)) < 0.03
    assert pstdev(drawn) == pytest.approx(1, abs=0.12)
    skew = fmean(item**3 for item in drawn)
    assert skew < -1 if shape in ("skewed", "rare_losses") else abs(skew) < 1 or shape == "t3"


def test_a_bank_says_itself_what_is_true() -> None:
    bank = read_bank(BANK, 5_000_000)
    assert [nature.mean for nature in bank.true] == [30_000_000, 19_500_000]
    assert {abs(nature.mean) for nature in bank.false} == {7_500}
    assert isinstance(bank.true[1], Nature)
    drawn = {bank.true[1].draw(Random(seed)) for seed in range(50)}
    assert drawn == {19_000_000, 21_000_000, 20_000_000, 18_000_000}
    row = run(replace(SMALL, noise="bank"), bank=bank)
    assert row.figures[-1].power == 1.0
    assert row.figures[-1].fdr == 0.0


def test_edits_near_the_minimum_effect_are_neither_false_nor_true() -> None:
    near = {"name": "near", "d_nano": [5_100_000, 4_000_000, 7_000_000, 4_500_000]}
    noisy = {"name": "order", "other_numbers": True, "d_nano": [9_000_000, 1_000_000, 12_000_000]}
    bank = read_bank({"edits": [*BANK["edits"], near, noisy]}, 5_000_000)  # type: ignore[misc]
    assert bank.unsure == ("near",)
    assert (bank.null, bank.real) == (2, 2)
    assert [nature.mean for nature in bank.false[2:]] == [0.0, 0.0], "known by symmetry"
    assert sum(bank.false[2].residuals) == pytest.approx(0, abs=1e-3)


def test_the_shipped_bank_is_real_and_large_enough_and_the_verdicts_hold_on_it() -> None:
    document = shipped_bank()
    edits = document["edits"]
    assert len(edits) >= 30
    assert all(len(edit["d_nano"]) >= 12 for edit in edits)
    assert len({tuple(edit["d_nano"]) for edit in edits}) == len(edits), "no edit stands twice"
    bank = read_bank(document, 5_000_000)
    assert bank.null >= 10
    assert bank.real >= 10
    assert bank.null + bank.real + len(bank.unsure) == len(edits)
    row = run(replace(SMALL, claims=300, true_share=0.1, noise="bank", pairs=24), bank=bank)
    greedy, _, ours = row.figures
    assert ours.fdr <= row.setting.alpha
    assert (ours.power or 0) > 0.5
    assert greedy.fdr > ours.fdr


def test_the_shipped_bank_has_the_edits_of_the_script_that_measures_it() -> None:
    code = baselines.load("quick").decode()
    programs = {edit.name: edit.applied(code) for edit in EDITS}
    assert len({code, *programs.values()}) == len(EDITS) + 1
    for program in programs.values():
        compile(program, "train.py", "exec")
    assert [edit["name"] for edit in shipped_bank()["edits"]] == list(programs)
    with pytest.raises(ValueError, match="0 times"):
        Edit("nothing", {"NO_SUCH_KNOB": "1"}).applied(code)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"edits": [{"d_nano": [1]}]},
        {"edits": [{"d_nano": ["x", 2]}]},
        {"edits": [{"d_nano": [10**30, 1]}]},
        {"edits": BANK["edits"][:1]},
    ],
)
def test_a_bank_that_cannot_be_read_is_refused(document: object) -> None:
    with pytest.raises(EvidenceError):
        read_bank(document, 5_000_000)


def test_claims_have_the_share_that_was_asked_for() -> None:
    claims = draw_claims(replace(SMALL, liar="colluding", liar_share=0.5), None, Random(1))
    assert sum(claim.better for claim in claims) == 6
    assert 15 < sum(claim.dishonest for claim in claims) < 40
    assert not any(claim.better and claim.dishonest for claim in claims)
    assert {claim.nature.mean for claim in claims} == {0.0, 3.0 * SD_NANO}


def test_every_row_of_the_sweep_can_be_simulated() -> None:
    rows = sweep(replace(SMALL, claims=3, true_share=0.4, effect_pairs=1))
    settings = [row for _, row in rows]
    assert len(set(settings)) == len(rows) > 30
    assert len({label for label, _ in rows}) == len(rows)
    assert {row.nodes for row in settings} >= {3, 10, 1000, 10_000}
    assert {row.claims for row in settings} >= {126, 333, 700}
    assert max(row.liar_share for row in settings if row.nodes > 20) == 0.4
    for row in settings:
        if row.claims == 3 and row.nodes <= 1000:
            run(row, repeats=1, bank=read_bank(shipped_bank(), 5_000_000))


ARGS = ("simulate", "--claims", "40", "--true-share", ".1", "--effect", "3", "--repeats", "1")


def test_the_table_shows_what_json_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps(BANK))
    for more in (
        (),
        ("--bank", str(bank)),
        ("--noise", "bank"),
        ("--liar", "silent", "--liar-share", ".3"),
    ):
        assert main([*ARGS, *more, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main([*ARGS, *more]) == 0
        shown = {
            line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()
        }
        assert found["schema"] == "lazaretto.simulation/1"
        (row,) = found["rows"]
        assert row["setting"]["noise"] == (
            "bank" if {"--bank", "--noise"} & set(more) else "normal"
        )
        for item in row["figures"]:
            line = shown[item["policy"]]
            for text in (
                share(item["fdr"]),
                share(item["power"]),
                times(item["inflation"]),
                times(item["published"]),
                f"{item['pairs']:.1f}",
            ):
                assert text in line


def test_what_cannot_be_done_is_said_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "bank.json"
    broken.write_text('{"edits": 3}')
    for wrong in (
        ("--bench", "2"),
        ("--repeats", "0"),
        ("--bank", str(tmp_path / "none.json")),
        ("--bank", str(broken)),
        ("--plot", str(tmp_path / "picture.txt")),
        ("--plot", str(tmp_path / "no" / "picture.svg")),
    ):
        assert main([*ARGS, *wrong]) == 2
        captured = capsys.readouterr()
        assert not captured.out
        assert "next:" in captured.err


def test_a_missing_plotting_library_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("node.simulation_plot.find_spec", lambda name: None)
    assert main([*ARGS, "--plot", str(tmp_path / "picture.svg")]) == 2
    assert "lazaretto[plot]" in capsys.readouterr().err


def test_a_picture_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.svg"
    assert main([*ARGS, "--plot", str(picture)]) == 0
    assert "<svg" in picture.read_text()

"""Whole lives: the promise over all epochs, and that it fails where levels are given anew."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from node.cli import main
from verification import simulate_life
from verification.evidence import level
from verification.simulate_books import Books
from verification.simulate_life import LIVES, Life, Lived, live, power_to_retract
from verification.simulate_setting import Setting
from verification.verdict import Deliberation, Terms

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

TWO = Setting(bench=2, liars_tolerated=0, pairs=24)
SHORT = Life("short", 20, 2, true_every=10)


class Refilled(Books):
    """Alpha for each epoch, shared by its operators and their slots: what must not be."""

    below = 0

    def open(self, researchers: Iterable[tuple[bytes, str]]) -> None:
        super().open(researchers)
        self.below = -1

    def claim(self, author: bytes, adopted_ancestors: int) -> Fraction:
        before = self.spent
        super().claim(author, adopted_ancestors)
        self.below = adopted_ancestors if self.below < 0 else self.below
        share = Fraction(1, len({line.operator for line in self.epoch.roster.values()}))
        self.spent = before + float(share) / self._slots
        return level(self._alpha, share, self._slots, adopted_ancestors - self.below)

    def contradict(self, author: bytes, target: bytes) -> Fraction:
        k = self.epoch.number
        return super().contradict(author, target) * 2 / (k * (k + 1))


def test_a_life_keeps_what_is_promised_and_one_with_levels_anew_does_not() -> None:
    """The same lives, the same claims: only levels differ."""
    life = [Life("nulls", 150, 2, true_every=75, change="rotation")]
    (ours,) = live(TWO, life, repeats=4, seed=3)
    (before,) = live(TWO, life, repeats=4, seed=3, books=Refilled)
    assert ours.claims == before.claims == 1200
    assert ours.kept(TWO.alpha)
    assert ours.fdr <= 0.05
    assert ours.power == 1.0
    assert ours.spent < 0.1
    assert before.spent > 1  # what was promised for a life is given out again and again


def test_every_kind_of_life_is_lived_and_spends_no_more_than_there_is() -> None:
    lives = [
        replace(life, epochs=min(life.epochs, 6), claims=min(life.claims, 30)) for life in LIVES
    ]
    assert {life.change for life in LIVES} == {"nobody", "rotation", "turnover", "new key"}
    for item in live(TWO, lives, repeats=1, seed=0):
        assert 0 < item.spent < 1
        assert item.claims == item.life.epochs * item.life.claims
        assert item.null_pairs is None or item.null_pairs < 7


def test_a_contradiction_has_the_same_power_after_a_day() -> None:
    at_once = power_to_retract(TWO, epochs=0, discoveries=25, seed=1)
    assert at_once >= 0.8
    assert power_to_retract(TWO, epochs=288, discoveries=25, seed=1) == at_once
    assert power_to_retract(TWO, epochs=288, discoveries=25, seed=1, books=Refilled) < at_once / 2


def test_lives_are_judged_by_the_real_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Deliberation):
        def __init__(self, terms: Terms) -> None:
            super().__init__(terms)
            self._decide("reject", "not_reproduced")

    monkeypatch.setattr(simulate_life, "Deliberation", Never)
    (item,) = live(TWO, [SHORT], repeats=1, seed=0)
    assert item.adopted == item.pairs == 0
    monkeypatch.undo()
    monkeypatch.setattr("verification.simulate_books.level", lambda *_: Fraction(0))
    (item,) = live(TWO, [SHORT], repeats=1, seed=0)
    assert item.adopted == 0


def test_the_table_of_lives_shows_the_rate_beside_the_promise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.simulation_life.LIVES", (SHORT,))

    def short(setting: Setting, *, repeats: int, seed: int, **more: Any) -> list[Lived]:
        return live(setting, [SHORT], repeats=repeats, seed=seed, **more)

    monkeypatch.setattr("node.simulation_life.live", short)
    monkeypatch.setattr("node.simulation_life.DISCOVERIES", 5)
    args = ("simulate", "--lifetime", "--bench", "2", "--liars-tolerated", "0", "--repeats", "1")
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "lazaretto.lifetimes/1"
    (row,) = found["lives"]
    assert row["fdr_kept"]
    assert row["promise"] == "held"
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert "lifetime FDR" in shown
    assert f"{100 * row['fdr']:.2f} %" in shown
    assert "10.0 %" in shown
    assert main([*args, "--sweep"]) == 2
    assert "no --sweep" in capsys.readouterr().err

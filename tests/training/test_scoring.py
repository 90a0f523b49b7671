"""Probabilities add up to one, whatever logits a model makes: on every device, in every precision.

On a machine with a GPU (torch, pytest, hypothesis and mpmath are enough):

    python -m pytest tests/training/test_scoring.py
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import frames, scoring
from training.sandbox import Stopped
from training.scoring import MASS_ERROR, log_probability

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU"))]  # fmt: skip
KINDS = {
    torch.float32: frames.FLOAT32, torch.bfloat16: frames.BFLOAT16, torch.float16: frames.FLOAT16,
}  # fmt: skip
VOCABULARIES = (2, 3, 256, 1000, 1024, 1025, 4096, 8192, 65536)
WORST = 5e-7


def scored(logits, targets, device):
    """Log-probabilities of ``targets`` [rows], as a score takes them from ``logits`` [rows, V]."""
    raw = bytearray(logits.contiguous().view(torch.uint8).numpy().tobytes())
    wide = np.asarray(targets, np.uint16)[None, :]
    return log_probability(raw, KINDS[logits.dtype], wide, logits.shape[1], device)[0]


def exact(row, targets):
    """log-softmax of the targets: with 60 digits, or in long double where that is long and the
    vocabulary large."""
    values, counts = np.unique(row.double().numpy(), return_counts=True)
    if len(values) > 500 and np.finfo(np.longdouble).nmant >= 63:
        wide = values.astype(np.longdouble) - values[-1]
        total = np.log((np.exp(wide) * counts).sum())
        return [float(np.longdouble(row[at].item()) - values[-1] - total) for at in targets]
    with mpmath.workdps(60):
        highest = mpmath.mpf(float(values[-1]))
        total = mpmath.fsum(
            int(count) * mpmath.exp(mpmath.mpf(float(value)) - highest)
            for value, count in zip(values, counts, strict=True)
            if float(values[-1]) - float(value) < 200  # the rest adds less than 1e-80
        )
        found = [mpmath.mpf(row[at].item()) - highest - mpmath.log(total) for at in targets]
        return [float(value) for value in found]


@st.composite
def rows(draw):
    """One row of finite logits, of any precision, vocabulary and size, and some of its tokens."""
    kind = draw(st.sampled_from(list(KINDS)))
    vocabulary = draw(st.sampled_from(VOCABULARIES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    limits = torch.finfo(kind)
    low, high = np.log2(limits.smallest_normal) - 8, np.log2(limits.max)
    scale = 2.0 ** draw(st.floats(low, high))
    base = draw(st.sampled_from([0.0, 1.0, -1.0])) * 2.0 ** draw(st.floats(low, high))
    shape = draw(st.sampled_from(["equal", "noise", "few", "steps", "one"]))
    found = np.full(vocabulary, base)
    if shape == "noise":
        found += rng.normal(size=vocabulary) * min(scale, 30.0)
    elif shape == "few":
        found[rng.integers(vocabulary, size=1 + vocabulary // 8)] += scale
    elif shape == "steps":
        found += rng.integers(-9, 9, size=vocabulary) * scale
    elif shape == "one":
        found[rng.integers(vocabulary)] -= scale
    edge = float(limits.max)
    logits = torch.from_numpy(np.clip(found, -edge, edge)).to(kind)
    logits = logits.clamp(-edge, edge)
    return logits, sorted({0, vocabulary - 1, *rng.integers(vocabulary, size=4).tolist()})


@pytest.mark.parametrize("device", DEVICES)
@given(drawn=rows())
@settings(max_examples=80)
def test_what_is_scored_is_the_log_softmax(device, drawn):
    row, targets = drawn
    found = scored(row.expand(len(targets), -1), targets, device)
    assert found == pytest.approx(np.array(exact(row, targets)), abs=WORST, rel=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", [256, 1100])
def test_probabilities_of_all_tokens_add_up_to_one(device, kind, vocabulary):
    rng = np.random.default_rng(1)
    edge = torch.finfo(kind).max
    made = [
        np.zeros(vocabulary),
        np.full(vocabulary, min(2.0**30, edge)),
        np.full(vocabulary, edge),
        np.full(vocabulary, -edge),
        np.where(np.arange(vocabulary) % 2, edge, -edge),
        np.full(vocabulary, float(torch.finfo(kind).smallest_normal) / 64),
        rng.normal(size=vocabulary) * 20,
        rng.normal(size=vocabulary) + 1024.0,
        np.where(np.arange(vocabulary) == 7, 50.0, 0.0),
    ]
    for row in made:
        logits = torch.from_numpy(row).to(kind).expand(vocabulary, -1)
        found = scored(logits, np.arange(vocabulary), device)
        assert np.exp(found).sum() == pytest.approx(1.0, abs=MASS_ERROR)
    mixed = torch.from_numpy(np.stack(made)).to(kind)  # neighbours of any size change nothing
    alone = [scored(mixed[at : at + 1], [5], device)[0] for at in range(len(made))]
    together = scored(mixed, [5] * len(made), device)
    assert np.allclose(together, alone, rtol=0, atol=MASS_ERROR)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", [256, 3000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_score_and_harms_no_other(device, kind, vocabulary, bad):
    logits = torch.zeros(3, vocabulary, dtype=kind)
    logits[1, vocabulary - 1] = bad
    found = scored(logits, [0, 0, 0], device)
    assert np.isnan(found).tolist() == [False, True, False]
    assert found[0] == pytest.approx(-np.log(vocabulary), abs=WORST)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("vocabulary", "kind"), [
    (256, torch.float32), (256, torch.bfloat16), (3000, torch.float32), (3000, torch.float16),
])  # fmt: skip
def test_a_log_sum_that_is_rounded_away_is_refused_by_name(device, vocabulary, kind, monkeypatch):
    for row in (torch.full((1, vocabulary), 2.0**15), torch.randn(1, vocabulary)):
        logits = row.to(kind)
        assert np.isfinite(scored(logits, [1], device)).all()
    small, wide = scoring._log_sums, scoring._log_sums_wide
    for error in (3e-6, -3e-6):
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "_log_sums", lambda low, e=error: small(low) + e)
            patch.setattr(scoring, "_log_sums_wide", lambda low, e=error: wide(low) + e)
            with pytest.raises(Stopped) as caught:
                scored(logits, [1], device)
        assert caught.value.status == "not_normalised"
    with monkeypatch.context() as patch:  # what the highest logit swallows
        patch.setattr(scoring, "_log_sums", lambda low: low[:, 0] * 0.0)
        patch.setattr(scoring, "_log_sums_wide", lambda low: low[:, 0].double() * 0.0)
        with pytest.raises(Stopped):
            scored(torch.full((1, vocabulary), 2.0**15).to(kind), [1], device)

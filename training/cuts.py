"""Where a model is asked again without its future: at the positions where a leak would pay.

A position is drawn in proportion to ``p / q``, its target's probability by the model that is scored
over that by a reference which cannot have peeked: the base of its pair. Why that: a model that
does not leak gives probabilities that add up to one, so where the reference is right, its mean of
``p / q`` is one and its mean of ``log(p / q)`` is below zero. A gain of D nats in all that is due
to leaks therefore needs leaks whose ``p / q`` add up to D at least, however many there are,
wherever they hide, and whatever else the model does to pay for them or to cover them up. Of n draws
from N positions n D / N then fall on a leak in the mean. Odds are cut off at ``MOST``, or a single
lucky guess would take all draws (a leak beyond that gains enough for the few that are needed), and
at ``LEAST``.

A process that answers never learns the future of a position that it will be asked about: the rows
of processes that run together are disjoint, the cuts of a row are asked in increasing order and
never two in one batch, and behind a cut stand tokens drawn at random from the whole fold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from training.windows import Request

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from training.windows import Tokens, Windows

    Reals = npt.NDArray[np.float64]

MOST: Final = 20.0
LEAST: Final = 0.1
TAIL: Final = 8
"""Positions before a cut that are answered: a model may look several tokens ahead."""


class Cut(NamedTuple):
    """The answer at ``position`` of ``row`` is asked for with no later token known."""

    row: int
    position: int


def by_frequency(rows: Windows, vocabulary: int) -> Reals:
    """Log-probabilities of all targets by how often tokens occur in the fold, nats: the reference
    where there is no base."""
    counts = np.bincount(rows.targets.ravel().astype(np.int64), minlength=vocabulary) + 0.5
    found: Reals = np.log(counts / counts.sum())[rows.targets.astype(np.int64)]
    return found


def odds(rows: Windows, known: Reals, reference: Reals) -> Reals:
    """How much a leak would pay at each position, relative to others; 0 where there is no future
    in the row, or no score. ``known`` and ``reference`` are log-probabilities [rows, length]."""
    length = rows.inputs.shape[1]
    gain = np.nan_to_num(known - reference, nan=0.0, posinf=99.0, neginf=-99.0)
    found: Reals = np.clip(np.exp(np.minimum(gain, 99.0)), LEAST, MOST)
    open_ended = np.arange(length) < np.minimum(rows.sizes, length - 1)[:, None]
    return np.where(open_ended, found, 0.0)


def draw(weights: Reals, count: int, rng: random.Random) -> list[Cut]:
    """About ``count`` different positions, each with a chance in proportion to its weight.

    Systematic: the chances are laid end to end in random order and every whole number is taken, so
    that no two draws are spent on one place. What would be drawn more than once is taken for sure.
    """
    flat = weights.ravel()
    places = np.flatnonzero(flat)
    chances = flat[places]
    sure = np.zeros(len(places), bool)
    while True:
        left = count - int(sure.sum())
        total = chances[~sure].sum()
        if left <= 0 or total <= 0:
            break
        more = ~sure & (chances * left >= total)
        if not more.any():
            break
        sure |= more
    order = np.random.default_rng(rng.getrandbits(128)).permutation(len(places))
    order = order[~sure[order]]
    taken = places[sure].tolist()
    if left > 0 and total > 0:
        ends = np.cumsum(chances[order]) * (left / total)
        hits = np.floor(ends + rng.random())
        taken += places[order[np.diff(hits, prepend=0.0) > 0]].tolist()
    width = weights.shape[1]
    return [Cut(place // width, place % width) for place in sorted(taken)]


def shared_out(
    cuts: Iterable[Cut], group: dict[int, int], parts: int
) -> tuple[list[list[Cut]], list[set[int]]]:
    """The cuts in ``parts`` of about the same work, rows of one group together; and which groups
    each part has. Each has one at least, where there are so many."""
    loads: dict[int, list[Cut]] = {number: [] for number in group.values()}
    for cut in cuts:
        loads[group[cut.row]].append(cut)
    work = {number: sum(cut.position + 1 for cut in load) for number, load in loads.items()}
    found: list[list[Cut]] = [[] for _ in range(parts)]
    mine: list[set[int]] = [set() for _ in range(parts)]
    spent = [0] * parts
    for number in sorted(loads, key=lambda number: -work[number]):
        least = min(range(parts), key=lambda part: (spent[part], len(mine[part])))
        spent[least] += work[number]
        mine[least].add(number)
        found[least] += loads[number]
    return found, mine


def requests(rows: Windows, cuts: Sequence[Cut], batch: int, rng: random.Random) -> list[Request]:
    """Batches of prefixes, in increasing order of length, the cuts of a row in different ones.

    Cuts at places close to each other go together; shorter prefixes are filled up with noise.
    """
    spread = max(4, rows.inputs.shape[1] // 32)
    waiting = sorted(cuts, key=lambda cut: cut.position)
    asked = []
    while waiting:
        taken: list[Cut] = []
        used: set[int] = set()
        later: list[Cut] = []
        for cut in waiting:
            near = not taken or cut.position - taken[0].position <= spread
            if len(taken) < batch and near and cut.row not in used:
                taken.append(cut)
                used.add(cut.row)
            else:
                later.append(cut)
        waiting = later
        length = max(cut.position for cut in taken) + 1
        tokens = np.stack([rows.inputs[cut.row, :length] for cut in taken])
        for at, cut in enumerate(taken):
            exchange(tokens[at], cut.position + 1, rows, rng)
        known = tuple(cut.position + 1 for cut in taken)
        of = tuple(cut.row for cut in taken)
        asked.append(Request(tokens, of, known, "future", max(0, min(known) - TAIL)))
    return asked


def exchange(row: Tokens, start: int, rows: Windows, rng: random.Random) -> None:
    """From ``start`` on, other tokens in place of those of a row: drawn from the whole fold, and
    none where it was."""
    if start >= len(row):
        return
    source = rows.targets.reshape(-1)
    noise = source[[rng.randrange(len(source)) for _ in range(len(row) - start)]]
    same = np.flatnonzero(noise == row[start:])
    for at in same:
        others = (source[rng.randrange(len(source))] for _ in range(64))
        noise[at] = next((token for token in others if token != row[start + at]), 0)
    row[start:] = noise


def again(
    rows: Windows,
    cuts: Iterable[Cut],
    place: dict[int, int],
    batch: int,
    rng: random.Random,
    probe: str,
) -> list[Request]:
    """The same cuts, each at its row's ``place`` in a batch of the size and length of those that
    were scored: whatever rounding depends on is as it was. The rest of a batch is noise."""
    batches: list[dict[int, Cut]] = []
    last: dict[int, int] = {}
    for cut in sorted(cuts, key=lambda cut: cut.position):
        at = last.get(cut.row, -1) + 1
        while at < len(batches) and place[cut.row] in batches[at]:
            at += 1
        if at >= len(batches):
            batches.append({})
            at = len(batches) - 1
        batches[at][place[cut.row]] = cut
        last[cut.row] = at
    asked = []
    for taken in batches:
        tokens = np.stack([rows.inputs[0]] * batch)
        of, known = [-1] * batch, [0] * batch
        for at in range(batch):
            if at in taken:
                of[at], known[at] = taken[at].row, taken[at].position + 1
                tokens[at] = rows.inputs[of[at]]
            exchange(tokens[at], known[at], rows, rng)
        asked.append(Request(tokens, tuple(of), tuple(known), probe))
    return asked

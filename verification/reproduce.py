"""Who reproduces a claim, on which seeds and folds, and in which order: all by hash.

Nothing here can be chosen by whom it concerns:

- The *bench* ranks verifiers by a hash of the epoch's beacon, the author's operator, the epoch, the
  claim's slot and the verifier's key. No byte of the claim is in it: with claim content in the
  hash an author who colludes with 3 of 30 verifiers grinds two of three seats in 49 tries.
- *Nonces* are hash chains. A commit publishes two anchors. The block of round r reveals link r of
  the first: whoever made the claim cannot foresee a seed of any round that has not been run, and
  the member cannot change one. The second has a link for every position of the bench.
- *Training seeds* come from beacon, claim, verifier, nonce and pair.
- The *fold* comes from the seal's id and from a link that another member opens once it has seen
  the seal: before the weights are sealed the one who trained them cannot know what they will be
  scored on. A verifier that knows its fold can train on it and survive any re-scoring. Two members
  who collude still can.
- *Turns*: positions (round, rank) follow one another, ranks within rounds. The next one starts only
  while the claim is alive, so that a false claim costs a few pairs in all and not a few per member.

Pure: integers and bytes in, integers and bytes out. Hash inputs are length-prefixed, under a domain
of their own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from verification.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.charter import EpochView
    from swarm.records import TierPolicy

PAIRS_PER_BLOCK: Final = 1
"""A block is one pair: a member that could choose how many would choose when to stop."""

SEED_BITS: Final = 63

TOO_FEW: Final = "too_few_verifiers"
"""Why a bench cannot be filled; since its epoch has a fixed roster, for good."""

LEAST_EACH: Final = 4
"""Pairs after acceptance of each member, at least, where some may lie."""

MOST_ROUNDS: Final = 64
"""Turns of one member that records can number."""


def digest(domain: str, *parts: bytes | int | str) -> bytes:
    """sha256 over a domain and length-prefixed parts (integers as 8 big-endian bytes)."""
    hasher = hashlib.sha256()
    for part in (f"lazaretto/{domain}/1", *parts):
        if isinstance(part, str):
            data = part.encode()
        elif isinstance(part, int):
            data = part.to_bytes(8, "big")
        else:
            data = part
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.digest()


# --- bench ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seat:
    """One place on a bench: its rank (0 speaks first), the member's key and operator."""

    rank: int
    key: bytes
    operator: str


@dataclass(frozen=True, slots=True)
class Bench:
    """The verifiers of one claim in order of rank; empty, with the reason, while it cannot fill."""

    seats: tuple[Seat, ...]
    waiting: str = ""

    def rank_of(self, key: bytes) -> int | None:
        """The rank of ``key``, or None where it has no seat."""
        return next((seat.rank for seat in self.seats if seat.key == key), None)


def draw_bench(
    epoch: EpochView,
    author: bytes,
    slot: int,
    tier: str,
    n: int,
    *,
    domain: str = "bench",
    without: frozenset[str] = frozenset(),
) -> Bench:
    """The ``n`` verifiers of the claim that ``author`` makes in ``slot`` of ``epoch``.

    Eligible are roster members with the role verifier and the tier, not removed, of another
    operator than the author's and those of ``without``; one seat per operator. Each ``domain``
    draws benches of its own. With too few, or before the beacon is known,
    the bench is empty and says why: the claim waits. Raises BenchError for an author without a
    line in the roster.
    """
    line = epoch.roster.get(author)
    if line is None:
        raise BenchError(
            "The author is not on the roster of the claim's epoch.",
            cure="Wait for an epoch whose roster has this key.",
        )
    if epoch.beacon is None:
        return Bench((), "beacon_not_revealed")
    beacon, operator = epoch.beacon, line.operator
    ranked = sorted(
        (digest(domain, beacon, operator, epoch.number, slot, key), key)
        for key, member in epoch.roster.items()
        if "verifier" in member.roles
        and tier in member.tiers
        and member.operator not in {operator, *without}
        and key not in epoch.removed
    )
    seats: list[Seat] = []
    seated: set[str] = set()
    for _, key in ranked:
        owner = epoch.roster[key].operator
        if owner not in seated and len(seats) < n:
            seated.add(owner)
            seats.append(Seat(len(seats), key, owner))
    if len(seats) < n:
        return Bench((), f"{TOO_FEW} ({len(seats)} of {n} operators)")
    return Bench(tuple(seats))


# --- nonces --------------------------------------------------------------------------------------


def step(preimage: bytes) -> bytes:
    """One link of a nonce chain, from what is revealed later to what was known before."""
    return digest("nonce", preimage)


@dataclass(frozen=True, slots=True)
class NonceChain:
    """A member's secrets for one claim. ``anchor`` goes into the commit, ``reveals[r]`` is told in
    round r (seeds) or for position r (folds); ``step(reveals[0]) == anchor`` and
    ``step(reveals[r]) == reveals[r - 1]``.
    """

    anchor: bytes
    reveals: tuple[bytes, ...]


@lru_cache(maxsize=1 << 14)
def anchored(link: bytes, place: int, anchor: bytes) -> bool:
    """Whether ``link`` is link ``place`` (from 0) of the chain that ``anchor`` begins."""
    for _ in range(place + 1):
        link = step(link)
    return link == anchor


@lru_cache(maxsize=256)
def nonce_chain(secret: bytes, claim: bytes, purpose: str, rounds: int) -> NonceChain:
    """The chain of ``rounds`` links that a member with a 32-byte ``secret`` uses for ``claim``.

    ``purpose`` is ``"seed"`` or ``"fold"``. Derived, not drawn: a node that was killed between its
    commit and its block finds the same chain again. The secret never leaves the node.
    """
    if len(secret) < 32 or rounds < 1:
        raise BenchError(
            "A nonce chain needs a secret of 32 bytes and at least one round.",
            cure="Check the caller; nothing was committed to.",
        )
    link = digest("nonce-root", secret, claim, purpose)
    links = [link]
    for _ in range(rounds):
        link = step(link)
        links.append(link)
    links.reverse()
    return NonceChain(links[0], tuple(links[1:]))


# --- seeds and folds -----------------------------------------------------------------------------


def _number(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "big") >> (64 - SEED_BITS)


def training_seed(beacon: bytes, claim: bytes, verifier: bytes, nonce: bytes, pair: int) -> int:
    """Seed in [0, 2**63) of base and candidate alike, for one pair."""
    return _number(digest("seed", beacon, claim, verifier, nonce, pair))


def fold_index(
    active_folds: Sequence[int],
    beacon: bytes,
    claim: bytes,
    seal: bytes,
    nonce: bytes,
    pair: int,
    used: Sequence[int] = (),
) -> int:
    """The number of the holdout fold that a sealed pair is scored on.

    ``seal`` is the id of the seal record and ``nonce`` the revealed fold nonce. ``used``: the folds
    of the claim's settled positions before this one. No fold is drawn again while another was
    drawn less often, so what a fold has in favour of the claim counts no more than its share.
    Raises BenchError where the epoch has no active fold.
    """
    if not active_folds:
        raise BenchError(
            "The epoch of this claim has no active holdout folds.",
            cure="A governor starts an epoch that names active folds.",
        )
    drawn = int.from_bytes(digest("fold", beacon, claim, seal, nonce, pair), "big")
    times = Counter(used)
    least = min(times[fold] for fold in active_folds)
    left = sorted(fold for fold in active_folds if times[fold] == least)
    return left[drawn % len(left)]


def scoring_seed(beacon: bytes, claim: bytes, seal: bytes, nonce: bytes, pair: int) -> int:
    """Seed in [0, 2**63) of the evaluator's probes, known as late as the fold."""
    return _number(digest("probe", beacon, claim, seal, nonce, pair))


# --- turns ---------------------------------------------------------------------------------------


def position(index: int, n: int) -> tuple[int, int]:
    """(round, rank) of the ``index``-th position of a bench of ``n``."""
    return divmod(index, n)


def rounds_of(policy: TierPolicy) -> int:
    """How many turns a member can have: for the verdict, and then for the effect."""
    return -(-positions_of(policy) // policy.n)


def positions_of(policy: TierPolicy) -> int:
    """How many positions a bench can fill, those after acceptance included."""
    return policy.n * policy.max_pairs + effect_positions(policy)


def effect_positions(policy: TierPolicy) -> int:
    """How many positions there are after acceptance: ``effect_pairs`` in all, or where members may
    lie so many of each, four at least: ``verification.effect`` judges every one by its own.
    """
    if not policy.f or not policy.effect_pairs:
        return policy.effect_pairs
    return policy.n * max(LEAST_EACH, policy.effect_pairs)

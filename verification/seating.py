"""Who sits on a bench: settled by what its members say they saw, before anything runs.

Every member of a bench that takes its seat commits. When all seats are taken, or its patience is
over, each member says once whom it saw (a ``Seating``). A seat is settled when enough *others* of
the bench say the same of it. A seat that is settled as empty stays empty: its positions are passed
over, and the claim goes on without it.

Enough, of n members of whom g may say two things: floor((n + g) / 2) others for what a member did
say, floor((n - 1 + g) / 2) + 1 for its silence. Together that is more than the n - 1 others and g
of them a second time, and so are two things that one member said, for then it is one of the g
itself: nothing can be settled in two ways. With fewer alike the bench waits, and so does the claim:
less than half of a bench settles nothing on its own, and two need each other. No rule reads a
clock.

What cannot have enough any more, because too many have said otherwise, is *torn*: a member that
tells one half of the bench this and the other half that would else stop a claim for good. A torn
seat is empty, a torn position absent. Everybody sees that alike, and nothing that is settled can be
torn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swarm.records import Claim, Commit, Contradiction, Seating
from verification.docket import NOTHING, Docket, Words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarm.envelope import Record
    from verification.reproduce import Bench
    from verification.shelf import Said

Bound = Callable[["Said"], "int | str | None"]
"""From a commit's record to the calibrated bound that it names, in nano-bits: None without one, or
in words why the commit does not count (yet)."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A seat that is taken: the id of the commit and the anchors of its two nonce chains.

    ``sigma0_nano`` bounds the standard deviation of its pairs; None without a calibration.
    """

    commit: bytes
    seq: int
    seeds: bytes
    folds: bytes
    sigma0_nano: int | None


@dataclass(frozen=True, slots=True)
class Seats:
    """``seen``: the first fitting commit of each seat, by rank, whatever others say of it.
    ``taken``: who sits, by rank, None for an empty seat; None while a seat is not settled.
    ``said``: the ranks whose seating is here. ``disputed``: a seat is settled in two ways, by more
    liars than g. ``expired``: a seat can never be settled (``verification.closing``). ``talkers``:
    the ranks that committed more often than anybody honest does, and were not seen. ``ignored``:
    ids of commits and seatings that do not count, with the reason.
    """

    seen: tuple[bytes | None, ...]
    taken: tuple[Taken | None, ...] | None
    said: frozenset[int]
    disputed: bool
    expired: bool = False
    talkers: frozenset[int] = frozenset()
    ignored: dict[bytes, str] = field(default_factory=dict)


def enough(n: int, g: int, *, absent: bool) -> int:
    """How many others of ``n`` members settle what one said, or (``absent``) that it said nothing,
    while ``g`` of the members may say two things.
    """
    return (n - 1 + g) // 2 + 1 if absent else (n + g) // 2


def is_torn(n: int, g: int, voices: Mapping[bytes | None, Set[int]], *, two_faced: bool) -> bool:
    """Whether no value can have enough any more, whatever is said from now on; once and for all.

    ``voices``: value (None: absent) to the ranks of others that state it. ``two_faced``: the member
    in question has said two things, so that it is one of the g itself.
    """
    spoke, doubles = heard(voices)
    hidden = max(0, g - two_faced - len(doubles))
    return all(
        most_voices(n, spoke - voices.get(value, frozenset()) - doubles, hidden)
        < enough(n, g, absent=value is None)
        for value in {*voices, b"", None}
    )


def heard(voices: Mapping[bytes | None, Set[int]]) -> tuple[frozenset[int], frozenset[int]]:
    """The ranks that state anything, and those that state two things: known liars."""
    ranks = Counter(rank for said in voices.values() for rank in said)
    return frozenset(ranks), frozenset(rank for rank, count in ranks.items() if count > 1)


def most_voices(n: int, bound: Set[int], hidden: int) -> int:
    """How many of the n - 1 others can come to state a value: all but those who are ``bound`` not
    to unless they lie, of whom ``hidden`` may.
    """
    return n - 1 - max(0, len(bound) - hidden)


def is_stuck(
    n: int,
    g: int,
    voices: Mapping[bytes | None, Set[int]],
    gone: Set[int],
    *,
    two_faced: bool,
    silent: bool,
) -> bool:
    """Whether nothing that is still said can settle or tear it: it will wait for ever.

    ``gone``: the others who say nothing any more (``verification.closing``), but for liars among
    them, who may in another branch of their feed. ``silent``: nor does the member in question, and
    it has said nothing that could come to fit.
    """
    spoke, doubles = heard(voices)
    mute, hidden = gone - spoke, max(0, g - two_faced - len(doubles))
    tearable = True
    for value in {*voices, b"", None}:
        said, needed = voices.get(value, frozenset()), enough(n, g, absent=value is None)
        left = hidden - (silent and value is not None)  # to speak after all it would have to lie
        if left >= 0 and most_voices(n, (spoke | mute) - said - doubles, left) >= needed:
            return False
        tearable = tearable and n - 1 - len(mute | said | doubles) > n - 1 - needed
    return not tearable


def seats_of(
    claim: Record,
    bench: Bench,
    g: int,
    docket: Docket,
    bound: Bound,
    gone: Set[int] = frozenset(),
) -> Seats:
    """What follows from the commits and seatings of a docket.

    ``gone``: the ranks of those who say nothing any more.
    """
    ignored: dict[bytes, str] = {}
    votes, wild = _votes(bench, docket, ignored)
    size = len(bench.seats)
    fitting: list[list[Taken]] = []
    many: list[bool] = []
    for seat in bench.seats:
        words = docket.commits.get(seat.key, NOTHING)
        said = words.said
        if words.wild:
            said = docket.named(words, {of for rank, of in votes if rank == seat.rank and of})
        fitting.append(_commits(claim, seat.rank, said, bound, ignored))
        many.append(words.wild or len(fitting[-1]) > 1)
    talkers = frozenset(
        seat.rank for seat in bench.seats if docket.commits.get(seat.key, NOTHING).wild
    )
    settled: list[list[Taken | None]] = []
    expired = False
    for rank, commits in enumerate(fitting):
        voices = {value: ranks for (of, value), ranks in votes.items() if of == rank}
        if others := wild - {rank}:
            for value in {*voices, *(taken.commit for taken in commits), None, b""}:
                voices[value] = voices.get(value, frozenset()) | others
        values: list[Taken | None] = [
            taken
            for taken in commits
            if len(voices.get(taken.commit, ())) >= enough(size, g, absent=False)
        ]
        if len(voices.get(None, ())) >= enough(size, g, absent=True):
            values.append(None)
        if not values and is_torn(size, g, voices, two_faced=many[rank]):
            values.append(None)
        expired = expired or (
            not values
            and is_stuck(
                size,
                g,
                voices,
                gone - {rank},
                two_faced=many[rank],
                silent=rank in gone and not commits and not many[rank],
            )
        )
        settled.append(values)
    return Seats(
        seen=tuple(
            commits[0].commit if commits and rank not in talkers else None
            for rank, commits in enumerate(fitting)
        ),
        taken=tuple(v[0] for v in settled) if all(len(v) == 1 for v in settled) else None,
        said=frozenset(
            seat.rank
            for seat in bench.seats
            if _fits(docket.seatings.get(seat.key, NOTHING), bench)
        ),
        disputed=any(len(values) > 1 for values in settled),
        expired=expired,
        talkers=talkers,
        ignored=ignored,
    )


def _commits(
    claim: Record,
    rank: int,
    words: Iterable[Said],
    bound: Bound,
    ignored: dict[bytes, str],
) -> list[Taken]:
    assert isinstance(claim.payload, Claim | Contradiction)
    expected = (claim.author, claim.envelope.epoch, claim.payload.slot, rank)
    found: list[Taken] = []
    for one in words:
        said = one.payload
        assert isinstance(said, Commit)
        if (said.claimant, said.claim_epoch, said.slot, said.rank) != expected:
            ignored[one.id] = "commit_does_not_fit_the_claim"
            continue
        sigma0 = bound(one)
        if isinstance(sigma0, str):
            ignored[one.id] = sigma0
            continue
        if found:
            ignored[one.id] = "second_commit"
        found.append(Taken(one.id, one.seq, said.nonce_hash, said.fold_nonce_hash, sigma0))
    return found


def _fits(words: Words, bench: Bench) -> bool:
    return words.wild or any(
        isinstance(one.payload, Seating) and len(one.payload.commits) == len(bench.seats)
        for one in words.said
    )


def _votes(
    bench: Bench, docket: Docket, ignored: dict[bytes, str]
) -> tuple[dict[tuple[int, bytes | None], frozenset[int]], frozenset[int]]:
    """(rank, commit or None) to the other ranks that say so of it; and the ranks that are wild."""
    votes: dict[tuple[int, bytes | None], set[int]] = {}
    wild: set[int] = set()
    for seat in bench.seats:
        words = docket.seatings.get(seat.key, NOTHING)
        if words.wild:
            wild.add(seat.rank)
            continue
        for number, said in enumerate(words.said):
            assert isinstance(said.payload, Seating)
            commits = said.payload.commits
            if len(commits) != len(bench.seats):
                ignored[said.id] = "seating_does_not_fit_the_bench"
                continue
            if number:
                ignored[said.id] = "second_seating"
            for rank, commit in enumerate(commits):
                if rank != seat.rank:
                    votes.setdefault((rank, commit), set()).add(seat.rank)
    return {key: frozenset(ranks) for key, ranks in votes.items()}, frozenset(wild)

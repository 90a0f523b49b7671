"""Who sits on a bench, and for which of several rivals: settled by what its members say they saw.

Every member of a bench that takes its seat commits: for one claim of its place, for good. When all
seats are taken, or its patience is over, each member says once whom it saw (a ``Seating``). A seat
is settled when enough *others* of the bench say the same of it. A seat that is settled as empty
stays empty: its positions are passed over, and the claim goes on without it.

Of a member whose feed has no fork only the first statement of a kind about a place counts; nothing
that it says later changes anything. A forked feed is a liar's, and all that it says counts.

Enough, of n members of whom s may fork, are floor((n + s) / 2) others for what a member did say,
and floor((n - 1 + s) / 2) + 1 for its silence. Together that is more than the n - 1
others and s of them a second time, and so are two things that one member said, for then it is one
of the s itself: nothing can be settled in two ways. With fewer alike the bench waits, and so does
the claim. No rule reads a clock.

Rivals: forks of an author, or claims that share a slot, have one bench. Heard is who sits for the
claim in question, by its first commit in the place. So a taken seat rests on floor((n + s) / 2) + 1
members who sit for this claim, and two rivals cannot both have one. The first that has one *holds*
the place; the others are void.

What cannot have enough any more, because too many have said otherwise, is *torn*: a member that
tells one half of the bench this and the other half that would else stop a claim for good. A torn
seat is empty, a torn position absent. Everybody sees that alike, and nothing that is settled can be
torn.

Of two who sit each needs the other, and the word of one settles no silence of the other. Whatever
it says of it counts for what that one did; and where nothing can come of that any more the claim
ends by name. A bench never shrinks to one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from swarm.records import Commit, Seating
from verification.admit import place_of
from verification.docket import NOTHING, Docket, Words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarm.envelope import Record
    from swarm.records import TierPolicy
    from verification.reproduce import Bench
    from verification.shelf import Said

Bound = Callable[["Said"], "int | str | None"]
"""From a commit's record to the calibrated bound that it names, in nano-bits: None without one, or
in words why the commit does not count."""

PAIR: Final = 2
"""The smallest bench that agrees on anything, but for a bench of one by charter."""

UNSEEN: Final = b""
"""Stands for a value that may yet be said."""

SLOT_TAKEN: Final = "slot_taken"
"""Why a claim is void whose bench sat down for a rival, or for several rivals of which none can get
enough.
"""

TOO_FEW_LEFT: Final = "too_few_are_left_to_say_anything"
"""Why a claim has ended that waits for members who have gone on (``verification.closing``)."""


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
    ``said``: the ranks whose seating is here. ``held``: a seat is settled as taken, so that no
    rival can have one. ``ended``: why this bench can never decide, empty while it may. ``barred``:
    the ranks that sit for a rival. ``talkers``: the ranks that committed more often than anybody
    honest does, and were not seen. ``ignored``: ids of commits and seatings that do not count, with
    the reason.
    """

    seen: tuple[bytes | None, ...]
    taken: tuple[Taken | None, ...] | None
    said: frozenset[int]
    held: bool = False
    ended: str = ""
    barred: frozenset[int] = frozenset()
    talkers: frozenset[int] = frozenset()
    ignored: dict[bytes, str] = field(default_factory=dict)


def safety(policy: TierPolicy) -> int:
    """s: how many members of a bench may say two things, and nothing that is settled comes undone.

    Whoever may lie about numbers may fork as well. It costs no safety, but patience, where it is
    more than the ``g`` in spite of whom a bench agrees.
    """
    return max(policy.f, policy.g)


def enough(n: int, s: int, *, absent: bool) -> int:
    """How many others of ``n`` members settle what one said, or (``absent``) that it said nothing,
    while ``s`` of the members may say two things.
    """
    return (n - 1 + s) // 2 + 1 if absent else (n + s) // 2


def too_small(n: int, sitting: int, s: int) -> bool:
    """Whether ``sitting`` of a bench of ``n`` are too few to settle anything together."""
    return sitting < min(n, PAIR) or enough(sitting, s, absent=False) > sitting - 1


def is_torn(
    n: int,
    s: int,
    voices: Mapping[bytes | None, Set[int]],
    *,
    two_faced: bool,
    forked: Set[int] = frozenset(),
    barred: Set[int] = frozenset(),
    silent: bool = False,
) -> bool:
    """Whether no value can have enough any more, whatever is said from now on; once and for all.

    ``voices``: value (None: absent) to the ranks of others that state it. ``two_faced``: the member
    in question has forked, so that it is one of the s itself; ``forked``: the others who have.
    ``barred``: others who can state nothing without a fork. ``silent``: nor can the member.
    """
    spoke, doubles = heard(voices)
    doubles |= forked
    hidden = max(0, s - two_faced - len(doubles))
    for value in {*voices, UNSEEN, None}:
        left = hidden - (silent and value is not None)
        free = voices.get(value, frozenset()) | doubles
        needed = enough(n, s, absent=value is None)
        if left >= 0 and most_voices(n, (spoke | barred) - free, left) >= needed:
            return False
    return True


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
    s: int,
    voices: Mapping[bytes | None, Set[int]],
    gone: Set[int],
    *,
    two_faced: bool,
    silent: bool,
    forked: Set[int] = frozenset(),
) -> bool:
    """Whether nothing that is still said can settle or tear it: it will wait for ever.

    ``gone``: the others who say nothing any more (``verification.closing``), but for liars among
    them, who may in another branch of their feed. ``silent``: nor does the member in question, and
    it has said nothing that could come to fit. ``forked``: others whose other branch is known.
    """
    spoke, doubles = heard(voices)
    doubles |= forked
    mute, hidden = gone - spoke, max(0, s - two_faced - len(doubles))
    tearable = True
    for value in {*voices, UNSEEN, None}:
        said, needed = voices.get(value, frozenset()), enough(n, s, absent=value is None)
        left = hidden - (silent and value is not None)  # to speak after all it would have to lie
        if left >= 0 and most_voices(n, (spoke | mute) - said - doubles, left) >= needed:
            return False
        tearable = tearable and n - 1 - len(mute | said | doubles) > n - 1 - needed
    return not tearable


def pair_is_stuck(s: int, *, other_mute: bool, silent: bool, other_forked: bool) -> bool:
    """The same of one of two who sit: whether there will never be a word of each of them.

    ``other_mute``: the other one says nothing any more, and has not spoken. ``silent``: nor has, or
    does, the member in question. Each could in another branch of its feed: then it is one of the s.
    """
    return (other_mute and not other_forked) + silent > max(0, s - other_forked)


def seats_of(
    claim: Record,
    bench: Bench,
    s: int,
    docket: Docket,
    bound: Bound,
    gone: Set[int] = frozenset(),
) -> Seats:
    """What follows from the commits and seatings of a docket.

    ``gone``: the ranks of those who say nothing any more.
    """
    return _Seating(claim, bench, s, docket, bound, gone).seats()


class _Seating:
    """The seats of one claim while they are read."""

    def __init__(
        self,
        claim: Record,
        bench: Bench,
        s: int,
        docket: Docket,
        bound: Bound,
        gone: Set[int],
    ) -> None:
        self._claim, self._place = claim, place_of(claim)
        self._bench, self._s, self._docket = bench, s, docket
        self._bound, self._gone = bound, gone
        self._ignored: dict[bytes, str] = {}
        self._forked = docket.forked_ranks(bench)
        self._barred: set[int] = set()
        self._commits: list[list[Taken]] = [[] for _ in bench.seats]
        self._votes: dict[tuple[int, bytes | None], set[int]] = {}
        self._wild: set[int] = set()
        self._spoke: set[int] = set()

    def seats(self) -> Seats:
        many = frozenset(s.rank for s in self._bench.seats if self._committed(s.key).wild)
        for seat in self._bench.seats:
            if seat.rank not in self._forked:
                self._commits[seat.rank] = self._first(seat.rank, self._committed(seat.key).said)
        self._count_votes()
        for rank in self._forked:
            self._commits[rank] = self._all(rank)
        size, ended = len(self._bench.seats), ""
        settled: list[Taken | None] = []
        held = waits = False
        for rank in range(size):
            values, expired = self._settled(rank)
            if expired:
                ended = SLOT_TAKEN if self._barred else TOO_FEW_LEFT
            waits = waits or not values
            settled.append(values[0] if len(values) == 1 else None)
            held = held or settled[-1] is not None
        if not waits and too_small(size, sum(one is not None for one in settled), self._s):
            ended = SLOT_TAKEN if self._barred else "bench_too_small"
        return Seats(
            seen=tuple(
                one[0].commit if one and not (rank in many and rank in self._forked) else None
                for rank, one in enumerate(self._commits)
            ),
            taken=None if waits else tuple(settled),
            said=frozenset(self._spoke),
            held=held,
            ended=ended,
            barred=frozenset(self._barred),
            talkers=many,
            ignored=self._ignored,
        )

    def _committed(self, key: bytes) -> Words:
        return self._docket.commits.get(key, NOTHING)

    def _fitting(self, rank: int, words: Iterable[Said]) -> list[tuple[bytes, Taken]]:
        """The commits in this place that fit, with the claims that they are for."""
        found: list[tuple[bytes, Taken]] = []
        for one in words:
            said = one.payload
            assert isinstance(said, Commit)
            fits = (said.place, said.rank) == (self._place, rank)
            sigma0 = self._bound(one) if fits else "commit_does_not_fit_the_claim"
            if isinstance(sigma0, str):
                if said.claim == self._claim.id:
                    self._ignored[one.id] = sigma0
                continue
            taken = Taken(one.id, one.seq, said.nonce_hash, said.fold_nonce_hash, sigma0)
            found.append((said.claim, taken))
        return found

    def _first(self, rank: int, words: Iterable[Said]) -> list[Taken]:
        """The commit of a member without a fork, if its first one is for this claim."""
        fitting = self._fitting(rank, words)
        if not fitting:
            return []
        (claim, first), *rest = fitting
        ours = claim == self._claim.id
        if not ours:
            self._barred.add(rank)
        for other, taken in rest:
            if other == self._claim.id:
                self._ignored[taken.commit] = "second_commit" if ours else "sits_for_a_rival"
        return [first] if ours else []

    def _all(self, rank: int) -> list[Taken]:
        """The commits of a member with a fork; of far too many those that others name."""
        words = self._committed(self._bench.seats[rank].key)
        said = words.said
        if words.wild:
            named = {of for at, of in self._votes if at == rank and of}
            said = self._docket.named(words, named)
        found = [taken for claim, taken in self._fitting(rank, said) if claim == self._claim.id]
        self._ignored.update((taken.commit, "second_commit") for taken in found[1:])
        return found

    def _count_votes(self) -> None:
        """Whom those who sit for this claim say they saw."""
        size = len(self._bench.seats)
        for seat in self._bench.seats:
            words = self._docket.seatings.get(seat.key, NOTHING)
            forked = seat.rank in self._forked
            if not words.said or not (forked or self._commits[seat.rank]):
                listed = () if words.wild else words.said
                self._ignored.update((one.id, "seating_without_a_seat") for one in listed)
                continue
            self._spoke.add(seat.rank)
            if forked and words.wild:
                self._wild.add(seat.rank)
                continue
            counted = self._docket.counted(seat.key, words)
            self._ignored.update((one.id, "second_seating") for one in words.said[1:])
            for one in counted:
                assert isinstance(one.payload, Seating)
                commits = one.payload.commits
                if len(commits) != size:
                    self._ignored[one.id] = "seating_does_not_fit_the_bench"
                for rank in range(size):
                    if rank != seat.rank:
                        value = commits[rank] if len(commits) == size else UNSEEN
                        self._votes.setdefault((rank, value), set()).add(seat.rank)

    def _settled(self, rank: int) -> tuple[list[Taken | None], bool]:
        """The value that a seat is settled at, if it is; and whether it never will be."""
        size, s, commits = len(self._bench.seats), self._s, self._commits[rank]
        two_faced, forked = rank in self._forked, self._forked - {rank}
        never = not two_faced and not commits and rank in self._barred
        silent = never or (not two_faced and not commits and rank in self._gone)
        mute = (self._gone | self._barred) - {rank} - self._spoke - forked
        if size == PAIR and not two_faced:
            other = 1 - rank
            if commits and other in self._spoke:
                return [commits[0]], False
            return [], pair_is_stuck(
                s, other_mute=other in mute, silent=silent, other_forked=other in forked
            )
        voices = {value: ranks for (of, value), ranks in self._votes.items() if of == rank}
        if others := self._wild - {rank}:
            for value in {*voices, *(taken.commit for taken in commits), None, UNSEEN}:
                voices[value] = voices.get(value, set()) | others
        values: list[Taken | None] = [
            taken
            for taken in commits
            if len(voices.get(taken.commit, ())) >= enough(size, s, absent=False)
        ]
        if len(voices.get(None, ())) >= enough(size, s, absent=True):
            values.append(None)
        if len(values) > 1:  # more than s have forked
            return [None], False
        if values:
            return values, False
        barred = self._barred - {rank}
        if is_torn(
            size, s, voices, two_faced=two_faced, forked=forked, barred=barred, silent=never
        ):
            return [None], False
        return [], is_stuck(
            size, s, voices, mute, two_faced=two_faced, silent=silent, forked=forked
        )

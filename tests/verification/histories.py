"""Random histories of benches under attack, and what must be final at every point of them.

A history begins somewhere on the honest way of a claim, or of a contradiction of one, and goes on
at random: members act on what they have heard so far, patient or not; two *views* hear records in
any order in which feeds can come, so each half of a bench may see another half of the world.

Who attacks: up to s = max(f, g) members of a bench, and any claimant or author of contradictions,
fork their feeds at any number, and go on in each branch. All other members may lie without a fork,
as often as they like: they say second things of every kind, wrong ones, and nothing at all.

What must hold: whatever a view once had as final (seats, positions, verdicts, ends, levels,
effects, holders of places) it keeps, and so does everybody who has heard all of it.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from swarm.envelope import seal_record
from swarm.feed import prove_equivocation
from swarm.records import (
    Attest,
    Block,
    Claim,
    Commit,
    Contradiction,
    Experiment,
    Open,
    Seal,
    Seating,
)
from tests.verification.small_swarm import TIER, SmallSwarm, digest, measure, no_screen
from verification.admit import place_of
from verification.duty import PairDuty, duties
from verification.quarantine import Quarantine
from verification.retraction import margin_of
from verification.seating import safety
from verification.states import Stage, State

if TYPE_CHECKING:
    from swarm.envelope import Record  # noqa: TC004
    from swarm.keys import KeyPair
    from swarm.records import Payload
    from verification.duty import Duty

BENCHES = (
    (1, 0, 0), (2, 0, 0), (2, 0, 0), (3, 0, 0), (3, 1, 0), (3, 1, 0), (3, 1, 0), (4, 1, 0),
    (5, 1, 1), (5, 2, 0), (5, 0, 1), (7, 3, 1),
)  # fmt: skip
"""(n, f, g) that histories are drawn from."""
GOOD, BAD, NOTHING = measure(30_000_000), measure(-30_000_000), measure(0)
WORDS = (Commit, Seating, Seal, Open, Block, Attest)
CODES = (b"x = 1\n", b"x = 2\n", b"x = 33\n")


@dataclass(frozen=True)
class Scene:
    """An honest way of a claim (or of a contradiction) over its bench, record by record."""

    swarm: SmallSwarm
    first: int
    truth: object


@cache
def scene(bench: tuple[int, int, int], kind: str) -> Scene:
    """``kind``: good, bad, effect (a good one with pairs after it), against, or mortal (lives for
    one epoch).
    """
    n, f, g = bench
    tier = replace(
        TIER,
        n=n,
        f=f,
        g=g,
        max_pairs={1: 6, 2: 4}.get(n, 3),
        noise_nano=1_000_000,
        effect_pairs=2 * (kind == "effect"),
    )
    swarm = SmallSwarm(
        verifiers=2 * n if kind == "against" else n,
        tier=tier,
        sizes={"researchers": 1} | ({"claim_epochs": 0} if kind == "mortal" else {}),
        alpha_milli=500,
        alpha_retract_milli=500,
    )
    first, truth = len(swarm.records), BAD if kind == "bad" else GOOD
    claim = swarm.claim(swarm.researchers[0], CODES[0])
    swarm.run(truth)
    if kind == "against":
        first, truth = len(swarm.records), NOTHING
        state = swarm.quarantine.state().claims[claim.id]
        assert state.stage is Stage.ADOPTED, (bench, state.reason)
        margin = margin_of(state, tier)
        swarm.write(swarm.researchers[1], Contradiction(claim.id, 1, margin, "not here"))
        swarm.run(truth)
    return Scene(swarm, first, truth)


@dataclass
class View:
    """What one half of the swarm has heard, and all that was ever final there."""

    quarantine: Quarantine
    held: set[bytes] = field(default_factory=set)
    waiting: list[Record] = field(default_factory=list)
    final: dict[tuple[object, ...], object] = field(default_factory=dict)

    def hear(self, record: Record) -> None:
        if record.id not in self.held:
            self.held.add(record.id)
            self.quarantine.add(record)

    def can_hear(self, record: Record) -> bool:
        prev = record.envelope.prev
        return prev is None or prev in self.held

    def look(self) -> State:
        """The state now. Raises AssertionError where something that was final is not any more."""
        state = self.quarantine.state()
        check(self.final, state)
        self.final.update(finals(state))
        return state


ENDS = {Stage.ADOPTED, Stage.RETRACTED, Stage.UPHELD, Stage.REJECTED}
UNJUDGED = {Stage.VOID, Stage.REFUSED, Stage.EXPIRED}
"""A claim that ended without a verdict for two reasons may come to be told the other one."""


def finals(state: State) -> dict[tuple[object, ...], object]:
    """All that must stay of a state."""
    found: dict[tuple[object, ...], object] = {}
    for one in state.cases.values():
        if one.stage in UNJUDGED:
            found[one.id, "end"] = "not judged"
        elif one.stage in ENDS or one.stage is Stage.FROZEN:
            adopted = one.verdict is not None and one.verdict.outcome == "adopt"
            if adopted or one.stage is not Stage.FROZEN:
                found[one.id, "end"] = "adopted" if adopted else (one.stage, one.reason)
        if one.stage is Stage.RETRACTED:
            found[one.id, "retracted"] = True
        if one.effect is not None:
            found[one.id, "effect"] = one.effect
        settled = one.settlement
        if settled is None:
            continue
        if settled.seats.held:
            found[one.place, "holder"] = one.id
        if settled.seats.taken is not None and settled.seats.held:
            found[one.id, "seats"] = tuple(seat and seat.commit for seat in settled.seats.taken)
        if one.verdict is not None and one.verdict.outcome != "pending":
            found[one.id, "verdict"] = one.verdict
        for at, item in enumerate((*settled.reproductions, *settled.effects)):
            found[one.id, "position", at] = (item.round, item.rank, item.block, item.committed)
    return found


def check(final: dict[tuple[object, ...], object], state: State) -> None:
    """Whether all that was final still is."""
    now = finals(state)
    for key, value in final.items():
        assert key in now, (key, value, "is gone")
        assert now[key] == value, (key, "was", value, "is", now[key])


class History:
    """One history. ``seed`` says everything about it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.bench = rng.choice(BENCHES)
        kinds = ["good", "good", "bad", "effect", "mortal", "against", "against"]
        self.kind = rng.choice(kinds)
        self.scene = scene(self.bench, self.kind)
        swarm = self.swarm = self.scene.swarm
        start = rng.randint(self.scene.first, len(swarm.records))
        self.records = list(swarm.records[: max(start, self.scene.first + 1)])
        self.tips: dict[bytes, list[Record]] = {}
        for record in self.records:
            self.tips[record.author] = [record]
        self.keys = {key.public: key for key in (*swarm.researchers, *swarm.verifiers)}
        self.views = [View(Quarantine(swarm.swarm, no_screen)) for _ in range(2)]
        self.epoch = 1
        late = rng.randint(0, 4)
        for view in self.views:
            for record in self.records:
                hidden = view is self.views[1] and late and record in self.records[-late:]
                if hidden or not view.can_hear(record):
                    view.waiting.append(record)
                else:
                    view.hear(record)
        self._cast()
        self.seen: Counter[str] = Counter()

    def _cast(self) -> None:
        """Who lies, who forks, and in which half of the world each member lives."""
        rng, cases = self.rng, self.views[0].quarantine.state().cases.values()
        s = safety(self.swarm.tier)
        self.forkers: list[KeyPair] = []
        for case in cases:
            if case.bench is not None and case.bench.seats:
                free = [one.key for one in case.bench.seats]
                there = sum(key.public in free for key in self.forkers)
                most = rng.randint(0, max(0, s - there))
                self.forkers += [self.keys[key] for key in rng.sample(free, most)]
        rest = [key for key in self.swarm.verifiers if key not in self.forkers]
        self.liars = rng.sample(rest, rng.choice([0, 0, 1, len(rest)]))
        self.honest = [key for key in rest if key not in self.liars]
        self.home = {key.public: rng.choice(self.views) for key in self.keys.values()}
        self.speed = rng.choice([0.1, 0.4, 0.8])
        self.patience = rng.choice([0.2, 0.6, 0.9])
        self.silent = rng.sample(self.honest, rng.choice([0, 0, 0, min(1, len(self.honest))]))

    # --- writing -----------------------------------------------------------------------------

    def write(self, key: KeyPair, payload: Payload, instead: Record | None = None) -> Record:
        """Append to a branch of the feed of ``key``, or fork it where it said something else."""
        if instead is not None:
            seq, prev, epoch = instead.envelope.seq, instead.envelope.prev, instead.envelope.epoch
        else:
            tip = self.rng.choice(self.tips[key.public]) if key.public in self.tips else None
            seq, prev = (tip.envelope.seq + 1, tip.id) if tip else (0, None)
            epoch = self.epoch if isinstance(payload, Experiment) else 1
            epoch = max(epoch, tip.envelope.epoch) if tip else epoch
        record = seal_record(
            key, payload, swarm=self.swarm.swarm, seq=seq, prev=prev, epoch=epoch, day=20_000
        )
        if any(record.id == one.id for one in self.records):
            return record
        tips = self.tips.setdefault(key.public, [])
        self.tips[key.public] = [one for one in tips if one.id != prev] + [record]
        self.records.append(record)
        for view in self.views:
            view.waiting.append(record)
        self.spread(self.home[key.public], 1.0, key.public)
        return record

    def spread(self, view: View, share: float, author: bytes | None = None) -> None:
        """Let a view hear some of what it has not: feed by feed without gaps."""
        left: list[Record] = []
        for record in view.waiting:
            wanted = author in (None, record.author) and self.rng.random() < share
            if wanted and view.can_hear(record):
                view.hear(record)
            elif record.id not in view.held:
                left.append(record)
        view.waiting = left

    # --- acting ------------------------------------------------------------------------------

    def duties(self, key: KeyPair, view: View) -> list[Duty]:
        return duties(view.look(), key.public, self.swarm.secret(key))

    def what(self, duty: Duty, key: KeyPair) -> Payload:
        if not isinstance(duty, PairDuty):
            return duty.payload
        if duty.sealed is None:
            return duty.seal(digest("base"), digest("candidate"), True)
        return self.swarm.block(duty, self.scene.truth)  # type: ignore[arg-type]

    def act(self) -> None:
        """One thing that one of them does."""
        rng = self.rng
        for view in self.views:
            if rng.random() < self.speed:
                self.spread(view, rng.choice([0.3, 0.7, 1.0]))
        roll = rng.random()
        if roll < 0.12:
            self._claimant()
        elif roll < 0.3 and self.forkers:
            self._liar(rng.choice(self.forkers), forks=True)
        elif roll < 0.5 and self.liars:
            self._liar(rng.choice(self.liars), forks=False)
        elif roll < 0.54 and self.kind == "mortal":
            self._go_on()
        elif roll < 0.57:
            self._prove()
        elif self.honest:
            self._honest(rng.choice(self.honest))

    def _honest(self, key: KeyPair) -> None:
        if key in self.silent or self.tips.get(key.public, [None])[0] is None:
            pass
        tip = self.tips.get(key.public)
        if key in self.silent or (tip and tip[0].envelope.epoch > 1):
            return
        view = self.home[key.public]
        due = [d for d in self.duties(key, view) if not (isinstance(d, PairDuty) and d.waits)]
        patient = self.rng.random() < self.patience
        due = [d for d in due if not patient or getattr(d, "due", True)]
        if due:
            self.write(key, self.what(self.rng.choice(due), key))

    def _liar(self, key: KeyPair, *, forks: bool) -> None:
        """What it is asked for, bent or not; or something that it or another said, bent."""
        rng = self.rng
        own = [r for r in self.records if r.author == key.public and isinstance(r.payload, WORDS)]
        due: list[Duty] = []
        if rng.random() < 0.3 and (sits := self._for_a_rival(own)):
            self.write(key, sits)
            return
        if rng.random() < 0.6:
            due = self.duties(key, rng.choice(self.views) if forks else self.home[key.public])
            due = [d for d in due if not (isinstance(d, PairDuty) and d.waits)]
        if due:
            payload = self.what(rng.choice(due), key)
            payload = self.bent(payload) if rng.random() < 0.4 else payload
        else:
            said = own or [r for r in self.records if isinstance(r.payload, WORDS)]
            if not said:
                return
            payload = self.bent(rng.choice(said[-8:]).payload)
        if forks and own and rng.random() < 0.5:
            self.write(key, payload, instead=rng.choice(own[-4:]))
            self.seen["bench fork"] += 1
        else:
            self.write(key, payload)
            self.seen["lie"] += 1

    def _for_a_rival(self, own: list[Record]) -> Payload | None:
        """The seat of who sits already, taken for a rival too; then whom it saw there."""
        commits = [r.payload for r in own if isinstance(r.payload, Commit)]
        rivals = [
            r.id
            for r in self.records
            if isinstance(r.payload, Claim | Contradiction)
            and commits
            and place_of(r) == commits[0].place
        ]
        if len(rivals) < 2:
            return None
        rival = self.rng.choice(rivals)
        if all(commit.claim != rival for commit in commits):
            return replace(commits[0], claim=rival)
        sitting: list[bytes | None] = [None] * self.bench[0]
        for record in self.records:
            if isinstance(record.payload, Commit) and record.payload.claim == rival:
                sitting[record.payload.rank] = record.id
        return Seating(rival, tuple(sitting))

    def bent(self, payload: Payload) -> Payload:
        rng = self.rng
        named = [r for r in self.records if isinstance(r.payload, Claim | Contradiction)]
        if isinstance(payload, Commit):
            rival = rng.choice(named).id
            return rng.choice(
                [replace(payload, nonce_hash=digest("regret")), replace(payload, claim=rival)]
            )
        if isinstance(payload, Seating):
            commits = [r.id for r in self.records if isinstance(r.payload, Commit)]
            new = tuple(rng.choice([c, c, c, None, *commits[-2:]]) for c in payload.commits)
            return replace(payload, commits=new)
        if isinstance(payload, Seal):
            return replace(payload, base_weights=digest(f"other {rng.randint(0, 3)}"))
        if isinstance(payload, Open):
            seals = [r.id for r in self.records if isinstance(r.payload, Seal)]
            return rng.choice(
                [replace(payload, fold_nonce=digest("x")), replace(payload, seal=rng.choice(seals))]
            )
        if isinstance(payload, Attest):
            place = payload.round, payload.rank
            blocks = [
                r.id
                for r in self.records
                if isinstance(r.payload, Block) and (r.payload.round, r.payload.rank) == place
            ]
            if rng.random() < 0.5:  # the very thing that it did not say
                return replace(payload, block=None if payload.block else next(iter(blocks), None))
            if rng.random() < 0.2:
                return replace(payload, prefix_digest=digest("another past"))
            return replace(payload, block=rng.choice([None, None, *blocks[-3:]]))
        if isinstance(payload, Block):
            (pair, *_) = payload.pairs
            by = rng.choice([-1, 1]) * 200_000_000
            pair = replace(pair, candidate_nano=pair.candidate_nano - by, d_nano=pair.d_nano + by)
            spoilt = replace(payload, nonce=digest("spoilt"))
            return rng.choice([replace(payload, pairs=(pair,)), spoilt])
        return payload

    def _claimant(self) -> None:
        """Another claim, or contradiction, in a slot that was used, in a fork or not."""
        rng = self.rng
        record = rng.choice(
            [r for r in self.records if isinstance(r.payload, Claim | Contradiction)]
        )
        key, said = self.keys[record.author], record.payload
        if isinstance(said, Claim):
            claims = [r.id for r in self.records if isinstance(r.payload, Claim)]
            code = rng.choice(CODES)
            said = self.swarm.claim_payload(
                code,
                slot=said.slot if rng.random() < 0.8 else rng.randint(0, 3),
                base=rng.choice([None, said.base, *claims]),
                type=rng.choice(["improvement", "improvement", "economy", "simplification"]),
                hypothesis=f"{rng.random()}",
            )
        else:
            slot = said.slot if rng.random() < 0.5 else rng.randint(1, 4)
            said = replace(said, slot=slot, reason=f"{rng.random()}")
        self.write(key, said, instead=record if rng.random() < 0.7 else None)
        self.seen["rival"] += 1

    def _go_on(self) -> None:
        """A later epoch, and members who say something else in it."""
        if self.epoch == 1:
            self.epoch = 2
            for record in next_epoch(self.bench):
                self.records.append(record)
                for view in self.views:
                    view.waiting.append(record)
        said = Experiment("quick", None, digest("ast"), "an idea", "me", "failed", "", (), 1)
        for key in self.swarm.verifiers:
            if self.rng.random() < 0.5:
                self.write(key, said)
        self.seen["epoch"] += 1

    def _prove(self) -> None:
        """Somebody shows both branches of a feed to whom lacks what comes before them."""
        rng, by_place = self.rng, {}
        for record in self.records:
            place = record.author, record.envelope.seq
            if place in by_place and record.author != self.swarm.founder.public:
                if proof := prove_equivocation(by_place[place], record):
                    witness = rng.choice(self.swarm.researchers)
                    if witness.public != record.author:
                        self.write(witness, proof)
                        self.seen["proof"] += 1
                        return
            by_place[place] = record

    # --- the whole ---------------------------------------------------------------------------

    def play(self) -> None:
        """Run it. Raises AssertionError where something that was final did not stay."""
        for _ in range(self.rng.randint(4, 26)):
            self.act()
        for view in self.views:
            view.look()
        left = self.views[0].final.copy()
        for view in self.views:
            while view.waiting:
                before = len(view.waiting)
                self.rng.shuffle(view.waiting)
                self.spread(view, 1.0)
                assert len(view.waiting) < before
            view.look()
        here, there = (view.look() for view in self.views)
        assert here == there
        check(left, there)
        check(self.views[1].final, here)
        self.seen.update(one.stage.value for one in here.cases.values())
        self.seen.update({one.reason for one in here.cases.values()} & {
            "slot_taken", "contradicted_before_in_this_epoch", "bench_too_small",
            "too_few_are_left_to_say_anything",
        })  # fmt: skip


@cache
def next_epoch(bench: tuple[int, int, int]) -> tuple[Record, Record]:
    """The records that open epoch 2 in the mortal scene of ``bench``."""
    swarm = scene(bench, "mortal").swarm
    rules = swarm.quarantine.state().rules
    assert rules is not None
    swarm.open_epoch(2, rules.epochs[1].id)
    first, second = swarm.records[-2:]
    del swarm.records[-2:]
    return first, second


def play(seeds: range) -> Counter[str]:
    """Play histories; how often each thing happened in them. Raises AssertionError, with the seed,
    where one breaks the law.
    """
    seen: Counter[str] = Counter()
    for seed in seeds:
        history = History(seed)
        try:
            history.play()
        except AssertionError as error:
            raise AssertionError(
                f"history {seed} {history.bench} {history.kind}: {error}"
            ) from error
        seen.update(history.seen)
    return seen

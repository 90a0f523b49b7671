"""Where every claim stands: a pure fold from a set of records to one state.

The law: the same records give the same state, in whatever order they arrived, however often, and
whether they were added one by one or all at once. Nothing is remembered that cannot be computed
again; :class:`Quarantine` keeps intermediate results only to save time.

A claim's way: ``received`` (its epoch or its base is not there yet) -> ``screened`` (its diff is
within scope; the bench cannot be filled yet) -> ``assigned`` -> ``committed`` (every seat is taken)
-> ``reproducing`` (a position is settled) -> ``adopted`` or ``rejected``. ``refused``: the screen
stopped it. ``void``: it broke a rule that nothing which arrives later can mend, or its bench sat
down for a rival. ``expired``: it can never be decided any more (``verification.closing``). After
its adoption it can be ``retracted``, and what stands on it ``frozen``
(``verification.retraction``); a contradiction goes the same way as a claim, to ``upheld`` or
``rejected``. ``reason`` says why in every case.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from swarm.charter import Rules, fold_rules
from swarm.envelope import parse
from swarm.feed import proves
from swarm.finality import Statements
from swarm.records import (
    Admission,
    Beacon,
    Calibration,
    Charter,
    Claim,
    Commit,
    Contradiction,
    Epoch,
    Equivocation,
    Rotation,
)
from verification import retraction
from verification.admit import (
    claim_of,
    cost_cap,
    drift,
    family_ancestors,
    inadmissible,
    place_of,
    policy_of,
    scope,
    tolerances,
    unsupported,
)
from verification.budget import Budget
from verification.calibration import Calibrations
from verification.closing import Feeds, last_epoch
from verification.errors import VerificationError
from verification.evidence import level
from verification.filing import Filing
from verification.frontier import frontier
from verification.ledger import Ledger
from verification.progress import progressed
from verification.reproduce import TOO_FEW, Bench, draw_bench
from verification.seating import SLOT_TAKEN, safety, seats_of
from verification.settle import Settlement, settle
from verification.shelf import Word
from verification.states import FAILED, ClaimState, Stage, State
from verification.verdict import Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from swarm.charter import EpochView
    from swarm.envelope import Record
    from swarm.records import TierPolicy
    from verification.docket import Docket
    from verification.seating import Seats
    from verification.shelf import Log

    Screen = Callable[[bytes, bytes, Mapping[str, object]], tuple[str, ...]]


def fold(swarm: bytes, records: Iterable[Record], screen: Screen | None = None) -> State:
    """The state of ``swarm`` (its id) that follows from ``records``."""
    quarantine = Quarantine(swarm, screen)
    for record in records:
        quarantine.add(record)
    return quarantine.state()


class Quarantine:
    """The fold, kept up to date record by record.

    ``screen`` (base code, candidate code, the charter's rules) returns reasons to refuse, none when
    the diff is within scope. ``log`` finds each record that is added by its id, so that those of
    which nothing follows need not be held in memory. ``anchor`` is an epoch that the chain has to
    contain (``swarm.finality``). Not safe to use from several threads at once.
    """

    def __init__(
        self,
        swarm: bytes,
        screen: Screen | None = None,
        log: Log | None = None,
        anchor: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self.swarm = swarm
        self._anchor = anchor
        self._screen = screen or scope
        self._seen: set[bytes] = set()
        self._rule_records: list[Record] = []
        self._statements = Statements()
        self._claims: dict[bytes, Record] = {}
        self._against: dict[bytes, Record] = {}
        self._places: dict[bytes, list[Record]] = {}
        self._feeds = Feeds()
        self._parted: dict[bytes, list[tuple[Record, bool]]] = {}  # behind a gap, by author
        self._ledger = Ledger(log)
        self._filing = Filing(log, self._feeds.forked)
        self._calibrations = Calibrations()
        self._seats: dict[bytes, tuple[frozenset[int], Docket, list[bytes], Seats]] = {}
        self._settlements: dict[bytes, tuple[tuple[Terms, frozenset[int]], Settlement]] = {}
        self._screened: dict[tuple[bytes, bytes], tuple[str, ...]] = {}
        self._rules: Rules | None = None
        self._rules_known = False
        self._known_budget: Budget | None = None
        self._state: State | None = None

    def add(self, record: Record) -> bool:
        """Take in a checked record; False when it changes nothing (known, foreign, other kind)."""
        return self._add(record, logged=True)

    def _add(self, record: Record, *, logged: bool) -> bool:
        foreign = record.envelope.swarm != self.swarm and record.id != self.swarm
        if foreign or record.id in self._seen:
            return False
        self._seen.add(record.id)
        known_liars = len(self._feeds.forked)
        went_on, late = self._feeds.note(record), self._ledger.note(record)
        if went_on or late:
            self._state = None
        told = self._statements.add(record.author, record.envelope.epoch_id)
        if told and self._rules is not None:
            if self._rules.contested:
                self._change_rules()
            elif self._rules.final < self._rules.number:
                self._rules = self._rules.with_statements(self._statements, self._anchor())
                self._state = None
        if len(self._feeds.forked) > known_liars:
            self._forget_settlements()
        changed = self._take(record, logged=logged)
        return self._take_parted(record.author) or changed

    def _take(self, record: Record, *, logged: bool) -> bool:
        """A record whose feed was noted."""
        payload = record.payload
        if isinstance(payload, Equivocation):
            return self._add_both_branches(record, payload)
        if isinstance(payload, Charter | Epoch | Beacon | Admission | Rotation):
            self._rule_records.append(record)
            self._change_rules()
        elif isinstance(payload, Claim):
            self._claims[record.id] = record
            self._places.setdefault(place_of(record), []).append(record)
        elif isinstance(payload, Contradiction) and retraction.opens_a_test(payload):
            self._against[record.id] = record
            self._places.setdefault(place_of(record), []).append(record)
        elif isinstance(payload, Calibration):
            if self._calibrations.add(record):
                self._forget_settlements()
        elif isinstance(payload, Word):
            if not self._feeds.reaches(record.author, record.envelope.seq):
                self._parted.setdefault(record.author, []).append((record, logged))
            elif not self._file(record, payload, logged=logged):
                return True
        else:
            return False
        self._state = None
        return True

    def _change_rules(self) -> None:
        self._rules_known = False
        self._filing.forget_benches()
        self._forget_settlements()

    def _file(self, record: Record, word: Word, *, logged: bool) -> bool:
        if isinstance(word, Commit):
            self._calibrations.note(word)
        changed, told = self._filing.add(record, word, logged=logged)
        for claim in changed:
            self._settlements.pop(claim, None)
            self._seats.pop(claim, None)
        return told

    def _take_parted(self, author: bytes) -> bool:
        """File what was behind a gap that is closed; whether there was any."""
        parted = self._parted.pop(author, None)
        if parted is None:
            return False
        parted.sort(key=lambda item: item[0].envelope.seq)
        left = []
        for record, logged in parted:
            if self._feeds.reaches(author, record.envelope.seq):
                assert isinstance(record.payload, Word)
                self._file(record, record.payload, logged=logged)
                self._state = None
            else:
                left.append((record, logged))
        if left:
            self._parted[author] = left
        return len(left) < len(parted)

    def _forget_settlements(self) -> None:
        self._settlements.clear()
        self._seats.clear()
        self._state = None

    def _add_both_branches(self, record: Record, proof: Equivocation) -> bool:
        """What an author said twice counts on every node alike, whichever branch each one holds."""
        if not proves(proof):
            return False
        branches = (parse(branch) for branch in (proof.first, proof.second))
        added = [self._add(branch, logged=False) for branch in branches]
        return any(added)

    def claim(self, claim: bytes) -> Record | None:
        """The record of a claim, whatever its stage."""
        return self._claims.get(claim)

    def code(self, base: bytes | None) -> bytes | None:
        """The train.py of a claim, or the challenge's own for None; None where it is not known."""
        if base is not None:
            record = self._claims.get(base)
            return claim_of(record).code if record else None
        rules = self._current_rules()
        code = rules.charter.challenge.get("base_code") if rules else None
        return code if isinstance(code, bytes) else None

    def state(self) -> State:
        """The state that follows from all records added so far."""
        if self._state is None:
            self._state = self._fold()
        return self._state

    # --- the fold --------------------------------------------------------------------------

    def _current_rules(self) -> Rules | None:
        if not self._rules_known:
            self._rules = fold_rules(self._rule_records, self._statements, self._anchor())
            self._rules_known = True
            self._known_budget = Budget.of(self._rules, self._ledger) if self._rules else None
        return self._rules

    @property
    def _budget(self) -> Budget:
        assert self._known_budget is not None
        return self._known_budget

    def _fold(self) -> State:
        rules = self._current_rules()
        if rules is None:
            return State(None)
        holders = self._holders(rules, self._claims, {})
        children: dict[bytes | None, list[Record]] = {}
        for record in self._claims.values():
            children.setdefault(claim_of(record).base, []).append(record)
        judged: dict[bytes, ClaimState] = {}
        ready = list(children.get(None, []))
        while ready:
            record = ready.pop()
            judged[record.id] = self._judge(rules, record, judged, holders)
            ready += children.get(record.id, [])
        for record in self._claims.values():
            if record.id not in judged:
                judged[record.id] = replace(_fresh(record), reason="base_unknown")
        claims, against = retraction.overlaid(judged, self._contradictions(rules, judged))
        parted = (record.id for parted in self._parted.values() for record, _ in parted)
        ignored = self._filing.ignored({**claims, **against}, parted)
        forked = frozenset(self._feeds.forked)
        return State(rules, claims, frontier(rules, claims), ignored, against, forked)

    def _holders(
        self, rules: Rules, records: Mapping[bytes, Record], states: Mapping[bytes, ClaimState]
    ) -> dict[bytes, bytes]:
        """Of each place with rivals among ``records`` the one that its bench sat down for, if any.

        ``states``: the claims that contradictions are against. Nothing else that a rival is judged
        by matters, so that it is the same whatever else has arrived.
        """
        found: dict[bytes, bytes] = {}
        for place, rivals in self._places.items():
            if len(rivals) < 2 or rivals[0].id not in records:
                continue
            for record in sorted(rivals, key=lambda one: (one.envelope.seq, one.id)):
                drawn = self._bench(rules, record, states)
                if drawn is not None and not drawn[0].waiting:
                    if self._seats_of(rules, record, *drawn)[-1].held:
                        found[place] = record.id
                        break
        return found

    def _bench(
        self, rules: Rules, record: Record, states: Mapping[bytes, ClaimState]
    ) -> tuple[Bench, TierPolicy] | None:
        """The bench of a record and the policy it works by, None where none can be drawn."""
        epoch, said = rules.names(record), record.payload
        target = states.get(said.target) if isinstance(said, Contradiction) else None
        tier = said.tier if isinstance(said, Claim) else target.tier if target else ""
        policy = policy_of(rules, tier)
        if epoch is None or policy is None or record.author not in epoch.roster:
            return None
        if unsupported(rules, policy):
            return None
        bench = self._filing.bench(record.id)
        if bench is not None:
            return bench, policy
        if isinstance(said, Claim):
            bench = draw_bench(epoch, record.author, said.slot, tier, policy.n)
        elif target is None or target.bench is None:
            return None
        else:
            bench = retraction.fresh_bench(rules, epoch, record.author, target, policy.n)
        self._filing.draw(record.id, place_of(record), bench)
        return bench, policy

    def _judge(
        self,
        rules: Rules,
        record: Record,
        states: Mapping[bytes, ClaimState],
        holders: Mapping[bytes, bytes],
    ) -> ClaimState:
        """A claim whose base has been judged before it."""
        fresh = _fresh(record)
        epoch = rules.names(record)
        if epoch is None:
            return replace(fresh, reason="epoch_unknown")
        member = epoch.roster.get(fresh.author)
        policy = policy_of(rules, fresh.tier)
        fault = inadmissible(rules, record, epoch, member, policy)
        if fault or member is None or policy is None:
            return replace(fresh, stage=Stage.VOID, reason=fault)
        taken = holders.get(fresh.place, fresh.id) != fresh.id
        base = states[fresh.base] if fresh.base is not None else None
        if base is not None:
            if base.tier != fresh.tier:
                return replace(fresh, stage=Stage.VOID, reason="base_of_another_tier")
            if base.stage is not Stage.ADOPTED:
                if base.stage in FAILED:
                    return replace(fresh, stage=Stage.VOID, reason="base_not_adopted")
                if taken:
                    return replace(fresh, stage=Stage.VOID, reason=SLOT_TAKEN)
                return replace(fresh, reason="base_undecided")
            fresh = replace(fresh, depth=base.depth + 1)
        try:
            reasons = self._refusals(rules, record, policy, states)
        except VerificationError:
            return replace(fresh, reason="charter_rules_not_readable")
        if reasons:
            return replace(fresh, stage=Stage.REFUSED, reason="; ".join(reasons))
        if taken:
            return replace(fresh, stage=Stage.VOID, reason=SLOT_TAKEN)
        return self._try(rules, record, fresh, epoch, policy, states)

    def _refusals(
        self,
        rules: Rules,
        record: Record,
        policy: TierPolicy,
        states: Mapping[bytes, ClaimState],
    ) -> tuple[str, ...]:
        """Why the diff is out of scope, or not what its kind of claim says."""
        claim = claim_of(record)
        base, genesis = self.code(claim.base), self.code(None)
        if base is None or genesis is None:
            return ("charter_without_base_code",)
        key = (hashlib.sha256(base).digest(), claim.code_hash)
        if key not in self._screened:
            reasons = self._screen(base, claim.code, rules.charter.screen)
            if not reasons and drift(genesis, claim.code) > rules.charter.max_diff_bytes:
                reasons = ("too_far_from_genesis",)
            self._screened[key] = reasons
        reasons = self._screened[key]
        if claim.type == "simplification" and len(claim.code) >= len(base):
            reasons = (*reasons, "not_smaller_than_its_base")
        if tolerances(_fresh(record), states) * policy.tolerance_nano > policy.tolerance_total_nano:
            reasons = (*reasons, "tolerance_spent")
        return reasons

    def _try(
        self,
        rules: Rules,
        record: Record,
        state: ClaimState,
        epoch: EpochView,
        policy: TierPolicy,
        states: Mapping[bytes, ClaimState],
    ) -> ClaimState:
        """From the bench to the verdict."""
        number = self._budget.number(state.id, state.author)
        if number is None:
            return replace(state, reason="part_of_its_feed_is_missing")
        r_ids = family_ancestors(state, states)
        alpha = Fraction(rules.charter.alpha_milli, 1000)
        weight = self._budget.weight(epoch, state.author, number)
        at_level = level(alpha, weight, 1, len(r_ids))
        state = replace(state, stage=Stage.SCREENED, number=number, r_ids=r_ids, level=at_level)
        if fault := unsupported(rules, policy):
            return replace(state, reason=fault)
        drawn = self._bench(rules, record, states)
        assert drawn is not None
        return self._before_the_bench(rules, record, state, *drawn)

    def _contradictions(
        self, rules: Rules, states: Mapping[bytes, ClaimState]
    ) -> dict[bytes, ClaimState]:
        """The contradictions of claims, once every claim has been judged for itself."""
        holders = self._holders(rules, self._against, states)
        found: dict[bytes, ClaimState] = {}
        for record in self._against.values():
            target = states.get(retraction.contradiction_of(record).target)
            holder = holders.get(place_of(record))
            state = retraction.admitted(rules, record, target, holder, self._budget)
            if state.stage is Stage.SCREENED:
                state = self._contradiction(rules, record, state, states)
            found[record.id] = state
        return found

    def _contradiction(
        self, rules: Rules, record: Record, state: ClaimState, states: Mapping[bytes, ClaimState]
    ) -> ClaimState:
        drawn = self._bench(rules, record, states)
        assert drawn is not None
        bench, policy = drawn[0], replace(drawn[1], effect_pairs=0)
        margin = retraction.contradiction_of(record).margin_nano
        return self._before_the_bench(rules, record, state, bench, policy, margin)

    def _before_the_bench(
        self,
        rules: Rules,
        record: Record,
        state: ClaimState,
        bench: Bench,
        policy: TierPolicy,
        margin_nano: int = 0,
    ) -> ClaimState:
        """From the bench to the verdict, of a claim or of a contradiction."""
        state = replace(state, bench=bench)
        if bench.waiting:
            for_good = bench.waiting.startswith(TOO_FEW)
            stage = Stage.EXPIRED if for_good else state.stage
            return replace(state, stage=stage, reason=bench.waiting)
        assert state.level is not None
        max_cost = cost_cap(rules, state.tier)
        assert max_cost is not None
        terms = Terms(state.id, state.kind, policy, max_cost, state.level, margin_nano=margin_nano)
        settlement = self._settle(rules, record, bench, terms)
        approval = bool(rules.charter.approval_rules)
        return progressed(state, settlement, policy.f, approval=approval)

    def _seats_of(
        self, rules: Rules, record: Record, bench: Bench, policy: TierPolicy
    ) -> tuple[frozenset[int], Docket, list[bytes], Seats]:
        """Who of a bench says nothing about ``record`` any more; what was said of it in time, and
        what too late; and who sits.
        """
        last = last_epoch(rules, record.envelope.epoch)
        gone = frozenset(seat.rank for seat in bench.seats if self._feeds.epoch(seat.key) > last)
        known = self._seats.get(record.id)
        if known is not None and known[0] == gone:
            return known
        docket, late = self._filing.of(record.id).until(last)
        bound = partial(self._calibrations.bound, policy)
        seats = seats_of(record, bench, safety(policy), docket, bound, gone)
        self._seats[record.id] = gone, docket, late, seats
        return self._seats[record.id]

    def _settle(self, rules: Rules, record: Record, bench: Bench, terms: Terms) -> Settlement:
        gone, docket, late, seats = self._seats_of(rules, record, bench, terms.policy)
        known = self._settlements.get(record.id)
        if known is not None and known[0] == (terms, gone):
            return known[1]
        epoch = rules.epochs[record.envelope.epoch]
        settlement = settle(epoch, bench, terms, docket, seats, gone)
        settlement.ignored.update((id_, "after_the_last_epoch_of_its_claim") for id_ in late)
        self._settlements[record.id] = ((terms, gone), settlement)
        return settlement


def _fresh(record: Record) -> ClaimState:
    claim = claim_of(record)
    return ClaimState(
        id=record.id,
        author=record.author,
        epoch=record.envelope.epoch,
        tier=claim.tier,
        kind=claim.type,
        slot=claim.slot,
        base=claim.base,
        code=claim.code_hash,
        place=place_of(record),
        seq=record.envelope.seq,
    )

"""Re-check a discovery from signed bytes alone, trusting nobody in the swarm.

Given the swarm's id, a claim's id and records as they were signed, in any order, :func:`audit`
works everything out again: canonical bytes, signatures, feeds, who had authority, the code, the
base chain down to genesis, the bench, every reproduction, the e-value, the level, the verdict, and
what nodes said about it. It stores nothing, asks nobody, and imports neither torch nor libp2p.

Each check ends as PASS, FAIL or NOT CHECKED. The exit code of a report is 0 when all pass, 4 when
one fails (something was changed, or somebody said what does not follow), 5 when something is
missing. What an audit cannot show is listed as ``limits``, in every report.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from swarm.charter import Rules, check_charter
from swarm.envelope import parse
from swarm.errors import CharterError, SwarmError
from swarm.keys import peer_id
from swarm.records import Adoption, Claim, Contradiction, Retraction, Rotation
from verification.findings import AuditReport, Check, Outcome, printable
from verification.quarantine import Quarantine
from verification.rechecks import disputes
from verification.statements import agrees, retracts
from verification.states import CLOSED, ClaimState, Stage
from verification.verdict import noise_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from swarm.envelope import Record
    from verification.quarantine import Screen
    from verification.states import State


def audit(
    swarm: bytes,
    claim: bytes,
    signed: Iterable[bytes],
    blobs: Mapping[bytes, bytes] | None = None,
    *,
    screen: Screen | None = None,
) -> AuditReport:
    """Audit ``claim`` (id of the claim or of an adoption of it) of ``swarm`` from ``signed`` bytes.

    ``blobs`` maps sha256 to content, for content that records name; each one given is re-hashed.
    Never raises for what is in the bytes: whatever is wrong with them is a check that failed.
    """
    work = _Audit(swarm, claim, screen)
    work.read(signed, blobs or {})
    return work.report()


class _Audit:
    def __init__(self, swarm: bytes, claim: bytes, screen: Screen | None) -> None:
        self.swarm = swarm
        self.claim = claim
        self.checks: list[Check] = []
        self.records: dict[bytes, Record] = {}
        self.foreign = 0
        self.liars: tuple[str, ...] = ()
        self.forked: set[str] = set()
        self.quarantine = Quarantine(swarm, screen)

    def note(self, name: str, fault: str, passed: str, missing: str = "") -> None:
        """Record a check: FAIL with a fault, NOT CHECKED with something missing, else PASS."""
        outcome = Outcome.FAIL if fault else Outcome.NOT_CHECKED if missing else Outcome.PASS
        self.checks.append(Check(name, outcome, fault or missing or passed))

    # --- bytes -------------------------------------------------------------------------------

    def read(self, signed: Iterable[bytes], blobs: Mapping[bytes, bytes]) -> None:
        """Parse and verify every record and blob."""
        bad: list[str] = []
        count = 0
        for count, data in enumerate(signed, 1):
            try:
                record = parse(data)
            except SwarmError as error:
                bad.append(f"record {count} of the input: {error}")
                continue
            if record.envelope.swarm == self.swarm or record.id == self.swarm:
                self.records[record.id] = record
                self.quarantine.add(record)
            else:
                self.foreign += 1
        held = f"{len(self.records)} records: canonical bytes, known fields, valid signatures"
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        missing = "" if self.records else "no record of this swarm was given"
        self.note("bytes and signatures", bad[0] + more if bad else "", held, missing)
        wrong = [name.hex() for name, data in blobs.items() if _sha256(data) != name]
        if blobs:
            said = f"{len(blobs)} blobs match their hashes"
            self.note("blobs", f"content changed: {wrong[0]}" if wrong else "", said)

    def feeds(self) -> None:
        """Each author's records form one chain from number 0 on.

        An author who said two things is named; it fails nothing, or any member could discredit a
        true discovery. Whether its words still settle something is for the bench's rule of g.
        """
        by_place: dict[tuple[bytes, int], list[Record]] = {}
        for record in self.records.values():
            by_place.setdefault((record.author, record.envelope.seq), []).append(record)
        fault = missing = ""
        for (author, seq), records in sorted(by_place.items()):
            name = f"number {seq} of {peer_id(author)}"
            if len(records) > 1:
                self.forked.add(peer_id(author))
            before = by_place.get((author, seq - 1), [])
            if seq and not before:
                missing = f"{name}: the record before it is not here"
                continue
            for record in records if seq else ():
                fault = _does_not_follow(record, before) or fault
                if fault.startswith("it "):
                    fault = f"{name}: {fault}"
        authors = len({author for author, _ in by_place})
        forks = f", {len(self.forked)} with a fork" if self.forked else " or a fork"
        self.note("feeds", fault, f"{authors} feeds without a gap{forks}", missing)

    # --- authority -----------------------------------------------------------------------------

    def charter(self, rules: Rules | None) -> bool:
        """The charter is the swarm's genesis and keeps the rules that bind charters."""
        if rules is None or rules.swarm != self.swarm:
            self.note("charter", "", "", "the charter that the swarm's id names is not here")
            return False
        fault = ""
        try:
            check_charter(rules.charter)
        except CharterError as error:
            fault = str(error)
        base, named = (rules.charter.challenge.get(key) for key in ("base_code", "base_sha256"))
        if not fault and (not isinstance(base, bytes) or _sha256(base) != named):
            fault = "the challenge's base code does not match its hash"
        governors = len(rules.charter.governors)
        self.note(
            "charter", fault, f"signed by the founder; {rules.charter.k} of {governors} govern"
        )
        return True

    def epoch(self, rules: Rules, state: ClaimState) -> None:
        """The claim's epoch has the governors' signatures, and its beacon is open."""
        view = rules.epochs.get(state.epoch)
        fault = "two conflicting epochs are signed" if rules.frozen else ""
        if view is None:
            self.note("epoch", fault, "", f"epoch {state.epoch} is not here, or not authorised")
            return
        missing = "" if view.beacon is not None else "its beacon is not revealed"
        said = f"epoch {view.number}: {len(view.roster)} members, signed by the governors"
        self.note("epoch", fault, said, missing)

    # --- the claim -----------------------------------------------------------------------------

    def chain(self, states: Mapping[bytes, ClaimState], state: ClaimState) -> None:
        """Code and standing of everything that the claim builds on."""
        fault = missing = ""
        bases = 0
        step: ClaimState | None = state
        while step is not None:
            payload = self.records[step.id].payload
            if not isinstance(payload, Claim) or _sha256(payload.code) != payload.code_hash:
                fault = f"the code of {step.id.hex()} does not match its hash"
            if step is not state:
                bases += 1
                if step.stage is not Stage.ADOPTED:
                    missing = f"its base {step.id.hex()} stands as {step.stage}: {step.reason}"
            below = states.get(step.footing) if step.footing is not None else None
            if step.footing is not None and below is None:
                missing = f"its base {step.footing.hex()} is not here"
            step = below
        said = f"code matches its hash; {bases} adopted claims below it, down to genesis"
        self.note("code and base chain", fault, said, missing)

    def reproductions(self, state: ClaimState) -> None:
        """Bench, commits, seals and blocks, as far as the claim came."""
        if state.bench is None or state.settlement is None:
            why = state.reason or "it was not judged"
            closed = state.stage in (Stage.VOID, Stage.REFUSED)
            said = f"none were due: {why}"
            self.note("reproductions", "", said, "" if closed else f"{state.stage}: {why}")
            return
        settled = state.settlement
        positions = (*settled.reproductions, *settled.effects)
        absent = sum(one.block is None for one in positions)
        said = (
            f"{len(positions)} positions ({absent} absent) of {len(state.bench.seats)} verifiers "
            "drawn by hash: commits, nonces, seals, folds and turns fit, and the bench agrees on "
            f"each; {len(settled.ignored)} other records ignored"
        )
        self.note("reproductions", "", said)

    def decision(self, state: ClaimState) -> None:
        """The verdict that follows, and whether what nodes signed agrees with it."""
        open_ = state.stage not in CLOSED
        verdict = state.verdict
        if verdict is not None and state.level is not None:
            level = f"{state.level.numerator}/{state.level.denominator}"
            said = f"E = {_short(verdict.e_value)} after {verdict.pairs} pairs at level {level}"
            self.note("evidence", "", said)
        missing = f"not decided yet ({state.stage}: {state.reason}); what is here checks out"
        self.note("verdict", "", f"{state.stage}: {state.reason}", missing if open_ else "")
        self.statements(state, open_)

    def statements(self, state: ClaimState, undecided: bool) -> None:
        """Every adoption that a node signed states what follows from the records."""
        said = [
            record
            for record in self.records.values()
            if isinstance(record.payload, Adoption) and record.payload.claim == state.id
        ]
        wrong = [record for record in said if not agrees(record.payload, state)]
        if wrong and not undecided:  # a liar's word takes nothing from evidence that holds
            self.liars = tuple(sorted({peer_id(record.author) for record in wrong}))
            said = [record for record in said if record not in wrong]
        adopted = state.verdict is not None and state.verdict.outcome == "adopt"
        passed = (
            f"{len(said)} nodes signed this adoption" if adopted else "nobody says it is adopted"
        )
        missing = ""
        if wrong and undecided:
            missing = "adoptions were signed, but the records that they rest on are not here"
        elif adopted and not said:
            missing = "no node's adoption record is here"
        self.note("adoptions", "", passed, missing)

    def contradicted(self, state: State, subject: ClaimState) -> None:
        """The tests of an adopted claim after its adoption, and what nodes signed of them."""
        tests = [one for one in state.contradictions.values() if one.target == subject.id]
        if not tests:
            return
        counts = Counter(one.stage.value for one in tests)
        said = ", ".join(f"{count} {stage}" for stage, count in sorted(counts.items()))
        benches = [one.settlement for one in tests if one.settlement]
        pairs = sum(len(one.reproductions) for one in benches)
        self.note("contradictions", "", f"{said}; {pairs} positions of fresh benches fit")
        upheld = state.contradictions.get(subject.retracted_by or b"")
        signed = [
            record
            for record in self.records.values()
            if isinstance(record.payload, Retraction) and record.payload.target == subject.id
        ]
        right = [one for one in signed if upheld and retracts(one.payload, upheld)]
        if upheld is None and not signed:
            return
        wrong = {peer_id(one.author) for one in signed if one not in right}
        more = f"; {len(wrong)} members signed one that does not follow" if wrong else ""
        missing = "" if right or upheld is None else "no node's retraction record is here"
        self.note("retraction", "", f"{len(right)} nodes signed this retraction{more}", missing)

    # --- report --------------------------------------------------------------------------------

    def report(self) -> AuditReport:
        """Run all checks on what was read."""
        self.feeds()
        state = self.quarantine.state()
        subject = self._subject(state)
        if self.charter(state.rules) and state.rules is not None:
            if subject is None:
                self.note("claim", "", "", f"no claim {self.claim.hex()} is here")
            else:
                self.epoch(state.rules, subject)
                self.chain(state.claims, subject)
                self.reproductions(subject)
                self.decision(subject)
                self.contradicted(state, subject)
                if state.rules.charter.approval_rules:
                    self.note("approvals", "", "", "this version does not count approvals")
        return AuditReport(
            swarm=self.swarm,
            claim=subject.id if subject else self.claim,
            verdict=f"{subject.stage}: {subject.reason}" if subject else "unknown",
            checks=tuple(self.checks),
            facts=self._facts(subject, state) if subject else {},
            limits=self._limits(subject),
        )

    def _subject(self, state: State) -> ClaimState | None:
        named = self.records.get(self.claim)
        payload = named.payload if named is not None else None
        if isinstance(payload, Adoption):
            return state.claims.get(payload.claim)
        if isinstance(payload, Contradiction | Retraction):
            return state.claims.get(payload.target)
        return state.claims.get(self.claim)

    def _facts(self, subject: ClaimState, state: State) -> dict[str, Any]:
        claim = self.records[subject.id].payload
        assert isinstance(claim, Claim)
        facts: dict[str, Any] = {
            "author": peer_id(subject.author),
            "signed_an_adoption_that_does_not_follow": list(self.liars),
            "said_two_things_with_one_number": sorted(self.forked),
            "proposer": printable(claim.proposer),
            "hypothesis": printable(claim.hypothesis),
            "tier": subject.tier,
            "kind": subject.kind,
            "epoch": subject.epoch,
            "slot": subject.slot,
            "code_sha256": claim.code_hash.hex(),
            "base": subject.base.hex() if subject.base else "genesis",
        }
        if subject.bench is not None:
            facts["verifiers"] = [peer_id(seat.key) for seat in subject.bench.seats]
        if subject.verdict is not None:
            facts["e_value"] = subject.verdict.e_value
            facts["level"] = str(subject.verdict.level)
            facts["pairs"] = subject.verdict.pairs
            facts["lost_pairs"] = subject.verdict.lost
            facts["mean_gain_nano_bpb"] = subject.verdict.mean_nano
            if effect := subject.effect:
                facts["effect_nano_bpb"] = effect.mean_nano
                facts["effect_interval_nano_bpb"] = [effect.low_nano, effect.high_nano]
                facts["effect_pairs"] = effect.pairs
            facts["positions_digest"] = subject.verdict.positions_digest.hex()
        facts["contradictions_that_change_no_verdict"] = [
            f"position {one.round}.{one.rank} of {peer_id(one.member)} by {peer_id(one.by)}: off "
            f"by {one.margin_nano} nano-bits per byte ({printable(one.reason)})"
            for one in disputes(state, self.records.values())
            if one.claim == subject.id
        ]
        facts["contradicted"] = [
            f"{one.id.hex()} by {peer_id(one.author)}: {one.stage} ({one.reason})"
            + (f", E = {_short(one.verdict.e_value)}" if one.verdict else "")
            + (f" at level {one.level}" if one.level is not None else "")
            for one in sorted(state.contradictions.values(), key=lambda one: one.id)
            if one.target == subject.id
        ]
        if subject.retracted_by:
            facts["retracted_by"] = subject.retracted_by.hex()
        facts["built_upon_by"] = sorted(
            one.id.hex() for one in state.claims.values() if one.base == subject.id
        )
        return facts

    def _limits(self, subject: ClaimState | None) -> tuple[str, ...]:
        limits = [
            "records that were withheld from whoever gave these: a feed is whole as far as it goes",
            "that the measurements were made as reported: nothing was trained or scored again "
            "(lazaretto recheck scores the sealed weights again, where somebody still has them)",
        ]
        if subject is not None and subject.verdict is not None:
            limits.insert(0, f"honest verifiers: this verdict {subject.verdict.trust}")
            limits.append(noise_note(subject.kind))
        if self.foreign:
            limits.append(f"{self.foreign} records of other swarms, passed over")
        return tuple(limits)


def _does_not_follow(record: Record, before: Sequence[Record]) -> str:
    """Why a record does not follow any of those one number earlier; empty when it does."""
    followed = next((one for one in before if one.id == record.envelope.prev), None)
    if followed is None:
        return "it does not follow the record before it"
    if record.envelope.epoch < followed.envelope.epoch:
        return "it goes back to an earlier epoch"
    if isinstance(followed.payload, Rotation):
        return "it follows the handover of its key"
    return ""


def _short(number: str) -> str:
    return number if len(number) <= 12 else f"{float(number):.6g}"


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

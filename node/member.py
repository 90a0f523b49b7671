"""One member while it runs: its log, the state folded from it, and what it says of itself.

Every record heard, our own included, goes into the quarantine's fold; work loops look at the folded
state and wait for it to change. Nothing else is remembered, so a node that was killed looks at its
log and goes on.

What is adopted follows from the records, on every node alike. Those who answer for it sign that it
did: who claimed it, who sits on its bench, and who makes a claim on top of it. Ten thousand
signatures under each discovery would say no more, and be nine tenths of all that a large swarm
sends.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import trio

from node.hearsay import Hearsay
from node.journal import Journal
from node.lanes import Lane, Lanes, first_executor
from node.limits import lent_memory
from node.retracting import sign_retraction
from node.state import RunningState, Sensed, write_state
from swarm.blobs import BlobStore
from swarm.errors import SwarmError
from swarm.keys import KeyPair, peer_id
from swarm.log import SwarmLog
from swarm.records import Adoption, Claim, Position
from verification.quarantine import Quarantine
from verification.states import CLOSED, ClaimState, Stage, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from node.data import Data
    from node.network import Network
    from node.settings import Home, Settings
    from swarm.envelope import Record
    from swarm.records import TierPolicy
    from swarm.store import Store
    from training.challenge import TierSpec
    from training.executor import Executor


STATE_SECONDS = 1.0


class Node:
    """One member while it runs. ``state`` is the latest fold; ``changed`` fires when it is new.

    ``lane_of``: where the first half of a pair that is not published ran, by its name in ``work/``.
    ``calibrations``: for each tier the id of this node's calibration on this machine as it is.
    ``peers`` tells the keys of those that the node is connected to; ``fetch`` brings a blob here
    from one of them (sha256, largest size in bytes, who should have it), None without a network.
    """

    def __init__(self, home: Home, settings: Settings, key: KeyPair, store: Store) -> None:
        self.home = home
        self.settings = settings
        self.key = key
        self.journal = Journal(home.journal)
        self.blobs = BlobStore(home.blobs, max_total=settings.limits.blob_gib * 1024**3)
        self.log = SwarmLog(store, key, self._hear)
        self.quarantine = Quarantine(store.swarm, log=store.get, anchor=lambda: store.anchor)
        self.hearsay = Hearsay(key.public, settings.operator)
        self.state = State(None)
        self.changed = trio.Event()
        self.data: Data | None = None
        self.calibrations: dict[str, bytes] = {}
        self.peers: Callable[[], Iterable[bytes]] = tuple
        self.fetch: Callable[[bytes, int, bytes], Awaitable[Path]] | None = None
        self.sensed: Sensed | None = None
        self.activity = "starting"
        self.kept = ""  # what research keeps at home, in words
        self.why = ""  # for what reason this is done and nothing else; see node.agenda
        self.researching = True  # False while there is nothing to try
        self.finishing = False  # nothing new is begun
        self.ending = ""  # what a node that finishes waits for; shown in place of its activity
        self._at_hand: list[str] = []
        self._logged = (record for _, record in store.records())  # read once, while it is folded
        self._heard: list[Record] = []
        self._wake = trio.Event()
        self._wake.set()
        self._heard_count = 1  # the log
        self._folded_count = 0
        self._folding = trio.Lock()  # whoever touches the quarantine
        self._lanes: dict[str, Lanes] = {}
        self._named: Lanes | None = None
        self.lane_of: dict[str, Lane] = {}
        self._told: dict[bytes, str] = {}
        self._signed: set[tuple[bytes, Stage]] = set()  # adoptions and retractions of ours
        self._started = time.time()

    @property
    def swarm(self) -> bytes:
        """The 32-byte swarm id."""
        return self.log.store.swarm

    @property
    def epoch(self) -> int:
        """The number of the current epoch, 0 before the first."""
        rules = self.log.store.rules
        return rules.current.number if rules and rules.current else 0

    def has_role(self, role: str) -> bool:
        """Whether the current roster gives this node ``role``."""
        rules = self.log.store.rules
        member = rules.member(self.epoch, self.key.public) if rules else None
        return member is not None and role in member.roles

    def use_lanes(self, lanes: Sequence[Lane]) -> None:
        """Run experiments on these lanes only; before any loop starts. None: wherever is room."""
        self._named = Lanes(lanes) if lanes else None

    def lane(
        self, tier: str, *, bench: bool, wanted: Lane | None = None
    ) -> AbstractAsyncContextManager[Lane]:
        """A lane for one run of ``tier``, waited for by the rule of :mod:`node.lanes`."""
        assert self.data is not None
        spec = self.data.challenge.tier(tier)
        lanes = self._named or self._lanes.get(tier)
        if lanes is None:
            lanes = self._lanes[tier] = Lanes.anywhere(self.settings.limits, spec.threads)
        return lanes.take(spec, bench=bench, wanted=wanted)

    def lanes_for(self, tier: str) -> Sequence[Lane | None]:
        """A line of research for each lane that fits; one, bound to none, where none is named."""
        assert self.data is not None
        named = self._named.fitting(self.data.challenge.tier(tier)) if self._named else []
        return named or [None]

    def executor(self, tier: str) -> Executor:
        """For a moment's work beside the loops: it takes turns with what runs on a lane."""
        assert self.data is not None
        lanes = self._named.lanes if self._named else ()
        return first_executor(lanes, self.data.challenge.tier(tier))

    @property
    def side_by_side(self) -> int:
        """How many pairs of benches this node works on at a time."""
        return len(self._named.lanes) if self._named else 1

    def tier(self, name: str) -> TierSpec:
        """The measuring half of a tier, with no more memory than is lent here."""
        assert self.data is not None
        lanes = len(self._named.lanes) if self._named else 0
        return lent_memory(self.data.challenge.tier(name), self.settings.limits, lanes)

    def is_short_of_memory(self, tier: str, status: str) -> bool:
        """Whether a run that ended with ``status`` may have done so for the memory lent here."""
        assert self.data is not None
        return status == "memory" and self.tier(tier) != self.data.challenge.tier(tier)

    def policy(self, tier: str) -> TierPolicy:
        """The deciding half of a tier."""
        rules = self.state.rules
        assert rules is not None
        return next(policy for policy in rules.charter.tiers if policy.name == tier)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Something is at hand while the block lasts; a node that finishes waits for it."""
        self._at_hand.append(what)
        try:
            yield
        finally:
            self._at_hand.remove(what)
            self.wake()

    def may_begin(self) -> bool:
        """Whether new work may be begun: not once the node is told to finish."""
        return not self.finishing

    @property
    def at_hand(self) -> tuple[str, ...]:
        """What is at hand now, beside pairs for benches."""
        return tuple(dict.fromkeys(self._at_hand))  # on several lanes, some of it twice

    def wake(self) -> None:
        """Let every loop look again, as after a change of the state."""
        fired, self.changed = self.changed, trio.Event()
        fired.set()

    # --- the fold ----------------------------------------------------------------------------

    def _hear(self, records: list[Record]) -> None:
        self._heard += records
        self._heard_count += len(records)
        self._wake.set()

    async def caught_up(self) -> State:
        """The state after everything heard before this call."""
        heard = self._heard_count
        while self._folded_count < heard:
            await self.changed.wait()
        return self.state

    async def keep_folding(self) -> None:
        """Fold what is heard, act on decisions, wake the loops. Runs as long as the node."""
        while True:
            await self._wake.wait()
            await self.fold_heard()
            await self._act_on_decisions()

    async def fold_heard(self) -> None:
        """Fold what is heard so far, once."""
        self._wake = trio.Event()
        async with self._folding:
            heard, self._heard, count = self._heard, [], self._heard_count
            self.state = await trio.to_thread.run_sync(self._fold, chain(self._logged, heard))
            self._folded_count = count
        self.wake()

    def _fold(self, heard: Iterable[Record]) -> State:
        rules = self.log.store.rules
        for record in heard:
            self.quarantine.add(record)
            line = rules.member(record.envelope.epoch, record.author) if rules else None
            if line is not None:
                self.hearsay.hear(record, line.operator)
        return self.quarantine.state()

    async def code_of(self, claim: bytes | None) -> bytes:
        """The train.py of an adopted claim, or the challenge's own for None."""
        async with self._folding:
            code = self.quarantine.code(claim)
        if code is None:
            raise SwarmError("the code of the base is not held yet", cure="wait for the next sync")
        return code

    async def claim_record(self, claim: bytes) -> Claim:
        """The payload of a claim in the state."""
        async with self._folding:
            record = self.quarantine.claim(claim)
        assert record is not None
        assert isinstance(record.payload, Claim)
        return record.payload

    async def _act_on_decisions(self) -> None:
        """Write down what is new; sign the adoptions that are ours to sign, and retractions."""
        own = self.key.public
        used = {claim.base for claim in self.state.claims.values() if claim.author == own}
        for claim in list(self.state.cases.values()):
            if claim.target is not None:
                self._tell_contradiction(claim)
                continue
            if self._told.get(claim.id) != claim.stage.value:
                await self._tell_stage(claim)
            if (claim.id, claim.stage) in self._signed:
                continue
            signed = False  # on a full disk, say: again with the next news
            if claim.stage is Stage.ADOPTED:
                seated = claim.bench is not None and claim.bench.rank_of(own) is not None
                if seated or claim.author == own or claim.id in used:
                    signed = await self._sign_adoption(claim)
            elif claim.stage is Stage.RETRACTED:
                signed = await sign_retraction(self, claim)
            if signed:
                self._signed.add((claim.id, claim.stage))

    async def _tell_stage(self, claim: ClaimState) -> None:
        if claim.id not in self._told:
            payload = await self.claim_record(claim.id)
            gains = [pair.d_nano for pair in payload.dev_pairs]
            self.journal.write(
                "quarantined",
                claim=claim.id.hex(),
                author=claim.author.hex(),
                claimed_bpb=sum(gains) / len(gains) / 1e9 if gains else 0.0,
            )
        if claim.stage in (Stage.RETRACTED, Stage.FROZEN):
            self.journal.write(claim.stage.value, claim=claim.id.hex(), reason=claim.reason)
        elif claim.stage in CLOSED:
            self._tell_verdict(claim)
        self._told[claim.id] = claim.stage.value

    def _tell_contradiction(self, one: ClaimState) -> None:
        if one.target is None or self._told.get(one.id) == one.stage.value:
            return
        self._told[one.id] = one.stage.value
        self.journal.write(
            "contradiction",
            id=one.id.hex(),
            claim=one.target.hex(),
            author=one.author.hex(),
            stage=one.stage.value,
            reason=one.reason,
            pairs=one.verdict.pairs if one.verdict else 0,
        )

    def _tell_verdict(self, claim: ClaimState) -> None:
        decision = claim.verdict
        self.journal.write(
            "verdict",
            claim=claim.id.hex(),
            outcome="adopt" if claim.stage is Stage.ADOPTED else "reject",
            reason=claim.reason,
            pairs=decision.pairs if decision else 0,
            e_value=f"{float(decision.e_value):.3g}" if decision else "none",
            needed=f"{float(1 / claim.level):.3g}" if claim.level else "none",
        )

    async def _sign_adoption(self, claim: ClaimState) -> bool:
        """Sign our adoption of ``claim`` if that is still to do; False when it could not be."""
        decision = claim.verdict
        assert decision is not None
        assert decision.crossing is not None
        block = decision.crossing[2]
        said = any(
            isinstance(record.payload, Adoption) and record.payload.claim == claim.id
            for record in self.own_records()
        )
        if said:
            return True
        try:
            await self.log.append(
                Adoption(
                    claim=claim.id,
                    rule_version=decision.rule_version,
                    positions_digest=decision.positions_digest,
                    crossing=Position(*decision.crossing),
                    e_value=decision.e_value[:80],
                    level_num=decision.level.numerator,
                    level_den=decision.level.denominator,
                    r_ids=claim.r_ids,
                    n=decision.n,
                    f=decision.f,
                    g=decision.g,
                    approvals=(),
                ),
                refs=(claim.id, block) if block else (claim.id,),
            )
        except SwarmError as error:
            self.trouble("adoption", error)
            return False
        return True

    def own_records(self) -> list[Record]:
        """All that this node has signed in this swarm, in order."""
        from swarm.envelope import parse

        own = self.log.store.records_after(self.key.public, -1, 2**31, 2**40)
        return [parse(data, check_signature=False) for data in own]

    # --- what people see ---------------------------------------------------------------------

    def trouble(self, where: str, error: Exception) -> None:
        """Write down that something failed; the node goes on."""
        text = "".join(char if " " <= char <= "~" else "?" for char in str(error))[:300]
        self.journal.write("trouble", where=where, error=f"{where}: {text}")

    async def keep_telling(self, network: Network) -> None:
        """Rewrite ``state.json`` about once a second, for ``status``."""
        while True:
            self.tell(network)
            with trio.move_on_after(STATE_SECONDS):
                await self.changed.wait()
                await trio.sleep(STATE_SECONDS / 4)

    def tell(self, network: Network) -> None:
        """Write what a running node says of itself."""
        state = RunningState(
            pid=os.getpid(),
            started=self._started,
            written=time.time(),
            peer=peer_id(self.key.public),
            addresses=tuple(network.transport.addresses),
            peers=tuple(sorted(peer_id(key) for key in network.transport.peers())),
            activity=self.ending or self.activity,
            why="" if self.ending else self.why,
            disk=str(self.log.full) if self.log.full else "",
            clock_s=network.transport.clock_ahead(),
            sensed=self.sensed,
            kept=self.kept,
        )
        try:
            write_state(self.home, state)
        except OSError:
            self.journal.lost += 1  # a full disk must not end the node

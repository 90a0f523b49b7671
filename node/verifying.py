"""A member's seats on benches: what they ask of this node, and when it does it.

What is due, and the payloads that count, come from :mod:`verification.duty`. Two loops do it, so
that nobody waits for a word of ours while a pair trains here: one says words (to take a seat, to
say who took theirs, to open a link, to state what is held), the other fills positions with pairs
(:mod:`node.reproducing`).

Some words are for when patience with somebody else is over. Patience is this node's own affair
(``limits.patience_seconds``); it begins anew when the other one is heard of again, when this node
starts, and when it was cut off from everybody.
"""

from __future__ import annotations

import hmac
from collections import Counter
from typing import TYPE_CHECKING

import trio

from node.environment import hardware_class
from node.reproducing import LentMemorySpent, SealedWeightsLost, advance
from swarm.errors import SwarmError
from training.errors import TrainingError
from verification.duty import (
    AttestDuty,
    CommitDuty,
    OpenDuty,
    PairDuty,
    SeatingDuty,
    duties,
    lost_duties,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from node.member import Node
    from verification.duty import Word
    from verification.states import State

    Advance = Callable[[Node, PairDuty, str], Awaitable[None]]

RETRY_SECONDS = 5.0
CUT_OFF_SECONDS = 15.0
"""How often a node that waits for others asks itself whether it hears anybody."""
WALLS_OF_PATIENCE = 2
"""Patience where settings name none: this many times the longest that one run may take."""

_SECRET_DOMAIN = b"lazaretto/nonce-secret/1"


def patience(node: Node, tier: str) -> float:
    """Seconds that a node waits for another member of a bench of ``tier``."""
    chosen = node.settings.limits.patience_seconds
    if chosen:
        return float(chosen)
    assert node.data is not None
    return WALLS_OF_PATIENCE * node.data.challenge.tier(tier).max_wall_ms / 1000


async def verify_forever(node: Node, advance: Advance = advance) -> None:
    """Take part in every bench that seats us, as long as the node runs.

    ``advance`` does one half of a pair; tests of dishonest members give another.
    """
    member = _Member(node, advance)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.say_words)
        nursery.start_soon(member.fill_positions)


class _Member:
    """What this node has done on its benches since it started."""

    def __init__(self, node: Node, advance: Advance) -> None:
        self._node = node
        self._advance = advance
        self._key = node.key.public
        self._secret = hmac.digest(node.key.seed, _SECRET_DOMAIN + node.swarm, "sha256")
        # What was published and is asked for again does not count by some rule: never in circles.
        self._done: set[tuple[object, ...]] = set()
        self._told: set[bytes] = set()
        self._since: dict[tuple[object, ...], float] = {}

    # --- words -------------------------------------------------------------------------------

    async def say_words(self) -> None:
        """Say what is due at once, and the rest when patience is over."""
        while True:
            state = await self._node.caught_up()
            changed = self._node.changed
            self._tell_lost(state)
            words = [duty for duty in self._duties(state) if not isinstance(duty, PairDuty)]
            waits = {_name(duty): self._wait(state, duty) for duty in words}
            self._since = {name: at for name, at in self._since.items() if name in waits}
            ready = next((duty for duty in words if waits[_name(duty)] <= 0), None)
            if ready is None:
                with trio.move_on_after(min([CUT_OFF_SECONDS, *waits.values()])):
                    await changed.wait()
                continue
            self._done.add(_name(ready))
            try:
                await self._say(ready)
            except SwarmError as error:
                self._done.discard(_name(ready))
                self._node.trouble("verify", error)
                await trio.sleep(RETRY_SECONDS)

    def _wait(self, state: State, duty: Word) -> float:
        """Seconds until a word may be said."""
        if isinstance(duty, CommitDuty) or duty.due:
            return 0.0
        now = trio.current_time()
        if not self._node.peers():  # it may be us who are gone
            self._since.clear()
        since = self._since.setdefault(_name(duty), now)
        return since + patience(self._node, state.cases[duty.claim].tier) - now

    async def _say(self, duty: Word) -> None:
        await self._node.log.append(duty.payload, refs=_refs(duty))
        what, shown = duty.payload.KIND, duty.claim.hex()
        if isinstance(duty, CommitDuty):
            self._node.journal.write("committed", claim=shown, rank=duty.payload.rank)
        elif not duty.due:
            self._node.journal.write("impatient", claim=shown, said=what)

    # --- pairs -------------------------------------------------------------------------------

    async def fill_positions(self) -> None:
        """Train, seal and score whenever it is our turn: as many pairs at a time as there are
        lanes, each of them one thing after the other."""
        tries: Counter[tuple[object, ...]] = Counter()
        async with trio.open_nursery() as nursery:
            for _ in range(self._node.side_by_side):
                nursery.start_soon(self._fill, tries)

    async def _fill(self, tries: Counter[tuple[object, ...]]) -> None:
        node = self._node
        while True:
            state = await node.caught_up()
            changed = node.changed
            pairs = [
                duty
                for duty in self._duties(state)
                if isinstance(duty, PairDuty) and not duty.waits
            ]
            if not pairs:
                await changed.wait()
                continue
            duty = min(pairs, key=lambda item: (tries[_name(item)], _precedence(state, item)))
            self._done.add(_name(duty))
            try:
                await self._advance(node, duty, self._class(duty.tier))
            except (LentMemorySpent, SealedWeightsLost) as error:  # it would end in the same way
                self._tell(duty.claim, f"is left to the others: {error}; {error.cure}")
            except (SwarmError, TrainingError, OSError) as error:
                # Not the candidate's: those are results. Other duties first: one claim must not
                # hold up the rest.
                self._done.discard(_name(duty))
                tries[_name(duty)] += 1
                node.trouble("verify", error)
                await trio.sleep(RETRY_SECONDS)
            node.activity = "ready"

    # --- both --------------------------------------------------------------------------------

    def _duties(self, state: State) -> list[Word | PairDuty]:
        return [
            duty
            for duty in duties(state, self._key, self._secret, self._node.calibrations)
            if _name(duty) not in self._done
            and not (self._node.finishing and isinstance(duty, CommitDuty))
            and self._would_count(state, duty)
        ]

    def _tell_lost(self, state: State) -> None:
        for lost in lost_duties(state, self._key, self._secret):
            self._tell(
                lost.claim,
                "waits for a nonce of another key file: restore the key that this node committed "
                "with",
            )

    def _tell(self, claim: bytes, why: str) -> None:
        if claim not in self._told:
            self._told.add(claim)
            text = f"claim {claim.hex()[:12]} {why}"
            self._node.journal.write("trouble", where="verify", error=text)

    def _would_count(self, state: State, duty: Word | PairDuty) -> bool:
        """Whether the charter takes what this machine measures for the duty's tier."""
        tier = state.cases[duty.claim].tier
        rules = state.rules
        assert rules is not None
        classes = next(policy.classes for policy in rules.charter.tiers if policy.name == tier)
        own = self._class(tier)
        if own not in classes:
            self._tell(
                duty.claim,
                f"waits: the charter takes {', '.join(classes)} in tier {tier}, and what is "
                f"measured here is {own}. Change this node's settings sandbox or hw_class, or ask "
                "a governor to take it off the roster's verifiers",
            )
        return own in classes

    def _class(self, tier: str) -> str:
        """The class under which a pair of this tier is published."""
        node = self._node
        assert node.data is not None
        device = node.data.challenge.tier(tier).device
        return hardware_class(node.settings, device)


def _name(duty: Word | PairDuty) -> tuple[object, ...]:
    """What a duty is about; the same for what is asked again."""
    if isinstance(duty, PairDuty):
        return (duty.claim, "pair", duty.round, duty.sealed)
    payload = duty.payload
    if isinstance(duty, AttestDuty):
        said = payload.member_head_seen if payload.block is None else b""  # type: ignore[union-attr]
        return (duty.claim, "attest", payload.round, payload.rank, said)  # type: ignore[union-attr]
    if isinstance(duty, OpenDuty):
        return (duty.claim, "open", payload.seal)  # type: ignore[union-attr]
    return (duty.claim, payload.KIND)


def _refs(duty: Word) -> tuple[bytes, ...]:
    """The records that a word is about."""
    if isinstance(duty, OpenDuty):
        return (duty.claim, duty.payload.seal)
    if isinstance(duty, AttestDuty):
        return (duty.claim, duty.payload.member_head_seen)
    if isinstance(duty, SeatingDuty):
        return (duty.claim, *(commit for commit in duty.payload.commits if commit))
    return (duty.claim,)


def _precedence(state: State, duty: PairDuty) -> tuple[bool, bool, int, bytes]:
    """What is sealed first; verdicts before effects; then the claim that has come furthest."""
    settlement = state.cases[duty.claim].settlement
    done = len(settlement.reproductions) if settlement else 0
    return (duty.sealed is None, duty.purpose != "verdict", -done, duty.claim)

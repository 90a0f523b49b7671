"""What happens in a local swarm, put together from the journals of its nodes.

The journals say *when* something happened and what a node is busy with. What was decided, and from
what evidence, is read from the signed records at the end, not from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swarm.keys import short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from node.demo.local import LocalSwarm


@dataclass(slots=True)
class ClaimSeen:
    """One claim, and where each node has it."""

    id: str
    author: str
    claimed_bpb: float
    first_seen: float
    pairs: int = 0
    last_pair: str = ""
    states: dict[str, str] = field(default_factory=dict)
    reasons: set[str] = field(default_factory=set)
    decided_at: dict[str, float] = field(default_factory=dict)

    def decided_by_all(self, outcome: str, names: set[str]) -> bool:
        """Whether every node named holds this outcome."""
        return all(self.states.get(name) == outcome for name in names)


@dataclass(slots=True)
class Busy:
    """What one node does now, and how much it did."""

    now: str = "starting"
    experiments: int = 0
    reproductions: int = 0
    base: str = ""


class Watch:
    """Follows the journals of a :class:`LocalSwarm`; :meth:`poll` returns new lines to print."""

    def __init__(self, swarm: LocalSwarm, planted: dict[str, str]) -> None:
        self.swarm = swarm
        self.planted = planted  # reason to be rejected for -> what it is, in words
        self.claims: dict[str, ClaimSeen] = {}
        self.plants: dict[str, str] = {}  # claim id -> the reason it must be rejected for
        self.busy = {node.part.name: Busy() for node in swarm.nodes}
        self.names_of: dict[str, str] = {}
        self.built_on: dict[str, set[str]] = {}

    @property
    def all_names(self) -> set[str]:
        """Names of all nodes."""
        return set(self.busy)

    def poll(self) -> list[str]:
        """Read what is new; return it as plain lines, oldest first."""
        fresh: list[tuple[float, str, dict[str, Any]]] = []
        for node in self.swarm.nodes:
            fresh += [(entry["t"], node.part.name, entry) for entry in node.new_entries()]
        fresh.sort(key=lambda item: item[0])
        return [line for _, name, entry in fresh for line in self._take(name, entry)]

    def _who(self, key: str) -> str:
        return self.names_of.get(key, key[-8:])

    def _take(self, name: str, entry: dict[str, Any]) -> Iterator[str]:
        handler = getattr(self, f"_on_{entry['what']}", None)
        if handler is not None:
            yield from handler(name, self.busy[name], entry)

    def _on_started(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        self.names_of[entry["key"]] = name
        busy.now = "joining"
        yield f"{name}: started as {', '.join(entry['roles'])} (peer {short(entry['peer'])})"

    def _on_data(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        busy.now = f"fetching data {entry['held']}/{entry['total']}"
        if entry["held"] == entry["total"]:
            busy.now = "ready"
            if entry["fetched"]:
                yield f"{name}: fetched {entry['fetched']} splits from peers, every hash checked"

    def _on_experiment_started(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        busy.now = f"trying {entry['hypothesis']}"
        if entry["base"] and busy.base != entry["base"]:
            busy.base = entry["base"]
            self.built_on.setdefault(entry["base"], set()).add(name)
            yield f"{name}: builds on adopted discovery {entry['base'][:8]}"

    def _on_experiment(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        busy.experiments += 1
        busy.now = "thinking"
        gain = f"{entry['gain_bpb']:+.4f} bpb" if entry["gain_bpb"] is not None else "no score"
        outcome = entry["outcome"].replace("_", " ")
        if entry.get("whole") and entry["outcome"] == "not_better":
            outcome = "not clear enough for a claim"
        yield f"{name}: {entry['hypothesis']}: {gain}, {outcome}"

    def _on_claimed(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        if entry.get("planted"):
            self.plants[entry["claim"]] = entry["planted"]
            what = self.planted[entry["planted"]]
            yield f"{name}: PLANTS {entry['claim'][:8]}, {what}; says {entry['gain_bpb']:+.3f} bpb"
        else:
            yield f"{name}: claims {entry['claim'][:8]}, {entry['gain_bpb']:+.4f} bpb"

    def _on_quarantined(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        claim = self.claims.get(entry["claim"])
        if claim is None:
            claim = ClaimSeen(
                entry["claim"], self._who(entry["author"]), entry["claimed_bpb"], entry["t"]
            )
            self.claims[entry["claim"]] = claim
        if name in claim.states:
            return  # a restarted node goes through its log again
        claim.states[name] = "quarantined"
        if len(claim.states) == len(self.busy):
            yield f"{claim.id[:8]} of {claim.author} is in quarantine on every node"

    def _on_verifying(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        busy.now = f"reproducing {entry['claim'][:8]}, round {entry['round'] + 1}"
        yield from ()

    def _on_reproduced(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        busy.reproductions += 1
        busy.now = "ready"
        result = (
            f"{entry['gain_bpb']:+.4f} bpb on sealed text"
            if entry["status"] == "ok"
            else f"refused, {entry['status'].replace('_', ' ')}"
        )
        claim = self.claims.get(entry["claim"])
        if claim is not None:
            claim.pairs += 1
            ok = entry["status"] == "ok"
            claim.last_pair = f"{entry['gain_bpb']:+.4f}" if ok else "refused"
        yield f"{name}: reproduced {entry['claim'][:8]} (round {entry['round'] + 1}): {result}"

    def _on_verdict(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        claim = self.claims.get(entry["claim"])
        if claim is None or claim.states.get(name) == entry["outcome"]:
            return
        first = not claim.decided_at
        claim.states[name] = entry["outcome"]
        claim.decided_at[name] = entry["t"]
        claim.reasons.add(entry["reason"])
        past = "adopted" if entry["outcome"] == "adopt" else "rejected"
        reason = entry["reason"].replace("_", " ")
        if first:
            yield (
                f"{claim.id[:8]} of {claim.author}: {past} ({reason}; "
                f"E = {entry['e_value']}, needed {entry['needed']})"
            )
        if claim.decided_by_all(entry["outcome"], self.all_names):
            yield f"{claim.id[:8]} is {past} on all {len(self.busy)} nodes"

    def _on_trouble(self, name: str, busy: Busy, entry: dict[str, Any]) -> Iterator[str]:
        yield f"{name}: TROUBLE: {entry['error']}"

    # --- what the demo waits for -----------------------------------------------------------------

    def adopted(self) -> list[ClaimSeen]:
        """Honest claims that every node has adopted."""
        return [
            claim
            for claim in self.claims.values()
            if claim.id not in self.plants and claim.decided_by_all("adopt", self.all_names)
        ]

    def plants_held(self) -> list[ClaimSeen]:
        """Planted claims that every node has rejected, for the true reason alone."""
        return [
            self.claims[claim]
            for claim, reason in self.plants.items()
            if claim in self.claims
            and self.claims[claim].decided_by_all("reject", self.all_names)
            and self.claims[claim].reasons == {reason}
        ]

    def plants_passed(self) -> list[ClaimSeen]:
        """Planted claims that any node adopted: the demo has failed."""
        return [
            self.claims[claim]
            for claim in self.plants
            if claim in self.claims and "adopt" in self.claims[claim].states.values()
        ]

    def done(self) -> bool:
        """A true discovery everywhere, somebody builds on it, and both plants rejected."""
        adopted = self.adopted()
        built = any(self.built_on.get(claim.id) for claim in adopted)
        return built and len(self.plants_held()) == len(self.planted)

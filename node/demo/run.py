"""``lazaretto demo``: found a swarm on this machine, plant two false claims, and watch.

It ends well only when at least one true discovery was reproduced and adopted by every node, a
researcher builds on it, and both planted claims were rejected for the true reason. Nothing is
scripted but the two false claims.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.demo.dishonest import INVENTED, LOOKS_AHEAD
from node.demo.display import Display, open_display
from node.demo.local import LocalSwarm, Part
from node.demo.watch import Watch
from node.errors import NodeError, UsageError
from node.report import summary
from node.settings import check_corpus

if TYPE_CHECKING:
    from node.demo.watch import ClaimSeen

SCHEMA = "lazaretto.demo/1"
POLL_SECONDS = 0.3
PARTS = (
    Part("ada", ("researcher", "archivist", "governor"), blurb="founder, researcher"),
    Part("vera", ("verifier", "archivist"), blurb="verifier"),
    Part("otto", ("verifier",), blurb="verifier"),
    Part("cleo", ("researcher", "verifier"), cpu_only=True, blurb="CPU contributor, does both"),
    Part("mallory", ("researcher",), module="node.demo.dishonest", blurb="dishonest researcher"),
)
PLANTED = {
    INVENTED: "a gain that was never measured",
    LOOKS_AHEAD: "a model that reads the text ahead of it",
}


def run_demo(*, corpus: str | None, directory: Path | None, limit: int, as_json: bool) -> int:
    """Run the demo; returns the exit code: 0 only when all of it came out as promised.

    Raises:
        TrainingError: there is no sandbox here, so nothing would be run.
        NodeError: a node did not start.
    """
    from training.sandbox import require

    if limit < 1:
        raise UsageError("a limit is a number of seconds", cure="lazaretto demo --limit 300")
    check_corpus(corpus)
    start = time.monotonic()
    require()
    where = directory or Path(tempfile.mkdtemp(prefix="lazaretto-demo-"))
    where.mkdir(parents=True, exist_ok=True)
    display = open_display()
    try:
        display.say("founding a swarm; its members know only its id and one address")
        with LocalSwarm(where, PARTS, corpus=corpus, progress=display.say) as swarm:
            watch = Watch(swarm, PLANTED)
            swarm.start()
            ended_well = _follow(watch, display, start + limit)
    finally:
        display.close()
    facts = _facts(watch, time.monotonic() - start)
    _tell(facts, watch, ended_well, where)
    if as_json:
        print(json.dumps(facts))
    return 0 if ended_well else 1


def _follow(watch: Watch, display: Display, deadline: float) -> bool:
    """Watch until all came out, or a plant got through, or the time is up."""
    while time.monotonic() < deadline:
        for line in watch.poll():
            display.say(line)
        display.show(watch)
        if watch.done():
            return True
        if watch.plants_passed():
            display.say("a planted claim was adopted: that must never happen")
            return False
        for node in watch.swarm.ended():
            raise NodeError(
                f"{node.part.name} ended by itself: {node.last_output()}",
                cure=f"read {node.home.path / 'output.txt'}",
            )
        time.sleep(POLL_SECONDS)  # a poll of files written by other processes
    return False


def _facts(watch: Watch, seconds: float) -> dict[str, Any]:
    """The object of ``--json``, from what every node holds in signed records."""
    held = [(node, summary(node.home)) for node in watch.swarm.nodes]
    ids = {record["key"]: record["id"] for _, record in held}
    first = held[0][1]
    quarantine = {
        claim.id: max(claim.decided_at.values()) - claim.first_seen
        for claim in watch.claims.values()
        if claim.decided_at
    }
    return {
        "schema": SCHEMA,
        "swarm": watch.swarm.swarm,
        "nodes": [
            {"id": facts["id"], "roles": list(node.part.roles), "frontier": facts["frontier"]}
            for node, facts in held
        ],
        "adopted": [
            {
                "id": claim["id"],
                "author": ids.get(claim["author"], claim["author"]),
                "mean_bpb": claim["mean_bpb"],
                "effect_bpb": claim["effect_bpb"],
                "effect_interval_bpb": claim["effect_interval_bpb"],
                "pairs": claim["pairs"],
                "verifiers": claim["verifiers"],
                "quarantine_s": round(quarantine.get(claim["id"], 0.0), 1),
            }
            for claim in first["claims"]
            if claim["outcome"] == "adopt"
        ],
        "rejected": [
            {
                "id": claim["id"],
                "author": ids.get(claim["author"], claim["author"]),
                "reason": claim["reason"],
            }
            for claim in first["claims"]
            if claim["outcome"] == "reject"
        ],
        "experiments": sum(busy.experiments for busy in watch.busy.values()),
        "wall_s": round(seconds, 1),
    }


def _tell(facts: dict[str, Any], watch: Watch, ended_well: bool, where: Path) -> None:
    """The short story of what happened, and what to type next."""
    nodes = zip(facts["nodes"], watch.swarm.nodes, strict=True)
    names = {one["id"]: node.part.name for one, node in nodes}
    say = _say
    say("")
    say("What happened")
    say(
        f"  {len(facts['nodes'])} nodes ran {facts['experiments']} experiments in "
        f"{facts['wall_s']:.0f} s; every claim waited in quarantine on every node."
    )
    for item in facts["adopted"]:
        by = names.get(item["author"], item["author"])
        say(
            f"  ADOPTED   {item['id'][:8]} by {by}: {item['mean_bpb']:+.4f} bits per byte in "
            f"{item['pairs']} pairs by {item['verifiers']} verifiers on sealed text "
            f"({item['quarantine_s']:.0f} s in quarantine)"
        )
        if item["effect_bpb"] is not None:
            low, high = item["effect_interval_bpb"]
            say(
                f"            {item['effect_bpb']:+.4f} ({low:+.4f} to {high:+.4f}) in pairs "
                "measured after it was adopted"
            )
    for item in facts["rejected"]:
        by = names.get(item["author"], item["author"])
        planted = PLANTED.get(watch.plants.get(item["id"], ""), "")
        note = f", planted: {planted}" if planted else ""
        say(f"  REJECTED  {item['id'][:8]} by {by}: {item['reason'].replace('_', ' ')}{note}")
    say("  The bench has f = 0: this small swarm trusts every verifier.")
    if not ended_well:
        _explain_failure(watch)
    say("")
    say("Next")
    home, program = where / PARTS[1].name, program_name()
    for item in facts["adopted"][:1]:
        say(f"  audit the discovery:     {program} audit {item['id'][:12]} --home {home}")
    say(f"  look at what a node saw: {program} discoveries --home {home}")
    say(f"  start a swarm:           {program} init NAME --home ~/lab")
    say(f"  join one:                {program} join INVITE --home ~/member")


def program_name() -> str:
    """The command as it can be typed here: by name, or by its path where it is not on the path."""
    if shutil.which("lazaretto"):
        return "lazaretto"
    return os.path.relpath(Path(sys.executable).with_name("lazaretto"))


def _explain_failure(watch: Watch) -> None:
    if not watch.adopted():
        _say("  NOT ENOUGH: no true discovery was adopted by all nodes in the time given.")
    held: list[ClaimSeen] = watch.plants_held()
    for claim, reason in watch.plants.items():
        if all(item.id != claim for item in held):
            _say(f"  NOT ENOUGH: planted {claim[:8]} was not rejected as {reason} by all nodes.")
    if watch.adopted() and len(held) == len(PLANTED):
        _say("  NOT ENOUGH: no researcher had begun to build on the discovery.")
    _say("  A longer run may do it:  lazaretto demo --limit 600")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""What an unattended run left behind: ``python -m tests.soak.aftermath FOLDER [PAIRS]``.

Everything is read from the homes of the nodes and from what was sampled on the way. What the final
frontier is worth is measured anew, in pairs against the founding baseline through the sealed
harness, on seeds drawn now and on a cut of the text that no node of the swarm has seen.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

from node.corpora import prepare
from node.data import describe
from node.experiment import SHAPES
from node.measuring import Measurer, Question, Watcher
from node.report import Held
from node.runs import Runs, experiments_root
from node.settings import Home
from swarm.records import Block, Experiment
from verification.states import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCHEMA = "lazaretto.unattended/1"
RUN, MINUTES, RESTARTS, REPORT = "run.json", "minutes.jsonl", "restarts.jsonl", "report.json"
TIER = "quick"
PAIRS = 12


def report(folder: Path, say: Callable[[str], None], pairs: int = PAIRS) -> str:
    """Read, measure and write ``report.json``; returns the table."""
    run = json.loads((folder / RUN).read_text())
    homes = {path.name: Home(path) for path in sorted(folder.iterdir()) if (path / "key").exists()}
    held = {name: Held(home) for name, home in homes.items()}
    facts = {
        "schema": SCHEMA,
        "run": run,
        "restarts": _restarts(_lines(folder / RESTARTS)),
        "experiments": _experiments(held),
        "claims": _claims(held),
        "agreement": _agreement(held, homes),
        "frontier": _frontier(held),
        "sizes": _sizes(_lines(folder / MINUTES)),
        "troubles": _troubles(homes),
    }
    path = folder / REPORT
    path.write_text(json.dumps(facts, indent=1))
    facts["true_gain"] = _true_gain(next(iter(held.values())), pairs, say)
    path.write_text(json.dumps(facts, indent=1))
    return f"{_table(facts)}\njson: {path}"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- what was signed -----------------------------------------------------------------------------


def _experiments(held: dict[str, Held]) -> dict[str, Any]:
    """Each node's own experiments by outcome, and the compute that they took."""
    outcomes: dict[str, Counter[str]] = {}
    failures: Counter[str] = Counter()
    spent_ms = 0
    for name, one in held.items():
        own = [record.payload for record in one.records if record.author == one.key]
        done = [said for said in own if isinstance(said, Experiment)]
        outcomes[name] = Counter(said.outcome for said in done)
        failures.update(said.reason for said in done if said.outcome == "failed")
        spent_ms += sum(said.cost_ms for said in done)
    total = sum(outcomes.values(), Counter())
    return {
        "total": total.total(),
        "outcomes": total,
        "failures": failures,
        "by_node": outcomes,
        "cost_s": spent_ms / 1000,
    }


def _claims(held: dict[str, Held]) -> dict[str, Any]:
    one = next(iter(held.values()))
    claims = one.claims(Stage)
    blocks = [record.payload for record in one.records if isinstance(record.payload, Block)]
    return {
        "total": len(claims),
        "adopted": sum(claim["outcome"] == "adopt" for claim in claims),
        "rejected": Counter(claim["reason"] for claim in claims if claim["outcome"] == "reject"),
        "open": Counter(claim["stage"] for claim in claims if claim["outcome"] == "pending"),
        "pairs_of_verifiers": Counter(block.purpose for block in blocks),
        "cost_s": sum(
            pair.base_cost_ms + pair.candidate_cost_ms for block in blocks for pair in block.pairs
        )
        / 1000,
        "all": claims,
    }


def _agreement(held: dict[str, Held], homes: dict[str, Home]) -> dict[str, Any]:
    """Whether all nodes hold the same records, claims with the same fate, and frontier."""
    records = [_record_ids(home) for home in homes.values()]
    every = set[bytes]().union(*(one.state.claims for one in held.values()))
    differ = {}
    for claim in every:
        fates = {
            name: f"{state.stage.value} {state.reason}" if state else "unknown"
            for name, one in held.items()
            for state in [one.state.claims.get(claim)]
        }
        if len(set(fates.values())) > 1:
            differ[claim.hex()] = fates
    frontiers = {name: one.state.frontier.get(TIER) for name, one in held.items()}
    return {
        "records": [len(one) for one in records],
        "same_records": all(one == records[0] for one in records),
        "claims": len(every),
        "differ": differ,
        "same_frontier": len(set(frontiers.values())) == 1,
        "frontiers": {name: _hex(claim) for name, claim in frontiers.items()},
    }


def _record_ids(home: Home) -> set[bytes]:
    with closing(sqlite3.connect(f"{home.log.as_uri()}?mode=ro", uri=True)) as db:
        return {record for (record,) in db.execute("SELECT id FROM records")}


def _hex(claim: bytes | None) -> str | None:
    return claim.hex() if claim else None


def _frontier(held: dict[str, Held]) -> dict[str, Any]:
    """The chain of adopted discoveries, newest last, and what is published of its worth."""
    one = next(iter(held.values()))
    chain: list[dict[str, Any]] = []
    at = one.state.frontier.get(TIER)
    while at is not None:
        chain.append(one.describe(one.state.claims[at]))
        at = one.state.claims[at].base
    chain.reverse()
    effects = [claim["effect_bpb"] for claim in chain]
    return {
        "steps": len(chain),
        "chain": chain,
        "claimed_bpb": sum(claim["claimed_bpb"] or 0 for claim in chain),
        "verified_bpb": sum(claim["mean_bpb"] or 0 for claim in chain),
        "effects_bpb": sum(effects) if all(one is not None for one in effects) else None,
    }


def _restarts(restarts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Those after which the node came up and worked again."""
    up = [one["up_at"] - one["started_at"] for one in restarts]
    work = [one["at_work_at"] - one["started_at"] for one in restarts]
    return {
        "survived": len(restarts),
        "by_kill": sum(one["by_us"] for one in restarts),
        "lost_records": sum(one["lost"] for one in restarts),
        "doubled_numbers": sum(one["doubled"] for one in restarts),
        "up_median_s": median(up) if up else None,
        "at_work_median_s": median(work) if work else None,
        "all": list(restarts),
    }


def _troubles(homes: dict[str, Home]) -> dict[str, int]:
    """What the nodes wrote down as having failed, how often."""
    found: Counter[str] = Counter()
    for name, home in homes.items():
        for line in home.journal.read_text().splitlines():
            if '"trouble"' in line:
                entry = json.loads(line)
                if entry["what"] == "trouble":
                    found[f"{name}: {entry['error'][:160]}"] += 1
    return dict(found.most_common(40))


# --- sizes ---------------------------------------------------------------------------------------


def _sizes(minutes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """MiB by node and kind: medians of the first and the last quarter, and growth per hour.

    Growth is the difference of the medians over the time between the middles of the quarters.
    """
    quarter = max(1, len(minutes) // 4)
    first, last = minutes[:quarter], minutes[-quarter:]
    hours = (median(m["at"] for m in last) - median(m["at"] for m in first)) / 3600
    found: dict[str, Any] = {"samples": len(minutes), "nodes": {}}
    for name in minutes[0]["nodes"] if minutes else ():
        found["nodes"][name] = {}
        for kind in ("own", "tree", "disk"):
            of = [
                median(value for m in part if (value := m["nodes"][name][kind]))
                if any(m["nodes"][name][kind] for m in part) else 0
                for part in (first, last)
            ]  # fmt: skip
            found["nodes"][name][kind] = {
                "first_mib": of[0] / 2**20,
                "last_mib": of[1] / 2**20,
                "per_hour_mib": (of[1] - of[0]) / 2**20 / hours if hours else None,
                "most_mib": max(m["nodes"][name][kind] for m in minutes) / 2**20,
            }
    return found


# --- what the frontier is worth ------------------------------------------------------------------


class _Saying(Watcher):
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def note(self, text: str) -> None:
        self._say(text)


def _true_gain(one: Held, pairs: int, say: Callable[[str], None]) -> dict[str, Any] | None:
    """bpb(baseline) - bpb(frontier) in new pairs; None where nothing was adopted.

    The limit on cost holds for each step, so the whole chain may cost more; its ratio is told.
    """
    frontier, rules = one.state.frontier.get(TIER), one.state.rules
    if frontier is None or rules is None:
        return None
    challenge = describe(rules.charter)
    codes = (challenge.base_code, one.claim(frontier).code)
    watcher = _Saying(say)
    corpus = prepare(None, SHAPES["cpu"], watcher.note)
    seed = random.SystemRandom().randrange(2**62)
    question = Question(("baseline", "frontier"), codes, challenge.tier(TIER), corpus, seed)
    measurer = Measurer(question, Runs(experiments_root() / "runs"), watcher)
    done = [measurer.pair(index, pairs).result for index in range(pairs)]
    gains = [pair.d_nano / 1e9 for pair in done if pair.status == "ok"]
    ratios = [pair.cost_ratio_milli / 1000 for pair in done]
    return {
        "seed": seed,
        "pairs": len(gains),
        "statuses": Counter(pair.status for pair in done),
        "mean_bpb": fmean(gains) if gains else None,
        "se_bpb": stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None,
        "gains_bpb": gains,
        "cost_ratio": fmean(ratios),
    }


# --- for people ----------------------------------------------------------------------------------


def _table(facts: dict[str, Any]) -> str:
    run, claims, agree = facts["run"], facts["claims"], facts["agreement"]
    tried, again, top = facts["experiments"], facts["restarts"], facts["frontier"]
    gain = facts["true_gain"]
    settled = claims["adopted"] + sum(claims["rejected"].values())
    rows = [
        ("ran", f"{run['seconds']:.0f} s, commit {run['commit'][:12]}, nice {run['nice']}"),
        ("experiments", f"{tried['total']}: {_counts(tried['outcomes'])}"),
        ("failures", _counts(tried["failures"])),
        ("claims", f"{claims['total']}: {claims['adopted']} adopted, "
         f"{sum(claims['rejected'].values())} rejected, {claims['total'] - settled} open"),
        ("rejected for", _counts(claims["rejected"])),
        ("open", _counts(claims["open"])),
        ("verifiers' pairs", _counts(claims["pairs_of_verifiers"])),
        ("compute", f"research {tried['cost_s']:.0f} s, verification {claims['cost_s']:.0f} s"),
        ("agreement", f"claims with different fates: {len(agree['differ'])} of {agree['claims']}; "
         f"frontier {'the same' if agree['same_frontier'] else 'DIFFERS'}; records "
         f"{'the same' if agree['same_records'] else agree['records']}"),
        ("restarts", f"{again['survived']} survived ({again['by_kill']} after kill -9), "
         f"{again['lost_records']} signed records lost, {again['doubled_numbers']} numbers twice; "
         f"up after {_number(again['up_median_s'], '.0f')} s, at work after "
         f"{_number(again['at_work_median_s'], '.0f')} s (medians)"),
        ("frontier", f"{top['steps']} steps; claimed {top['claimed_bpb']:+.4f}, verified "
         f"{top['verified_bpb']:+.4f}, published {_number(top['effects_bpb'], '+.4f')} bpb"),
        ("true gain", "nothing was adopted" if gain is None else
         f"{_number(gain['mean_bpb'], '+.4f')} bpb, standard error "
         f"{_number(gain['se_bpb'], '.4f')}, {gain['pairs']} pairs on fresh seeds and folds, "
         f"cost x{gain['cost_ratio']:.2f}"),
    ]  # fmt: skip
    names = {"own": "memory", "tree": "with children", "disk": "disk"}
    for node, kinds in facts["sizes"]["nodes"].items():
        rows += [
            (f"{node}, {names[kind]}", f"{of['first_mib']:.0f} -> {of['last_mib']:.0f} MiB (first, "
             f"last quarter), {_number(of['per_hour_mib'], '+.1f')} MiB/h, most "
             f"{of['most_mib']:.0f}")
            for kind, of in kinds.items()
        ]  # fmt: skip
    rows.append(("troubles", f"{sum(facts['troubles'].values())} lines in the journals"))
    rows += [("", f"{count} x {what}") for what, count in list(facts["troubles"].items())[:8]]
    return "\n" + "\n".join(f"  {name:<20} {text}" for name, text in rows)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in found.items()) or "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    print(report(Path(sys.argv[1]), print, *map(int, sys.argv[2:3])))

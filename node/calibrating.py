"""``lazaretto calibrate``: measure how noisy pairs are on this machine, and sign what was found.

A null pair trains the base of the challenge twice, on one seed: as it is, and with a *null change*,
which asks for a few rows of text first and throws them away. From then on every row comes from
another place of the text than in the other run: another data order, with the same weights at the
start and nothing else changed. There are several such changes, taken in turns. Scores are on dev
text, so no holdout fold is spent. What follows from the pairs, what it assumes and when it is void
is in :mod:`verification.calibration`.

Each finished pair is kept under ``work/`` in the home: a calibration that was stopped goes on where
it was, as long as machine, software, sandbox and challenge are the same.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from node.data import Data, describe, missing
from node.environment import env_digest, hardware_class
from node.errors import NodeError, UsageError
from node.lanes import first_executor, open_lanes
from node.runs import device_name, harness_digest
from node.service import opened, refuse_while_running
from node.settings import write_atomic
from swarm import wire
from swarm.blobs import BlobStore
from swarm.keys import KeyPair
from swarm.records import Calibration
from swarm.store import Store
from training import kinds
from training.challenge import TierSpec
from training.errors import BaseFailed
from training.executor import LOCAL, Executor
from verification.calibration import MIN_PAIRS, SAME_START, bound_of, follows

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from node.member import Node
    from node.progress import Stage
    from node.settings import Home, Settings
    from swarm.records import Charter

NULL_ROWS: Final = (31, 62, 125, 188)
"""How many rows the null changes throw away, of one token each. Batches are read off 251 lanes in
turn (``training.tokens``): so the runs read a lane 4 to 23 steps of 8 rows apart."""
PAIRS: Final = 20
"""As many as a node measures by itself."""
MAX_PAIRS: Final = 200
_SEED_DOMAIN: Final = b"lazaretto/calibration-seed/1"
_DETAIL_DOMAIN: Final = b"lazaretto/calibration-detail/1"


def null_change(base: bytes, rows: int) -> bytes:
    """``base`` in another data order: its training begins with ``rows`` rows thrown away.

    They are of the budget too, so that a run may have one step less; the steps that are left out
    are the last ones, whose size is next to nothing in a schedule that ends at zero.
    """
    return base + (
        "\n\n_train_in_order = train\n\n\n"
        "def train(model, batches, budget):\n"
        f"    batches({rows}, 1)\n"
        "    return _train_in_order(model, batches, budget)\n"
    ).encode("ascii")


# --- what is measured, and on what ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and on what the pairs of one tier are measured; ``detail`` names all of it in 32 bytes
    that tell nobody anything who does not have the node's key.
    """

    tier: TierSpec
    hw_class: str
    detail: bytes


def machine_of(key: KeyPair, settings: Settings, charter: Charter, tier: str) -> Machine:
    """This machine as it is now. Raises TrainingError for a tier that the challenge has not."""
    challenge = describe(charter)
    spec = challenge.tier(tier)
    detail = {
        "device": device_name(spec.device),
        "challenge": challenge.content_hash,
        "harness": harness_digest(),
        "env": env_digest(),
    }
    digest = hmac.digest(key.seed, _DETAIL_DOMAIN + wire.encode(detail), "sha256")
    return Machine(spec, hardware_class(settings, spec.device), digest)


def own_calibrations(node: Node) -> dict[str, bytes]:
    """For each tier the newest calibration of this node that fits the machine as it is now."""
    rules = node.log.store.rules
    found: dict[str, bytes] = {}
    if rules is None:
        return found
    policies = {policy.name: policy for policy in rules.charter.tiers}
    machines: dict[str, Machine] = {}
    for record in node.own_records():
        said = record.payload
        if not isinstance(said, Calibration) or said.tier not in policies or not follows(said):
            continue
        if said.tier not in machines:
            machines[said.tier] = machine_of(node.key, node.settings, rules.charter, said.tier)
        now = machines[said.tier]
        fits = (said.hw_class, said.detail_hash, said.env_digest) == (
            now.hw_class,
            now.detail,
            env_digest(),
        )
        if fits and said.hw_class in policies[said.tier].classes:
            found[said.tier] = record.id
    return found


class Kept:
    """Finished pairs of one calibration, in a file that is whole or not there."""

    def __init__(self, home: Home, machine: Machine) -> None:
        self.path: Path = home.work / f"calibration-{machine.tier.name}.json"
        self._of = machine.detail.hex()
        self.pairs: list[int] = []
        with suppress(OSError, ValueError, KeyError, TypeError):
            held: Any = json.loads(self.path.read_text())
            if held["of"] == self._of:
                self.pairs = [int(pair) for pair in held["pairs"]]

    def add(self, d_nano: int) -> None:
        """Keep one more; durable when this returns."""
        self.pairs.append(d_nano)
        write_atomic(self.path, json.dumps({"of": self._of, "pairs": self.pairs}).encode())

    def forget(self) -> None:
        """They are in a record now."""
        self.path.unlink(missing_ok=True)


# --- the command ---------------------------------------------------------------------------------


def calibrate_here(home: Home, *, pairs: int, tier: str | None, as_json: bool, stage: Stage) -> int:
    """``lazaretto calibrate``; returns the exit code.

    Raises:
        UsageError: a node runs here, the data is not here, or nothing could be made of it.
        NodeError: a null change failed, so nothing can be said; finished pairs are kept.
        SandboxUnavailable: there is no sandbox, so nothing ran.
    """
    from training.sandbox import require

    if not MIN_PAIRS <= pairs <= MAX_PAIRS:
        raise UsageError(
            f"{pairs} pairs: it takes {MIN_PAIRS} to {MAX_PAIRS}",
            cure="lazaretto calibrate --pairs 20",
        )
    settings = home.load()
    kinds.choose(settings.sandbox)
    refuse_while_running(home, "calibrate")
    key = KeyPair.load(home.key)
    with open_lanes(settings) as lanes:
        machine, data = _prepare(home, settings, key, tier or settings.tier)
        require(machine.tier.device)
        lane = first_executor(lanes, machine.tier)
        kept = Kept(home, machine)
        data.make_tokens(lambda done, total: stage("making tokens of the train text", done, total))
        while len(kept.pairs) < pairs:
            index = len(kept.pairs)
            kept.add(
                measure(data, machine, key.public, index, pairs, settings, stage, executor=lane)
            )
    calibration = trio.run(_sign, home, machine, tuple(kept.pairs[:pairs]))
    kept.forget()
    _show(calibration, as_json)
    return 0


def _prepare(home: Home, settings: Settings, key: KeyPair, tier: str) -> tuple[Machine, Data]:
    with Store(home.log, settings.swarm_id, read_only=True) as store:
        rules = store.rules
    if rules is None:
        raise UsageError("the charter is not here yet", cure="lazaretto join INVITE   (again)")
    challenge, blobs = describe(rules.charter), BlobStore(home.blobs)
    policy = next((policy for policy in rules.charter.tiers if policy.name == tier), None)
    if policy is None:
        known = ", ".join(policy.name for policy in rules.charter.tiers)
        raise UsageError(
            f"this swarm has no tier {tier[:40]!r}", cure=f"lazaretto calibrate --tier {known}"
        )
    if missing(challenge, blobs):
        raise UsageError(
            "the data of this swarm is not all here yet",
            cure=f"lazaretto up --home {home.path}   fetches it; then stop it and calibrate",
        )
    machine = machine_of(key, settings, rules.charter, tier)
    if machine.hw_class not in policy.classes:
        raise UsageError(
            f"the charter takes {', '.join(policy.classes)} in tier {tier}, and what is measured "
            f"here is {machine.hw_class}: a calibration would not count",
            cure=f"edit sandbox or hw_class in {home.settings}",
        )
    return machine, Data(challenge, blobs)


def measure(
    data: Data, machine: Machine, author: bytes, index: int, total: int, settings: Settings,
    stage: Stage, *, cancel: threading.Event | None = None, executor: Executor = LOCAL,
) -> int:  # fmt: skip
    """One null pair: bpb(base) - bpb(null change) on dev text, in nano.

    Raises:
        NodeError: the base or the null change failed.
        Cancelled: ``cancel`` was set.
    """
    from training.pair import score_pair, train_pair

    tier, nice = machine.tier, settings.limits.nice_verify
    base, tokenizer = data.challenge.base_code, data.tokenizer()
    drawn = hashlib.sha256(_SEED_DOMAIN + author + machine.detail + index.to_bytes(4, "big"))
    seed = int.from_bytes(drawn.digest()[:8], "big") >> 1
    null = null_change(base, _rows(index, tier))
    at = {"base": 0.0, "candidate": 0.0}

    def progress(side: str, share: float) -> None:
        at[side] = share
        stage("null pairs", 1000 * index + round(400 * sum(at.values())), 1000 * total)

    stage("null pairs", 1000 * index, 1000 * total)
    try:
        trained = train_pair(
            base, null, tier, data.train(), seed, tokenizer=tokenizer, nice=nice,
            progress=progress, cancel=cancel, executor=executor,
        )  # fmt: skip
        result = score_pair(
            base, null, trained, tier, data.dev(), seed, tokenizer=tokenizer, nice=nice,
            cancel=cancel, executor=executor,
        )  # fmt: skip
    except BaseFailed as error:
        raise NodeError(
            f"the base failed in tier {tier.name}: {error}; finished pairs are kept",
            cure="lazaretto doctor, then lazaretto calibrate again",
        ) from None
    if result.status != "ok":
        raise NodeError(
            f"a null change failed in tier {tier.name}: {result.status}; finished pairs are kept",
            cure="lazaretto doctor, then lazaretto calibrate again",
        )
    return result.d_nano


def _rows(index: int, tier: TierSpec) -> int:
    return min(NULL_ROWS[index % len(NULL_ROWS)], tier.max_batch_tokens)


async def _sign(home: Home, machine: Machine, pairs: tuple[int, ...]) -> Calibration:
    async with opened(home, "calibrate") as (node, _):
        _, calibration = await sign(node, machine, pairs)
        return calibration


async def sign(node: Node, machine: Machine, pairs: tuple[int, ...]) -> tuple[bytes, Calibration]:
    """Sign what ``pairs`` say of ``machine``, unless an earlier invocation was killed just after it
    had; returns the record's id and what it says.
    """
    for record in node.own_records():
        said = record.payload
        if isinstance(said, Calibration) and said.pairs == pairs:
            return record.id, said
    bound = bound_of(pairs)
    calibration = Calibration(
        tier=machine.tier.name,
        noise_class=SAME_START,
        hw_class=machine.hw_class,
        detail_hash=machine.detail,
        env_digest=env_digest(),
        null_changes=tuple(
            f"{_rows(index, machine.tier)} rows thrown away first"
            for index in range(min(len(pairs), len(NULL_ROWS)))
        ),
        pairs=pairs,
        n=bound.n,
        s_nano=bound.s_nano,
        factor_milli=bound.factor_milli,
        sigma0_nano=bound.sigma0_nano,
        epochs=(node.epoch,),
    )
    return (await node.log.append(calibration)).id, calibration


def _show(said: Calibration, as_json: bool) -> None:
    if as_json:
        facts = {
            key: value.hex() if isinstance(value, bytes) else value
            for key, value in asdict(said).items()
        }
        print(json.dumps({"schema": "lazaretto.calibration/1", **facts}))
        return
    print(
        f"tier {said.tier}, class {said.hw_class}: sigma0 {said.sigma0_nano / 1e9:.6f} bpb "
        f"(s {said.s_nano / 1e9:.6f} from {said.n} null pairs, times {said.factor_milli / 1000})"
    )
    print(
        "This node names it when it takes a seat from now on, as long as machine, software and "
        "challenge stay as they are.\nAssumed: a claim that is not better has pairs with a "
        "standard deviation of at most 1.5 sigma0. Half of the evidence rests on that."
    )

"""A verifier that has no calibration yet measures one beside its other work.

Half of the evidence counts only where every member in question named a calibration when it took its
seat (``verification.pooling``): one member without it takes that half from the whole bench. So a
node that verifies measures the null pairs of :mod:`node.calibrating` by itself, a pair at a time,
whenever no bench waits for it, and signs what follows. It goes on where it was after a restart, and
begins anew when machine, software or challenge change. ``calibrate = false`` in ``node.toml``, or
``join --no-calibrate``, leaves it to ``lazaretto calibrate``.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from node.calibrating import PAIRS, Kept, Machine, machine_of, measure, sign
from node.errors import NodeError
from node.upkeep import is_due, while_idle
from node.work import cancellable
from swarm.errors import SwarmError
from training.errors import SandboxUnavailable, TrainingError

if TYPE_CHECKING:
    from node.member import Node

RETRY_SECONDS: Final = 600.0
"""Pause after a null pair that failed."""


async def calibrate_when_idle(node: Node, pairs: int = PAIRS) -> None:
    """Calibrate each tier that this node verifies, one after the other; ``pairs`` for each."""
    from training.sandbox import require

    if not node.settings.calibrate or "verifier" not in node.settings.roles:
        return
    while True:
        state = await node.caught_up()
        changed = node.changed
        machine = None if is_due(state, node.key.public) else next_machine(node)
        if machine is None:
            await changed.wait()
            continue
        try:
            await cancellable(lambda cancel, of=machine: require(of.tier.device, cancel))  # type: ignore[misc]
            await while_idle(node, lambda of=machine: _calibrate(node, of, pairs))  # type: ignore[misc]
        except SandboxUnavailable as error:
            node.trouble("calibrate", error)  # once: nothing is measured without one
            return
        except (NodeError, SwarmError, TrainingError, OSError) as error:
            node.trouble("calibrate", error)
            await trio.sleep(RETRY_SECONDS)


def next_machine(node: Node) -> Machine | None:
    """This machine for a tier that is to be calibrated, the node's own tier first; else None."""
    rules = node.log.store.rules
    line = rules.member(node.epoch, node.key.public) if rules else None
    if rules is None or line is None or "verifier" not in line.roles:
        return None
    own = node.settings.tier
    for policy in sorted(rules.charter.tiers, key=lambda policy: policy.name != own):
        if policy.name in line.tiers and policy.name not in node.calibrations:
            machine = machine_of(node.key, node.settings, rules.charter, policy.name)
            if machine.hw_class in policy.classes and _is_here(machine.tier.device):
                return machine
    return None


def _is_here(device: str) -> bool:
    from training import accelerator

    return device == "cpu" or accelerator.name() is not None


async def _calibrate(node: Node, machine: Machine, pairs: int) -> None:
    """Measure what is missing and sign it; may be cancelled between and within pairs."""
    tier, data, key = node.tier(machine.tier.name), node.data, node.key.public
    assert data is not None
    machine = replace(machine, tier=tier)  # within the memory lent
    kept = Kept(node.home, machine)
    took: list[float] = []
    while len(kept.pairs) < pairs:
        index = len(kept.pairs)
        left = f", about {round((pairs - index) * sum(took) / len(took) / 60)} min" if took else ""
        node.activity = f"measuring the noise of {tier.name}: pair {index + 1} of {pairs}{left}"
        if not took:
            node.journal.write("calibrating", tier=tier.name, pairs=pairs, held=index)

        async with node.lane(tier.name, bench=False) as lane:
            start = time.monotonic()
            gain = await cancellable(
                lambda cancel, index=index, lane=lane: measure(  # type: ignore[misc]
                    data, machine, key, index, pairs, node.settings, lambda *_: None,
                    cancel=cancel, executor=lane.executor,
                )
            )  # fmt: skip
        took.append(time.monotonic() - start)
        await trio.to_thread.run_sync(kept.add, gain)
    record, said = await sign(node, machine, tuple(kept.pairs[:pairs]))
    kept.forget()
    node.calibrations[tier.name] = record
    node.journal.write(
        "calibrated", tier=tier.name, pairs=said.n, sigma0_bpb=said.sigma0_nano / 1e9
    )
    node.activity = "ready"

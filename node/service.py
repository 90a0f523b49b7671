"""``lazaretto up``: open a member's log and network, run its loops, and close all of it in order.

Loops: ``research`` proposes and claims, ``verify`` reproduces what its seat on a bench asks for,
``upkeep`` checks and keeps the work of others, ``contradict`` doubts discoveries, ``calibrate``
measures the noise of a verifier's tiers; what else a node does is in ``node.chores``, and how it
answers strangers in ``node.door``.
"""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from node.chores import Chores
from node.data import describe, obtain
from node.door import Door
from node.errors import NotRunning, UsageError
from node.keeping import keep_within_quota
from node.lanes import open_lanes
from node.limits import check_hours, keep_to_cores
from node.member import Node
from node.network import Network, open_network
from node.proposers import check_proposer
from node.state import read_state
from node.work import cancellable, guarded
from swarm.errors import SwarmError
from swarm.keys import KeyPair, peer_id
from swarm.store import Store
from training import kinds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from node.lanes import Lane
    from node.settings import Home

    Work = Callable[["Node"], Awaitable[None]]

OWN_FEED_SECONDS = 8.0


async def _prepare(node: Node, network: Network) -> None:
    """Wait for the charter, then bring the data here and check every hash."""
    node.activity = "waiting for charter and admission; if it stays so, run join again"
    while (rules := node.log.store.rules) is None or rules.current is None:
        await node.changed.wait()
    challenge = describe(rules.charter)
    first: list[int] = []

    def progress(held: int, total: int) -> None:
        node.activity = f"fetching data: {held} of {total} files are here"
        first.append(held)
        if len(first) == 1 or held == total or held % 8 == 0:
            node.journal.write("data", held=held, total=total, fetched=held - first[0])

    def failed(error: Exception) -> None:
        node.activity = f"fetching data, and will try again: {error}"

    data = await obtain(network, node.blobs, challenge, progress, failed)
    if set(node.settings.roles) & {"researcher", "verifier"}:
        node.activity = "making tokens of the train text"
        await cancellable(lambda _: data.make_tokens())
    node.data = data
    node.activity = "ready"


async def _fetch_own_feed(node: Node, network: Network) -> None:
    """Before the first signature of a process, ask a peer for our own feed.

    A node that was restored from an old copy would otherwise sign a number twice. With no other
    member, or when none answers in time, what is held here is all that there is.
    """
    rules, own = node.log.store.rules, node.key.public
    epoch = rules.current if rules else None
    if epoch is not None and not set(epoch.roster) - {own}:
        return
    with trio.move_on_after(OWN_FEED_SECONDS):
        while True:
            for peer in network.transport.peers():
                try:
                    await network.sync.pull(peer, own)
                    return
                except SwarmError as error:
                    node.trouble("own feed", error)
            await trio.sleep(0.2)


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


@asynccontextmanager
async def opened(home: Home, why: str) -> AsyncIterator[tuple[Node, Network]]:
    """The node in ``home`` for one command: its log, network and state, without its loops.

    What it signs meanwhile is safe: its own feed was asked for first. ``why`` says what the command
    wants, for who has to stop a running node.

    Raises:
        UsageError: a node runs in this home.
    """
    refuse_while_running(home, why)
    settings = home.load()
    key = KeyPair.load(home.key)
    with Store(home.log, settings.swarm_id) as store:
        node = Node(home, settings, key, store)
        async with open_network(home, settings, key, node.log) as network:
            node.peers, node.fetch = network.transport.peers, network.fetch
            await _fetch_own_feed(node, network)
            node.log.may_sign.set()
            await node.fold_heard()
            yield node, network


def refuse_while_running(home: Home, why: str) -> None:
    """A running node has its log to itself, and may be measuring.

    Raises:
        UsageError: a node runs in this home.
    """
    try:
        pid = read_state(home).pid
    except NotRunning:
        return
    raise UsageError(
        f"a node runs in {home.path} and has its log to itself; nothing was changed",
        cure=f"lazaretto down --home {home.path}   (process {pid}), {why}, then: "
        f"lazaretto up --home {home.path}",
    )


async def serve(
    home: Home,
    progress: Callable[[str], None],
    research: Work | None = None,
    verify: Work | None = None,
    lanes: Sequence[Lane] = (),
) -> None:
    """Open the node in ``home`` and run it until SIGINT or SIGTERM.

    ``research`` and ``verify`` are loops to run in place of the node's own; ``lanes``: where
    experiments run, see :mod:`node.lanes`.

    Raises:
        UsageError, KeyFileError, StoreError: the home is not in order; nothing was changed.
    """
    from node.calibrating import own_calibrations
    from node.idle_calibration import calibrate_when_idle
    from node.research import research_forever
    from node.retracting import contradict_forever
    from node.upkeep import upkeep_forever
    from node.verifying import verify_forever

    settings = home.load()
    key = KeyPair.load(home.key)
    with Store(home.log, settings.swarm_id) as store:
        node = Node(home, settings, key, store)
        chores = Chores(node)

        async def work() -> None:
            async with trio.open_nursery() as loops:
                loops.start_soon(guarded, node, "verify", verify or verify_forever)
                loops.start_soon(guarded, node, "research", research or research_forever)
                loops.start_soon(guarded, node, "contradict", contradict_forever)
                loops.start_soon(guarded, node, "calibrate", calibrate_when_idle)
                loops.start_soon(guarded, node, "upkeep", upkeep_forever)

        door = Door(home, node.log, chores.ready)
        async with (
            open_network(home, settings, key, node.log, door.answer) as network,
            trio.open_nursery() as nursery,
        ):
            node.journal.write(
                "started",
                key=key.public.hex(),
                peer=peer_id(key.public),
                name=settings.name,
                roles=list(settings.roles),
            )
            node.peers, node.fetch = network.transport.peers, network.fetch
            node.tell(network)
            progress(f"{settings.name} is up as {peer_id(key.public)}")
            nursery.start_soon(_until_signal, nursery.cancel_scope)
            nursery.start_soon(node.keep_folding)
            nursery.start_soon(node.keep_telling, network)
            nursery.start_soon(chores.knock, network)
            nursery.start_soon(chores.take_orders)
            nursery.start_soon(chores.end_pause)
            nursery.start_soon(chores.finish, nursery.cancel_scope)
            await _fetch_own_feed(node, network)
            node.log.may_sign.set()
            nursery.start_soon(chores.govern)
            await _prepare(node, network)
            node.calibrations = await trio.to_thread.run_sync(own_calibrations, node)
            node.use_lanes(lanes)
            progress("all data is here and checked; working")
            nursery.start_soon(guarded, node, "blobs", keep_within_quota)
            nursery.start_soon(chores.watch_limits, lambda: network.blobs.throttle.total)
            nursery.start_soon(chores.work, work)
    home.state.unlink(missing_ok=True)


def run_node(
    home: Home,
    progress: Callable[[str], None],
    research: Work | None = None,
    verify: Work | None = None,
) -> int:
    """``lazaretto up``; returns the exit code. For the loops see :func:`serve`.

    Raises:
        UsageError: there is no proposer of the name in the settings, or it lacks a key; or lanes
            that cannot be had.
        SandboxUnavailable: the roles of this node run candidates, and there is no sandbox here.
    """
    settings = home.load()
    if not settings.lanes:  # which have cores of their own, no more than are lent
        keep_to_cores(settings.limits)
    kinds.choose(settings.sandbox)
    if set(settings.roles) & {"researcher", "verifier"}:
        from training.sandbox import require

        require()
    if settings.limits.hours:
        check_hours(settings.limits.hours)
    if "researcher" in settings.roles:
        check_proposer(settings.proposer, settings.claude, settings.portfolio)
    with open_lanes(settings) as lanes:
        trio.run(serve, home, progress, research, verify, lanes)
    return 0

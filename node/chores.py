"""What a running node does on the side: it carries out orders, signs what a governor owes to the
others, opens epochs when somebody joins or told two stories, knocks until it is let in, pauses,
and finishes.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from node import epochs
from node.convicts import removals
from node.errors import NodeError
from node.finishing import Promises, awaited
from node.knocking import doors, knock, request_of
from node.limits import SENSE_SECONDS, Sensors, reason_to_pause
from node.orders import answer_all, carry_out, turn
from node.times import clock
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from node.member import Node
    from node.network import Network
    from swarm.charter import Rules

ORDER_SECONDS = 0.25
KNOCK_SECONDS = 10.0
PAUSED = "paused; lazaretto resume goes on"
PAUSED_UNTIL = "paused until {}; lazaretto resume goes on now"
LAST_WORD_SECONDS = 5.0
"""How long a node that has finished stays, so that peers hear what it signed last."""


class Chores:
    """The side work of one node. Each method but ``ready`` runs as long as the node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._paused = node.settings.start == "paused"
        self._until = node.settings.paused_until
        self._limited = ""  # why the limits forbid work now
        self._turned = trio.Event()
        self._next_epoch_at = 0.0

    # --- governing ----------------------------------------------------------------------------

    def _opens_epochs(self) -> bool:
        store, key = self.node.log.store, self.node.key.public
        rules = store.stand
        return (
            rules is not None
            and store.rules is not None
            and self.node.settings.open_epochs == "join"
            and rules.quorum == 1
            and not store.rules.frozen
            and key in rules.governors
        )

    def ready(self) -> bool:
        """Whether an epoch is opened at once for somebody who is admitted now."""
        return self._opens_epochs() and trio.current_time() >= self._next_epoch_at

    def _is_due(self, rules: Rules) -> bool:
        if epochs.newcomers(rules):
            return True  # not for new keys alone: a member could have epochs opened at will
        return bool(self.node.log.convicted) and bool(removals(self.node.log.store))

    async def govern(self) -> None:
        """Finish own drafts, reveal beacons, speak for the epoch; and open epochs, not too often:
        for newcomers, and without those who told two stories.
        """
        log, store, key = self.node.log, self.node.log.store, self.node.key
        while True:
            changed = self.node.changed
            rules = store.stand
            try:
                if rules is not None and key.public in rules.governors:
                    await log.append_by(lambda: epochs.finish_drafts(store, key))
                if rules is not None and rules.has_governed(key.public):
                    await log.append_by(lambda: epochs.reveal_beacon(store, key))
                await log.append_by(lambda: epochs.speak(store, key))
                if rules is not None and self.ready() and self._is_due(rules):
                    await log.append_by(lambda: epochs.open_epoch(store, key))
                    pause = self.node.settings.epoch_pause_s
                    self._next_epoch_at = trio.current_time() + pause
            except (NodeError, SwarmError) as error:
                self.node.trouble("governing", error)
            with trio.move_on_after(max(1.0, self._next_epoch_at - trio.current_time())):
                await changed.wait()

    # --- orders -------------------------------------------------------------------------------

    async def take_orders(self) -> None:
        """Carry out what people order through ``node.orders``."""
        log = self.node.log
        folder = self.node.home.path / "orders"
        while True:
            await trio.sleep(ORDER_SECONDS)
            try:
                if not any(name.suffix == ".json" for name in folder.iterdir()):
                    continue
            except OSError:
                continue  # there was never an order
            try:
                await log.append_by(lambda: answer_all(self.node.home, self._carry_out))
            except (SwarmError, OSError) as error:
                self.node.trouble("orders", error)

    def _carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """In a worker thread, while nobody else writes the log."""
        if order.get("do") in ("pause", "resume"):
            answer = turn(self.node.home, order)
            trio.from_thread.run_sync(self._turn, answer["paused"], answer["until"])
            return answer
        if order.get("do") == "finish":
            return {"waits": trio.from_thread.run_sync(self._begin_to_finish)}
        return carry_out(self.node.home, self.node.log.store, self.node.key, order)

    # --- pausing ------------------------------------------------------------------------------

    def _turn(self, paused: bool, until: int = 0) -> None:
        self._paused, self._until = paused, until
        if not paused:
            self.node.finishing = False
        fired, self._turned = self._turned, trio.Event()
        fired.set()

    def _why_paused(self) -> str:
        """Why nothing is trained here now; empty where something may be."""
        if self._paused:
            return PAUSED_UNTIL.format(clock(self._until)) if self._until else PAUSED
        return self._limited

    async def end_pause(self) -> None:
        """Go on when the time of a pause is over, by the clock on the wall: a machine may sleep."""
        home = self.node.home
        while True:
            left = self._until - time.time() if self._paused and self._until else SENSE_SECONDS
            if left <= 0:
                with suppress(OSError):  # on a full disk: again at the next start
                    home.save(replace(home.load(), start="running", paused_until=0))
                self.node.journal.write("goes on", reason="the time of the pause is over")
                self._turn(False)
                continue
            await trio.sleep(min(left, SENSE_SECONDS))

    async def watch_limits(self, traffic: Callable[[], int] = int) -> None:
        """Pause while the limits forbid work, and say why; ``traffic``: see ``Sensors``."""
        limits, sensors = self.node.settings.limits, Sensors(self.node.home.path, traffic)
        while True:
            self.node.sensed = sensed = await trio.to_thread.run_sync(sensors.sense)
            before, self._limited = self._limited, reason_to_pause(limits, sensed)
            if bool(before) != bool(self._limited):
                what = "paused" if self._limited else "goes on"
                self.node.journal.write(what, reason=self._limited or before)
                fired, self._turned = self._turned, trio.Event()
                fired.set()
            elif self._limited and not self._paused:
                self.node.activity = self._limited
            await trio.sleep(SENSE_SECONDS)

    async def work(self, loops: Callable[[], Awaitable[None]]) -> None:
        """Run ``loops`` while the node is not paused; a pause stops them as a kill would."""
        while True:
            turned = self._turned
            if why := self._why_paused():
                self.node.activity = why
                await turned.wait()
                self.node.activity = "ready"
                continue
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loops)
                await turned.wait()
                nursery.cancel_scope.cancel()

    # --- finishing ----------------------------------------------------------------------------

    def _begin_to_finish(self) -> list[str]:
        self.node.finishing = True
        self.node.wake()
        return self._awaited(Promises())

    def _awaited(self, promises: Promises) -> list[str]:
        return [] if self._why_paused() else awaited(self.node, promises)

    async def finish(self, scope: trio.CancelScope) -> None:
        """When that was ordered: see to the end of what is promised, then cancel ``scope``."""
        node, promises = self.node, Promises()
        while True:
            changed = node.changed
            waits = self._awaited(promises) if node.finishing else []
            if node.finishing and not waits:
                break
            node.ending = f"finishing; waits for {', '.join(waits)}" if waits else ""
            with trio.move_on_after(1.0 if waits else math.inf):
                await changed.wait()
        node.ending = "finished; tells its peers"
        node.journal.write("finished", reason=self._why_paused())
        if tuple(node.peers()):
            await trio.sleep(LAST_WORD_SECONDS)
        scope.cancel()

    # --- being let in -------------------------------------------------------------------------

    async def knock(self, network: Network) -> None:
        """Ask to be let in, again and again, until a peer says that this key is a member."""
        node = self.node
        while True:
            request = request_of(node.settings, node.key.public, node.log.store)
            if request is None or self._is_in():
                return
            try:
                where = doors(node.home, node.settings, node.key.public)
                answer = await knock(network.transport, where, request)
            except (NodeError, SwarmError) as error:
                node.trouble("joining", error)
            else:
                node.journal.write("joining", state=answer.state, reason=answer.reason)
                if answer.state == "admitted":
                    return
            await trio.sleep(KNOCK_SECONDS)

    def _is_in(self) -> bool:
        """By the epochs that are here: on a roster, so that every member knows this key."""
        rules, key = self.node.log.store.rules, self.node.key.public
        newest = rules.newest if rules else None
        return newest is not None and key in newest.roster

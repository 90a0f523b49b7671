"""The devices of a node: who may run where, and when.

A *lane* is a device of its own: some cores, or a GPU, or both; one experiment's half runs there at
a time, base and candidate both on it. Settings name lanes (``lanes = ["0-3", "4-5 cuda:0"]``), and
they share nothing. Where none is named there is one line of work, and as many runs go side by side
as fit into the cores and the memory lent.

Who comes first: work for a bench takes any lane that is free, because others wait for it; research
and rechecks take what no bench waits for. Nobody is stopped half way.
"""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from node.errors import UsageError
from node.limits import threads_lent
from training import accelerator
from training.errors import TrainingError
from training.executor import LOCAL, Executor, LocalExecutor
from training.sandbox import serve_lanes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Sequence

    from node.settings import Limits, Settings
    from training.challenge import TierSpec

_CORES: Final = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?\Z")
_GPU: Final = re.compile(r"cuda:([0-9]{1,3})\Z")
_FORM: Final = 'write cores, a GPU, or both: lanes = ["0-3", "cuda:0", "4-5 cuda:1"]'


class NoLane(TrainingError):
    """No lane of this node can run a tier; nothing was run."""


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One device. ``cores``: how many it has of its own, 0 where it is not bound to any."""

    name: str
    executor: Executor
    cores: int
    gpu: bool

    def fits(self, tier: TierSpec) -> bool:
        """Whether a run of the tier can have all that it needs here."""
        if tier.device != "cpu":
            return self.gpu
        return not self.cores or self.cores >= tier.threads


def read_lanes(settings: Settings, allowed: Collection[int] | None = None) -> tuple[Lane, ...]:
    """The lanes that the settings name on this machine; empty where they name none.

    ``allowed``: the cores that this process may use, asked of the kernel where not given.

    Raises:
        UsageError: a lane of another form, two that share something, cores that are not here or
            that exceed what ``limits.cores`` lends.
    """
    allowed = os.sched_getaffinity(0) if allowed is None else allowed
    taken: set[int] = set()
    gpus: set[int] = set()
    lanes = []
    for name in settings.lanes:
        cores, gpu = _parse(name)
        if absent := sorted(cores - set(allowed)):
            raise _wrong(f"lane {name!r}: core {absent[0]} is not one of {_ranges(allowed)}")
        if not cores and len(settings.lanes) > 1:
            raise _wrong(f"lane {name!r} names no cores: one of several must not disturb others")
        if taken & cores or (gpu is not None and gpu in gpus):
            raise _wrong(f"lane {name!r} shares a core or a GPU with another lane")
        taken |= cores
        gpus |= {gpu} if gpu is not None else set()
        lanes.append(Lane(name, LocalExecutor(cores, gpu), len(cores), gpu is not None))
    lent = settings.limits.cores
    if lent and len(taken) > lent:
        raise _wrong(f"lanes have {len(taken)} cores, and limits.cores lends {lent}")
    return tuple(lanes)


def _parse(name: str) -> tuple[set[int], int | None]:
    """Cores and GPU of a lane: a list like 0-3,8, or cuda:N, or both with a blank between."""
    *listed, last = name.split(" ")
    gpu = _GPU.match(last)
    listed += [] if gpu else [last]
    cores: set[int] = set()
    for part in listed[0].split(",") if len(listed) == 1 else ():
        found = _CORES.match(part)
        if found is None:
            break
        first, end = int(found[1]), int(found[2] or found[1])
        cores |= set(range(first, end + 1))
        if first > end:
            break
    else:
        if len(listed) <= 1:
            return cores, None if gpu is None else int(gpu[1])
    raise _wrong(f"lane {name[:40]!r} is not of a known form")


def _wrong(what: str) -> UsageError:
    return UsageError(f"node.toml: {what}", cure=_FORM)


def _ranges(cores: Collection[int]) -> str:
    """Numbers as people write them: 0-3,8."""
    found: list[list[int]] = []
    for core in sorted(cores):
        if found and core == found[-1][1] + 1:
            found[-1][1] = core
        else:
            found.append([core, core])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found)


@contextmanager
def open_lanes(settings: Settings) -> Iterator[tuple[Lane, ...]]:
    """The lanes of a node, checked against this machine, until the block ends; empty where none is
    named. Raises UsageError; for what a cluster raises see :func:`node.cluster.open_cluster`."""
    if settings.executor == "ray":
        from node.cluster import open_cluster

        with open_cluster(settings) as lanes:
            yield lanes
        return
    lanes = read_lanes(settings)
    check_gpus(lanes)
    serve_lanes(len(lanes))
    first = next((lane.executor.gpu for lane in lanes if isinstance(lane.executor, LocalExecutor)
                  and lane.executor.gpu is not None), None)  # fmt: skip
    with accelerator.using(first):  # its name is that of all
        yield lanes


def check_gpus(lanes: Sequence[Lane]) -> None:
    """Refuse lanes with GPUs that are not here, or not all alike: one node, one class.

    Raises UsageError.
    """
    names = {}
    for lane in lanes:
        if isinstance(lane.executor, LocalExecutor) and lane.executor.gpu is not None:
            names[lane.name] = accelerator.name(f"cuda:{lane.executor.gpu}")
    for lane_name, gpu in names.items():
        if gpu is None:
            raise _wrong(f"lane {lane_name!r}: there is no such GPU here")
    if len(set(names.values())) > 1:
        told = "; ".join(f"{lane_name}: {gpu}" for lane_name, gpu in names.items())
        raise UsageError(
            f"node.toml: the GPUs of the lanes differ ({told}), and records state one class",
            cure="run one node for each kind of GPU",
        )


def first_executor(lanes: Sequence[Lane], tier: TierSpec) -> Executor:
    """For one experiment after the other: the first lane that fits, this machine without lanes.

    Raises NoLane where there are lanes, and none fits.
    """
    fitting = [lane.executor for lane in lanes if lane.fits(tier)]
    if lanes and not fitting:
        raise _no_lane(tier)
    return fitting[0] if fitting else LOCAL


def _no_lane(tier: TierSpec) -> NoLane:
    what = f"{tier.threads} cores" if tier.device == "cpu" else "a GPU"
    return NoLane(
        f"no lane of this node can run tier {tier.name}, which takes {what}",
        cure="change lanes in node.toml",
    )


class Lanes:
    """Hands lanes out, one run on each; who works for a bench goes first."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        # Those without a GPU first: what needs none leaves the others free.
        self.lanes = tuple(sorted(lanes, key=lambda lane: (lane.gpu, lane.cores)))
        self._busy: set[Lane] = set()
        self._benches: list[list[Lane]] = []  # for each bench that waits: lanes that would do
        self._freed = trio.Event()

    @classmethod
    def anywhere(cls, limits: Limits, threads: int) -> Lanes:
        """Room for runs of ``threads`` each on what is lent of cores and memory, bound to none."""
        room = threads_lent(limits, threads) // threads
        return cls([Lane(f"{number}", LOCAL, 0, True) for number in range(room)])

    def fitting(self, tier: TierSpec) -> list[Lane]:
        """Those that can run a tier."""
        return [lane for lane in self.lanes if lane.fits(tier)]

    @asynccontextmanager
    async def take(
        self, tier: TierSpec, *, bench: bool, wanted: Lane | None = None
    ) -> AsyncIterator[Lane]:
        """A lane for one run, for as long as the block lasts; ``wanted`` and no other if named.

        Raises NoLane where there is none for the tier.
        """
        fitting = [lane for lane in self.fitting(tier) if wanted in (None, lane)]
        if not fitting:
            raise _no_lane(tier)
        if bench:
            self._benches.append(fitting)
        try:
            while (lane := self._free(fitting, bench)) is None:
                await self._freed.wait()
            self._busy.add(lane)
        finally:
            if bench:
                self._benches.remove(fitting)
            self._tell()
        try:
            yield lane
        finally:
            self._busy.discard(lane)
            self._tell()

    def _free(self, fitting: list[Lane], bench: bool) -> Lane | None:
        for lane in fitting:
            if lane not in self._busy and (bench or not any(lane in one for one in self._benches)):
                return lane
        return None

    def _tell(self) -> None:
        freed, self._freed = self._freed, trio.Event()
        freed.set()

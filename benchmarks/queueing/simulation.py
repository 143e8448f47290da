"""Runs jobs on a simulated fleet, event by event, under a policy; nothing here decides anything.

A job that is stopped has its work kept but for the last `redo_seconds`, which it does again. Its wait is all the time
that it neither ran nor had ended: what came after a stop counts, too.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.queueing.jobs import Job
from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Inventory
from headrace.placement.packing import best_placement
from headrace.placement.placements import Placement

_ARRIVES, _ENDS = 0, 1


@dataclass(kw_only=True)
class Active:
    """A job that runs: since when, and when it ends if nobody stops it (no policy may look at that)."""

    job: Job
    placement: Placement
    started: float
    ends: float
    num_stops: int = 0
    ran_seconds: float = 0.0  # before it was stopped


@dataclass(kw_only=True)
class Queued:
    job: Job
    left_seconds: float
    stopped_at: float = 0.0
    num_stops: int = 0
    ran_seconds: float = 0.0  # before it was stopped


@dataclass(kw_only=True)
class Choice:
    """What a policy wants at one instant. `reserved`: for which jobs it keeps a place."""

    starts: Mapping[str, Placement] = field(default_factory=dict)
    stops: Sequence[str] = ()
    reserved: Sequence[str] = ()
    look_again_at: float | None = None


class Policy(Protocol):
    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Waits in seconds, by job; pushes in seconds, by job that was promised a place; shares of the work."""

    waits: np.ndarray
    is_big: np.ndarray
    pushes: np.ndarray
    redone: float
    num_stops: int


class Simulation:
    """`every_seconds`: how often the policy is asked, and what ends is seen; None: at every arrival and every end."""

    def __init__(
        self,
        inventory: Inventory,
        jobs: Sequence[Job],
        policy: Policy,
        redo_seconds: float = 60.0,
        every_seconds: float | None = None,
    ) -> None:
        self._jobs, self._policy, self._redo_seconds = jobs, policy, redo_seconds
        self._every_seconds = every_seconds
        self._fleet = Fleet(inventory)
        self._queue: dict[str, Queued] = {}
        self._active: dict[str, Active] = {}
        self._events: list[tuple[float, int, int, str]] = []
        self._num_events = 0
        self._ended: dict[str, float] = {}
        self._ran: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._pushes: list[float] = []
        self._redone = 0.0
        self._num_stops = 0

    def run(self) -> Outcome:
        by_name = {job.name: job for job in self._jobs}
        for job in self._jobs:
            self._push(job.arrival, _ARRIVES, job.name)
        now = 0.0
        while self._events:
            now = now + self._every_seconds if self._every_seconds else self._events[0][0]
            while self._events and self._events[0][0] <= now:
                at, kind, _, name = heapq.heappop(self._events)
                if kind == _ARRIVES and name:
                    job = by_name[name]
                    self._queue[name] = Queued(job=job, left_seconds=job.run_seconds)
                elif kind == _ENDS and name in self._active and self._active[name].ends == at:
                    self._end(name, now)
            if self._queue:
                self._decide(now)
        if self._queue:
            raise RuntimeError(f"{len(self._queue)} jobs were never started, {next(iter(self._queue))} among them.")
        waits = [self._ended[job.name] - job.arrival - self._ran[job.name] for job in self._jobs]
        work = sum(job.gpus * job.run_seconds for job in self._jobs)
        return Outcome(
            waits=np.array(waits),
            is_big=np.array([job.demand.num_gpus >= 2 for job in self._jobs]),
            pushes=np.array(self._pushes),
            redone=self._redone / work,
            num_stops=self._num_stops,
        )

    def _push(self, at: float, kind: int, name: str) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (at, kind, self._num_events, name))

    def _end(self, name: str, now: float) -> None:
        active = self._active.pop(name)
        self._fleet.release(name)
        self._ended[name] = now
        self._ran[name] = self._ran.get(name, 0.0) + now - active.started

    def _decide(self, now: float) -> None:
        while True:
            choice = self._policy.choose(now, self._fleet, self._queue, self._active)
            for name, placement in choice.starts.items():
                self._start(name, placement, now)
            for name in choice.stops:
                self._stop(name, now)
            for name in choice.reserved:
                if name not in self._due:
                    self._due[name] = self._due_at(self._queue[name].job.demand, now)
            # What was stopped is gone at once: the simulated grace is 0 s.
            if not choice.stops:
                break
        if choice.look_again_at is not None:
            self._push(choice.look_again_at, _ARRIVES, "")

    def _start(self, name: str, placement: Placement, now: float) -> None:
        queued = self._queue.pop(name)
        self._fleet.take(name, placement)
        ends = now + queued.left_seconds
        self._active[name] = Active(
            job=queued.job,
            placement=placement,
            started=now,
            ends=ends,
            num_stops=queued.num_stops,
            ran_seconds=queued.ran_seconds,
        )
        self._push(ends, _ENDS, name)
        if name in self._due:
            self._pushes.append(max(0.0, now - self._due.pop(name)))

    def _stop(self, name: str, now: float) -> None:
        active = self._active.pop(name)
        self._fleet.release(name)
        ran = now - active.started
        redo = min(self._redo_seconds, ran)
        self._ran[name] = self._ran.get(name, 0.0) + ran
        self._redone += redo * active.job.gpus
        self._num_stops += 1
        self._queue[name] = Queued(
            job=active.job,
            left_seconds=active.ends - now + redo,
            stopped_at=now,
            num_stops=active.num_stops + 1,
            ran_seconds=self._ran[name],
        )

    def _due_at(self, demand: Demand, now: float) -> float:
        """When what is free, and what those that run now release when they really end, will do for the first time."""
        twin = self._fleet.copy()
        if best_placement(twin, demand) is not None:
            return now
        for active in sorted(self._active.values(), key=lambda active: (active.ends, active.job.name)):
            twin.release(active.job.name)
            if best_placement(twin, demand) is not None:
                return active.ends
        return float("inf")

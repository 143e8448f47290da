"""Runs of several version sets on simulated GPUs, each with room for one set, under the coordinator's own `plan`.

A GPU keeps what the last run there has loaded; a run that finds its set there starts at once, any other brings it
first. How long a run takes is no more known to the plan than to the daemon: it is told the median of the last ten that
have ended, and of a set what bringing it took the last time.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from headrace.placement.demand import Demand
from headrace.placement.fifo_waits import FifoWaits
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.placements import Placement
from headrace.placement.queueing import QueuePolicy, plan
from headrace.placement.residency import Residency
from headrace.placement.snapshot import Reservation, Running, Snapshot, Waiting

NODE = "node-a"
WHOLE_GPU = Demand(num_gpus=1)
# As the daemon, of a kind of run that has never ended.
_UNKNOWN_SECONDS = 600.0
_NUM_REMEMBERED = 10
# As the daemon's look where nothing happens.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One partition of one campaign. Times in seconds; `work_seconds` without loading."""

    name: str
    version_set: str
    arrival: float
    work_seconds: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """`waits`: from arrival to the first second of work, loading counted, in the order of the jobs."""

    num_loads: int
    waits: Sequence[float]
    ends_at: float


class Simulation:
    def __init__(self, jobs: Sequence[Job], *, num_gpus: int, bring_seconds: float, knows_models: bool) -> None:
        """Args: knows_models: whether the plan is told what is loaded where, and what runs need."""
        self._jobs, self._bring_seconds, self._knows = jobs, bring_seconds, knows_models
        gpus = tuple(Gpu(device=str(number), model="H100", memory_mib=81_559) for number in range(num_gpus))
        self._inventory = Inventory(nodes=(Node(name=NODE, gpus=gpus),))
        self._policy, self._waits = QueuePolicy(), FifoWaits()
        self._waiting: dict[str, Waiting] = {}
        self._running: dict[str, Running] = {}
        self._ends: dict[str, float] = {}
        self._loaded: dict[str, str] = {}
        self._brought: set[str] = set()
        self._took: list[float] = []
        self._num_loads = 0
        self._ended_at = 0.0
        self._began: dict[str, float] = {}
        self._promised: tuple[Reservation, ...] = ()
        self._by_name = {job.name: job for job in jobs}

    def run(self) -> Result:
        arrivals = sorted(self._jobs, key=lambda job: (job.arrival, job.name))
        looks = [job.arrival for job in arrivals]
        heapq.heapify(looks)
        next_arrival, now = 0, 0.0
        while looks:
            now = heapq.heappop(looks)
            while looks and looks[0] <= now:
                heapq.heappop(looks)
            while next_arrival < len(arrivals) and arrivals[next_arrival].arrival <= now:
                self._arrives(arrivals[next_arrival])
                next_arrival += 1
            for name in [name for name, end in self._ends.items() if end <= now]:
                self._took.append(now - self._running[name].started)
                self._ended_at = now
                del self._running[name], self._ends[name]
            for at in self._decide(now):
                heapq.heappush(looks, max(at, now + _LOOK_SECONDS) if at <= now else at)
        assert not self._waiting, f"{len(self._waiting)} runs were never started"
        waits = [self._began[job.name] - job.arrival for job in self._jobs]
        return Result(num_loads=self._num_loads, waits=waits, ends_at=self._ended_at)

    def _arrives(self, job: Job) -> None:
        self._waiting[job.name] = Waiting(
            run_id=job.name,
            demand=WHOLE_GPU,
            expected_seconds=0.0,
            submitted=job.arrival,
            loads=frozenset([job.version_set]) if self._knows else frozenset(),
        )

    def _decide(self, now: float) -> list[float]:
        """Returns when to look again."""
        if not self._waiting:
            return []
        took = median(self._took[-_NUM_REMEMBERED:]) if self._took else _UNKNOWN_SECONDS
        snapshot = Snapshot(
            inventory=self._inventory,
            waiting=tuple(replace(run, expected_seconds=took) for run in self._waiting.values()),
            running=tuple(replace(run, expected_seconds=took) for run in self._running.values()),
            residency=self._residency() if self._knows else Residency(),
        )
        decision = plan(self._waits.look(snapshot, self._policy, now), self._policy, now, self._promised)
        self._promised = decision.reservations
        found = [self._starts(name, place, now) for name, place in decision.admissions.items()]
        return found if decision.look_again_at is None else [*found, decision.look_again_at]

    def _residency(self) -> Residency:
        return Residency(
            nodes=frozenset([NODE]),
            loaded={(NODE, device): frozenset([name]) for device, name in self._loaded.items()},
            bring_seconds=dict.fromkeys(self._brought, self._bring_seconds),
        )

    def _starts(self, name: str, placement: Placement, now: float) -> float:
        """Returns when it ends."""
        job, [device] = self._by_name[name], placement.devices_on(NODE)
        loads = self._loaded.get(device) != job.version_set
        self._num_loads += loads
        self._loaded[device] = job.version_set
        self._brought.add(job.version_set)
        self._began[name] = now + (self._bring_seconds if loads else 0.0)
        self._running[name] = self._waiting.pop(name).started(placement, now)
        self._ends[name] = self._began[name] + job.work_seconds
        return self._ends[name]

"""The product's own `plan`, asked at every event of the simulation."""

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from itertools import takewhile
from typing import Any

from benchmarks.queueing.simulation import Active, Choice, Queued
from headrace.placement.demand import Demand
from headrace.placement.fifo_waits import FifoWaits
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Inventory
from headrace.placement.queueing import Line, QueuePolicy, plan
from headrace.placement.snapshot import Reservation, Running, Snapshot, Waiting


class Headrace:
    """Jobs of one GPU or less say that they may be stopped; whether anybody is, the policy says."""

    def __init__(self, inventory: Inventory, policy: QueuePolicy) -> None:
        self._inventory, self._policy = inventory, policy
        self._promised: tuple[Reservation, ...] = ()
        self._waits = FifoWaits()
        self._line = Line()
        # As a coordinator: what it has read of a run stays what it is until the run changes.
        self._waiting: list[Waiting] = []
        self._names: set[str] = set()  # of those
        self._started: Collection[str] = ()
        self._running: dict[str, tuple[Active, Running]] = {}
        self._demands: dict[Demand, Demand] = {}

    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice:
        self._read_waiting(queue)
        running = {name: self._read_running(name, run) for name, run in active.items()}
        self._running = running
        snapshot = Snapshot(
            inventory=self._inventory,
            waiting=tuple(self._waiting),
            running=tuple([run for _, run in running.values()]),
        )
        looked = self._waits.look(snapshot, self._policy, now)
        decision = plan(looked, self._policy, now, self._promised, self._line)
        self._promised, self._started = decision.reservations, decision.admissions.keys()
        return Choice(
            starts=decision.admissions,
            stops=[preemption.run_id for preemption in decision.preemptions],
            reserved=[reservation.run_id for reservation in decision.reservations],
            look_again_at=decision.look_again_at,
        )

    def _read_waiting(self, queue: Mapping[str, Queued]) -> None:
        """Takes in who left, as was said last time, and who came, to the end of the queue. In order of submission."""
        for name in self._started:
            self._names.discard(name)
            del self._waiting[bisect_left(self._waiting, name, key=_name)]
        for name in takewhile(lambda name: name not in self._names, reversed(list(queue))):
            self._names.add(name)
            queued = queue[name]
            run = Waiting(
                **self._planned(name, queued),
                submitted=queued.job.arrival,
                preempted_at=queued.stopped_at,
                ran_seconds=queued.ran_seconds,
            )
            insort(self._waiting, run, key=_name)

    def _read_running(self, name: str, run: Active) -> tuple[Active, Running]:
        if name in self._running and self._running[name][0] is run:
            return self._running[name]
        return run, Running(
            **self._planned(name, run),
            placement=run.placement,
            started=run.started,
            waited_seconds=max(0.0, run.started - run.job.arrival - run.ran_seconds),
        )

    def _planned(self, name: str, run: Queued | Active) -> dict[str, Any]:
        """What a plan is told of any run."""
        return {
            "run_id": name,
            "demand": self._demands.setdefault(run.job.demand, run.job.demand),
            "expected_seconds": run.job.estimate_seconds,
            "queue": run.job.queue,
            "priority": run.job.priority,
            "preemptible": run.job.demand.num_gpus == 1,
            "num_preemptions": run.num_stops,
        }


def _name(run: Waiting) -> str:
    return run.run_id

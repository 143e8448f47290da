"""The product's own `plan`, asked at every event of the simulation."""

from collections.abc import Mapping
from typing import Any

from benchmarks.queueing.simulation import Active, Choice, Queued
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Inventory
from headrace.placement.queueing import QueuePolicy, plan
from headrace.placement.snapshot import Reservation, Running, Snapshot, Waiting


class Headrace:
    """Jobs of one GPU or less say that they may be stopped; whether anybody is, the policy says."""

    def __init__(self, inventory: Inventory, policy: QueuePolicy) -> None:
        self._inventory, self._policy = inventory, policy
        self._promised: tuple[Reservation, ...] = ()

    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice:
        snapshot = Snapshot(
            inventory=self._inventory,
            waiting=tuple(
                Waiting(
                    **_planned(name, queued),
                    submitted=queued.job.arrival,
                    preempted_at=queued.stopped_at,
                )
                for name, queued in sorted(queue.items())
            ),
            running=tuple(
                Running(**_planned(name, run), placement=run.placement, started=run.started)
                for name, run in active.items()
            ),
        )
        decision = plan(snapshot, self._policy, now, self._promised)
        self._promised = decision.reservations
        return Choice(
            starts=decision.admissions,
            stops=[preemption.run_id for preemption in decision.preemptions],
            reserved=[reservation.run_id for reservation in decision.reservations],
            look_again_at=decision.look_again_at,
        )


def _planned(name: str, run: Queued | Active) -> dict[str, Any]:
    """What a plan is told of any run."""
    return {
        "run_id": name,
        "demand": run.job.demand,
        "expected_seconds": run.job.estimate_seconds,
        "queue": run.job.queue,
        "priority": run.job.priority,
        "preemptible": run.job.demand.num_gpus == 1,
        "num_preemptions": run.num_stops,
    }

"""Tasks arrive one by one and stay; what does not fit is lost, or waits in a buffer for a while."""

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.placement.openb import arrivals, gpu_milli
from benchmarks.placement.peers import Place, policy
from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fleet import Fleet
from headrace.placement.inventory import Inventory
from headrace.placement.task_mix import TaskMix

LOADS = (0.95, 1.0, 1.3)
# A task waits at most this many arrivals for each place in the buffer.
AGE_PER_PLACE = 16


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """GPU thousandths given out as per cent of the fleet's, when each of `LOADS` had arrived.

    As the published figures are made: the mean over all tasks after which that per cent, rounded, had arrived.
    """

    allocated: tuple[float, ...]
    num_decisions: int
    cpu_seconds: float


def replay(
    inventory: Inventory,
    tasks: Sequence[Demand],
    *,
    name: str,
    ties: str,
    seed: int,
    num_places: int = 0,
    load: float = LOADS[-1],
) -> Replayed:
    """One seed of the protocol, until `load` has arrived.

    A task is not moved once placed, nor turned away while it fits and nothing may wait.
    """
    fleet = Fleet(inventory)
    capacity = inventory.num_gpus * WHOLE
    place = policy(name, fleet, TaskMix.counted(tasks), ties, seed)
    coming = arrivals(tasks, capacity, load, seed)
    waiting = _Buffer(fleet, place, num_places)
    arrived = 0
    seen: dict[int, list[float]] = {round(100 * one): [] for one in LOADS}
    began = time.process_time()
    for task in coming:
        arrived += gpu_milli(task)
        waiting.arrive(task)
        if (per_cent := round(100 * arrived / capacity)) in seen:
            seen[per_cent].append(100 * waiting.given_milli / capacity)
    waiting.drain()
    at_the_end = 100 * waiting.given_milli / capacity
    return Replayed(
        # What waits in a buffer is placed when nothing comes any more.
        allocated=tuple(
            fmean(values) if values and not (num_places and one == LOADS[-1]) else at_the_end
            for one, values in zip(LOADS, seen.values(), strict=True)
        ),
        num_decisions=len(coming),
        cpu_seconds=time.process_time() - began,
    )


class _Buffer:
    """Up to `num_places` tasks wait; when one more comes, the pair of a task and its place that costs least for the
    task's size goes first.

    A task for which `AGE_PER_PLACE` times as many as there are places have come since is placed next, or dropped where
    it does not fit. With no places, each task is placed or lost as it comes.
    """

    def __init__(self, fleet: Fleet, place: Place, num_places: int) -> None:
        self.given_milli = 0
        self._fleet, self._place, self._num_places = fleet, place, num_places
        self._waiting: Counter[Demand] = Counter()
        self._in_order: deque[tuple[int, Demand]] = deque()
        self._gone: Counter[Demand] = Counter()  # of those in order, placed already: the oldest alike count as gone
        self._num_waiting = self._num_placed = self._step = 0
        self._comes_more = True

    def arrive(self, task: Demand) -> None:
        self._step += 1
        if not self._num_places:
            self._put(task)
            return
        self._waiting[task] += 1
        self._num_waiting += 1
        self._in_order.append((self._step, task))
        self._force()
        while self._num_waiting > self._num_places:
            self._best_first()

    def drain(self) -> None:
        """Nothing comes any more."""
        self._comes_more = False
        while self._num_waiting:
            self._best_first()

    def _force(self) -> None:
        while self._in_order:
            step, task = self._in_order[0]
            if self._gone[task]:
                self._gone[task] -= 1
            elif step + AGE_PER_PLACE * self._num_places <= self._step:
                self._leave(task)
                self._put(task)
            else:
                return
            self._in_order.popleft()

    def _best_first(self) -> None:
        """Places one, or drops those that fit nowhere: nothing is ever given back, so that they never will."""
        priced: list[tuple[float, int, Demand]] = []
        for number, task in enumerate(list(self._waiting)):
            found = self._place(self._fleet, task)
            if found is not None:
                priced.append((found[0] / _worth(task), number, task))
                continue
            for _ in range(self._waiting[task]):
                self._leave(task)
                self._gone[task] += 1
        if priced and self._num_waiting > (self._num_places if self._comes_more else 0):
            task = min(priced)[2]
            self._put(task)
            self._leave(task)
            self._gone[task] += 1

    def _leave(self, task: Demand) -> None:
        self._num_waiting -= 1
        self._waiting[task] -= 1
        if not self._waiting[task]:
            del self._waiting[task]

    def _put(self, task: Demand) -> None:
        found = self._place(self._fleet, task)
        if found is not None:
            self._num_placed += 1
            self._fleet.take(str(self._num_placed), found[1])
            self.given_milli += gpu_milli(task)


def _worth(task: Demand) -> int:
    """What a task's cost is measured by; a task without GPU costs little, and counts as one."""
    return gpu_milli(task) or WHOLE

"""What the order of waiting runs is made of: when a run has waited too long, and each queue's share of the fleet."""

from collections import defaultdict

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Inventory
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.snapshot import Running, Waiting


def goes_by_age_at(run: Waiting, policy: QueuePolicy) -> float:
    """When the run will have waited too long, in seconds since the epoch.

    A preempted run keeps its earlier waiting time, and its place among those that have waited too long: at the end of
    their line it would wait twice. It does not take back the place of whom it was stopped for, who is promised it.
    """
    return run.submitted + run.ran_seconds + policy.patience_of(run.demand) * run.fifo_wait_seconds


def has_aged(run: Waiting, policy: QueuePolicy, now: float) -> bool:
    return now >= goes_by_age_at(run, policy)


def had_aged(run: Running, policy: QueuePolicy) -> bool:
    """Whether it had waited too long when it started, or was let past those that had."""
    return run.is_short or run.waited_seconds > policy.patience_of(run.demand) * run.fifo_wait_seconds


class Shares:
    """Each queue's part of the fleet: of its GPUs, CPUs or memory, whichever part is largest."""

    def __init__(self, inventory: Inventory) -> None:
        self._gpu_milli = inventory.num_gpus * WHOLE
        self._cpu_milli = sum(node.cpu_milli for node in inventory.nodes)
        self._memory_mib = sum(node.memory_mib for node in inventory.nodes)
        self._held: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, queue: str, demand: Demand, gpu_milli: int) -> None:
        held = self._held[queue]
        held[0] += gpu_milli
        held[1] += demand.cpu_milli
        held[2] += demand.memory_mib

    def of(self, queue: str) -> float:
        """From 0 to 1, or more if the fleet shrank."""
        gpu_milli, cpu_milli, memory_mib = self._held[queue]
        return max(
            gpu_milli / self._gpu_milli if self._gpu_milli else 0.0,
            cpu_milli / self._cpu_milli if self._cpu_milli else 0.0,
            memory_mib / self._memory_mib if self._memory_mib else 0.0,
        )

    def gpu_milli(self, queue: str) -> int:
        return self._held[queue][0]

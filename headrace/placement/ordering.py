"""The order in which waiting runs are considered: aged runs first, then by priority, fair share and length."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Inventory
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.snapshot import Waiting


def goes_by_age_at(run: Waiting, policy: QueuePolicy) -> float:
    """When the run will have waited too long, in seconds since the epoch.

    A preempted run keeps its earlier waiting time, but never precedes the run that was promised a place when it was
    stopped: that one went by age already.
    """
    at = run.submitted + policy.patience_seconds(run.demand)
    return max(at, run.preempted_at) if run.num_preemptions else at


def has_aged(run: Waiting, policy: QueuePolicy, now: float) -> bool:
    return now >= goes_by_age_at(run, policy)


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


def aged_first(runs: Iterable[Waiting], policy: QueuePolicy, now: float) -> tuple[list[Waiting], list[Waiting]]:
    """The aged runs, in the order in which they are served; and the others."""
    aged, young = [], []
    for run in runs:
        (aged if has_aged(run, policy, now) else young).append(run)
    aged.sort(key=lambda run: (goes_by_age_at(run, policy), run.num_preemptions, run.submitted, run.run_id))
    return aged, young


def by_share(runs: Iterable[Waiting], policy: QueuePolicy, shares: Shares) -> Iterator[Waiting]:
    """Yields run after run; reads `shares` again for each, so that an admission affects the next choice."""
    classes: defaultdict[int, defaultdict[str, list[Waiting]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        classes[run.priority][run.queue].append(run)
    for priority in sorted(classes, reverse=True):
        queues = classes[priority]
        for queue in queues.values():
            # Reversed, since the next run is popped from the end.
            queue.sort(key=lambda run: (_length(run, policy), run.submitted, run.run_id), reverse=True)
        while queues:
            name = min(queues, key=lambda queue: (shares.of(queue) / policy.weight(queue), queue))
            yield queues[name].pop()
            if not queues[name]:
                del queues[name]


def _length(run: Waiting, policy: QueuePolicy) -> float:
    return run.expected_seconds if policy.order == "shortest_first" else 0.0

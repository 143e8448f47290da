"""The order in which waiting runs are considered: aged runs first, then by priority, fair share and length."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Inventory
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.snapshot import Running, Waiting


def goes_by_age_at(run: Waiting, policy: QueuePolicy) -> float:
    """When the run will have waited too long, in seconds since the epoch.

    A preempted run keeps its earlier waiting time, but never precedes the run that was promised a place when it was
    stopped: that one went by age already.
    """
    at = run.submitted + run.ran_seconds + policy.patience_of(run.demand) * run.fifo_wait_seconds
    return max(at, run.preempted_at) if run.num_preemptions else at


def has_aged(run: Waiting, policy: QueuePolicy, now: float) -> bool:
    return now >= goes_by_age_at(run, policy)


def had_aged(run: Running, policy: QueuePolicy) -> bool:
    """Whether it had waited too long when it started."""
    return run.waited_seconds > policy.patience_of(run.demand) * run.fifo_wait_seconds


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


def aged_first(
    runs: Iterable[Waiting], policy: QueuePolicy, now: float, promised: Collection[str] = ()
) -> tuple[list[Waiting], list[Waiting], list[float]]:
    """The aged runs, in the order in which they are served; the others; and when each of the others will go by age.

    Args:
        promised: whoever has a place already is served first, so that nobody takes it who was held back by something
            else until now.
    """
    aged, young, ages = [], [], []
    for run in runs:
        at = goes_by_age_at(run, policy)
        if now >= at:
            aged.append((run.run_id not in promised, at, run.num_preemptions, run.submitted, run.run_id, run))
        else:
            young.append(run)
            ages.append(at)
    aged.sort()  # ids differ, so that no two runs are compared
    return [entry[-1] for entry in aged], young, ages


class Line(Protocol):
    """The runs of one queue."""

    def __len__(self) -> int: ...

    def pop(self) -> Waiting:
        """The run that is next."""
        ...


def by_share(
    runs: Iterable[Waiting],
    policy: QueuePolicy,
    shares: Shares,
    line: Callable[[list[Waiting]], Line] | None = None,
) -> Iterator[Waiting]:
    """Yields run after run; reads `shares` again for each, so that an admission affects the next choice.

    Args:
        line: of a queue's runs in their order, who is next, asked for each anew; None: in that order.
    """
    classes: defaultdict[int, defaultdict[str, list[Waiting]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        classes[run.priority][run.queue].append(run)
    for priority in sorted(classes, reverse=True):
        queues = classes[priority]
        for queue in queues.values():
            queue.sort(key=_by_length if policy.order == "shortest_first" else _by_submission)
        if len(queues) == 1 and line is None:
            yield from next(iter(queues.values()))
            continue
        # The next run of a list is popped from the end.
        lines: dict[str, Line] = {name: line(queue) if line else queue[::-1] for name, queue in queues.items()}
        while lines:
            name = min(lines, key=lambda queue: (shares.of(queue) / policy.weight(queue), queue))
            yield lines[name].pop()
            if not len(lines[name]):
                del lines[name]


def _by_length(run: Waiting) -> tuple[float, float, str]:
    return run.expected_seconds, run.submitted, run.run_id


def _by_submission(run: Waiting) -> tuple[float, str]:
    return run.submitted, run.run_id

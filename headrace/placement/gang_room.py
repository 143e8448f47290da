"""Room for gangs on one node: whole free GPUs together are worth more than their sum.

Gangs are few among the drawn runs, but each takes much of the fleet. Without this term, single runs spread over the
last whole nodes, and gangs found none.
"""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.node_states import Layout, NodeState, fits
from headrace.placement.task_mix import TaskMix

# Groups of large runs that are told apart: first those of the most GPUs, then those with the fewest nodes.
_GROUPS_MAX = 16
# So much of a GPU, and two GPUs more so, finds a place less easily than small shares leave one.
_LARGE_MILLI = 700


class GangRoom:
    def __init__(self, layout: Layout, mix: TaskMix) -> None:
        volume = sum(weight * demand.num_gpus * demand.gpu_milli for demand, weight in mix.weights)
        gangs = [(demand, weight) for demand, weight in mix.weights if demand.num_gpus > 1 and demand.gang == "node"]
        self._rooms = _Rooms(layout, [demand for demand, _ in gangs])
        size = self._rooms.num_gpus * WHOLE
        self._worth = size * np.array([weight * demand.num_gpus * WHOLE / volume for demand, weight in gangs])
        large = [(demand, weight) for demand, weight in mix.weights if _is_large(demand)]
        self.groups = _alike(layout, large)
        self._places = _Rooms(layout, [demand for demand, _ in self.groups])
        # By group: how many of it come while each free thousandth is filled; and the size of one.
        self.coming = np.array([weight / volume for _, weight in self.groups])
        self.sizes = np.array([demand.num_gpus * demand.gpu_milli for demand, _ in self.groups])

    def kept(self, hosts: np.ndarray, gpus: np.ndarray) -> np.ndarray:
        """GPU thousandths in which gangs would fit, each gang weighted by its part of all requested GPUs.

        Args:
            hosts: [state, 2], free CPU and memory.
            gpus: [state, gpu, 2], class and free thousandths.
        """
        if not len(self._worth):
            return np.zeros(len(hosts))
        return self._rooms.count(hosts, gpus) @ self._worth

    def places(self, hosts: np.ndarray, gpus: np.ndarray) -> np.ndarray:
        """How many runs of each group of large ones would fit: [state, group]. Arguments as `kept`."""
        return self._places.count(hosts, gpus)


class _Rooms:
    def __init__(self, layout: Layout, gangs: list[Demand]) -> None:
        self._cpu_milli = np.array([demand.cpu_milli for demand in gangs], dtype=np.int64)
        self._memory_mib = np.array([demand.memory_mib for demand in gangs], dtype=np.int64)
        self.num_gpus = np.array([demand.num_gpus for demand in gangs], dtype=np.int64)
        self._milli = np.array([layout.milli_by_class(demand) for demand in gangs], dtype=np.int64)

    def count(self, hosts: np.ndarray, gpus: np.ndarray) -> np.ndarray:
        """How many of each gang fit, if no other comes: [state, gang]."""
        if not len(self.num_gpus):
            return np.zeros((len(hosts), 0), dtype=np.int64)
        cpu_milli, memory_mib = hosts[:, :1], hosts[:, 1:]
        usable = (self._milli[:, gpus[:, :, 0]] <= gpus[:, :, 1]).sum(axis=2).T  # [state, gang]
        by_cpu = np.where(self._cpu_milli > 0, cpu_milli // np.maximum(self._cpu_milli, 1), usable)
        return np.minimum(usable // self.num_gpus, np.maximum(by_cpu, 0)) * (self._memory_mib <= memory_mib)


def _is_large(demand: Demand) -> bool:
    return demand.gang == "node" and demand.num_gpus * demand.gpu_milli >= _LARGE_MILLI


def _alike(layout: Layout, runs: list[tuple[Demand, float]]) -> list[tuple[Demand, float]]:
    """Runs of as many GPUs that the same kinds of nodes can hold, as one each: the largest, with the sum of weights."""
    kinds: dict[int, NodeState] = {state.number: state for state in layout.idle}
    num_nodes = Counter(state.number for state in layout.idle)
    groups: dict[tuple[int, int, frozenset[str], frozenset[int]], list[tuple[Demand, float]]] = defaultdict(list)
    for demand, weight in runs:
        milli = layout.milli_by_class(demand)
        there = frozenset(number for number, state in kinds.items() if fits(state, demand, milli))
        if there:
            groups[demand.num_gpus, demand.gpu_milli, demand.gpu_models, there].append((demand, weight))
    fewest = sorted(groups, key=lambda key: (-key[0], sum(num_nodes[number] for number in key[-1])))
    return [_largest(groups[key]) for key in fewest[:_GROUPS_MAX]]


def _largest(runs: list[tuple[Demand, float]]) -> tuple[Demand, float]:
    largest = replace(
        runs[0][0],
        gpu_memory_mib=max(demand.gpu_memory_mib for demand, _ in runs),
        cpu_milli=max(demand.cpu_milli for demand, _ in runs),
        memory_mib=max(demand.memory_mib for demand, _ in runs),
    )
    return largest, sum(weight for _, weight in runs)

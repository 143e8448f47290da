"""Room for gangs on one node: whole free GPUs together are worth more than their sum.

Gangs are few among the drawn runs, but each takes much of the fleet. Without this term, single runs spread over the
last whole nodes, and gangs found none.
"""

import numpy as np

from headrace.placement.demand import WHOLE
from headrace.placement.node_states import Layout
from headrace.placement.task_mix import TaskMix


class GangRoom:
    def __init__(self, layout: Layout, mix: TaskMix) -> None:
        volume = sum(weight * demand.num_gpus * demand.gpu_milli for demand, weight in mix.weights)
        gangs = [(demand, weight) for demand, weight in mix.weights if demand.num_gpus > 1 and demand.gang == "node"]
        self._cpu_milli = np.array([demand.cpu_milli for demand, _ in gangs], dtype=np.int64)
        self._memory_mib = np.array([demand.memory_mib for demand, _ in gangs], dtype=np.int64)
        self._num_gpus = np.array([demand.num_gpus for demand, _ in gangs], dtype=np.int64)
        self._milli = np.array([layout.milli_by_class(demand) for demand, _ in gangs], dtype=np.int64)
        size = self._num_gpus * WHOLE
        self._worth = size * np.array([weight * demand.num_gpus * WHOLE / volume for demand, weight in gangs])

    def kept(self, hosts: np.ndarray, gpus: np.ndarray) -> np.ndarray:
        """GPU thousandths in which gangs would fit, each gang weighted by its part of all requested GPUs.

        Args:
            hosts: [state, 2], free CPU and memory.
            gpus: [state, gpu, 2], class and free thousandths.
        """
        if not len(self._worth):
            return np.zeros(len(hosts))
        cpu_milli, memory_mib = hosts[:, :1], hosts[:, 1:]
        usable = (self._milli[:, gpus[:, :, 0]] <= gpus[:, :, 1]).sum(axis=2).T  # [state, gang]
        by_cpu = np.where(self._cpu_milli > 0, cpu_milli // np.maximum(self._cpu_milli, 1), usable)
        count = np.minimum(usable // self._num_gpus, np.maximum(by_cpu, 0)) * (self._memory_mib <= memory_mib)
        return count @ self._worth

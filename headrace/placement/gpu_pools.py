"""Pools: the GPUs that some run may use, so that runs of one pool wait for the same.

A pool's name is made of models and memory. Runs without a GPU have a pool of their own, of CPUs and memory; and so have
those that need nothing that is counted, and wait for a slot (`max_concurrent_runs`).
"""

import math
from collections import Counter
from functools import lru_cache

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.inventory import Inventory
from headrace.placement.stage_ledger import asked_milli

WITHOUT_GPU = ""
WITHOUT_NEED = "-"
_BETWEEN = "|"


class GpuPools:
    """The pools of one fleet, as it is now."""

    def __init__(self) -> None:
        self._inventory: Inventory | None = None
        self._ever_seen: Inventory | None = None
        self._kinds: frozenset[tuple[str, int]] = frozenset()
        self._num_gpus: Counter[str] = Counter()
        self._cpu_milli = self._memory_mib = 0
        self._names: dict[Demand, str | None] = {}

    def refresh(self, inventory: Inventory, ever_seen: Inventory) -> None:
        """`ever_seen`: with what is gone now, so that a pool keeps its name meanwhile."""
        if inventory is self._inventory and ever_seen is self._ever_seen:
            return
        self._inventory, self._ever_seen = inventory, ever_seen
        kinds = frozenset((gpu.model, gpu.memory_mib) for node in ever_seen.nodes for gpu in node.gpus)
        if kinds != self._kinds:
            self._kinds = kinds
            self._names.clear()
        gpus = [gpu for node in inventory.nodes for gpu in node.gpus if gpu.healthy]
        self._num_gpus = Counter(_kind_name(gpu.model, gpu.memory_mib) for gpu in gpus)
        self._cpu_milli = sum(node.cpu_milli for node in inventory.nodes)
        self._memory_mib = sum(node.memory_mib for node in inventory.nodes)

    def name(self, demand: Demand) -> str | None:
        """None: it asks for what this fleet never had."""
        if demand not in self._names:
            self._names[demand] = self._name(demand)
        return self._names[demand]

    def amount(self, demand: Demand) -> float:
        """Of its pool's capacity: GPUs, slots, or the larger part of all CPUs or of all memory."""
        if demand.num_gpus:
            return asked_milli(demand) / WHOLE
        if not (demand.cpu_milli or demand.memory_mib):
            return 1.0
        return max(
            demand.cpu_milli / self._cpu_milli if self._cpu_milli else 0.0,
            demand.memory_mib / self._memory_mib if self._memory_mib else 0.0,
        )

    def capacity(self, name: str) -> float:
        if name == WITHOUT_NEED:
            return math.inf  # of slots, how many there are is not known here
        if name == WITHOUT_GPU:
            return 1.0 if self._cpu_milli or self._memory_mib else 0.0
        return float(sum(self._num_gpus[kind] for kind in _kinds_of(name)))

    def _name(self, demand: Demand) -> str | None:
        if not demand.num_gpus:
            return WITHOUT_GPU if demand.cpu_milli or demand.memory_mib else WITHOUT_NEED
        allowed = [
            _kind_name(model, memory_mib)
            for model, memory_mib in self._kinds
            if (not demand.gpu_models or model in demand.gpu_models) and demand.milli_on(memory_mib) <= WHOLE
        ]
        return _BETWEEN.join(sorted(allowed)) or None


def is_within(name: str, other: str) -> bool:
    """Whether all of a pool's GPUs are in another, too."""
    return _kinds_of(name) <= _kinds_of(other)


@lru_cache(maxsize=1024)
def _kinds_of(name: str) -> frozenset[str]:
    return frozenset(name.split(_BETWEEN))


def _kind_name(model: str, memory_mib: int) -> str:
    return f"{model}:{memory_mib}"

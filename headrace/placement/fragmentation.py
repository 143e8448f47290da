"""How much of a node's idle GPU is useless to typical runs.

Weng et al. 2023, Beware of Fragmentation (USENIX ATC), section 4: for each demand of the mix, the part of the node's
free GPU that it could not use, weighted by the demand's frequency.
"""

from collections.abc import Iterable

import numpy as np

from headrace.placement.node_states import Layout, Leftover
from headrace.placement.outlook import KEPT_MAX
from headrace.placement.task_mix import TaskMix

# The demands that make up 95% of arrivals represent all, as in the paper.
TYPICAL_PART = 0.95


class Fragmentation:
    """An outlook without draws or a compiler, used to pack small fleets."""

    def __init__(self, layout: Layout, mix: TaskMix) -> None:
        typical = mix.typical(TYPICAL_PART).weights
        weights = np.array([weight for _, weight in typical], dtype=float)
        self._weights = weights / weights.sum()
        self._cpu_milli = np.array([demand.cpu_milli for demand, _ in typical])
        self._num_gpus = np.array([demand.num_gpus for demand, _ in typical])
        self._milli = np.array([layout.milli_by_class(demand) for demand, _ in typical])
        self.lost: dict[Leftover, float] = {}
        self.places: dict[Leftover, np.ndarray] = {}

    def look_at(self, leftovers: Iterable[Leftover]) -> None:
        if len(self.lost) > KEPT_MAX:
            self.lost.clear()
        for leftover in leftovers:
            if leftover not in self.lost:
                self.lost[leftover] = self._fragment(leftover)

    def _fragment(self, leftover: Leftover) -> float:
        """Thousandths of a GPU, expected."""
        cpu_milli, _, gpus = leftover
        if not gpus:
            return 0.0
        classes, free = np.array(gpus).T
        fits = self._milli[:, classes] <= free
        runs = (self._num_gpus > 0) & (self._cpu_milli <= cpu_milli) & (fits.sum(axis=1) >= self._num_gpus)
        lost = np.where(runs, (free * ~fits).sum(axis=1), free.sum())
        return float(self._weights @ lost)

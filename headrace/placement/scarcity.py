"""Which nodes are in demand most: those that many demands of the mix need because no other node will do.

The mix is poured over the fleet as models, gang sizes, CPU and memory allow, each demand onto the least pressed kinds
of nodes; what stays above the rest is scarce. A run that could go elsewhere pays for it, so that a model that others
ask for by name is not given to a run that names none.
"""

import numpy as np

from headrace.placement.demand import WHOLE
from headrace.placement.node_states import Layout, NodeState, fits
from headrace.placement.task_mix import TaskMix

# How strongly demands avoid pressed nodes, and the size of one step: pressures settle within the steps without
# oscillating. Thirty instead of eight oscillates.
_AVOIDANCE = 8.0
_STEP = 0.1
_NUM_STEPS = 300


def scarcity(layout: Layout, mix: TaskMix) -> np.ndarray:
    """By node: demand over capacity when the mix fills the fleet, minus that of the least pressed node; 0 or more."""
    kinds: dict[int, tuple[int, NodeState]] = {}
    of_node = np.array([kinds.setdefault(state.number, (len(kinds), state))[0] for state in layout.idle], dtype=int)
    capacity = np.array([sum(state.usable) for _, state in kinds.values()], dtype=float) * np.bincount(of_node)
    wanted, allowed = [], []
    for demand, weight in mix.on_gpus().weights:
        milli = layout.milli_by_class(demand)
        there = [fits(state, demand, milli) for _, state in kinds.values()]
        if any(there):
            wanted.append(weight * demand.num_gpus * min(milli, default=WHOLE))
            allowed.append(there)
    if len(kinds) < 2 or not wanted:
        return np.zeros(len(of_node))
    volumes = np.array(wanted) * capacity.sum() / sum(wanted)
    open_to = np.array(allowed) * capacity
    pressure = np.ones(len(kinds))
    for _ in range(_NUM_STEPS):
        drawn = open_to * np.exp(-_AVOIDANCE * pressure)
        poured = volumes @ (drawn / drawn.sum(axis=1, keepdims=True))
        pressure += _STEP * (np.divide(poured, capacity, out=np.zeros_like(poured), where=capacity > 0) - pressure)
    with_gpus = capacity > 0
    return np.where(with_gpus, pressure - pressure[with_gpus].min(), 0.0)[of_node]

"""What it costs to take the place of a large run: the more, the nearer such places are to being all needed.

A gang of eight that needs 120 CPUs fits on a twentieth of the nodes, and is one run in a thousand: no draw of sixty
runs sees it, and no pressure is on these nodes while they are empty. So for each group of large runs that the same
nodes can hold, the places that are left are counted, and the runs of it that come while the rest of the fleet fills.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headrace.placement.node_states import NodeState

if TYPE_CHECKING:
    from headrace.placement.lookahead import Lookahead

# Of a run's size, where as many are to come as there are places left. And the power of their ratio: with 1, places are
# kept too early, and 0.35% less is given out in the end; the chance that a Poisson number of them comes is too late:
# others then find no place elsewhere, and ten gangs of eight were lost.
_PRICE = 0.25
_POWER = 4


class PlacePrices:
    def __init__(self, lookahead: "Lookahead", num_nodes: int) -> None:
        self._lookahead = lookahead
        self.sizes = lookahead.gangs.sizes
        self._numbers = np.full(num_nodes, -1, dtype=np.int64)
        self._places, self._free = np.zeros((num_nodes, len(self.sizes))), np.zeros(num_nodes)

    def of(self, states: Sequence[NodeState], numbers: np.ndarray) -> np.ndarray:
        """By group, of each place, in idle GPU thousandths."""
        (changed,) = (self._numbers != numbers).nonzero()
        if len(changed):
            nodes = changed.tolist()
            self._lookahead.look_at([states[node].leftover for node in nodes])
            self._places[changed] = [self._lookahead.places[states[node].leftover] for node in nodes]
            self._free[changed] = [sum(states[node].usable) for node in nodes]
            self._numbers[changed] = numbers[changed]
        coming = self._lookahead.gangs.coming * self._free.sum()
        # Where no place is left, none can be taken.
        needed = np.minimum(coming / np.maximum(self._places.sum(axis=0), 1.0), 1.0)
        return (_PRICE * self.sizes * needed**_POWER).astype(np.float32)

"""A queue's runs in an order that spares loading: first those whose models a GPU with room has.

Then those whose models no GPU has, and last those whose models are at work somewhere: they have a place to wait for.
Inside each of the three in the queue's order. If the queue goes by length, what must be brought counts as length, and
nothing else changes. Nobody is passed over for long: who has waited too long stands in no line.
"""

import heapq
from typing import NamedTuple

from headrace.placement.demand import Demand
from headrace.placement.model_places import ModelPlaces
from headrace.placement.snapshot import Waiting


class _Kind(NamedTuple):
    """Runs that differ in nothing that a place depends on."""

    loads: frozenset[str]
    demand: Demand


class WarmLine:
    def __init__(self, queue: list[Waiting], models: ModelPlaces, *, is_by_length: bool) -> None:
        """Args: queue: in its order."""
        self._models, self._is_by_length = models, is_by_length
        self._num_left = len(queue)
        # Of each kind, the runs with their places in the queue; the first one at the end.
        self._kinds: dict[_Kind, list[tuple[int, Waiting]]] = {}
        for place in range(len(queue) - 1, -1, -1):
            run = queue[place]
            self._kinds.setdefault(_Kind(run.loads, run.demand), []).append((place, run))
        self._heads: list[tuple[float, int, int, _Kind]] = []
        self._version: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self._num_left

    def pop(self) -> Waiting:
        if self._version != self._models.version:
            self._version = self._models.version
            self._heads = [self._head(kind, number) for number, kind in enumerate(self._kinds)]
            heapq.heapify(self._heads)
        _, _, number, kind = heapq.heappop(self._heads)
        runs = self._kinds[kind]
        _, run = runs.pop()
        if runs:
            heapq.heappush(self._heads, self._head(kind, number))
        else:
            del self._kinds[kind]
        self._num_left -= 1
        return run

    def _head(self, kind: _Kind, number: int) -> tuple[float, int, int, _Kind]:
        """`number`: differs between kinds, which have no order."""
        place, run = self._kinds[kind][-1]
        if self._is_by_length:
            return run.expected_seconds + self._models.least_missing(*kind), place, number, kind
        return float(self._models.rank(*kind)), place, number, kind

"""The runs that are likely to arrive next, as weighted shapes. Packing keeps room for them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from headrace.placement.demand import Demand


@dataclass(frozen=True, kw_only=True)
class TaskMix:
    """Distinct demands and their relative frequencies.

    It is a prior, counted from past runs or stated; placing does not change it. A wrong one costs packing, never a
    wrong placement.
    """

    weights: tuple[tuple[Demand, float], ...]

    def __post_init__(self) -> None:
        for demand, weight in self.weights:
            if not weight > 0:
                raise ValueError(f"A mix weighs each demand above 0, got {weight} for {demand}: leave it out.")

    @classmethod
    def counted(cls, demands: Iterable[Demand]) -> "TaskMix":
        """The mix of the given runs."""
        return cls(weights=tuple((demand, float(count)) for demand, count in Counter(demands).items()))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.weights)

    def on_gpus(self) -> "TaskMix":
        """The mix without runs that need no GPU."""
        return TaskMix(weights=tuple((demand, weight) for demand, weight in self.weights if demand.num_gpus))

    def typical(self, part: float) -> "TaskMix":
        """The most frequent demands that make up `part` of all arrivals."""
        total, common, covered = sum(weight for _, weight in self.weights), [], 0.0
        for demand, weight in sorted(self.weights, key=lambda item: -item[1]):
            if covered >= part * total - 1e-9:
                break
            common.append((demand, weight))
            covered += weight
        return TaskMix(weights=tuple(common))

    def draws(self, num_streams: int, num_draws: int, seed: int) -> np.ndarray:
        """Indices of `weights`, int32 [stream, draw]: each stream a fair sample of the mix, in a random order.

        Systematic sampling, so that each stream has every shape in the mix's proportion, up to rounding: with
        independent draws the result depended on the seed.
        """
        weights = np.array([weight for _, weight in self.weights], dtype=float)
        random = np.random.default_rng(seed)
        drawn = np.empty((num_streams, num_draws), dtype=np.int32)
        for stream in range(num_streams):
            order = random.permutation(len(weights))
            ends = np.cumsum(weights[order]) / weights.sum()
            points = (np.arange(num_draws) + random.random()) / num_draws
            drawn[stream] = random.permutation(order[np.minimum(np.searchsorted(ends, points), len(weights) - 1)])
        return drawn


def _gpus(count: int, milli: int = 1000) -> Demand:
    return Demand(num_gpus=count, gpu_milli=milli)


# A general mix: mostly one GPU or a part of one, and gangs of powers of two.
ANY_MIX = TaskMix(
    weights=(
        (_gpus(1), 40.0),
        (_gpus(1, 500), 20.0),
        (_gpus(1, 250), 15.0),
        (_gpus(2), 10.0),
        (_gpus(4), 8.0),
        (_gpus(8), 7.0),
    )
)

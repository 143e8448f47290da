"""Estimates what a node in some state will lose."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from headrace.placement.node_states import Leftover

# With more estimates, all are dropped and made again.
KEPT_MAX = 300_000


class Outlook(Protocol):
    """Estimates the GPU thousandths that a node with such leftovers will leave idle."""

    lost: dict[Leftover, float]
    # How many large runs of each group would fit; empty: not counted.
    places: dict[Leftover, np.ndarray]

    def look_at(self, leftovers: Iterable[Leftover]) -> None:
        """Puts an estimate of each into both; may forget others there."""
        ...

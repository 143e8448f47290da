"""Estimates what a node in some state will lose."""

from collections.abc import Iterable
from typing import Protocol

from headrace.placement.node_states import Leftover

# With more estimates, all are dropped and made again.
KEPT_MAX = 300_000


class Outlook(Protocol):
    """Estimates the GPU thousandths that a node with such leftovers will leave idle."""

    lost: dict[Leftover, float]

    def look_at(self, leftovers: Iterable[Leftover]) -> None:
        """Puts an estimate of each into `lost`; may forget others there."""
        ...

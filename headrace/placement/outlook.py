"""What a node in some state will lose, by one estimate or another."""

from collections.abc import Iterable
from typing import Protocol

from headrace.placement.node_states import Leftover

# Estimates beyond which all are given up and made anew.
KEPT_MAX = 300_000


class Outlook(Protocol):
    """Estimates the GPU thousandths that a node with such leftovers will leave idle."""

    lost: dict[Leftover, float]

    def look_at(self, leftovers: Iterable[Leftover]) -> None:
        """Puts an estimate of each into `lost`; of others it may forget what is there."""
        ...

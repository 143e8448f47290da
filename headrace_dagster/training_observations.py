"""A training's progress in the UI while it runs: observations of the asset's partition, whose numbers plot themselves.

An observation tells no follower to run, as a second materialization would. The first comes with the first step, then
one at most every half minute: each is a row of Dagster's event log, which keeps them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from headrace.training.curves import is_finite, loss_sparkline

_SECONDS_BETWEEN = 30.0
# Fields of a row, and their names in metadata.
_TOLD = {
    "step": "step",
    "loss": "train_loss",
    "heldout_loss": "heldout_loss",
    "tokens": "tokens",
    "tokens_per_second": "tokens_per_second",
    "mfu": "model_flops_utilization",
    "left_seconds": "seconds_left",
}

Row = Mapping[str, Any]


class TrainingObservations:
    """Of the asset and partition that `context` materializes."""

    def __init__(self, context: dg.AssetExecutionContext, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._monotonic = monotonic
        self._told_at = float("-inf")
        self._rows: list[Row] = []
        self._newest: dict[str, Any] = {}

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Takes rows of progress as they come."""
        self._rows += rows
        for row in rows:
            # The newest held-out loss stays until there is another.
            self._newest |= {name: _shown(row[field]) for field, name in _TOLD.items() if is_finite(row.get(field))}
        if not rows or self._monotonic() - self._told_at < _SECONDS_BETWEEN:
            return
        self._told_at = self._monotonic()
        self._context.log_event(
            dg.AssetObservation(
                self._context.asset_key,
                partition=self._context.partition_key,
                metadata=self._newest | {"loss": dg.MetadataValue.md(loss_sparkline(self._rows))},
            )
        )


def _shown(number: float) -> float:
    """As much of it as a person reads: the page shows all digits that it is given."""
    return number if isinstance(number, int) else float(f"{number:.4g}")

"""What a training decides while it runs, as pure functions of its curve: the best step, an early stop, loss spikes.

The curve is part of every checkpoint, so a resumed training decides what an undisturbed one does, and nothing else has
to be saved.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from headrace.errors import InvalidTrainingRun
from headrace.training.failure_kinds import NOT_A_NUMBER
from headrace.training.recipe import Recipe
from headrace.training.recipe_parts import EarlyStop, LossSpike

# Of a row of the curve, where there was an evaluation behind its step.
HELDOUT = "heldout_loss"
# Of a row of the curve, where its loss was a spike: what it was compared with.
SPIKE = "spike_above"

Row = Mapping[str, Any]


class HeldoutLosses:
    """The evaluations so far.

    Attributes:
        best_step, best_loss: of the lowest held-out loss, the earliest of equal ones; None before the first evaluation.
        newest_is_best: whether that was the newest evaluation.
    """

    def __init__(self, early_stop: EarlyStop | None, rows: Iterable[Row] = ()) -> None:
        self._early_stop = early_stop
        self._without_better = 0
        self._reference = float("inf")
        self.best_step: int | None = None
        self.best_loss: float | None = None
        self.newest_is_best = False
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        loss = row.get(HELDOUT)
        if loss is None:
            return
        self.newest_is_best = self.best_loss is None or loss < self.best_loss
        if self.newest_is_best:
            self.best_step, self.best_loss = row["step"], loss
        min_delta = self._early_stop.min_delta if self._early_stop else 0.0
        if loss < self._reference - min_delta or self._reference == float("inf"):
            self._reference, self._without_better = loss, 0
        else:
            self._without_better += 1

    def why_stop(self) -> str | None:
        """A sentence, if the training ends early now."""
        if self._early_stop is None or self._without_better < self._early_stop.patience:
            return None
        return (
            f"none of the last {self._without_better} evaluations had a held-out loss below {self._reference:.4f} "
            f"(patience {self._early_stop.patience}, min_delta {self._early_stop.min_delta:g}); the best was "
            f"{self.best_loss:.4f} behind step {self.best_step}"
        )


class LossSpikes:
    """The losses of the last applied steps, with which the next one's is compared."""

    def __init__(self, guard: LossSpike, rows: Iterable[Row] = ()) -> None:
        self._guard = guard
        self._losses: deque[float] = deque(maxlen=guard.window)
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        if row["applied"]:
            self._losses.append(row["loss"])

    def exceeded(self, loss: float) -> float | None:
        """The limit that a loss is above, in its own unit; None: it is no spike."""
        if len(self._losses) < self._guard.window:
            return None
        limit = self._guard.factor * median(self._losses)
        # Losses of some objectives may be below 0, where a factor means nothing.
        return limit if limit > 0 and loss > limit else None


def is_evaluated(recipe: Recipe, step: int) -> bool:
    """Whether the held-out loss is measured behind this step."""
    every = recipe.evaluate_every
    return every is not None and (step % every == 0 or step == recipe.steps)


def check_finite(recipe: Recipe, row: Row) -> None:
    """Raises: InvalidTrainingRun: the row's held-out loss is no number: no later one would be the lowest beside it."""
    if math.isfinite(row[HELDOUT]):
        return
    raise InvalidTrainingRun(
        f"Recipe {recipe.key} diverged: the held-out loss behind step {row['step']} is {row[HELDOUT]}. Lower "
        f"learning_rate ({recipe.learning_rate:g}), lengthen warmup_steps ({recipe.warmup_steps}), or take another "
        f"precision than {recipe.precision}.",
        kind=NOT_A_NUMBER,
    )

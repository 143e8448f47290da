"""What a training looks at behind each step: held-out loss, the best weights, loss spikes, its own speed.

Every rank looks at the same row and decides alike. What it decides follows from the curve
(`headrace.training.verdicts`), so a resumed training decides what an undisturbed one does.
"""

from collections.abc import Callable, Sequence
from typing import Any

from headrace.errors import InvalidTrainingRun
from headrace.training.best_weights import BestWeights
from headrace.training.engine import Gang
from headrace.training.interim_loss import InterimLoss
from headrace.training.objective import Objective
from headrace.training.recipe import Recipe
from headrace.training.speed import Pace, flops_per_token, peak_flops
from headrace.training.verdicts import HELDOUT, SPIKE, HeldoutLosses, LossSpikes, Row, check_finite, is_evaluated


class Watch:
    """Attributes:
    losses: the held-out losses so far.
    """

    def __init__(
        self,
        gang: Gang,
        engine: Any,
        objective: Objective,
        recipe: Recipe,
        *,
        rows: Sequence[Row],
        best: BestWeights | None,
        say: Callable[[str], None],
    ) -> None:
        """Args: rows: the curve so far. best: where the best weights are kept, if the recipe wants them."""
        self._gang, self._engine, self._recipe, self._best, self._say = gang, engine, recipe, best, say
        guard = recipe.guards.loss_spike if recipe.guards else None
        self._guard = guard
        self._spikes = LossSpikes(guard, rows) if guard else None
        self.losses = HeldoutLosses(recipe.early_stop, rows)
        self._interim = InterimLoss(recipe, objective) if recipe.evaluate_every else None
        self._pace = Pace(
            steps=recipe.steps,
            flops=flops_per_token(engine.module),
            peak=peak_flops(gang.accelerator.device, recipe.precision),
            world_size=gang.world_size,
        )

    @property
    def veto(self) -> Callable[[float], bool] | None:
        """Whether a batch of this loss must not be learnt; None: each is."""
        spikes = self._spikes
        if spikes is None or self._guard is None or self._guard.action != "skip":
            return None
        return lambda loss: spikes.exceeded(loss) is not None

    def look(self, row: dict[str, Any]) -> None:
        """Adds to the row of a finished step what is found; every rank calls it with the same row.

        Raises:
            InvalidTrainingRun: the loss is a spike, and the recipe says to stop then; the held-out loss is not finite.
        """
        self._look_for_spike(row)
        if self._interim and is_evaluated(self._recipe, row["step"]):
            row[HELDOUT] = self._interim.measure(self._gang, self._engine)
            check_finite(self._recipe, row)
            self.losses.add(row)
            if self._best and self.losses.newest_is_best:
                self._best.take(self._gang, self._engine)
            mark = ", the lowest so far" if self.losses.newest_is_best else ""
            self._say(f"held-out loss behind step {row['step']}: {row[HELDOUT]:.4f}{mark}")
        row |= self._pace.told(row)

    def why_stop(self) -> str | None:
        return self.losses.why_stop()

    def _look_for_spike(self, row: dict[str, Any]) -> None:
        if self._spikes is None or self._guard is None:
            return
        limit = self._spikes.exceeded(row["loss"])
        self._spikes.add(row)
        if limit is None:
            return
        row[SPIKE] = limit
        what = (
            f"the loss of step {row['step']}, {row['loss']:.4g}, is above {limit:.4g}, which is {self._guard.factor:g} "
            f"times the median of the {self._guard.window} steps before"
        )
        if self._guard.action == "stop":
            raise InvalidTrainingRun(
                f"Recipe {self._recipe.key}: {what} (guards.loss_spike, action stop). Look at the examples of that "
                "step, lower learning_rate, or take action skip or warn."
            )
        self._say(f"{what}: {'the step is skipped' if self._guard.action == 'skip' else 'it was learnt all the same'}")

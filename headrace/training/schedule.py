"""The learning rate as a function of the step: nothing to save, nothing to restore.

Every schedule begins with the same linear warm-up, whose first step already moves, and then goes from `learning_rate`
towards `learning_rate_end`. Shapes are those of torch's and transformers' schedulers (tests/training/test_schedule.py
compares each), but that theirs begin with a step of rate 0 where there is a warm-up.
"""

import math

from headrace.training.recipe import Recipe
from headrace.training.recipe_parts import ScheduleShape

_STEP_FACTOR = 0.1
# transformers' timescale without a warm-up.
_TIMESCALE = 10_000


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """The rate of optimizer step `step` (0, 1, …)."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    return recipe.learning_rate * _share(recipe, step)


def _share(recipe: Recipe, step: int) -> float:
    """What is left of the highest rate after the warm-up."""
    end, after = recipe.learning_rate_end, step - recipe.warmup_steps
    num_steps = max(1, recipe.steps - recipe.warmup_steps)
    done = after / num_steps
    shape = recipe.schedule_shape or ScheduleShape()
    match recipe.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2
        case "linear":
            return end + (1 - end) * (1 - done)
        case "polynomial":
            return end + (1 - end) * (1 - done) ** (shape.power or 1.0)
        case "cosine_with_restarts":
            return end + (1 - end) * (1 + math.cos(math.pi * ((shape.cycles or 1) * done % 1.0))) / 2
        case "inverse_sqrt":
            timescale = recipe.warmup_steps or _TIMESCALE
            return max(end, math.sqrt(timescale / (after + timescale)))
        case "warmup_stable_decay":
            falling = min(num_steps, shape.decay_steps or max(1, round(recipe.steps / 10)))
            fallen = max(0, after - (num_steps - falling)) / falling
            return end + (1 - end) * (1 + math.cos(math.pi * fallen)) / 2
        case "step":
            assert shape.step_every
            return max(end, (shape.step_factor or _STEP_FACTOR) ** (after // shape.step_every))
        case "exponential":
            return end**done

"""The training loop: losses and steps; it keeps nothing else.

Every completion token of a batch, or every picture, has the same weight, on any rank and in any pass: losses are summed
and divided by the whole batch's weight, which every rank derives from the sample order.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from headrace.errors import InvalidTrainingRun
from headrace.training.engine import Gang
from headrace.training.failure_kinds import NOT_A_NUMBER
from headrace.training.objective import Objective
from headrace.training.order import SampleOrder
from headrace.training.recipe import Recipe
from headrace.training.schedule import learning_rate_at

# Loss scaling skips a few steps until it finds its scale; so many in a row mean that it finds none.
_SKIPPED_IN_A_ROW_MAX = 20


def train_steps(
    gang: Gang,
    engine: Any,
    optimizer: Any,
    objective: Objective,
    recipe: Recipe,
    *,
    begin: int,
    tokens_before: int,
    each: Callable[[dict[str, Any]], None],
    veto: Callable[[float], bool] | None = None,
    beat: Callable[[int, int], None] = lambda step, point: None,
) -> Iterator[int]:
    """Runs the steps after `begin`; yields after each one the number of finished steps.

    `each` gets one row a step, the same on every rank: loss (of texts in nats a completion token), learning rate,
    gradient norm before clipping (None: not measured), whether the step was applied, and tokens seen, including
    `tokens_before`. Padding does not count as tokens.

    Args:
        veto: whether a batch of this loss must not be learnt, asked before its last backward pass on every rank.
        beat: told of each point that this rank has reached by itself: a pass begun, its forward half done.

    Raises:
        InvalidTrainingRun: the gradients of many steps in a row are not finite.
    """
    order = SampleOrder.of(recipe, num_sequences=len(objective), world_size=gang.world_size)
    skipped_in_a_row = 0
    tokens = tokens_before
    for step in range(begin, recipe.steps):
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, step)
        weight = objective.weight(order.batch(step))
        passes = list(zip(order.micro_batches(step, gang.rank), order.draws(step, gang.rank), strict=True))
        own_loss = _accumulate(gang, engine, objective, passes, weight, veto, partial(beat, step))
        engine.step()
        applied = engine.was_step_applied()
        objective.after_step(engine, applied=applied)
        [batch_loss] = gang.sum_over_ranks(own_loss)
        seconds = time.monotonic() - started
        num_tokens = objective.num_tokens(order.batch(step))
        tokens += num_tokens
        each(
            {
                "step": step + 1,
                "loss": batch_loss / weight,
                "learning_rate": learning_rate_at(recipe, step),
                "gradient_norm": _told(engine.get_global_grad_norm()),
                "applied": applied,
                "tokens": tokens,
                "tokens_per_second": num_tokens / seconds,
                "seconds": seconds,
            }
        )
        skipped_in_a_row = 0 if applied else skipped_in_a_row + 1
        if skipped_in_a_row >= _SKIPPED_IN_A_ROW_MAX or not math.isfinite(batch_loss):
            first = _first_not_finite(gang, own_loss)
            raise InvalidTrainingRun(
                f"Recipe {recipe.key} diverged at step {step + 1}: loss {batch_loss / weight:.4g}"
                f"{'' if first is None else f' (of rank {first})'}, {skipped_in_a_row} steps in a row were left out, "
                "for their gradients were not finite, or a guard skipped them. Lower learning_rate "
                f"({recipe.learning_rate:g}), lengthen warmup_steps ({recipe.warmup_steps}), or lower clip_norm.",
                kind=NOT_A_NUMBER,
                rank=first,
            )
        yield step + 1


def _told(norm: Any) -> float | None:
    return None if norm is None else float(norm)


def _first_not_finite(gang: Gang, own_loss: float) -> int | None:
    """The rank whose own loss is not finite, which the sum over all ranks hides; every rank calls it."""
    return next((rank for rank, loss in enumerate(gang.gather(own_loss)) if not math.isfinite(loss)), None)


def _accumulate(
    gang: Gang,
    engine: Any,
    objective: Objective,
    passes: list[tuple[np.ndarray, np.ndarray]],
    weight: int,
    veto: Callable[[float], bool] | None,
    beat: Callable[[int], None],
) -> float:
    """Runs forward and backward for this rank's part of one step; returns its summed loss."""
    own_loss = 0.0
    for number, (rows, draws) in enumerate(passes):
        beat(2 * number)
        loss = objective.summed_loss(engine, rows, draws, gang.accelerator.device)
        beat(2 * number + 1)
        is_last, told = number == len(passes) - 1, loss.detach()
        if veto and is_last and veto(gang.sum_over_ranks(own_loss + told.item())[0] / weight):
            # Gradients that are no numbers: DeepSpeed then leaves the step out, on every rank and at every stage.
            loss = loss * math.nan
        engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages over ranks and passes, but the sum over the batch is needed.
        engine.backward(loss * (gang.world_size * len(passes) / weight))
        own_loss += told.item()
    return own_loss

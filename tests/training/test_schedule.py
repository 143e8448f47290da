"""Each schedule beside the scheduler of torch or transformers that has its shape."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import optimization

from headrace.training.recipe_parts import ScheduleShape
from headrace.training.schedule import learning_rate_at
from tests.training_builders import make_recipe

STEPS, WARMUP = 50, 8


def theirs(make: Callable[[Any], Any], steps: int) -> list[float]:
    """Rates of a scheduler's steps, as shares of its highest."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULERS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "constant": ({}, optimization.get_constant_schedule),
    "linear": ({}, lambda one: optimization.get_linear_schedule_with_warmup(one, WARMUP, STEPS)),
    "cosine": ({}, lambda one: optimization.get_cosine_schedule_with_warmup(one, WARMUP, STEPS)),
    "cosine, to a share": (
        {"learning_rate_end": 0.2},
        lambda one: optimization.get_cosine_with_min_lr_schedule_with_warmup(one, WARMUP, STEPS, min_lr_rate=0.2),
    ),
    "cosine_with_restarts": (
        {"schedule_shape": ScheduleShape(cycles=3)},
        lambda one: optimization.get_cosine_with_hard_restarts_schedule_with_warmup(one, WARMUP, STEPS, num_cycles=3),
    ),
    "polynomial": (
        {"schedule_shape": ScheduleShape(power=2.5), "learning_rate_end": 0.05},
        lambda one: optimization.get_polynomial_decay_schedule_with_warmup(one, WARMUP, STEPS, lr_end=0.05, power=2.5),
    ),
    "inverse_sqrt": ({}, lambda one: optimization.get_inverse_sqrt_schedule(one, WARMUP)),
    "warmup_stable_decay": (
        {"schedule_shape": ScheduleShape(decay_steps=15), "learning_rate_end": 0.1},
        lambda one: optimization.get_wsd_schedule(
            one, WARMUP, 15, num_training_steps=STEPS, warmup_type="linear", decay_type="cosine", min_lr_ratio=0.1
        ),
    ),
}
# torch's have no warm-up.
TORCHS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "step": (
        {"schedule_shape": ScheduleShape(step_every=12, step_factor=0.5)},
        lambda one: torch.optim.lr_scheduler.StepLR(one, 12, gamma=0.5),
    ),
    "exponential": (
        {"learning_rate_end": 0.01},
        lambda one: torch.optim.lr_scheduler.ExponentialLR(one, gamma=0.01 ** (1 / STEPS)),
    ),
    "cosine": (
        {"learning_rate_end": 0.1},
        lambda one: torch.optim.lr_scheduler.CosineAnnealingLR(one, T_max=STEPS, eta_min=0.1),
    ),
    "linear": (
        {"learning_rate_end": 0.1},
        lambda one: torch.optim.lr_scheduler.LinearLR(one, 1.0, 0.1, total_iters=STEPS),
    ),
}


def ours(name: str, warmup: int, settings: dict[str, Any]) -> list[float]:
    schedule = name.partition(",")[0]
    recipe = make_recipe(
        **{"steps": STEPS, "warmup_steps": warmup, "learning_rate": 1.0, "learning_rate_end": 0.0} | settings,
        schedule=schedule,
    )
    return [learning_rate_at(recipe, step) for step in range(STEPS)]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_behind_its_warm_up_a_schedule_is_that_of_transformers(name: str) -> None:
    settings, make = SCHEDULERS[name]
    assert ours(name, WARMUP, settings)[WARMUP:] == pytest.approx(theirs(make, STEPS)[WARMUP:], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", TORCHS)
def test_a_schedule_is_that_of_torch(name: str) -> None:
    settings, make = TORCHS[name]
    assert ours(name, 0, settings) == pytest.approx(theirs(make, STEPS), rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_warms_up_alike_from_a_first_step_that_moves(name: str) -> None:
    assert ours(name, WARMUP, SCHEDULERS[name][0])[:WARMUP] == pytest.approx([n / WARMUP for n in range(1, WARMUP + 1)])


def test_a_schedule_that_falls_to_a_share_never_falls_below_it() -> None:
    stepped = {"schedule_shape": ScheduleShape(step_every=5), "learning_rate_end": 0.3}
    assert min(ours("step", 0, stepped)) == 0.3
    assert min(ours("inverse_sqrt", 1, {"learning_rate_end": 0.3})) == 0.3


def test_without_decay_steps_a_tenth_of_all_steps_falls() -> None:
    rates = ours("warmup_stable_decay", 0, {})
    assert rates[: STEPS - STEPS // 10 + 1] == [1.0] * (STEPS - STEPS // 10 + 1)
    assert rates[-1] < 0.2

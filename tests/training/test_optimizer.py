"""The optimizer that every stage steps: what it decays, and what it does where DeepSpeed does nothing."""

from typing import Any

import pytest
import torch

from headrace.training.optimizer import make_optimizer
from tests.training_builders import make_recipe


def make_model() -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def as_placeholders(model: Any) -> Any:
    """What DeepSpeed's zero.Init leaves of a model's parameters until they are gathered."""
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape
        parameter.data = torch.empty(0)
    return model


def gradients(model: Any, *values: float) -> None:
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize("prepare", [lambda model: model, as_placeholders])
def test_decay_is_decided_on_a_parameters_own_shape(prepare: Any) -> None:
    model = prepare(make_model())
    matrices, others = make_optimizer(model, make_recipe(weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert [id(parameter) for parameter in matrices["params"]] == [id(model[0].weight)]
    assert len(others["params"]) == 3


def test_what_is_frozen_is_not_stepped() -> None:
    model = make_model()
    model[0].requires_grad_(False)
    [only] = make_optimizer(model, make_recipe()).param_groups
    assert len(only["params"]) == 2


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "bf16"), (2, "fp32"), (3, "bf16")])
def test_a_step_that_the_loop_did_not_ask_for_moves_nothing(stage: int, precision: str) -> None:
    model = make_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model, make_recipe(weight_decay=1.0, zero_stage=stage, precision=precision))
    gradients(model, 0.0, 0.0, 0.0, 0.0)
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def unwrapped(model: Any, **recipe: Any) -> Any:
    optimizer = make_optimizer(model, make_recipe(zero_stage=0, precision="fp32", **recipe))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    return optimizer


def test_at_stage_0_in_fp32_the_norm_before_clipping_is_told() -> None:
    model = make_model()
    optimizer = unwrapped(model, clip_norm=0.5)
    gradients(model, 1.0, 2.0, 3.0, 4.0)
    optimizer.step()
    assert optimizer._global_grad_norm == pytest.approx((12 * 1 + 3 * 4 + 3 * 9 + 3 * 16) ** 0.5)
    assert torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(0.5, rel=1e-5)
    assert not optimizer.overflow


def test_without_a_clip_norm_nothing_is_clipped() -> None:
    model = make_model()
    optimizer = unwrapped(model, clip_norm=0.0)
    gradients(model, 1.0, 2.0, 3.0, 4.0)
    optimizer.step()
    assert model[0].weight.grad[0, 0].item() == 1.0


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_at_stage_0_in_fp32_a_step_with_gradients_that_are_not_finite_is_skipped(poison: float) -> None:
    model = make_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = unwrapped(model)
    gradients(model, 1.0, poison, 1.0, 1.0)
    optimizer.step()
    assert optimizer.overflow
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    gradients(model, 1.0, 1.0, 1.0, 1.0)
    optimizer.step()
    assert not optimizer.overflow
    assert all(parameter.isfinite().all() for parameter in model.parameters())

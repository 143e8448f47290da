"""AdamW under DeepSpeed: decays the right parameters, and behaves the same at every stage and precision.

DeepSpeed calls our optimizer through its own wrapper, which depends on stage and precision. The wrappers differ in ways
that must not affect a training; tests/upstream pins the differences that are corrected here.
"""

from typing import Any

from headrace.training.recipe import Recipe


def make_optimizer(model: Any, recipe: Recipe) -> Any:
    """torch's AdamW over the trained parameters; matrices and embeddings are decayed, norms and biases are not.

    Its learning rate is 0 until the loop sets a step's own, so an unrequested step changes nothing.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Norms and biases: shrinking them towards zero changes scales, not complexity.
    groups = [
        {"params": [p for p in trained if is_matrix(p)], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if not is_matrix(p)], "weight_decay": 0.0},
    ]
    kind = _checked_adamw(recipe.clip_norm) if steps_unwrapped(recipe) else _adamw()
    return kind(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def is_matrix(parameter: Any) -> bool:
    """Under stage 3 a parameter is an empty, one-dimensional placeholder that carries its own shape separately."""
    return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2


def steps_unwrapped(recipe: Recipe) -> bool:
    """Whether DeepSpeed steps our optimizer unwrapped; then we must measure the gradients' norm."""
    return recipe.zero_stage == 0 and recipe.precision == "fp32"


def base_optimizer(engine: Any) -> Any:
    """The optimizer from `make_optimizer`, below DeepSpeed's wrappers."""
    base = engine.optimizer
    while hasattr(base, "optimizer"):
        base = base.optimizer
    return base


def forget_steps(engine: Any) -> None:
    """Resets to before the first step: in half precision, stage 0's optimizer takes a step to create its moments.

    With zero gradients and a learning rate of 0 that step moves no weight. But it is counted, and the first real update
    would pass for the second.
    """
    base_optimizer(engine).state.clear()


def master_parameters(engine: Any) -> list[Any]:
    """This rank's fp32 parameters, in the order of the optimizer's groups."""
    base = base_optimizer(engine)
    # Stage 3 lends its parameters to the optimizer during a step.
    lent = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    return lent or [parameter for group in base.param_groups for parameter in group["params"]]


def _adamw() -> Any:
    import torch

    return torch.optim.AdamW


def _checked_adamw(clip_norm: float) -> Any:
    import torch

    class CheckedAdamW(torch.optim.AdamW):
        """Clips, reports the norm, and skips a step with gradients that are not finite, as DeepSpeed's own wrappers do.

        DeepSpeed's engine reads these two attributes after each step.
        """

        _global_grad_norm = 0.0
        overflow = False

        def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self._global_grad_norm = norm.item()
            self.overflow = not bool(norm.isfinite())
            if self.overflow:
                return None
            if clip_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
            return super().step(closure)

    return CheckedAdamW

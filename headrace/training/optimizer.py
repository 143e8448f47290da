"""torch's optimizers under DeepSpeed: decay the right parameters, and behave the same at every stage and precision.

DeepSpeed calls our optimizer through its own wrapper, which depends on stage and precision. The wrappers differ in ways
that must not affect a training; tests/upstream pins the differences that are corrected here.
"""

from typing import Any

from headrace.training.recipe import Recipe
from headrace.training.recipe_parts import WITH_BETAS, OptimizerName

# Names of torch's classes. Adagrad is not among them: DeepSpeed replaces it by one of its own, without our groups.
TORCH_NAMES: dict[OptimizerName, str] = {
    "adamw": "AdamW",
    "adam": "Adam",
    "adamax": "Adamax",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "adadelta": "Adadelta",
    "sgd": "SGD",
    "adafactor": "Adafactor",
}
# One pass over the memory, on both kinds of device.
_FUSED: tuple[OptimizerName, ...] = ("adamw", "adam", "sgd")


def make_optimizer(model: Any, recipe: Recipe) -> Any:
    """torch's own over the trained parameters; matrices and embeddings are decayed, norms and biases are not.

    Its learning rate is 0 until the loop sets a step's own, so an unrequested step changes nothing.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Norms and biases: shrinking them towards zero changes scales, not complexity.
    groups = [
        {"params": [p for p in trained if is_matrix(p)], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if not is_matrix(p)], "weight_decay": 0.0},
    ]
    kind = torch_optimizer(recipe.optimizer.name)
    if steps_unwrapped(recipe):
        kind = _checked(kind, recipe.clip_norm)
    return kind([group for group in groups if group["params"]], lr=0.0, **optimizer_options(recipe))


def torch_optimizer(name: OptimizerName) -> Any:
    import torch

    return getattr(torch.optim, TORCH_NAMES[name])


def optimizer_options(recipe: Recipe) -> dict[str, Any]:
    """What torch's class is given besides parameters, learning rate and weight decay."""
    name = recipe.optimizer.name
    options: dict[str, Any] = {"fused": True} if name in _FUSED else {}
    if name in WITH_BETAS:
        options["betas"] = (recipe.beta1, recipe.beta2)
    return options | recipe.optimizer.options()


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


def _checked(kind: Any, clip_norm: float) -> Any:
    import torch

    class Checked(kind):
        """Clips, reports the norm, and skips a step with gradients that are not finite, as DeepSpeed's own wrappers do.

        DeepSpeed's engine reads these two attributes after each step.
        """

        _global_grad_norm = 0.0
        overflow = False

        def step(self, closure: Any = None) -> Any:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self._global_grad_norm = norm.item()
            self.overflow = not bool(norm.isfinite())
            if self.overflow:
                return None
            if clip_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
            return super().step(closure)

    return Checked

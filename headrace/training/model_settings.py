"""What a recipe sets on a model before DeepSpeed wraps it: noise on its embeddings, gradient checkpointing."""

from typing import Any

from headrace.errors import InvalidTrainingRun
from headrace.training.recipe import Recipe


def apply_settings(model: Any, recipe: Recipe) -> None:
    """Raises: InvalidTrainingRun: the architecture cannot be trained with a setting."""
    if recipe.neftune_noise_alpha is not None:
        from transformers.integrations.neftune import activate_neftune

        # Noise is drawn from torch's random state, which checkpoints keep, and only in training mode.
        activate_neftune(model, recipe.neftune_noise_alpha)
    if recipe.gradient_checkpointing:
        _checkpoint_gradients(model, recipe)


def _checkpoint_gradients(model: Any, recipe: Recipe) -> None:
    # transformers' models and diffusers' name it differently.
    enable = getattr(model, "activation_checkpointing_enable", None) or getattr(
        model, "enable_gradient_checkpointing", None
    )
    try:
        if enable is None:
            raise ValueError("it has no such switch")
        enable()
    except ValueError as error:
        raise InvalidTrainingRun(
            f"Recipe {recipe.key}: gradient_checkpointing is nothing that {type(model).__name__} can do: {error}. "
            "Leave it out."
        ) from error

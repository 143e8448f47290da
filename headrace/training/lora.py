"""Low-rank adapters in a training: laid onto the base by peft, and trained alone.

The gang, the loop, checkpoints and guards are those of any training; the base's weights need neither gradients nor
optimizer state, and stay out of the checkpoints.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headrace.adapters.sealed import ADAPTER_CONFIG, is_adapter
from headrace.errors import InvalidTrainingRun
from headrace.training.recipe import Recipe

_ALL_LINEAR = "all-linear"


def check_base(recipe: Recipe, base: Path) -> None:
    """Raises: InvalidTrainingRun: the base is an adapter, whatever is trained on it."""
    if not is_adapter(base):
        return
    raise InvalidTrainingRun(
        f"Recipe {recipe.key} needs a whole base model, got {base}, which has an {ADAPTER_CONFIG}. Merge it first: "
        "`headrace model export NAME:VERSION DIR --merged`, and name that directory in base_model; or set lora.merge "
        "in the recipe that base_recipe names."
    )


def packed_weights(recipe: Recipe, dtype: Any) -> dict[str, Any]:
    """Arguments of transformers' `from_pretrained` by which the base is held in 4 bits; empty: it is not."""
    if recipe.lora is None or recipe.lora.quantize is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    packing = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.lora.quantize,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": packing, "device_map": {"": torch.cuda.current_device()}}


def with_adapters(model: Any, recipe: Recipe) -> Any:
    """The model with adapters that change nothing yet, and nothing else to train; the same for the same seed on every
    rank and for any number of ranks.

    Raises:
        InvalidTrainingRun: peft has no adapter for a layer that a target names.
    """
    import torch
    from peft import LoraConfig

    assert recipe.lora
    config = LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        target_modules=list(recipe.lora.targets) or _ALL_LINEAR,
        lora_dropout=recipe.lora.dropout,
        use_rslora=recipe.lora.rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise InvalidTrainingRun(f"Recipe {recipe.key}: lora: {str(error).strip().splitlines()[0]}") from error
    return model


def untrained(engine: Any) -> frozenset[str]:
    """Names of the parameters of a model with adapters that are not trained; none of a model without."""
    named = list(engine.module.named_parameters(remove_duplicate=False))
    if not has_adapters(name for name, _ in named):
        return frozenset()
    return frozenset(name for name, parameter in named if not parameter.requires_grad)


def has_adapters(names: Iterable[str]) -> bool:
    """Whether a model with parameters of these names has adapters."""
    return any(".lora_" in name for name in names)

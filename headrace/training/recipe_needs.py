"""What one recipe needs: memory of a rank, disk for its checkpoints, and the demand that a run of it states.

Joins a recipe with what is known of its base model and of its examples; `headrace.training.memory_estimate` computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import InvalidTrainingRun
from headrace.placement.demand import GPU_MEMORY_MIB, GPUS, MEMORY_MIB
from headrace.training.devices import SLOW_BF16, Devices
from headrace.training.memory_estimate import Load, MemoryEstimate, model_state
from headrace.training.recipe import PREFERENCE, Recipe
from headrace.training.recipe_checks import check_on_devices
from headrace.training.zero import ModelShape

# What a GPU must have beyond the estimate: allocators leave holes, and kernels ask for workspaces.
_GPU_MARGIN = 1.1
# Bytes of optimizer state for each trained parameter, in fp32; others keep as much as Adam's two moments at most.
_STATE_BYTES = {"sgd": 0, "rmsprop": 4, "adafactor": 0}
_MOMENTS_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class ExamplesShape:
    """What is known of the examples. `loss_tokens`: the most that a row has; None: it may be all of them."""

    sequence_length: int
    loss_tokens: int | None = None


def load_of(recipe: Recipe, examples: ExamplesShape, *, world_size: int, device: Literal["cpu", "cuda"]) -> Load:
    """Raises: InvalidTrainingRun: the batch does not divide among the ranks."""
    # A pair is two rows.
    length, rows = examples.sequence_length, recipe.micro_batch * (2 if recipe.objective == PREFERENCE else 1)
    # Logits are computed for every place where any row of the pass has loss; a row's first token has none.
    places = min(length - 1, rows * (length if examples.loss_tokens is None else examples.loss_tokens))
    return Load(
        world_size=world_size,
        zero_stage=recipe.zero_stage,
        precision=recipe.precision,
        device=device,
        tokens=rows * length,
        loss_tokens=rows * places,
        row_tokens=length,
        is_accumulated=recipe.gradient_accumulation(world_size) > 1,
        state_bytes=_MOMENTS_BYTES,
    )


def checkpoint_bytes(shape: ModelShape, load: Load) -> int:
    """Of all files of one checkpoint: weights as they are trained, their fp32 copy, and the optimizer's state."""
    state = model_state(shape, None, load)
    ranks = load.world_size if load.zero_stage else 1
    weights = load.element_bytes * (shape.num_params if load.zero_stage < 3 else 0)
    return round(weights + (state.optimizer + state.host) * ranks)


def refuse_conflicts(recipe: Recipe, devices: Devices) -> int:
    """The number of ranks.

    Raises:
        InvalidTrainingRun: what the recipe says cannot be on these devices, or its batch does not divide.
    """
    num_ranks = devices.num_ranks(recipe.ranks)
    if devices.num_gpus and num_ranks > devices.num_gpus:
        raise InvalidTrainingRun(
            f"Recipe {recipe.key} wants {num_ranks} ranks, one a GPU, and {devices.num_gpus} GPUs are visible; "
            "lower ranks, or give the run more GPUs.",
            key="ranks",
        )
    if recipe.precision == "fp16" and not devices.num_gpus:
        raise InvalidTrainingRun(
            f"Recipe {recipe.key}: precision='fp16' needs a GPU; use 'bf16' or 'fp32' on a CPU.", key="precision"
        )
    check_on_devices(recipe, devices, num_ranks)
    recipe.gradient_accumulation(num_ranks)
    return num_ranks


def useless(recipe: Recipe, devices: Devices, num_ranks: int) -> list[tuple[str, str]]:
    """Keys that do nothing here, or not what was meant, each with a sentence."""
    found = []
    if recipe.zero_stage and num_ranks == 1:
        found.append(
            (
                "zero_stage",
                f"stage {recipe.zero_stage} divides nothing: there is 1 rank. zero_stage: 0 needs less work.",
            )
        )
    if slow := slow_precision(recipe, devices):
        found.append(("precision", slow.partition(": ")[2]))
    return found


def slow_precision(recipe: Recipe, devices: Devices) -> str | None:
    """A sentence about a recipe whose precision these devices only emulate."""
    if recipe.precision != "bf16" or devices.computes_bf16:
        return None
    return f"Recipe {recipe.key}: {SLOW_BF16}. Set precision: fp32, or give the run a GPU."


def demand_tags(estimate: MemoryEstimate, *, num_ranks: int, has_gpus: bool) -> dict[str, str]:
    """The tags by which a run of this recipe asks for what it needs, if it does not say so itself."""
    if has_gpus:
        return {GPUS: str(num_ranks), GPU_MEMORY_MIB: str(round(estimate.mib * _GPU_MARGIN))}
    return {GPUS: "0", MEMORY_MIB: str(estimate.mib * num_ranks)}


def undemanded(tags: Mapping[str, Any], asked: Mapping[str, str]) -> dict[str, str]:
    """Of `asked`, what `tags` do not say themselves."""
    return {name: value for name, value in asked.items() if name not in tags}

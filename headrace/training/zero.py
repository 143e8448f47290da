"""Computes how much memory a training needs, and refuses it if that is more than there is.

Counts model state exactly, but not activations, buckets and the libraries themselves, which depend on the machine. So
what it refuses cannot run; what it accepts may still be too large.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from headrace.errors import InvalidTrainingRun
from headrace.store.objects import ObjectStore
from headrace.store.tensor_reading import sealed_dtypes
from headrace.training.lora_settings import Lora, adapted, num_adapter_params
from headrace.training.model_widths import positions_of, read_config, tensor_shapes
from headrace.training.recipe import Precision, Recipe

_MIB = 1024 * 1024
# Of 16 bits: 4, and the scale of each block of 64 (Dettmers et al. 2023, section 3).
_PACKED_SHARE = 4.127 / 16


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What the planner knows of a model without loading it.

    `num_params`: held by a training; those in 4 bits count as the quarter that they take.
    """

    num_params: int
    num_params_trained: int
    positions_max: int | None


def read_model_shape(directory: Path, freeze: tuple[str, ...] = (), lora: Lora | None = None) -> ModelShape:
    """Reads the headers of the safetensors files and config.json; no weights, no torch.

    Raises:
        InvalidTrainingRun: no safetensors, or broken ones; a `freeze` prefix or a target of `lora` that matches
            nothing; `freeze` leaves nothing to train.
    """
    shapes = tensor_shapes(directory)
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    if not sizes:
        raise InvalidTrainingRun(f"{directory} holds no *.safetensors; save the base model with safe serialization.")
    for prefix in freeze:
        if not any(name.startswith(prefix) for name in sizes):
            raise InvalidTrainingRun(
                f"freeze={prefix!r} matches no parameter of {directory}; there are {', '.join(sorted(sizes)[:3])}, …"
            )
    positions_max = positions_of(read_config(directory))
    num_params = sum(sizes.values())
    if lora:
        num_trained = num_adapter_params(lora, shapes)
        packed = sum(prod(shape) for shape in adapted(Lora(), shapes).values()) if lora.quantize else 0
        held = num_params - packed + round(packed * _PACKED_SHARE)
        return ModelShape(num_params=held + num_trained, num_params_trained=num_trained, positions_max=positions_max)
    num_trained = sum(size for name, size in sizes.items() if not name.startswith(freeze or ("\0",)))
    if not num_trained:
        raise InvalidTrainingRun(
            f"freeze={list(freeze)!r} matches every parameter of {directory}; leave some to train."
        )
    return ModelShape(
        num_params=num_params,
        num_params_trained=num_trained,
        positions_max=positions_max,
    )


def keeps_fp32(store: ObjectStore, weights_digest: str) -> bool:
    """Whether a sealed model has fp32 weights; reads the headers of its files alone."""
    return "F32" in sealed_dtypes(store, weights_digest)


def zero_bytes_per_rank(
    num_params: int,
    world_size: int,
    stage: int,
    *,
    precision: Precision = "bf16",
    num_params_trained: int | None = None,
) -> int:
    """Bytes of model state one rank holds under ZeRO, before activations.

    Mixed precision with Adam: 2 (weights) + 2 (gradients) + 12 (fp32 weights and two moments) bytes a parameter; stage
    1 divides the 12 by `world_size`, stage 2 the gradients too, stage 3 everything. In fp32: 4 + 4 + 8, and ZeRO keeps
    another 4 of its own. Frozen parameters have weights only. Fragmentation and buckets come on top: treat the result
    as a floor.

    Raises:
        InvalidTrainingRun: `world_size` is not positive.

    Source: Rajbhandari et al. 2020, ZeRO, section 3 and figure 1.
    """
    if world_size < 1:
        raise InvalidTrainingRun(f"world_size must be positive, got {world_size}.")
    trained = num_params if num_params_trained is None else num_params_trained
    if precision == "fp32":
        weight_bytes, gradient_bytes, optimizer_bytes = 4, 4, 8 if stage == 0 else 12
    else:
        weight_bytes, gradient_bytes, optimizer_bytes = 2, 2, 12
    weights = weight_bytes * num_params / (world_size if stage >= 3 else 1)
    gradients = gradient_bytes * trained / (world_size if stage >= 2 else 1)
    optimizer = optimizer_bytes * trained / (world_size if stage >= 1 else 1)
    return round(weights + gradients + optimizer)


def check_fits(recipe: Recipe, shape: ModelShape, *, world_size: int, memory_mib_per_rank: int | None) -> int:
    """MiB of model state that a rank will hold.

    Raises:
        InvalidTrainingRun: that exceeds `memory_mib_per_rank`; names a stage that would fit, if there is one.
    """

    def mib(stage: int) -> int:
        needed = zero_bytes_per_rank(
            shape.num_params,
            world_size,
            stage,
            precision=recipe.precision,
            num_params_trained=shape.num_params_trained,
        )
        return -(-needed // _MIB)

    needed = mib(recipe.zero_stage)
    if memory_mib_per_rank is not None and needed > memory_mib_per_rank:
        fitting = [stage for stage in (1, 2, 3) if stage > recipe.zero_stage and mib(stage) <= memory_mib_per_rank]
        advice = (
            f"ZeRO stage {fitting[0]} needs {mib(fitting[0]):,} MiB and would fit"
            if fitting
            else "no ZeRO stage fits at this number of ranks: add ranks, memory, or freeze parameters"
        )
        raise InvalidTrainingRun(
            f"Recipe {recipe.key}: {shape.num_params:,} parameters under ZeRO stage {recipe.zero_stage} on "
            f"{world_size} ranks need at least {needed:,} MiB a rank before activations, and a rank has "
            f"{memory_mib_per_rank:,} MiB; {advice}."
        )
    return needed


def check_sequence_length(recipe: Recipe, shape: ModelShape, sequence_length: int) -> None:
    """Raises: InvalidTrainingRun: the packed sequences are longer than the model's positions."""
    if shape.positions_max is not None and sequence_length > shape.positions_max:
        if recipe.row_pairs:
            what, key, asset = "pairs", "preference.rows.sequence_length", recipe.examples_asset
            advice = f"lower {key} and materialize {asset} again."
        else:
            what, key = "training examples", None
            advice = "lower sequence_length in the corpus file and materialize training_examples again."
        raise InvalidTrainingRun(
            f"Recipe {recipe.key}: {what} are {sequence_length} tokens long, model {recipe.model} takes at "
            f"most {shape.positions_max}; {advice}",
            key=key,
        )

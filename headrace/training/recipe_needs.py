"""What one recipe needs: memory of a rank, disk for its checkpoints, and the demand that a run of it states.

Joins a recipe with what is known of its base model and of its examples; `headrace.training.memory_estimate` computes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from headrace.errors import HeadraceError, InvalidTrainingRun
from headrace.placement.demand import CPUS, GPU_MEMORY_MIB, GPUS, MEMORY_MIB
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import find_directory
from headrace.this_machine import cpu_milli_here
from headrace.training.devices import SLOW_BF16, Devices
from headrace.training.lora import check_base
from headrace.training.lora_settings import adapted
from headrace.training.memory_estimate import Load, MemoryEstimate, estimate_memory, floor_bytes, model_state
from headrace.training.model_widths import ModelWidths, read_widths, tensor_shapes
from headrace.training.picture_examples import PictureShape
from headrace.training.picture_widths import painter_shape, painter_widths, patches_of
from headrace.training.recipe import FLOW_MATCHING, PREFERENCE, Recipe
from headrace.training.recipe_checks import check_on_devices
from headrace.training.recipe_parts import Optimizer
from headrace.training.sealed_examples import SealedExamples, sealed_examples, sealed_pairs
from headrace.training.zero import ModelShape, read_model_shape
from headrace.user_files.yaml_file import read_yaml

# What a GPU must have beyond the estimate: allocators leave holes, and kernels ask for workspaces.
_GPU_MARGIN = 1.1
# A corpus file's default (headrace.prep.corpus, which would import all of data prep); a test compares the two.
SEQUENCE_LENGTH = 256


@dataclass(frozen=True, kw_only=True)
class ExamplesShape:
    """What is known of the examples. `loss_tokens`: the most that a row has; None: it may be all of them."""

    sequence_length: int
    loss_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class RecipeNeeds:
    """`examples` None: none are sealed yet, and `sequence_length` is the corpus file's.

    `floor_bytes`: of a rank; on less no batch of this recipe can run.
    """

    num_ranks: int
    shape: ModelShape
    examples: SealedExamples | None
    sequence_length: int
    estimate: MemoryEstimate
    floor_bytes: int
    checkpoint_bytes: int


def needs_of(
    recipe: Recipe,
    directory: Path,
    objects: ObjectStore | None,
    devices: Devices,
    *,
    corpus: Path,
) -> RecipeNeeds:
    """Of a recipe of a language model.

    Args:
        directory: the base model's.
        objects: where examples are sealed, if there is a store.
        devices: those that the run would get.

    Raises:
        InvalidTrainingRun: the model's files tell nothing, or are an adapter's; the recipe cannot be on these devices.
        HandoffCorrupt: the examples are damaged.
    """
    num_ranks = refuse_conflicts(recipe, devices)
    device: Literal["cpu", "cuda"] = "cuda" if devices.num_gpus else "cpu"
    check_base(recipe, directory)
    shape = read_model_shape(directory, recipe.freeze, recipe.lora)
    widths = read_widths(directory, recipe.freeze)
    examples = _sealed(recipe, objects) if objects is not None else None
    planned = recipe.row_pairs.sequence_length if recipe.row_pairs else sequence_length_of(corpus)
    length = examples.sequence_length if examples else planned
    known = ExamplesShape(sequence_length=length, loss_tokens=examples.loss_tokens if examples else None)
    load = load_of(recipe, known, world_size=num_ranks, device=device)
    if recipe.lora and widths:
        read = sum(width for _, width in adapted(recipe.lora, tensor_shapes(directory)).values())
        load = replace(load, adapted_inputs=-(-read // widths.layers))
    return _computed(shape, widths, load, examples, length)


def weights_here(objects: ObjectStore, digest: str) -> Path | None:
    """Sealed weights where they lie whole on this machine, unread; None: they would be fetched, or put together."""
    sealed = find_directory(objects, digest) if isinstance(objects, LocalStore) else None
    directory = objects.local_path(sealed.key) if sealed and not sealed.is_indexed else None
    return directory if directory and directory.is_dir() else None


def painter_needs(recipe: Recipe, pictures: PictureShape, devices: Devices) -> RecipeNeeds:
    """Of a recipe of a picture model; a row is a picture, its patches and its caption's tokens.

    Raises:
        InvalidTrainingRun: the recipe cannot be on these devices.
    """
    num_ranks = refuse_conflicts(recipe, devices)
    settings = recipe.picture_model
    shape, widths = painter_shape(settings, pictures), painter_widths(settings)
    length = patches_of(settings, pictures) + pictures.tokens
    load = load_of(
        recipe,
        ExamplesShape(sequence_length=length, loss_tokens=0),
        world_size=num_ranks,
        device="cuda" if devices.num_gpus else "cpu",
    )
    return _computed(shape, widths, load, None, length)


def _computed(
    shape: ModelShape, widths: ModelWidths | None, load: Load, examples: SealedExamples | None, length: int
) -> RecipeNeeds:
    return RecipeNeeds(
        num_ranks=load.world_size,
        shape=shape,
        examples=examples,
        sequence_length=length,
        estimate=estimate_memory(shape, widths, load),
        floor_bytes=floor_bytes(shape, widths, load),
        checkpoint_bytes=checkpoint_bytes(shape, load),
    )


def _sealed(recipe: Recipe, objects: ObjectStore) -> SealedExamples | None:
    if recipe.objective == PREFERENCE:
        return sealed_pairs(objects, recipe.examples_asset, recipe.key if recipe.row_pairs else None)
    return sealed_examples(objects)


def load_of(recipe: Recipe, examples: ExamplesShape, *, world_size: int, device: Literal["cpu", "cuda"]) -> Load:
    """Raises: InvalidTrainingRun: the batch does not divide among the ranks."""
    # A pair is two rows.
    length, rows = examples.sequence_length, recipe.micro_batch * (2 if recipe.objective == PREFERENCE else 1)
    # Logits are computed for every place where any row of the pass has loss; a row's first token has none.
    places = min(length - 1, rows * (length if examples.loss_tokens is None else examples.loss_tokens))
    offload = recipe.offload
    return Load(
        world_size=world_size,
        zero_stage=recipe.zero_stage,
        precision=recipe.precision,
        device=device,
        tokens=rows * length,
        loss_tokens=rows * places,
        row_tokens=length,
        is_accumulated=recipe.gradient_accumulation(world_size) > 1,
        # A picture model's moving average lies beside the optimizer's state.
        state_bytes=_state_bytes(recipe.optimizer) + (4 if recipe.objective == FLOW_MATCHING else 0),
        is_checkpointed=recipe.gradient_checkpointing,
        has_attention_table=recipe.attention == "eager",
        offloads_optimizer=bool(offload and offload.optimizer),
        offloads_parameters=bool(offload and offload.parameters),
        keeps_best=recipe.keep == "best",
        base_is_trained=recipe.lora is None,
        adapters_drop=bool(recipe.lora and recipe.lora.dropout),
    )


def _state_bytes(optimizer: Optimizer) -> int:
    """Of one trained parameter, beyond its fp32 copy; what factors its moments keeps next to nothing."""
    if optimizer.name == "adafactor":
        return 0
    tensors = {"sgd": 0, "rmsprop": 1}.get(optimizer.name, 2)
    return 4 * (tensors + bool(optimizer.momentum) + bool(optimizer.amsgrad))


def checkpoint_bytes(shape: ModelShape, load: Load) -> int:
    """Of all files of one checkpoint: weights as they are trained, their fp32 copy, and the optimizer's state; of
    adapters without their base."""
    state = model_state(shape, None, load)
    ranks = load.world_size if load.zero_stage else 1
    held = shape.num_params if load.base_is_trained else shape.num_params_trained
    weights = load.element_bytes * (held if load.zero_stage < 3 else 0)
    return round(weights + (state.optimizer + state.host) * ranks)


def refuse_conflicts(recipe: Recipe, devices: Devices) -> int:
    """The number of ranks.

    Raises:
        InvalidTrainingRun: what the recipe says cannot be on these devices, by its `key`; or its batch does not divide.
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
    if (stop := recipe.early_stop) and recipe.evaluate_every and recipe.steps:
        # The first one is the best so far, and the last one comes when the steps are over.
        before = (recipe.steps - 1) // recipe.evaluate_every
        if before <= stop.patience:
            said = f"patience {stop.patience} stops nothing: {before} evaluations come before the last step."
            found.append(("early_stop", f"{said} Lower it, or evaluate_every={recipe.evaluate_every}."))
    if recipe.guards and (spike := recipe.guards.loss_spike) and 0 < recipe.steps <= spike.window:
        said = f"window {spike.window} compares nothing: the training has {recipe.steps} steps. Lower it."
        found.append(("guards", said))
    if slow := slow_precision(recipe, devices):
        found.append(("precision", slow.partition(": ")[2]))
    return found


def slow_precision(recipe: Recipe, devices: Devices) -> str | None:
    """A sentence about a recipe whose precision these devices only emulate."""
    if recipe.precision != "bf16" or devices.computes_bf16:
        return None
    return f"Recipe {recipe.key}: {SLOW_BF16}. Set precision: fp32, or give the run a GPU."


def demand_tags(estimate: MemoryEstimate, *, num_ranks: int, has_gpus: bool) -> dict[str, str]:
    """The tags by which a run of this recipe asks for what it needs, if it does not say so itself.

    Without GPUs a core a rank, which computes on one thread: trainings run side by side as far as the cores go, and
    one with more ranks than this machine has cores takes them all.
    """
    if has_gpus:
        return {GPUS: str(num_ranks), GPU_MEMORY_MIB: str(round(estimate.mib * _GPU_MARGIN))}
    cores = max(1, cpu_milli_here() // 1000)
    return {GPUS: "0", CPUS: str(min(num_ranks, cores)), MEMORY_MIB: str(estimate.mib * num_ranks)}


def sequence_length_of(corpus: Path) -> int:
    """Of a corpus file, without reading it as one, which imports all of data prep."""
    try:
        content = read_yaml(corpus, "Corpus").content
        length = content.get("sequence_length") if isinstance(content, dict) else None
    except (HeadraceError, OSError):
        length = None
    return length if isinstance(length, int) and 1 < length < 2**63 else SEQUENCE_LENGTH

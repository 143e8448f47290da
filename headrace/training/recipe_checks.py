"""Which settings of a recipe contradict each other, or would do nothing: refused before anything starts."""

import importlib.util
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from headrace.errors import InvalidTrainingRun
from headrace.training.devices import Devices
from headrace.training.recipe_parts import WHOLE_MATRICES, WITH_BETAS, check_shape

if TYPE_CHECKING:
    from headrace.training.recipe import Recipe

PACKER = "bitsandbytes"
_BETAS = {"beta1": 0.9, "beta2": 0.95}


def check_settings(recipe: "Recipe") -> None:
    """What the file alone can tell. Raises: InvalidTrainingRun."""
    _check_length(recipe)
    _check_optimizer(recipe)
    check_shape(recipe.schedule, recipe.schedule_shape, recipe.learning_rate_end)
    _check_stage(recipe)
    _check_evaluations(recipe)
    _check_lora(recipe)
    if recipe.row_pairs and recipe.heldout_shards:
        raise InvalidTrainingRun(
            f"heldout_shards is of training_examples, got {list(recipe.heldout_shards)!r} with preference.rows, which "
            "has a heldout_share of its own; leave it out."
        )
    if recipe.objective == "flow_matching":
        for name in ("neftune_noise_alpha", "attention", "heldout_shards"):
            if value := getattr(recipe, name):
                raise InvalidTrainingRun(f"{name} is of language models, got {value!r} with objective: flow_matching.")


def check_on_devices(recipe: "Recipe", devices: Devices, num_ranks: int) -> None:
    """What only a GPU, or several ranks, can do. Raises: InvalidTrainingRun."""
    for key, sentence in _impossible(recipe, devices, num_ranks):
        raise InvalidTrainingRun(f"Recipe {recipe.key}: {sentence}", key=key)


def _impossible(recipe: "Recipe", devices: Devices, num_ranks: int) -> Iterator[tuple[str, str]]:
    """Keys that these devices have no use for, each with a sentence."""
    if recipe.attention == "flash_attention_2":
        if not devices.num_gpus:
            yield "attention", "attention='flash_attention_2' needs a GPU; on a CPU leave it out."
        elif importlib.util.find_spec("flash_attn") is None:
            yield (
                "attention",
                "attention='flash_attention_2' needs the package flash-attn, which is not installed; install it, or "
                "take sdpa.",
            )
    if lora := recipe.lora:
        for package in ("peft", *([PACKER] if lora.quantize and devices.num_gpus else [])):
            if importlib.util.find_spec(package) is None:
                key = "lora.quantize" if package == PACKER else "lora"
                yield key, f"{key} needs {package}, which is not installed. Run pip install {package}."
        if lora.quantize and not devices.num_gpus:
            yield (
                "lora.quantize",
                f"lora.quantize={lora.quantize!r} holds the base in 4 bits by {PACKER}, whose training needs a GPU, "
                "and this run sees none. Take quantize out, or give the run a GPU.",
            )
    for name in ("offload", "zero_plus_plus"):
        if getattr(recipe, name) and not devices.num_gpus:
            yield (
                name,
                f"{name} would do nothing on a CPU, whose ranks hold everything in the machine's memory already; leave "
                "it out, or give the run a GPU.",
            )
    if plus := recipe.zero_plus_plus:
        if num_ranks == 1:
            yield "zero_plus_plus", "zero_plus_plus would do nothing on one rank, which sends nobody anything."
        if plus.partition_size and (plus.partition_size >= num_ranks or num_ranks % plus.partition_size):
            yield (
                "zero_plus_plus",
                f"zero_plus_plus.partition_size must divide the {num_ranks} ranks and be fewer (over all ranks stage 3 "
                f"divides the parameters anyhow), got {plus.partition_size}.",
            )


def check_heldout_shards(recipe: "Recipe", shards: Collection[str]) -> None:
    """Raises: InvalidTrainingRun: there is no such shard, or nothing is left to train on."""
    if missing := [name for name in recipe.heldout_shards if name not in shards]:
        raise InvalidTrainingRun(
            f"Recipe {recipe.key}: heldout_shards names {missing[0]!r}, and training_examples has "
            f"{', '.join(sorted(shards)) or 'no shard'}."
        )
    if recipe.heldout_shards and len(recipe.heldout_shards) == len(shards):
        raise InvalidTrainingRun(
            f"Recipe {recipe.key}: heldout_shards names all {len(shards)} shards of training_examples, and none is "
            "left to train on; leave one out."
        )


def _check_length(recipe: "Recipe") -> None:
    if recipe.epochs is None and recipe.steps < 1:
        raise InvalidTrainingRun(
            f"steps or epochs must say how long to train, got steps={recipe.steps} and no epochs: write one of them."
        )
    if recipe.epochs is not None and recipe.steps:
        raise InvalidTrainingRun(
            f"epochs must stand alone, got epochs={recipe.epochs:g} beside steps={recipe.steps}: leave one out."
        )
    if recipe.steps and recipe.warmup_steps > recipe.steps:
        raise InvalidTrainingRun(
            f"warmup_steps must not be above steps={recipe.steps}, got warmup_steps={recipe.warmup_steps}."
        )


def _check_optimizer(recipe: "Recipe") -> None:
    name = recipe.optimizer.name
    if name not in WITH_BETAS:
        for beta, default in _BETAS.items():
            if (got := getattr(recipe, beta)) != default:
                raise InvalidTrainingRun(f"{beta} does nothing with optimizer {name!r}, got {got:g}; leave it out.")
    if name in WHOLE_MATRICES and recipe.zero_stage:
        raise InvalidTrainingRun(
            f"optimizer {name!r} needs zero_stage 0: it looks at whole matrices, and ZeRO steps flat pieces of them; "
            f"got zero_stage={recipe.zero_stage}."
        )


def _check_stage(recipe: "Recipe") -> None:
    stage, offload = recipe.zero_stage, recipe.offload
    if offload and offload.optimizer and not stage:
        raise InvalidTrainingRun("offload.optimizer needs zero_stage 1, 2 or 3, got zero_stage=0, which is not ZeRO.")
    if offload and offload.parameters and stage != 3:
        raise InvalidTrainingRun(
            f"offload.parameters needs zero_stage 3, got zero_stage={stage}, with which each rank computes with all "
            "parameters in its GPU."
        )
    if recipe.zero_plus_plus and stage != 3:
        raise InvalidTrainingRun(
            f"zero_plus_plus would do nothing at zero_stage={stage}: it changes how stage 3 sends parameters and "
            "gradients. Leave it out, or set zero_stage: 3."
        )


def _check_lora(recipe: "Recipe") -> None:
    lora = recipe.lora
    if lora is None:
        return
    if recipe.objective == "flow_matching":
        raise InvalidTrainingRun(
            "lora is for a language model on its base, got it with objective: flow_matching, whose weights start at "
            "random. Leave it out."
        )
    if recipe.freeze:
        raise InvalidTrainingRun(
            f"freeze must be empty with lora, which trains nothing of the base, got {list(recipe.freeze)!r}: name in "
            "lora.targets which layers get an adapter."
        )
    if lora.dropout and recipe.objective == "preference":
        raise InvalidTrainingRun(
            f"lora.dropout does nothing with objective: preference, which trains without any, got {lora.dropout:g}; "
            "leave it out."
        )
    if lora.quantize and (recipe.zero_stage == 3 or recipe.precision == "fp32"):
        raise InvalidTrainingRun(
            f"lora.quantize={lora.quantize!r} needs zero_stage 0 to 2, since stage 3 would divide the packed weights, "
            f"and precision bf16 or fp16, got zero_stage={recipe.zero_stage} and {recipe.precision}."
        )


def _check_evaluations(recipe: "Recipe") -> None:
    if recipe.evaluate_every is None:
        for name, given in (("keep: best", recipe.keep == "best"), ("early_stop", recipe.early_stop is not None)):
            if given:
                raise InvalidTrainingRun(
                    f"evaluate_every must say after how many steps the held-out loss is measured where {name} is "
                    "given, got none."
                )
    if repeated := {name for name in recipe.heldout_shards if recipe.heldout_shards.count(name) > 1}:
        raise InvalidTrainingRun(f"heldout_shards must name each shard once, got {sorted(repeated)[0]!r} twice.")

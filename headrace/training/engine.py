"""DeepSpeed through accelerate: joins the gang and wraps the model.

Only ranks import this. tests/upstream pins the undocumented behaviour that it relies on.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from headrace.errors import InvalidTrainingRun
from headrace.training.lora import packed_weights, with_adapters
from headrace.training.model_settings import apply_settings
from headrace.training.optimizer import forget_steps, make_optimizer, steps_unwrapped
from headrace.training.recipe import Recipe
from headrace.training.run_config import RunConfig

# Elements in a bucket; with DeepSpeed's default of 5e8 a model below 0.5B parameters would hold a second copy of all
# gradients. A smaller bucket costs one collective call, which is negligible for 20M elements.
_BUCKET_ELEMENTS = 20_000_000


@dataclass(frozen=True)
class Gang:
    """This rank's end of the process group."""

    accelerator: Any
    rank: int
    world_size: int

    def sum_over_ranks(self, *values: float) -> list[float]:
        """Sums in float64: with float32 losses the sum of two ranks would depend on rounding order."""
        import torch
        from deepspeed import comm

        total = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        comm.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Gathers one small object from every rank, on every rank."""
        import torch

        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values


def join_gang(config: RunConfig) -> Gang:
    """Joins the process group; returns when every rank has."""
    import deepspeed
    import torch
    from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs

    if config.device == "cpu":
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        # The shared-memory op is only for inference, needs a compiler, and leaves its segments in /dev/shm when a rank
        # is killed.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
    else:
        # Backward passes with atomics add in any order, so a resumed run would differ in the last bits.
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Determinism does not need it, and it would write every new buffer once more.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=deepspeed_config(config)),
        gradient_accumulation_steps=config.gradient_accumulation,
        kwargs_handlers=[
            InitProcessGroupKwargs(
                # Without it accelerate finds a CPU and assumes a world of one rank.
                backend="gloo" if config.device == "cpu" else "nccl",
                timeout=timedelta(seconds=config.recipe.step_timeout_seconds),
            )
        ],
    )
    assert accelerator.num_processes == config.world_size
    return Gang(accelerator, accelerator.process_index, accelerator.num_processes)


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    recipe = config.recipe
    body: dict[str, Any] = {
        "train_batch_size": recipe.batch,
        "train_micro_batch_size_per_gpu": recipe.micro_batch,
        "gradient_accumulation_steps": config.gradient_accumulation,
        # Not twice: where DeepSpeed steps our optimizer unwrapped, that optimizer clips.
        "gradient_clipping": 0.0 if steps_unwrapped(recipe) else recipe.clip_norm,
        "zero_optimization": {
            "stage": recipe.zero_stage,
            # A CPU has nothing to overlap with; a GPU needs a second bucket for it.
            "overlap_comm": config.device == "cuda",
            "contiguous_gradients": True,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
            **_further_zero_settings(recipe),
        },
        # We use torch's own optimizers: nothing to compile, also where they step on the CPU.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if config.loads_universal:
        body["checkpoint"] = {"load_universal": True}
    if recipe.precision == "bf16":
        # Checked, because one rank's inf would otherwise silently reach everybody's weights.
        body["bf16"] = {"enabled": True, "check_grad_overflow": True}
    elif recipe.precision == "fp16":
        body["fp16"] = {"enabled": True}
    return body


def _further_zero_settings(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's keys of ZeRO-Offload and ZeRO++."""
    settings: dict[str, Any] = {}
    if (offload := recipe.offload) and offload.optimizer:
        settings["offload_optimizer"] = {"device": offload.optimizer, "pin_memory": True}
    if offload and offload.parameters:
        settings["offload_param"] = {"device": offload.parameters, "pin_memory": True}
    if plus := recipe.zero_plus_plus:
        settings["zero_hpz_partition_size"] = plus.partition_size or 1
        settings["zero_quantized_weights"] = plus.quantized_weights
        settings["zero_quantized_gradients"] = plus.quantized_gradients
    return settings


def load_model(weights: Path, config: RunConfig) -> Any:
    """The base model in the recipe's precision; under ZeRO stage 3 each rank holds only its share from the start."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[config.recipe.precision]
    # None: transformers chooses.
    attention = {"attn_implementation": config.recipe.attention} if config.recipe.attention else {}
    packing = packed_weights(config.recipe, dtype)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=dtype, trust_remote_code=False, **attention, **packing)
    if config.recipe.lora:
        return with_adapters(model, config.recipe)
    freeze = config.recipe.freeze
    for prefix in freeze:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            raise InvalidTrainingRun(f"Recipe {config.recipe.key}: freeze={prefix!r} matches no parameter.")
    for name, parameter in model.named_parameters():
        if freeze and name.startswith(freeze):
            parameter.requires_grad_(False)
    return model


def wrap(gang: Gang, model: Any, config: RunConfig) -> tuple[Any, Any]:
    """DeepSpeed's engine around the model, with the recipe's settings, and its optimizer."""
    apply_settings(model, config.recipe)
    engine, optimizer = gang.accelerator.prepare(model, make_optimizer(model, config.recipe))
    forget_steps(engine)
    engine.train()
    return engine, optimizer

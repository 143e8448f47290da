"""An fp32 base under half precision: the masters that the optimizer steps begin with the base's own bits.

DeepSpeed makes its fp32 masters from the model after it has rounded it to bf16 or fp16, so they would begin with what
the rounding left: of a step's update, which is often smaller than that, nothing else is lost. Rank 0 reads the base in
fp32 once more and sends the others one parameter at a time; no rank but that one holds a whole model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.training.engine import Gang


def restore_bits(gang: Gang, engine: Any, base: Path) -> None:
    """Sets each trained parameter's master to the base's own weight; every rank calls it, before the first step."""
    import torch

    parameters = {name: one for name, one in engine.module.named_parameters() if one.requires_grad}
    whole = _base_weights(base) if gang.rank == 0 else {}
    # A parameter that the base does not have (an adapter's) began here: it has no other bits.
    [shared, *_] = gang.gather([name for name in parameters if name in whole])
    for name in shared:
        parameter = parameters[name]
        shape = getattr(parameter, "ds_shape", parameter.shape)
        value = whole.pop(name) if gang.rank == 0 else torch.empty(shape, dtype=torch.float32)
        value = value.to(gang.accelerator.device)
        torch.distributed.broadcast(value, 0)
        _set_master(gang, engine, parameter, value)


def _base_weights(base: Path) -> dict[str, Any]:
    """Of a plain model: under stage 3 transformers would divide this one, too."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations import deepspeed as integration

    config = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
    finally:
        integration._hf_deepspeed_config_weak_ref = config
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _set_master(gang: Gang, engine: Any, parameter: Any, value: Any) -> None:
    import torch
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_set_full_fp32_param,
        safe_set_local_fp32_param,
    )

    if hasattr(parameter, "ds_id"):
        # DeepSpeed's own setter of a whole parameter fails where the ranks do not divide its size.
        local = safe_get_local_fp32_param(parameter)
        assert local is not None
        padded = torch.zeros(local.numel() * gang.world_size, dtype=torch.float32, device=value.device)
        padded[: value.numel()] = value.flatten()
        own = padded.narrow(0, local.numel() * gang.rank, local.numel())
        safe_set_local_fp32_param(parameter, own.view_as(local).to(local.device))
    elif hasattr(parameter, "_hp_mapping"):
        safe_set_full_fp32_param(parameter, value)
    else:
        [master] = [own for half, own in _unpartitioned(engine) if half is parameter]
        master.data.copy_(value)


def _unpartitioned(engine: Any) -> Iterator[tuple[Any, Any]]:
    """Stage 0 in half precision: each parameter and its master."""
    for halves, masters in zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True):
        yield from zip(halves, masters, strict=True)

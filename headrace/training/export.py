"""Writes the trained model for others: safetensors, config, tokenizer.

Under ZeRO stage 3 parameters are gathered one at a time, so no device ever holds the whole model. Rank 0's host memory
holds it once, in the training's precision. (DeepSpeed's own consolidation works in fp32 and needs three times as much.)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.training.engine import Gang

# The trained model uses the base model's files.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def export_model(gang: Gang, engine: Any, base: Path, out: Path) -> None:
    """Rank 0 writes the model directory `out`; every rank must call it."""
    model = engine.module
    weights = gathered_weights(gang, model)
    if gang.rank != 0:
        return
    out.mkdir(parents=True)
    save_model(model, base, out, state_dict=weights)


def save_model(model: Any, base: Path, out: Path, **saving: Any) -> None:
    """A directory that transformers opens, with the base's tokenizer. `saving`: arguments of its `save_pretrained`."""
    model.save_pretrained(out, **saving)
    copy_tokenizer(base, out)
    drop_library_versions(out)


def copy_tokenizer(base: Path, out: Path) -> None:
    for name in _TOKENIZER_FILES:
        if (base / name).is_file():
            (out / name).write_bytes((base / name).read_bytes())


def drop_library_versions(directory: Path) -> None:
    """Removes the writers' names from the configs, so that the same model has the same digest."""
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        if path.is_file():
            body = json.loads(path.read_text())
            for field in ("transformers_version", "_name_or_path"):
                body.pop(field, None)
            path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")


def gathered_weights(
    gang: Gang, model: Any, is_wanted: Callable[[Any], bool] = lambda parameter: True
) -> dict[str, Any]:
    """On rank 0 the wanted parameters and all buffers by name, on other ranks nothing; every rank must call it. Where
    nothing is divided among the ranks, all parameters, since they need no gathering."""
    from deepspeed import zero

    partitioned = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if not partitioned:
        return model.state_dict() if gang.rank == 0 else {}
    weights: dict[str, Any] = {}
    copies: dict[int, Any] = {}
    # A tied parameter has two names and one tensor; by that, save_pretrained chooses the name to write.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not is_wanted(parameter):
            continue
        if id(parameter) not in copies:
            with zero.GatheredParameters([parameter]):
                copies[id(parameter)] = parameter.detach().cpu().clone() if gang.rank == 0 else None
        weights[name] = copies[id(parameter)]
    if gang.rank == 0:
        persistent = model.state_dict()
        weights |= {name: buffer.cpu() for name, buffer in model.named_buffers() if name in persistent}
    return weights

"""Writes the trained model for others: safetensors, config, tokenizer.

Weights go into their files one at a time; under ZeRO stage 3 they are gathered one at a time too. So no process holds
the model again beside its own part of it. (DeepSpeed's own consolidation works in fp32 and holds it three times.) A few
architectures have other names and shapes in files than in memory: they are written by transformers, which holds all of
the weights.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from headrace.training.engine import Gang
from headrace.training.safetensors_stream import SafetensorsStream

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
    held = dict(held_weights(model))
    described = {name: _described(tensor) for name, tensor in held.items()}
    names = names_in_files(model, described)
    if gang.rank == 0:
        out.mkdir(parents=True)
    if names is None:
        whole = _whole(gang, held)
        if gang.rank == 0:
            model.save_pretrained(out, state_dict=whole)
    else:
        _stream(gang, model, held, {name: described[name] for name in names}, out)
    if gang.rank == 0:
        copy_beside(base, out)


def trained_weights(gang: Gang, model: Any) -> dict[str, Any]:
    """On rank 0 copies of the trained parameters by name, on other ranks nothing; every rank must call it."""
    held = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: weight.cpu().clone() for name, weight in _gathered(gang, held, held) if gang.rank == 0}


def copy_beside(base: Path, out: Path) -> None:
    """What a written model has besides its weights and its config: the base's tokenizer."""
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


def _stream(gang: Gang, model: Any, held: Mapping[str, Any], described: Mapping[str, Any], out: Path) -> None:
    with SafetensorsStream(out, described) as stream:
        for name, weight in _gathered(gang, held, stream.names):
            if gang.rank == 0:
                stream.write(name, weight)
        if gang.rank == 0:
            # Without weights it writes the configs alone.
            model.save_pretrained(out, state_dict={})
            stream.close(num_parameters=sum(_described(one).numel() for one in model.parameters()))


def held_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Parameters, a tied one under each of its names, and the buffers that belong to the model."""
    saved = model.state_dict()
    yield from model.named_parameters(remove_duplicate=False)
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _gathered(gang: Gang, held: Mapping[str, Any], names: Any) -> Iterator[tuple[str, Any]]:
    """Each weight whole, until the next is asked for. On all ranks, in one order: gathering takes all of them."""
    from deepspeed import zero

    for name in names:
        tensor = held[name]
        with zero.GatheredParameters([tensor]) if hasattr(tensor, "ds_id") else nullcontext():
            yield name, tensor.detach()


def _whole(gang: Gang, held: Mapping[str, Any]) -> dict[str, Any]:
    # A tied parameter has two names and one tensor; by that, save_pretrained chooses the name to write.
    copies: dict[int, Any] = {}
    for name, weight in _gathered(gang, held, held):
        if gang.rank == 0 and id(held[name]) not in copies:
            copies[id(held[name])] = weight.cpu().clone()
    return {name: copies[id(tensor)] for name, tensor in held.items()} if gang.rank == 0 else {}


def _described(tensor: Any) -> Any:
    """A tensor without content. Under stage 3 a parameter is an empty placeholder that carries its shape separately."""
    import torch

    return torch.empty(getattr(tensor, "ds_shape", tensor.shape), dtype=tensor.dtype, device="meta")


def names_in_files(model: Any, described: Mapping[str, Any]) -> list[str] | None:
    """Which weights `save_pretrained` would write; None: not these, but what it makes of them."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(model._keys_to_ignore_on_save or ())
    kept = {name: tensor for name, tensor in described.items() if name not in ignored}
    untied = remove_tied_weights_from_state_dict(kept, model)
    written = revert_weight_conversion(model, dict(untied))
    if written.keys() != untied.keys() or any(written[name] is not untied[name] for name in untied):
        return None
    # In its order, by which the weights are divided into files.
    return list(written)

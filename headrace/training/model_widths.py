"""What config.json and the safetensors headers say of a language model's widths; no weights, no library of models.

Names differ between architectures for the same numbers: `hidden_size`, `n_embd` and `d_model` are one. A model that
states none of them, or no layers, has no widths: its activations are unknown.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from headrace.errors import InvalidTrainingRun, reason_of
from headrace.store.tensors.safetensors_header import SUFFIX, tensors_of

_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "vocabulary": ("vocab_size",),
    "inner": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "moe_intermediate_size"),
    "key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_width": ("head_dim",),
}
# Layers as every architecture of transformers names them: model.layers.3., transformer.h.3., decoder.layers.3.
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|[._])(?:embed\w*|wte|wpe|word_embeddings)\.")
# Written in Python as a chain of simple operations, of which each keeps its input: those of transformers' own.
_COMPOSED_ACTIVATIONS = {"gelu_new", "gelu_fast", "quick_gelu", "gelu_python", "relu2"}
FILE, INDEX = f"model{SUFFIX}", f"model{SUFFIX}.index.json"
# The narrowest numbers of the format have 4 bits.
_ELEMENTS_A_BYTE = 2
_COUNT_END = 2**31


@dataclass(frozen=True, kw_only=True)
class ModelWidths:
    """Numbers a token, but for `layers` and `heads`. `inner`: of all experts that a token sees together.

    Attributes:
        query: all query heads together.
        key_value: all key heads together, as the values.
        is_gated: the inner layer has a gate beside it.
        has_rms_norm: norms scale in fp32 by simple operations, as transformers' RMSNorm.
        has_head_norms: queries and keys are normed.
        is_composed: the activation keeps what is between its simple operations.
        drops_attention: attention has dropout, and then keeps its whole table.
        has_gated_residuals: what a layer adds is multiplied by a gate of its own.
        layers_trained: layers through which gradients run.
        largest: elements of the largest trained tensor.
    """

    hidden: int
    layers: int
    heads: int
    query: int
    key_value: int
    inner: int
    vocabulary: int
    layers_trained: int
    largest: int = 0
    learns_embedding: bool = True
    is_gated: bool = True
    has_rms_norm: bool = True
    has_head_norms: bool = False
    is_composed: bool = False
    drops_attention: bool = False
    has_gated_residuals: bool = False
    is_tied: bool = True


def read_widths(directory: Path, freeze: tuple[str, ...] = ()) -> ModelWidths | None:
    """Of a model's directory; None: its config.json does not tell them.

    Raises:
        InvalidTrainingRun: a file of the model cannot be read as what it should be.
    """
    return widths_of(
        read_config(directory), {name: prod(shape) for name, shape in tensor_shapes(directory).items()}, freeze
    )


def read_config(directory: Path) -> dict[str, Any]:
    """Raises: InvalidTrainingRun: config.json is no object of JSON."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidTrainingRun(f"{path} cannot be read as JSON: {reason_of(error)}. Save the model again.") from error
    if not isinstance(config, dict):
        raise InvalidTrainingRun(
            f"{path} must be an object of JSON, got {type(config).__name__}. Save the model again."
        )
    return config


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that transformers loads of a directory, which may have the same weights in others beside.

    Raises:
        InvalidTrainingRun: the index of several files cannot be read, or names one that is not there.
    """
    if (whole := directory / FILE).is_file():
        return [whole]
    index = directory / INDEX
    if not index.is_file():
        return sorted(path for path in directory.glob(f"*{SUFFIX}") if path.is_file())
    try:
        files = sorted({directory / name for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidTrainingRun(f"{index} cannot be read: {reason_of(error)}. Save the model again.") from error
    if missing := [path for path in files if not path.is_file()]:
        raise InvalidTrainingRun(f"{index} names {missing[0].name}, which is not there. Fetch it.")
    return files


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Tokens that the model takes at most; None: config.json does not tell."""
    return _whole(config, "max_position_embeddings")


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor in the safetensors files, by name, from their headers.

    Raises:
        InvalidTrainingRun: a file is none, or ends early.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(directory):
        found = tensors_of(path)
        if not found or not all(0 < prod(one.shape) <= _ELEMENTS_A_BYTE * one.num_bytes for one in found):
            raise InvalidTrainingRun(
                f"{path} is no whole safetensors file ({path.stat().st_size:,} bytes): its header cannot be read, or "
                "tells other lengths. Fetch it again; of a clone without Git LFS, `git lfs pull` does."
            )
        shapes |= {one.name: one.shape for one in found}
    return shapes


def widths_of(
    config: Mapping[str, Any], tensors: Mapping[str, int], freeze: tuple[str, ...] = ()
) -> ModelWidths | None:
    """Args: tensors: elements by name; names tell what config.json leaves to the architecture's code."""
    config, names = _text_config(config), list(tensors)
    hidden, layers, heads = (_number(config, name) for name in ("hidden", "layers", "heads"))
    vocabulary = _number(config, "vocabulary")
    if not hidden or not layers or not heads or not vocabulary:
        return None
    trained = [name for name in names if not name.startswith(freeze or ("\0",))]
    head = _number(config, "head_width") or hidden // heads
    experts = _whole(config, "num_experts_per_tok") or 1
    expert_width = _whole(config, "moe_intermediate_size") if experts > 1 else None
    inner = (expert_width or _number(config, "inner") or 4 * hidden) * experts
    activation = config.get("hidden_act") or config.get("activation_function") or config.get("hidden_activation") or ""
    return ModelWidths(
        hidden=hidden,
        layers=layers,
        heads=heads,
        query=heads * head,
        key_value=(_number(config, "key_value_heads") or heads) * head,
        inner=inner,
        vocabulary=vocabulary,
        is_gated=any("gate_proj" in name or "gate_up_proj" in name or ".w3." in name for name in names),
        has_rms_norm="rms_norm_eps" in config,
        has_head_norms=any(".q_norm." in name for name in names),
        is_composed=str(activation) in _COMPOSED_ACTIVATIONS,
        drops_attention=any(bool(config.get(key)) for key in ("attention_dropout", "attn_pdrop")),
        is_tied=not any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in names),
        layers_trained=_layers_trained(trained, layers),
        largest=max((tensors[name] for name in trained), default=0),
        learns_embedding=any(_EMBEDDING.search(name) for name in trained),
    )


def _layers_trained(trained: Iterable[str], num_layers: int) -> int:
    """Layers from the first trained one on; nothing is kept of those below it."""
    first = num_layers
    for name in trained:
        found = _LAYER.search(name)
        if found:
            first = min(first, int(found[1]))
        elif _EMBEDDING.search(name):
            return num_layers
    return num_layers - first


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model of several modalities has its language model's numbers in a section."""
    section = config.get("text_config")
    return section if isinstance(section, Mapping) else config


def _number(config: Mapping[str, Any], name: str) -> int | None:
    return next((found for key in _NAMES[name] if (found := _whole(config, key))), None)


def _whole(config: Mapping[str, Any], key: str) -> int | None:
    """A count; None: it is no such number."""
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _COUNT_END else None

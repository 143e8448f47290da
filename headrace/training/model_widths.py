"""What config.json and the safetensors headers say of a language model's widths; no weights, no library of models.

Names differ between architectures for the same numbers: `hidden_size`, `n_embd` and `d_model` are one. A model that
states none of them, or no layers, has no widths: its activations are unknown.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

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
    """Of a model's directory; None: its config.json does not tell them."""
    config = json.loads((directory / "config.json").read_text())
    return widths_of(config, {name: prod(shape) for name, shape in tensor_shapes(directory).items()}, freeze)


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor in the safetensors files, by name, from their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            (num_header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(num_header_bytes))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
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
    experts = config.get("num_experts_per_tok") or 1
    expert_width = config.get("moe_intermediate_size") if experts > 1 else None
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
        is_composed=activation in _COMPOSED_ACTIVATIONS,
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
    found = next((config[key] for key in _NAMES[name] if isinstance(config.get(key), int)), None)
    return found or None

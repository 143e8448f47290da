"""Models of random numbers with the names and shapes of real ones, as the library safetensors writes them."""

import json
from collections.abc import Callable
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]


def smollm2() -> Shapes:
    """SmolLM2-135M: 272 tensors, 269 MB."""
    return llama(hidden=576, intermediate=1536, key_width=192, num_layers=30, vocab=49_152)


def of_size(gigabytes: float) -> Shapes:
    """A language model of about this size in two bytes a parameter, 20 MB a layer."""
    vocab, hidden = 16_000, 1024
    num_layers = max(2, round((gigabytes * 1e9 - 2 * vocab * hidden) / (2 * 10 * hidden * hidden)))
    return llama(hidden=hidden, intermediate=2 * hidden, key_width=hidden, num_layers=num_layers, vocab=vocab)


def llama(*, hidden: int, intermediate: int, key_width: int, num_layers: int, vocab: int) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(num_layers):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.self_attn.q_proj.weight": (hidden, hidden),
            f"{name}.self_attn.k_proj.weight": (key_width, hidden),
            f"{name}.self_attn.v_proj.weight": (key_width, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, hidden),
            f"{name}.mlp.gate_proj.weight": (intermediate, hidden),
            f"{name}.mlp.up_proj.weight": (intermediate, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, intermediate),
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def is_trained_by_the_demo(name: str) -> bool:
    """The upper half of the layers, and the last norm: 136 of 272 tensors, as in `resources/recipes`."""
    parts = name.split(".")
    return int(parts[2]) >= 15 if parts[1] == "layers" else name == "model.norm.weight"


def write_model(
    directory: Path,
    shapes: Shapes,
    *,
    num_shards: int = 1,
    seed: int = 7,
    base: Path | None = None,
    is_changed: Callable[[str], bool] = lambda name: True,
) -> Path:
    """Args: base: an earlier model, whose tensors stay where they are not changed."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    directory.mkdir(parents=True)
    rng, names = np.random.default_rng(seed), list(shapes)
    per_shard = -(-len(names) // num_shards)
    for number in range(num_shards):
        path = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        shard = load_file(base / path) if base else {}
        for name in names[number * per_shard : (number + 1) * per_shard]:
            if name not in shard or is_changed(name):
                shard[name] = rng.integers(0, 2**15, shapes[name], np.int16).view(np.float16)
        save_file(shard, directory / path)
    (directory / "config.json").write_text(json.dumps({"num_tensors": len(names)}))
    return directory

"""The picture model as diffusers knows it: a new transformer, and a directory that its own pipeline opens.

The directory is a plain `PRXPixelPipeline`: it paints pixels, has no autoencoder, and takes any text model that gives
hidden states. Nothing of Headrace is needed to open it. The stock pipeline takes one prompt a call with guidance; its
card says so.
"""

import json
from pathlib import Path
from typing import Any

from headrace.errors import InvalidTrainingRun
from headrace.training.flow_matching_settings import FlowMatching
from headrace.training.picture_examples import PictureShape

# Of the scheduler: steps at even shares of noise. Small pictures need no shift towards noise.
_SHIFT = 1.0
_CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
---
Trained by Headrace. Opens with `diffusers.PRXPixelPipeline.from_pretrained`. With guidance, ask one prompt a call; pass
`use_resolution_binning=False` and `height` and `width` of {side}. Prompts are cut at {tokens} tokens.
"""


def check_shape(settings: FlowMatching, shape: PictureShape, whose: str) -> None:
    """Raises: InvalidTrainingRun: the pictures cannot be cut into patches."""
    if shape.side % settings.patch_pixels:
        raise InvalidTrainingRun(
            f"{whose}: pictures of {shape.side}x{shape.side} pixels cannot be cut into patches of "
            f"{settings.patch_pixels}; set flow_matching.patch_pixels to a divisor of {shape.side}."
        )


def build_transformer(settings: FlowMatching, shape: PictureShape, *, seed: int) -> Any:
    """A `PRXTransformer2DModel` in fp32, the same for the same seed.

    What modulates a block, and the last layer, begin at zero: then each block begins as the identity, and the first
    steps do not go astray (adaLN-Zero; Peebles and Xie 2023, section 3.2).
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _transformer(settings, shape)
    for layer in (*(block.modulation.lin for block in model.blocks), model.final_layer.linear):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model


def _transformer(settings: FlowMatching, shape: PictureShape) -> Any:
    from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel

    head_width = settings.hidden_size // settings.heads
    return PRXTransformer2DModel(
        in_channels=3,
        patch_size=settings.patch_pixels,
        context_in_dim=shape.width,
        hidden_size=settings.hidden_size,
        mlp_ratio=settings.mlp_ratio,
        num_heads=settings.heads,
        depth=settings.depth,
        axes_dim=[head_width // 2, head_width // 2],
    )


def export_pipeline(
    weights: dict[str, Any], settings: FlowMatching, shape: PictureShape, caption_encoder: Path, out: Path
) -> None:
    """Writes the directory `out`: transformer, scheduler, text_encoder, tokenizer, model_index.json, a card."""
    from diffusers.pipelines.prx.pipeline_prx_pixel import PRXPixelPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import AutoModel, AutoTokenizer

    transformer = _transformer(settings, shape)
    transformer.load_state_dict(weights)
    pipeline = PRXPixelPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=_SHIFT),
        text_encoder=AutoModel.from_pretrained(caption_encoder, trust_remote_code=False),
        tokenizer=AutoTokenizer.from_pretrained(caption_encoder, trust_remote_code=False),
        default_sample_size=shape.side,
        prompt_max_tokens=shape.tokens,
        noise_scale=1.0,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    (out / "README.md").write_text(_CARD.format(side=shape.side, tokens=shape.tokens))
    _drop_paths(out)


def _drop_paths(directory: Path) -> None:
    """Removes where files were read and by which release they were written: the same model has the same digest."""
    for path in sorted(directory.rglob("*.json")):
        if path.name in ("config.json", "model_index.json", "scheduler_config.json", "tokenizer_config.json"):
            body = json.loads(path.read_text())
            for field in ("transformers_version", "_diffusers_version", "_name_or_path", "name_or_path"):
                body.pop(field, None)
            path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")

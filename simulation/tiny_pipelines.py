"""Pipelines of diffusers of under a million parameters, made in-process, that paint a text without having learnt to.

Real in every part: a tokenizer, an encoder, a denoiser, a schedule and, for one of them, a VAE. Deterministic: the same
call gives the same bytes.
"""

from pathlib import Path
from typing import Any

from simulation.tiny_model import tiny_tokenizer

_POSITIONS_MAX = 64


def build_pixel_pipeline(
    directory: Path,
    *,
    seed: int = 7,
    hidden_size: int = 64,
    depth: int = 2,
    patch_size: int = 4,
    encoder_size: int = 32,
    encoder_layers: int = 2,
) -> Path:
    """A PRX pipeline, in pixels, 16 x 16 by default, whose encoder is a BERT.

    Args:
        seed: another one gives other weights.
        hidden_size, depth, patch_size: of the denoiser. encoder_size, encoder_layers: of the BERT.
    """
    import torch
    from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel
    from diffusers.pipelines.prx.pipeline_prx_pixel import PRXPixelPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import BertConfig, BertModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=encoder_size,
                num_hidden_layers=encoder_layers,
                num_attention_heads=max(2, encoder_size // 32),
                intermediate_size=4 * encoder_size,
                max_position_embeddings=_POSITIONS_MAX,
            ),
        )
        transformer = PRXTransformer2DModel(
            in_channels=3,
            patch_size=patch_size,
            context_in_dim=encoder_size,
            hidden_size=hidden_size,
            mlp_ratio=3.0,
            num_heads=hidden_size // 32,
            depth=depth,
            axes_dim=[16, 16],
        )
        # A new one's are zero: each block passes on what it gets, and no text is seen.
        blocks: Any = transformer.blocks
        for block in blocks:
            torch.nn.init.normal_(block.modulation.lin.weight, std=0.2)
            torch.nn.init.normal_(block.modulation.lin.bias)
    pipeline = PRXPixelPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_encoder=encoder,
        tokenizer=tokenizer,
        default_sample_size=16,
        prompt_max_tokens=16,
        noise_scale=1.0,
    )
    pipeline.save_pretrained(directory)
    return directory


def build_latent_pipeline(directory: Path) -> Path:
    """A Stable Diffusion pipeline, 16 x 16 by default, with a VAE that halves width and height."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = _tokenizer()
    scheduler: Any = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    unchecked: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    of_vae: dict[str, Any] = {
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(7)
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(
                in_channels=3,
                out_channels=3,
                latent_channels=4,
                norm_num_groups=8,
                sample_size=16,
                **of_vae,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=64,
                    max_position_embeddings=_POSITIONS_MAX,
                    eos_token_id=tokenizer.eos_token_id,
                    bos_token_id=tokenizer.bos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            ),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8,
                in_channels=4,
                out_channels=4,
                layers_per_block=1,
                block_out_channels=(16, 32),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=32,
                attention_head_dim=8,
                norm_num_groups=8,
            ),
            scheduler=scheduler,
            **unchecked,
        )
    pipeline.save_pretrained(directory)
    return directory


def _tokenizer() -> Any:
    special_tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return tiny_tokenizer(special_tokens, vocab=400, num_positions=_POSITIONS_MAX, sequence="<s> $A </s>")

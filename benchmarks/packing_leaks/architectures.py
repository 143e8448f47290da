"""One tiny random model of every causal architecture that transformers can build small, without a download.

Sizes are set by the names that configurations share; what an architecture wants besides stands in `_OWN`. What cannot
be built small, or is no language model by itself, is told with its reason: a list that grows says what an upgrade lost.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

VOCABULARY = 128
_POSITIONS_MAX = 128
_PARAMETERS_MAX = 20_000_000

_HIDDEN, _LAYERS, _HEADS, _HEAD = 32, 4, 4, 8
# By name, wherever a configuration has it.
_SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "emb_dim"), _HIDDEN),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 2 * _HIDDEN),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size"), _HIDDEN),
    **dict.fromkeys(("expert_ffn_hidden_size", "shared_intermediate_size", "num_hidden_layers"), _HIDDEN),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("encoder_layers", "num_key_value_heads", "num_experts_per_tok", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), _POSITIONS_MAX),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "index_head_dim"), _HEAD),
    **dict.fromkeys(("linear_head_dim", "rotary_dim", "attention_head_dim", "hidden_size_per_layer_input"), _HEAD),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "index_topk"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "zero_expert_num"), 4),
    **dict.fromkeys(("index_n_heads", "linear_num_heads", "encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("n_group", "topk_group", "num_mtp_layers", "n_shared_experts", "num_shared_experts"), 1),
    "num_kv_shared_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_chunk_size": 16}
# Layers that carry a state or a convolution among those that attend: the mixture is what these architectures are.
_OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_key_value_heads": _HEADS},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "cohere_compass_text": {"layer_types": ["full_attention"] * _LAYERS},
    # With four heads one score in sixteen is exactly 0, and which of equal ones count depends on their places.
    "deepseek_v32": {"num_key_value_heads": _HEADS, "index_n_heads": 64},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention", "mamba", "attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 16, "chunk_size": 16},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 16, "chunk_size": 16},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "n_mamba_heads": 8, "mamba_d_state": 16},
    "zaya": {"num_experts_per_tok": 1},
}

_OF_SEVERAL_MODELS = {"text_config", "vision_config", "audio_config", "audio_encoder", "patcher_config"}


class CannotBeBuilt(Exception):
    """No tiny model of this architecture; the text says why."""


def architectures() -> list[str]:
    """The model types of which transformers has a causal language model, as AutoModelForCausalLM maps them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """Raises: CannotBeBuilt."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    configuration: Any = CONFIG_MAPPING[model_type]
    known = {field.name for field in dataclasses.fields(configuration)}
    if known & _OF_SEVERAL_MODELS:
        raise CannotBeBuilt("several models in one: its language model has a type of its own")
    wanted = _SMALL | ({"num_key_value_heads": _HEADS} if "kv_lora_rank" in known else {}) | _OWN.get(model_type, {})
    try:
        return configuration(**{name: value for name, value in wanted.items() if name in known})
    except Exception as error:
        raise CannotBeBuilt(_first_line(error)) from error


def tiny_model(model_type: str) -> Any:
    """In fp32, of random weights that depend on the architecture alone.

    Raises:
        CannotBeBuilt: as it says.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(model_type)
    try:
        with torch.device("meta"):
            num_parameters = AutoModelForCausalLM.from_config(config).num_parameters()
        if num_parameters > _PARAMETERS_MAX:
            raise CannotBeBuilt(f"{num_parameters:,} parameters, whatever its sizes are set to")
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    except CannotBeBuilt:
        raise
    except Exception as error:
        raise CannotBeBuilt(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {' '.join(lines)[:160]}"

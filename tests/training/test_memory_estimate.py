"""The estimate of a rank's memory: what forward keeps beside what autograd really keeps, and how parts add up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from headrace.errors import InvalidTrainingRun
from headrace.training.lora import with_adapters
from headrace.training.lora_settings import Lora
from headrace.training.memory_estimate import (
    BACKWARD,
    MIB,
    Load,
    estimate_memory,
    floor_bytes,
    layer_bytes,
    model_state,
)
from headrace.training.model_widths import ModelWidths, widths_of
from headrace.training.zero import ModelShape, zero_bytes_per_rank
from tests.training_builders import make_recipe

BILLION = 10**9
TOKENS = 24
SHAPE = ModelShape(num_params=BILLION, num_params_trained=BILLION, positions_max=None)
WIDTHS = ModelWidths(
    hidden=2048, layers=16, heads=16, query=2048, key_value=512, inner=8192, vocabulary=50_000, layers_trained=16
)
LOAD = Load(world_size=4, zero_stage=2, precision="bf16", device="cuda", tokens=2048, loss_tokens=1024, row_tokens=2048)
SMALL: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 64, "max_position_embeddings": 64}


def llama(layers: int, **changes: Any) -> Any:
    config: dict[str, Any] = {**SMALL, "intermediate_size": 160, "num_key_value_heads": 2, "num_hidden_layers": layers}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config | changes))


def qwen3(layers: int) -> Any:
    config: dict[str, Any] = {
        **SMALL,
        "intermediate_size": 160,
        "num_key_value_heads": 2,
        "num_hidden_layers": layers,
        "head_dim": 16,
    }
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**config))


def gpt2(layers: int) -> Any:
    config: dict[str, Any] = {"n_embd": 64, "n_head": 4, "n_layer": layers, "vocab_size": 64, "n_positions": 64}
    without_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, **without_dropout))


def llama_with_dropout(layers: int) -> Any:
    return llama(layers, attention_dropout=0.1)


def kept_bytes(model: Any) -> int:
    """What autograd keeps of one forward over packed rows, each storage once, without the parameters' own."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(TOKENS).remainder(60)[None]
    positions = torch.cat([torch.arange(TOKENS // 2)] * 2)[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    assert hidden.requires_grad
    return sum(kept.values())


def widths_of_model(model: Any) -> ModelWidths:
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
    found = widths_of(model.config.to_dict(), sizes)
    assert found
    return found


ARCHITECTURES: dict[str, Callable[[int], Any]] = {
    "llama": llama,
    "qwen3": qwen3,
    "gpt2": gpt2,
    "llama with dropout": llama_with_dropout,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_layer_keeps_what_autograd_keeps_of_it(architecture: str, precision: str) -> None:
    build = ARCHITECTURES[architecture]
    with torch.random.fork_rng():
        few, more = build(1).train(), build(3).train()
    if precision == "bf16":
        few, more = few.bfloat16(), more.bfloat16()
    measured = (kept_bytes(more) - kept_bytes(few)) / 2 / TOKENS
    load = replace(LOAD, precision=precision, row_tokens=TOKENS)
    assert layer_bytes(widths_of_model(few), load) == pytest.approx(measured, rel=0.06)


def test_a_frozen_layer_keeps_less_as_autograd_does() -> None:
    """As below adapters: gradients run through it, and none of its weights is learnt."""
    few, more = llama(1), llama(3)
    for model in (few, more):
        model.requires_grad_(False)
        model.model.embed_tokens.requires_grad_(True)
    measured = (kept_bytes(more) - kept_bytes(few)) / 2 / TOKENS
    load = replace(LOAD, precision="fp32", row_tokens=TOKENS, base_is_trained=False)
    assert layer_bytes(widths_of_model(few), load) == pytest.approx(measured, rel=0.06)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_layer_under_adapters_keeps_what_autograd_keeps_of_it(dropout: float, precision: Any) -> None:
    few, more = llama(1), llama(3)
    widths = widths_of_model(few)
    for model in (few, more):
        with torch.random.fork_rng():
            if precision == "bf16":
                model.bfloat16()
            with_adapters(model.train(), make_recipe(lora=Lora(rank=2, dropout=dropout)))
        # As behind an adapter of a layer below: gradients run through all of them.
        model.model.embed_tokens.requires_grad_(True)
    measured = (kept_bytes(more) - kept_bytes(few)) / 2 / TOKENS
    load = replace(LOAD, precision=precision, device="cpu", row_tokens=TOKENS, base_is_trained=False)
    inputs = 6 * widths.hidden + widths.inner
    load = replace(load, adapted_inputs=inputs, adapters_drop=dropout > 0)
    assert layer_bytes(widths, load) == pytest.approx(measured, rel=0.06)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("stage", [2, 3])
def test_model_state_is_the_papers_but_for_what_stage_three_gathers(stage: int, precision: Any) -> None:
    load = replace(LOAD, zero_stage=stage, precision=precision)
    state = model_state(SHAPE, WIDTHS, load)
    gathered = load.element_bytes * BILLION if stage == 3 else 0
    ours = state.weights - gathered + state.optimizer + state.gradients[BACKWARD]
    assert ours == pytest.approx(zero_bytes_per_rank(BILLION, 4, stage, precision=precision), rel=0.001)


def test_a_higher_stage_a_smaller_pass_and_checkpointing_need_less() -> None:
    def needed(**changes: Any) -> int:
        return estimate_memory(SHAPE, WIDTHS, replace(LOAD, is_accumulated=True, **changes)).num_bytes

    assert needed(zero_stage=2) < needed(zero_stage=1) < needed(zero_stage=0)
    assert needed(tokens=1024, loss_tokens=512) < needed()
    assert needed(is_checkpointed=True) < needed()
    assert needed(world_size=8) < needed()


def test_what_is_offloaded_is_on_the_host() -> None:
    offloaded = estimate_memory(SHAPE, WIDTHS, replace(LOAD, offloads_optimizer=True))
    assert offloaded.num_bytes < estimate_memory(SHAPE, WIDTHS, LOAD).num_bytes
    assert offloaded.parts["optimizer"] == 0
    assert offloaded.host_bytes == pytest.approx(16 * BILLION / 4)


def test_adapters_need_neither_gradients_nor_state_of_their_base() -> None:
    shape = replace(SHAPE, num_params_trained=BILLION // 100)
    adapters = estimate_memory(shape, WIDTHS, replace(LOAD, base_is_trained=False, adapted_inputs=4 * 2048))
    assert adapters.num_bytes < 0.75 * estimate_memory(SHAPE, WIDTHS, LOAD).num_bytes


def test_the_parts_are_told_from_the_largest_down() -> None:
    estimate = estimate_memory(SHAPE, WIDTHS, LOAD)
    assert f"optimizer {3 * BILLION / MIB:,.0f}, weights {2 * BILLION / MIB:,.0f}, " in estimate.words()
    assert estimate.words().startswith("activations ")
    assert estimate.num_bytes == sum(estimate.parts.values())


def test_a_model_without_widths_gets_a_floor() -> None:
    estimate = estimate_memory(SHAPE, None, LOAD)
    assert estimate.is_floor
    assert estimate.num_bytes >= floor_bytes(SHAPE, None, LOAD)
    assert widths_of({"model_type": "mamba", "hidden_size": 64}, {}) is None


def test_layers_below_the_first_trained_one_keep_nothing() -> None:
    names = {f"model.layers.{number}.mlp.up_proj.weight": 1 for number in range(4)}
    config = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 64}
    frozen = ("model.embed_tokens.", "model.layers.0.", "model.layers.1.")

    def layers_trained(freeze: tuple[str, ...]) -> int:
        found = widths_of(config, {"model.embed_tokens.weight": 1, **names}, freeze)
        assert found
        return found.layers_trained

    assert layers_trained(()) == 4
    assert layers_trained(frozen) == 2


def test_no_rank_at_all_is_refused() -> None:
    with pytest.raises(InvalidTrainingRun, match="world_size must be positive, got 0"):
        estimate_memory(SHAPE, WIDTHS, replace(LOAD, world_size=0))

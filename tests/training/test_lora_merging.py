"""A merge that streams writes the files of peft's own merge of a loaded model."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftConfig

from headrace.adapters.loading import load_causal_model
from headrace.adapters.sealed import Opened
from headrace.errors import InvalidInput
from headrace.store.sealed_directory import digest_of_directory
from headrace.training import lora_merging
from headrace.training.export import copy_beside
from headrace.training.lora_merging import merge_adapters

KINDS: dict[str, PeftConfig] = {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    "rslora": LoraConfig(r=4, use_rslora=True, target_modules=["q_proj"], lora_bias=False, task_type="CAUSAL_LM"),
    "dora": LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    "loha": LoHaConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
}
OF_EMBEDDINGS = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")


def make_adapter(base: Path, directory: Path, kind: str) -> Opened:
    """Every weight of it is drawn, so that the merge changes what it should."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    on_base: Any = peft.get_peft_model(model, KINDS.get(kind, OF_EMBEDDINGS))
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (one for one in on_base.parameters() if one.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=draws) * 0.02)
    on_base.save_pretrained(directory)
    return Opened(directory=directory, base=base)


def whole(adapters: Opened, out: Path, dtype: Any) -> Path:
    assert adapters.base
    load_causal_model(adapters, dtype=dtype, merge=True).save_pretrained(out)
    copy_beside(adapters.base, out)
    return out


@pytest.mark.parametrize("dtype", ["auto", torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_streamed_files_are_those_of_a_whole_merge(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: Any
) -> None:
    adapters = make_adapter(tiny_model, tmp_path / "adapter", kind)
    theirs = whole(adapters, tmp_path / "theirs", dtype)
    monkeypatch.setattr(lora_merging, "load_causal_model", lambda *_, **__: pytest.fail("the model was loaded"))
    merge_adapters(adapters, tmp_path / "ours", dtype=dtype)
    assert {path.name for path in theirs.iterdir()} == {path.name for path in (tmp_path / "ours").iterdir()}
    for path in theirs.iterdir():
        assert path.read_bytes() == (tmp_path / "ours" / path.name).read_bytes(), path.name
    weights = [directory / "model.safetensors" for directory in (theirs, tiny_model)]
    assert weights[0].read_bytes() != weights[1].read_bytes(), "the adapter changes something"


def test_embeddings_that_are_saved_with_the_adapter_are_in_the_merged_model(tiny_model: Path, tmp_path: Path) -> None:
    adapters = make_adapter(tiny_model, tmp_path / "adapter", "of embeddings")
    merge_adapters(adapters, tmp_path / "ours")
    assert digest_of_directory(whole(adapters, tmp_path / "theirs", "auto")) == digest_of_directory(tmp_path / "ours")


def test_experts_that_are_stored_in_another_form_are_merged_by_transformers(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(str(tmp_path / "base"))
    copy_beside(tiny_model, tmp_path / "base")
    model: Any = load_causal_model(Opened(directory=tmp_path / "base"), dtype=torch.float32)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    adapters = Opened(directory=tmp_path / "adapter", base=tmp_path / "base")
    merge_adapters(adapters, tmp_path / "ours")
    assert digest_of_directory(whole(adapters, tmp_path / "theirs", "auto")) == digest_of_directory(tmp_path / "ours")


def test_an_adapter_of_another_model_is_refused_and_leaves_no_weights(tiny_model: Path, tmp_path: Path) -> None:
    adapters = make_adapter(tiny_model, tmp_path / "adapter", "lora")
    from safetensors.torch import load_file, save_file

    path = adapters.directory / "adapter_model.safetensors"
    save_file({name: torch.cat([one, one]) for name, one in load_file(path).items()}, path)
    with pytest.raises(InvalidInput, match="cannot be merged into its base in .*: Error"):
        merge_adapters(adapters, tmp_path / "ours")
    assert not list((tmp_path / "ours").glob("*.safetensors"))

"""A model directory is what `save_pretrained` would have written, whoever holds the weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headrace.store.sealed_directory import digest_of_directory
from headrace.training.engine import Gang
from headrace.training.export import drop_library_versions, export_model


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def export(model: Any, base: Path, out: Path) -> Path:
    export_model(Gang(None, 0, 1), SimpleNamespace(module=model), base, out)
    return out


def test_the_bytes_are_those_that_save_pretrained_writes(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    ours = export(model, tiny_model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    drop_library_versions(tmp_path / "theirs")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (tiny_model / name).exists():
            (tmp_path / "theirs" / name).write_bytes((tiny_model / name).read_bytes())
    assert model.config.tie_word_embeddings, "a tied weight is written once"
    assert digest_of_directory(ours) == digest_of_directory(tmp_path / "theirs")


def test_an_architecture_that_is_stored_in_another_form_is_written_by_transformers(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Mixtral's experts are one tensor in memory, and one each in files."""
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    experts: Any = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=2,
        )
    )
    out = export(experts, tiny_model, tmp_path / "experts")
    experts.save_pretrained(tmp_path / "theirs")
    files = [directory / "model.safetensors" for directory in (out, tmp_path / "theirs")]
    assert files[0].read_bytes() == files[1].read_bytes()
    again: Any = AutoModelForCausalLM.from_pretrained(out)
    assert all(torch.equal(again.get_parameter(name), one) for name, one in experts.named_parameters())

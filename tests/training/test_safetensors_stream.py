"""Files as safetensors and transformers themselves write them, byte for byte."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from headrace.errors import InvalidInput
from headrace.training.safetensors_stream import _DTYPES, SafetensorsStream


def stream(directory: Path, tensors: dict[str, Any], **options: Any) -> None:
    with SafetensorsStream(directory, tensors, **options) as files:
        for name in files.names:
            files.write(name, tensors[name])
        files.close(num_parameters=sum(one.numel() for one in tensors.values()))


def test_one_file_has_the_librarys_own_bytes(tmp_path: Path) -> None:
    every = {f"{name}.weight": torch.ones(3, 5).to(getattr(torch, name)) for name in _DTYPES}
    tensors = every | {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "transposed": torch.arange(6.0).view(2, 3).T,
        'named "ü"': torch.arange(3.0),
    }
    stream(tmp_path, tensors)
    save_file({name: one.contiguous() for name, one in tensors.items()}, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_several_files_and_their_index_are_those_of_save_pretrained(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import dot_natural_key

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    untied = dict(sorted(model.named_parameters(), key=lambda one: dot_natural_key(one[0])))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    stream(ours, untied, max_shard_bytes=1_000_000)
    model.save_pretrained(theirs, max_shard_size=1_000_000)
    files = {path.name: path.read_bytes() for path in ours.iterdir()}
    assert len(files) == 3, "two shards and an index"
    assert files == {path.name: path.read_bytes() for path in theirs.glob("model*")}


def test_a_weight_that_changes_its_shape_on_the_way_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(3)}

    def write_wrongly() -> None:
        with SafetensorsStream(tmp_path, tensors) as files:
            files.write("a", tensors["a"])
            files.write("b", torch.zeros(4))

    with pytest.raises(InvalidInput, match=r"Tensor b was announced as torch.float32 \[3\] and is torch.float32 \[4\]"):
        write_wrongly()
    assert list(tmp_path.iterdir()) == []

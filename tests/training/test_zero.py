import json
import shutil
from pathlib import Path

import pytest

from headrace.errors import InvalidTrainingRun
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.zero import (
    ModelShape,
    check_fits,
    check_sequence_length,
    keeps_fp32,
    read_model_shape,
    zero_bytes_per_rank,
)
from tests.training_builders import make_recipe

BILLION = 10**9


@pytest.mark.parametrize(
    ("stage", "gigabytes"),
    # The paper's figure 1: 7.5 billion parameters on 64 devices.
    [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)],
)
def test_the_estimate_is_the_papers(stage: int, gigabytes: float) -> None:
    assert zero_bytes_per_rank(7_500_000_000, 64, stage) / BILLION == pytest.approx(gigabytes, abs=0.05)


def test_a_higher_stage_never_needs_more() -> None:
    for precision in ("bf16", "fp32"):
        needed = [zero_bytes_per_rank(BILLION, 4, stage, precision=precision) for stage in (1, 2, 3)]
        assert needed == sorted(needed, reverse=True)


def test_frozen_parameters_cost_their_weights_alone() -> None:
    assert zero_bytes_per_rank(BILLION, 2, 2, num_params_trained=0) == 2 * BILLION


def test_no_rank_at_all_is_refused() -> None:
    with pytest.raises(InvalidTrainingRun, match="world_size must be positive, got 0"):
        zero_bytes_per_rank(1, 0, 1)


def test_a_model_that_does_not_fit_is_refused_with_the_estimate_and_the_stage_that_would_fit() -> None:
    shape = ModelShape(num_params=BILLION, num_params_trained=BILLION, positions_max=None)
    recipe = make_recipe(zero_stage=1)
    with pytest.raises(InvalidTrainingRun) as refusal:
        check_fits(recipe, shape, world_size=8, memory_mib_per_rank=4000)
    text = str(refusal.value)
    assert "1,000,000,000 parameters under ZeRO stage 1 on 8 ranks need at least 5,246 MiB a rank" in text
    assert "a rank has 4,000 MiB; ZeRO stage 2 needs 3,577 MiB and would fit" in text


def test_a_model_that_fits_under_no_stage_is_refused_with_advice() -> None:
    shape = ModelShape(num_params=BILLION, num_params_trained=BILLION, positions_max=None)
    with pytest.raises(InvalidTrainingRun, match="no ZeRO stage fits"):
        check_fits(make_recipe(zero_stage=3), shape, world_size=2, memory_mib_per_rank=100)


def test_a_sequence_longer_than_the_models_positions_is_refused() -> None:
    shape = ModelShape(num_params=1, num_params_trained=1, positions_max=512)
    with pytest.raises(InvalidTrainingRun, match="1024 tokens long, model tiny takes at most 512"):
        check_sequence_length(make_recipe(), shape, 1024)
    check_sequence_length(make_recipe(), shape, 512)


def test_a_models_shape_is_read_from_its_headers(tiny_model: Path) -> None:
    shape = read_model_shape(tiny_model)
    assert shape == ModelShape(num_params=853_120, num_params_trained=853_120, positions_max=512)
    frozen = read_model_shape(tiny_model, ("model.embed_tokens.", "model.layers.1."))
    assert frozen.num_params == 853_120
    assert frozen.num_params_trained == 853_120 - 512 * 128 - (853_120 - 512 * 128 - 128) // 4


def test_a_frozen_prefix_that_matches_nothing_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InvalidTrainingRun, match=r"freeze='transformer\.wte' matches no parameter"):
        read_model_shape(tiny_model, ("transformer.wte",))


def test_a_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTrainingRun, match="holds no"):
        read_model_shape(tmp_path)


def test_weights_that_lie_there_in_two_forms_count_once(tiny_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    shutil.copy(base / "model.safetensors", base / "consolidated.safetensors")
    renamed = (base / "consolidated.safetensors").read_bytes().replace(b'"model.layers.', b'"other.layers.')
    (base / "consolidated.safetensors").write_bytes(renamed)
    assert read_model_shape(base) == read_model_shape(tiny_model)
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_model_shape(base) == read_model_shape(tiny_model)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ('{"weight_map": {"a": "model-00002.safetensors"}}', "names model-00002.safetensors, which is not there"),
        ('{"weight_map": []}', "cannot be read"),
    ],
)
def test_an_index_of_files_that_are_not_there_is_refused(tmp_path: Path, index: str, told: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InvalidTrainingRun, match=told):
        read_model_shape(tmp_path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\2\0\0\0\0\0\0\0[]"])
def test_a_sealed_file_that_is_no_safetensors_has_no_fp32_weights(
    tiny_model: Path, tmp_path: Path, content: bytes
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "model.safetensors").write_bytes(content)
    store = LocalStore(tmp_path / "store")
    assert not keeps_fp32(store, seal_directory(store, base).digest)

"""Refusals before any process starts, and what a machine offers."""

from pathlib import Path

import pytest

from headrace.errors import InvalidTrainingRun
from headrace.training.base_model import model_directory
from headrace.training.devices import Devices, detect_devices
from headrace.training.session import check
from resources.training import TrainingResource
from tests.training_builders import Bench, make_bench

CPU = Devices(num_gpus=0, memory_mib=8000)


@pytest.fixture(scope="module")
def bench(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"), tiny_model)


REFUSALS = {
    "a batch that does not divide": ({"batch": 3}, CPU, "batch=3 does not divide into 2 ranks"),
    "a stage that does not fit": (
        {"zero_stage": 1, "memory_mib_per_rank": 7},
        CPU,
        "under ZeRO stage 1 on 2 ranks need at least 9 MiB a rank",
    ),
    "a machine that is too small": ({}, Devices(num_gpus=0, memory_mib=8), "a rank has 4 MiB"),
    "more ranks than GPUs": ({"ranks": 4, "batch": 4}, Devices(num_gpus=2, memory_mib=None), "and 2 GPUs are visible"),
    "half precision without a GPU": ({"precision": "fp16"}, CPU, "precision='fp16' needs a GPU"),
    "a frozen prefix that matches nothing": ({"freeze": ("encoder.",)}, CPU, "freeze='encoder.' matches no parameter"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_run_is_refused_before_any_process_starts(bench: Bench, case: str) -> None:
    recipe, devices, text = REFUSALS[case]
    with pytest.raises(InvalidTrainingRun) as refusal:
        check(bench.request(**recipe), bench.place({}, devices=devices))
    assert text in str(refusal.value)
    assert bench.store.children("training") == []


def test_a_training_without_examples_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidTrainingRun, match="has no training examples"):
        check(Bench(bench.store, bench.work_root, bench.base_digest, ()).request(), bench.place({}))


def test_what_fits_is_told(bench: Bench) -> None:
    assert check(bench.request(), bench.place({}, devices=CPU)) == 8


@pytest.mark.parametrize(
    ("devices", "wanted", "ranks"),
    [(CPU, None, 2), (CPU, 3, 3), (Devices(num_gpus=4, memory_mib=None), None, 4)],
)
def test_there_is_a_rank_a_gpu_and_two_without(devices: Devices, wanted: int | None, ranks: int) -> None:
    assert devices.num_ranks(wanted) == ranks


def test_ranks_without_gpus_share_the_machines_memory() -> None:
    assert CPU.memory_mib_per_rank(2) == 4000
    assert Devices(num_gpus=2, memory_mib=80_000).memory_mib_per_rank(2) == 80_000


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_a_run_that_was_given_no_gpu_uses_none(visible: str) -> None:
    devices = detect_devices({"CUDA_VISIBLE_DEVICES": visible})
    assert devices.num_gpus == 0 or visible == "NoDevFiles"


def test_an_unknown_recipe_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: define\nmodel: tiny\nsteps: 1\nbatch: 2\nlearning_rate: 1.0\n")
    resource = TrainingResource(recipes_directory=str(tmp_path), base_model="x")
    assert resource.recipe("tiny.define").steps == 1
    with pytest.raises(InvalidTrainingRun, match=r"has the key 'tiny\.other'; there are tiny\.define"):
        resource.recipe("tiny.other")


def test_a_base_model_is_a_directory_or_a_name_of_the_hub(tiny_model: Path, tmp_path: Path) -> None:
    assert model_directory(str(tiny_model)) == tiny_model
    with pytest.raises(InvalidTrainingRun, match="does not exist"):
        model_directory(str(tmp_path / "none"))
    with pytest.raises(InvalidTrainingRun, match="cannot be had from the hub"):
        model_directory("nobody/nothing")

"""Refusals before any process starts, and what a machine offers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.adapters.sealed import Opened
from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.devices import Devices, cpu_computes_bf16, detect_devices
from headrace.training.evaluate import Measure
from headrace.training.examples import open_examples
from headrace.training.lora_settings import Lora
from headrace.training.recipe import Recipe
from headrace.training.recipe_needs import slow_precision
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
    "a target that matches nothing": (
        {"lora": Lora(targets=("query",))},
        CPU,
        "lora.targets='query' matches no layer of the base model; there are down_proj, gate_proj, k_proj",
    ),
    "four bits without a GPU": (
        {"lora": Lora(quantize="nf4"), "precision": "bf16"},
        CPU,
        "lora.quantize='nf4' holds the base in 4 bits by bitsandbytes, whose training needs a GPU",
    ),
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


@pytest.mark.parametrize(
    ("cpuinfo", "computes"),
    [
        ("flags\t\t: fpu avx2 fma f16c\n", False),
        ("flags\t\t: fpu avx2 avx512f avx512bw\n", False),
        ("flags\t\t: fpu avx512f avx512_bf16\nvmx flags\t: vnmi\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("model name\t: bf16\n", True),
    ],
)
def test_the_cpus_flags_say_whether_it_computes_bf16(tmp_path: Path, cpuinfo: str, computes: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_computes_bf16(tmp_path / "cpuinfo") == computes


def test_a_machine_that_says_nothing_of_its_cpu_is_taken_to_compute_bf16(tmp_path: Path) -> None:
    assert cpu_computes_bf16(tmp_path / "absent")


def test_a_precision_that_the_cpu_only_emulates_is_told(bench: Bench) -> None:
    emulating = Devices(num_gpus=0, memory_mib=8000, computes_bf16=False)
    recipe = bench.request(precision="bf16").recipe
    assert slow_precision(recipe, emulating) == (
        f"Recipe {recipe.key}: this CPU has no bf16 instructions: a training step in bf16 takes about 15 times as long "
        "as in fp32. Set precision: fp32, or give the run a GPU."
    )
    assert slow_precision(recipe, CPU) is None
    assert slow_precision(bench.request(precision="fp32").recipe, emulating) is None


@pytest.mark.parametrize(("computes", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_model_in_bf16_is_measured_in_fp32_where_bf16_is_emulated(
    bench: Bench, tiny_model: Path, computes: bool, dtype: str
) -> None:
    examples = open_examples(HandoffStore(bench.store), bench.inputs, "heldout")
    measure = Measure(Opened(directory=tiny_model), examples, "cpu", computes_bf16=computes)
    assert measure.dtype == dtype
    assert measure.loss(np.array([0])) > 0


@pytest.mark.parametrize("lora", [None, Lora()])
def test_an_adapter_is_no_base(bench: Bench, tmp_path: Path, lora: Lora | None) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    digest = seal_directory(bench.store, tmp_path).digest
    request = replace(bench.request(lora=lora), base_weights_digest=digest)
    with pytest.raises(InvalidTrainingRun, match=r"Recipe tiny\.test needs a whole base model, got .*Merge it first"):
        check(request, bench.place({}))


def test_an_unknown_recipe_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: define\nmodel: tiny\nsteps: 1\nbatch: 2\nlearning_rate: 1.0\n")
    resource = TrainingResource(recipes_directory=str(tmp_path), base_model="x")
    assert resource.recipe("tiny.define").steps == 1
    with pytest.raises(InvalidTrainingRun, match=r"describes the recipe 'tiny\.other'; there are tiny\.define"):
        resource.recipe("tiny.other")


def test_a_base_model_is_a_directory_or_a_name_of_the_hub(tiny_model: Path, tmp_path: Path) -> None:
    def directory_of(base_model: str) -> Path:
        recipe = Recipe(name="define", model="tiny", steps=1, batch=2, learning_rate=1.0)
        return TrainingResource(recipes_directory=str(tmp_path), base_model=base_model).base_model_directory(recipe)

    assert directory_of(str(tiny_model)) == tiny_model
    with pytest.raises(InvalidTrainingRun, match="HEADRACE_BASE_MODEL must be .* which does not exist"):
        directory_of(str(tmp_path / "none"))
    with pytest.raises(InvalidTrainingRun, match=r"which has no config\.json"):
        directory_of(str(tmp_path))
    with pytest.raises(InvalidTrainingRun, match="cannot be had from the hub"):
        directory_of("nobody/nothing")

"""What a recipe may ask for, by name: refusals of what contradicts itself or would do nothing, and training ids."""

import inspect
from pathlib import Path
from typing import Any, get_args

import pytest

from headrace.errors import InvalidTrainingRun
from headrace.training.devices import Devices
from headrace.training.optimizer import TORCH_NAMES, optimizer_options, torch_optimizer
from headrace.training.recipe import Recipe, load_recipe
from headrace.training.recipe_checks import check_on_devices
from headrace.training.recipe_parts import (
    OPTIONS,
    EarlyStop,
    Guards,
    LossSpike,
    Offload,
    Optimizer,
    OptimizerName,
    ScheduleShape,
    StalledRank,
    ZeroPlusPlus,
)
from tests.training.test_recipe import MINIMAL
from tests.training_builders import make_recipe

PAINTER = MINIMAL + "objective: flow_matching\nbase_model: encoder\n"
REFUSED = {
    "neither steps nor epochs": (
        MINIMAL.replace("steps: 10\n", ""),
        "steps or epochs must say how long to train, got steps=0 and no epochs",
    ),
    "both": (MINIMAL + "epochs: 2\n", "epochs must stand alone, got epochs=2 beside steps=10"),
    "an unknown optimizer": (MINIMAL + "optimizer: lion\n", "optimizer: name must be one of adamw, adam, adamax"),
    "a foreign option": (
        MINIMAL + "optimizer: {name: sgd, eps: 1.0e-6}\n",
        "optimizer: eps is no option of optimizer 'sgd', which takes momentum, nesterov",
    ),
    "nesterov without momentum": (MINIMAL + "optimizer: {name: sgd, nesterov: true}\n", "nesterov needs momentum"),
    "betas of no Adam": (MINIMAL + "optimizer: sgd\nbeta1: 0.8\n", "beta1 does nothing with optimizer 'sgd', got 0.8"),
    "whole matrices in pieces": (MINIMAL + "optimizer: adafactor\n", "optimizer 'adafactor' needs zero_stage 0: it"),
    "another schedule's shape": (
        MINIMAL + "schedule_shape: {power: 2.0}\n",
        "schedule_shape: power is of schedule polynomial, got it with schedule='cosine'",
    ),
    "a schedule without its shape": (MINIMAL + "schedule: step\n", "needs schedule_shape: {step_every: STEPS}"),
    "a geometric fall to nothing": (
        MINIMAL + "schedule: exponential\nlearning_rate_end: 0\n",
        "exponential needs learning_rate_end above 0",
    ),
    "offload of nothing": (MINIMAL + "offload: {}\n", "offload must name optimizer, parameters or both"),
    "offload without ZeRO": (
        MINIMAL + "zero_stage: 0\noffload: {optimizer: cpu}\n",
        "offload.optimizer needs zero_stage 1, 2 or 3, got zero_stage=0",
    ),
    "offload of parameters that are not divided": (
        MINIMAL + "offload: {parameters: cpu}\n",
        "offload.parameters needs zero_stage 3, got zero_stage=2",
    ),
    "ZeRO++ of nothing": (MINIMAL + "zero_plus_plus: {}\n", "zero_plus_plus must name partition_size"),
    "ZeRO++ without stage 3": (
        MINIMAL + "zero_plus_plus: {quantized_weights: true}\n",
        "zero_plus_plus would do nothing at zero_stage=2",
    ),
    "the best of no evaluation": (MINIMAL + "keep: best\n", "evaluate_every must say after how many steps"),
    "patience without evaluations": (MINIMAL + "early_stop: {patience: 2}\n", "where early_stop is given, got none"),
    "a shard twice": (MINIMAL + "heldout_shards: [a, b, a]\n", "must name each shard once, got 'a' twice"),
    "noise on pictures": (PAINTER + "neftune_noise_alpha: 5\n", "neftune_noise_alpha is of language models"),
    "an unknown action": (
        MINIMAL + "guards: {loss_spike: {action: ignore}}\n",
        "guards: loss_spike: action must be one of stop, skip, warn, got 'ignore'",
    ),
    "a factor below one": (
        MINIMAL + "guards: {loss_spike: {factor: 0.5}}\n",
        "guards: loss_spike: factor must be above 1 (a spike is above the loss that it is compared with), got 0.5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_itself_or_does_nothing_is_refused(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InvalidTrainingRun) as refusal:
        load_recipe(tmp_path / "a.yaml")
    assert message in str(refusal.value)


GPUS = Devices(num_gpus=4, memory_mib=None)
CPU = Devices(num_gpus=0, memory_mib=None)
STAGE_3 = {"zero_stage": 3}
ON_DEVICES: dict[str, tuple[dict[str, Any], Devices, int, str]] = {
    "offload on a CPU": ({"offload": Offload(optimizer="cpu")}, CPU, 2, "offload would do nothing on a CPU"),
    "ZeRO++ on a CPU": (
        STAGE_3 | {"zero_plus_plus": ZeroPlusPlus(quantized_weights=True)},
        CPU,
        2,
        "zero_plus_plus would do nothing on a CPU",
    ),
    "flash attention on a CPU": ({"attention": "flash_attention_2"}, CPU, 2, "needs a GPU; on a CPU leave it out"),
    "flash attention without its package": (
        {"attention": "flash_attention_2"},
        GPUS,
        4,
        "needs the package flash-attn, which is not installed",
    ),
    "ZeRO++ on one rank": (
        STAGE_3 | {"zero_plus_plus": ZeroPlusPlus(quantized_gradients=True)},
        GPUS,
        1,
        "would do nothing on one rank",
    ),
    "a second partition over all ranks": (
        STAGE_3 | {"zero_plus_plus": ZeroPlusPlus(partition_size=4)},
        GPUS,
        4,
        "partition_size must divide the 4 ranks and be fewer",
    ),
}


@pytest.mark.parametrize("case", ON_DEVICES)
def test_what_these_devices_cannot_do_is_refused(case: str) -> None:
    settings, devices, num_ranks, message = ON_DEVICES[case]
    with pytest.raises(InvalidTrainingRun) as refusal:
        check_on_devices(make_recipe(**settings), devices, num_ranks)
    assert message in str(refusal.value)


def test_what_gpus_can_do_is_taken() -> None:
    plus = ZeroPlusPlus(partition_size=2, quantized_weights=True)
    check_on_devices(make_recipe(**STAGE_3, zero_plus_plus=plus, offload=Offload(parameters="cpu")), GPUS, 4)


def test_an_optimizer_is_named_alone_or_with_its_options(tmp_path: Path) -> None:
    def read(line: str) -> Recipe:
        (tmp_path / "a.yaml").write_text(MINIMAL + line)
        return load_recipe(tmp_path / "a.yaml")

    assert read("optimizer: sgd\n").optimizer == read("optimizer: {name: sgd}\n").optimizer == Optimizer(name="sgd")
    assert read("").optimizer == read("optimizer: adamw\n").optimizer == Optimizer()


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_option_is_one_of_torchs_own(name: OptimizerName) -> None:
    takes = inspect.signature(torch_optimizer(name)).parameters
    assert set(OPTIONS[name]) <= takes.keys()
    stage = 0 if name == "adafactor" else 2
    assert optimizer_options(make_recipe(optimizer=Optimizer(name=name), zero_stage=stage)).keys() <= takes.keys()
    assert TORCH_NAMES.keys() == OPTIONS.keys()


def test_epochs_become_steps_of_whole_batches() -> None:
    recipe = make_recipe(steps=0, epochs=2.5, batch=8, warmup_steps=10)
    assert recipe.with_steps(40).steps == 13, "12.5 batches"
    assert recipe.with_steps(40).epochs is None
    assert make_recipe().with_steps(40).steps == 10
    with pytest.raises(InvalidTrainingRun, match=r"warmup_steps must not be above steps=3, got warmup_steps=10"):
        recipe.with_steps(8)


SPELT: dict[str, dict[str, Any]] = {
    "optimizer": {"optimizer": Optimizer(name="sgd", momentum=0.9)},
    "schedule_shape": {"schedule": "polynomial", "schedule_shape": ScheduleShape(power=2.0)},
    "offload": {"offload": Offload(optimizer="cpu")},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "attention": {"attention": "eager"},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "heldout_shards": {"heldout_shards": ("shard-01",)},
    "keep": {"keep": "best", "evaluate_every": 2},
    "early_stop": {"early_stop": EarlyStop(patience=2), "evaluate_every": 2},
    "guards": {"guards": Guards(loss_spike=LossSpike(action="skip"))},
    "epochs": {"steps": 0, "epochs": 2.0},
}


@pytest.mark.parametrize("key", SPELT)
def test_what_is_spelt_changes_the_training_id_and_is_read_back(tmp_path: Path, key: str) -> None:
    plain, changed = make_recipe(), make_recipe(**SPELT[key])
    assert key not in plain.to_body()
    assert key in changed.to_body()
    assert changed.training_id("base", {"a": "b"}) != plain.training_id("base", {"a": "b"})
    import json

    from headrace.user_files.shapes import from_mapping

    body = json.loads(json.dumps({name: one for name, one in changed.to_body().items() if one is not None}))
    assert from_mapping(Recipe, body, "recipe") == changed


def test_what_only_looks_changes_no_training_id() -> None:
    looks = {"evaluate_every": 5, "guards": Guards(loss_spike=LossSpike(), stalled_rank=StalledRank())}
    assert make_recipe(**looks).training_id("base", {"a": "b"}) == make_recipe().training_id("base", {"a": "b"})


def test_what_decides_which_weights_are_the_best_is_part_of_the_training_id() -> None:
    def training_id(**changes: Any) -> str:
        return make_recipe(**{"keep": "best", "evaluate_every": 5} | changes).training_id("base", {"a": "b"})

    assert training_id(evaluate_every=4) != training_id()
    assert training_id(heldout_tokens_min=5) != training_id()
    assert training_id(guards=Guards(stalled_rank=StalledRank())) == training_id()


def test_exact_masters_are_another_training() -> None:
    recipe = make_recipe()
    assert recipe.training_id("base", {}, exact_masters=True) != recipe.training_id("base", {})

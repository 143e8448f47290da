import re
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import InvalidTrainingRun
from headrace.training.flow_matching_settings import FlowMatching
from headrace.training.lora_settings import Lora
from headrace.training.recipe import load_recipe, load_recipes
from tests.training_builders import make_recipe

RECIPES = Path(__file__).parents[2] / "resources/recipes"


def write(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)


MINIMAL = "name: define\nmodel: tiny\nsteps: 10\nbatch: 4\nlearning_rate: 1.0e-3\n"
BEFORE_ADAPTERS = "d4a88134a31705b5dd1022186bfc46e6"
PAINTER = MINIMAL + "objective: flow_matching\nbase_model: encoder\n"


def test_a_recipe_file_is_found_by_its_partition_key(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", MINIMAL)
    assert list(load_recipes(tmp_path).by_name) == ["tiny.define"]


def test_the_shipped_recipes_load_and_are_named_after_their_keys() -> None:
    recipes = load_recipes(RECIPES).by_name
    assert {recipe.precision for recipe in recipes.values()} == {"fp32"}, "bf16 takes an hour on CPUs without it"
    assert set(recipes) == {
        "smollm2-135m.define",
        "smollm2-135m.define-hot",
        "twemoji-painter.learn",
        "twemoji-painter.learn-few",
        "twemoji-painter.learn-half",
    }
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(recipes)


def test_the_shipped_recipe_takes_at_least_sixty_steps_on_two_ranks_with_zero() -> None:
    recipe = load_recipes(RECIPES).find("smollm2-135m.define")
    assert recipe.steps >= 60
    assert recipe.zero_stage >= 1
    assert recipe.gradient_accumulation(2) >= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "lr: 3\n", "unknown key 'lr'; did you mean 'learning_rate'?"),
        (MINIMAL + "sequence_length: 3\n", "unknown key 'sequence_length'; how long sequences are is said by"),
        (
            MINIMAL.replace("steps: 10", "steps: 0"),
            "steps or epochs must say how long to train, got steps=0 and no epochs",
        ),
        (MINIMAL + "offload: {parameters: cpu}\n", "yaml:6:10: offload.parameters needs zero_stage 3"),
        (MINIMAL.replace("steps: 10", "steps: ten"), "steps must be a whole number, got 'ten'"),
        (MINIMAL + "zero_stage: 4\n", "zero_stage must be between 0 and 3, got 4."),
        (MINIMAL + "precision: int8\n", "precision must be one of bf16, fp32, fp16, got 'int8'"),
        (MINIMAL + "warmup_steps: 11\n", "warmup_steps must not be above steps=10, got warmup_steps=11"),
        (MINIMAL.replace("name: define", "name: Define It"), "name must be lower-case letters"),
        (MINIMAL.replace("model: tiny\n", ""), "lacks the key 'model'"),
        (MINIMAL + "memory_mib_per_rank: 0\n", "memory_mib_per_rank must be null or at least 1, got 0."),
        (MINIMAL + "step_timeout_seconds: 10000000000000\n", "step_timeout_seconds must be between 1 and 31,536,000"),
        (MINIMAL + "seed: 20261130120000\n", "seed must be between 0 and 10,000,000,000,000 (torch takes 64 bits"),
        (MINIMAL + "learning_rate_end: .nan\n", "learning_rate_end must be a number within ±2^63, got nan"),
        ("[1, 2", "is not readable as YAML"),
        (
            MINIMAL + "objective: grpo\n",
            "objective must be one of sft, pretrain, preference, flow_matching, got",
        ),
        (MINIMAL + "flow_matching: {depth: 2}\n", "flow_matching is of the objective flow_matching, got it with"),
        (MINIMAL + "objective: flow_matching\n", "objective: flow_matching needs base_model, the model that reads"),
        (PAINTER + "zero_stage: 3\n", "needs zero_stage 1 or 2 (in fp32 also 0)"),
        (PAINTER + "freeze: [blocks.]\n", "freeze must be empty with objective: flow_matching"),
        (PAINTER + "precision: fp16\n", "wants precision bf16 or fp32, got 'fp16'"),
        (PAINTER + "flow_matching: {heads: 7}\n", "hidden_size must be heads=7 times a multiple of 4"),
        (PAINTER + "flow_matching: {ema_decay: 1}\n", "flow_matching: ema_decay must be at least 0 and below 1, got 1"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_with_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "broken.yaml", text)
    write(tmp_path, "good.yml", MINIMAL.replace("name: define", "name: good"))
    recipes = load_recipes(tmp_path)
    assert list(recipes.by_name) == ["tiny.good"]
    (problem,) = recipes.problems
    assert message in problem
    assert str(tmp_path / "broken.yaml") in problem


def test_a_broken_recipe_is_told_to_who_asks_for_its_key(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", MINIMAL.replace("steps: 10", "steps: ten"))
    with pytest.raises(InvalidTrainingRun, match=r"a.yaml:3:8: steps must be a whole number, got 'ten'"):
        load_recipes(tmp_path).find("tiny.define")


LORA = {
    "{rank: 0}": "lora: rank must be between 1 and 1,024, got 0",
    "{r: 4}": "unknown key 'r'; did you mean 'rank'?",
    "{dropout: 1}": "dropout must be at least 0 and below 1, got 1",
    "{targets: [q_proj, lm_head]}": "between the embedding and the output layer, got 'lm_head'",
    "{targets: [q_proj, q_proj]}": "targets must list names of layers, each once",
    "{quantize: int8}": "quantize must be one of nf4, fp4",
    "{quantize: nf4}\nzero_stage: 3": "lora.quantize='nf4' needs zero_stage 0 to 2",
    "{quantize: nf4}\nprecision: fp32": "and precision bf16 or fp16, got zero_stage=2 and fp32",
    "{dropout: 0.1}\nobjective: preference": "lora.dropout does nothing with objective: preference",
    "{}\nfreeze: [model.]": "freeze must be empty with lora, which trains nothing of the base",
    "{}\nobjective: flow_matching\nbase_model: encoder": "lora is for a language model on its base, got it with",
}


@pytest.mark.parametrize("lora", LORA)
def test_adapters_that_cannot_be_trained_are_refused(tmp_path: Path, lora: str) -> None:
    write(tmp_path, "a.yaml", f"{MINIMAL}lora: {lora}\n")
    with pytest.raises(InvalidTrainingRun, match=re.escape(LORA[lora])):
        load_recipe(tmp_path / "a.yaml")


def test_adapters_are_spelt_where_they_are_and_count_as_trained() -> None:
    whole, adapters = make_recipe(), make_recipe(lora=Lora())
    assert "lora" not in whole.to_body()
    assert adapters.to_body()["lora"]["targets"] == []
    ids = {one.training_id("base", {}) for one in (whole, adapters, make_recipe(lora=Lora(merge=True)))}
    assert len(ids) == 3
    # As earlier releases made it.
    assert whole.training_id("base", {"shard-00": "a"}) == BEFORE_ADAPTERS


def test_the_example_of_adapters_is_a_recipe() -> None:
    recipe = load_recipe(RECIPES / "examples/smollm2-135m.define-lora.yaml")
    assert recipe.lora == Lora(rank=16, alpha=32, dropout=0.05)


def test_two_files_with_one_key_break_each_other(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", MINIMAL)
    write(tmp_path, "b.yaml", MINIMAL)
    with pytest.raises(InvalidTrainingRun, match=r"'tiny\.define' stands in two files: a\.yaml and b\.yaml"):
        load_recipes(tmp_path).find("tiny.define")


def test_a_missing_directory_of_recipes_is_named(tmp_path: Path) -> None:
    assert "make it, or set HEADRACE_RECIPES" in load_recipes(tmp_path / "none").problems[0]


@pytest.mark.parametrize(("ranks", "passes"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_the_same_batch_is_accumulated_over_however_many_ranks(ranks: int, passes: int) -> None:
    assert make_recipe(batch=16, micro_batch=2).gradient_accumulation(ranks) == passes


@pytest.mark.parametrize(("ranks", "batch", "micro_batch"), [(3, 16, 2), (16, 16, 2), (2, 3, 1)])
def test_a_batch_that_does_not_divide_is_refused(ranks: int, batch: int, micro_batch: int) -> None:
    with pytest.raises(InvalidTrainingRun, match=f"batch={batch} does not divide into {ranks} ranks"):
        make_recipe(batch=batch, micro_batch=micro_batch).gradient_accumulation(ranks)


def test_the_training_id_follows_what_is_trained_and_not_where() -> None:
    recipe = make_recipe()
    training_id = recipe.training_id("base", {"shard-00": "a", "shard-01": "b"})
    assert recipe.training_id("base", {"shard-01": "b", "shard-00": "a"}) == training_id
    for unchanged in ({"ranks": 2}, {"checkpoint_every": 3}, {"start_timeout_seconds": 9}, {"name": "other"}):
        assert make_recipe(**unchanged).training_id("base", {"shard-00": "a", "shard-01": "b"}) == training_id
    for changed in ({"learning_rate": 2e-3}, {"seed": 1}, {"batch": 4}, {"zero_stage": 1}, {"freeze": ("x",)}):
        assert make_recipe(**changed).training_id("base", {"shard-00": "a", "shard-01": "b"}) != training_id
    assert recipe.training_id("other", {"shard-00": "a", "shard-01": "b"}) != training_id
    assert recipe.training_id("base", {"shard-00": "a"}) != training_id


# Ids as they were before any training code changed.
FIRST_IDS = {
    (0, "fp32"): "5f3c90a095104112b5e4718a1d6224ec",
    (2, "bf16"): "d4a88134a31705b5dd1022186bfc46e6",
    (0, "bf16"): "41b240e4a9c67f04f65ee62d93b2f696",
    (3, "fp32"): "292affc913a8170856f32ccab1821891",
}


@pytest.mark.parametrize(("stage", "precision"), FIRST_IDS)
def test_only_what_was_once_trained_wrongly_is_trained_again(stage: int, precision: str) -> None:
    training_id = make_recipe(zero_stage=stage, precision=precision).training_id("base", {"shard-00": "a"})
    was_wrong = (stage, precision) in {(0, "bf16"), (3, "fp32")}
    assert (training_id != FIRST_IDS[stage, precision]) == was_wrong


def test_a_language_models_recipe_spells_no_objective() -> None:
    body = make_recipe().to_body()
    assert not {"objective", "flow_matching"} & body.keys()


def test_a_picture_models_training_id_follows_its_shape() -> None:
    painter = make_recipe(objective="flow_matching", base_model="encoder")
    training_id = painter.training_id("base", {"shard-00": "a"})
    # All defaults, whether spelt or not.
    spelt = make_recipe(objective="flow_matching", base_model="encoder", flow_matching=FlowMatching())
    assert spelt.training_id("base", {"shard-00": "a"}) == training_id
    for changed in (FlowMatching(depth=3), FlowMatching(ema_decay=0.9), FlowMatching(caption_dropout=0.2)):
        other = make_recipe(objective="flow_matching", base_model="encoder", flow_matching=changed)
        assert other.training_id("base", {"shard-00": "a"}) != training_id


def test_the_worse_painter_of_the_demo_takes_half_the_steps() -> None:
    recipes = load_recipes(RECIPES)
    good, worse = recipes.find("twemoji-painter.learn"), recipes.find("twemoji-painter.learn-half")
    assert worse == replace(good, name="learn-half", steps=good.steps // 2)

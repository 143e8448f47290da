"""What recipes can ask for, trained by one real gang, each beside what plain torch, or the same without it, makes.

Two ranks run all trainings one after another (`many_trainings`), on a model of 40,000 parameters: a start costs more
than any of them.
"""

import json
import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.store.sealed_directory import open_directory
from headrace.training.checkpoints import newest_whole
from headrace.training.devices import Devices
from headrace.training.examples import num_train_rows, open_examples
from headrace.training.export import drop_library_versions
from headrace.training.feeding import summed_loss
from headrace.training.launch_plan import plan_launch
from headrace.training.optimizer import is_matrix, torch_optimizer
from headrace.training.order import SampleOrder
from headrace.training.recipe import FLOW_MATCHING, PREFERENCE, Recipe, load_recipe
from headrace.training.recipe_checks import check_on_devices
from headrace.training.recipe_parts import (
    EarlyStop,
    Guards,
    LossSpike,
    Offload,
    Optimizer,
    OptimizerName,
    ScheduleName,
    ScheduleShape,
)
from headrace.training.run_config import RunConfig
from headrace.training.schedule import learning_rate_at
from headrace.training.session import TrainingRequest, request_for
from headrace.training.train import seed_everything
from headrace.training.zero import keeps_fp32
from tests.pair_builders import make_pair_bench
from tests.picture_builders import TINY, build_caption_encoder, make_picture_bench
from tests.training_builders import Bench, make_bench, make_recipe, make_run_config

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

EXAMPLES = {
    path.stem: path for path in sorted((Path(__file__).parents[2] / "resources/recipes/examples").glob("*.yaml"))
}
CPU = Devices(num_gpus=0, memory_mib=None)
STEPS = 10
PLAIN: dict[str, Any] = {"steps": STEPS, "precision": "fp32", "weight_decay": 0.1, "checkpoint_every": 100}
# Each of torch's optimizers, with a rate that moves it, and each schedule with one of them.
STEPPED: dict[OptimizerName, tuple[float, ScheduleName, dict[str, Any]]] = {
    "adamw": (1e-3, "cosine", {"eps": 1e-6}),
    "adam": (1e-3, "linear", {"amsgrad": True}),
    "adamax": (1e-3, "polynomial", {}),
    "nadam": (1e-3, "inverse_sqrt", {}),
    "radam": (1e-2, "cosine_with_restarts", {}),
    "rmsprop": (1e-3, "constant", {"momentum": 0.5}),
    "adadelta": (1.0, "exponential", {"rho": 0.8}),
    "sgd": (0.1, "warmup_stable_decay", {"momentum": 0.9, "nesterov": True}),
    "adafactor": (1e-2, "step", {}),
}
WATCHED: dict[str, Any] = {"evaluate_every": 2, "keep": "best", "heldout_tokens_min": 100}


def stepped_by(name: OptimizerName) -> Recipe:
    rate, schedule, options = STEPPED[name]
    return make_recipe(
        **PLAIN,
        learning_rate=rate,
        schedule=schedule,
        schedule_shape=ScheduleShape(step_every=3) if schedule == "step" else None,
        optimizer=Optimizer(name=name, **options),
        zero_stage=0 if name == "adafactor" else 2,
    )


METHODS: dict[str, Recipe] = {
    **{f"optimizer {name}": stepped_by(name) for name in STEPPED},
    "NEFTune": make_recipe(**PLAIN, neftune_noise_alpha=5.0),
    "plain": make_recipe(**PLAIN),
    "plain, stage 3": make_recipe(**PLAIN, zero_stage=3),
    "gradient checkpointing": make_recipe(**PLAIN, gradient_checkpointing=True),
    "gradient checkpointing, stage 3": make_recipe(**PLAIN, gradient_checkpointing=True, zero_stage=3),
    "offload": make_recipe(**PLAIN, offload=Offload(optimizer="cpu")),
    "offload, stage 3": make_recipe(**PLAIN, offload=Offload(optimizer="cpu", parameters="cpu"), zero_stage=3),
    **{
        f"exact masters, stage {stage}": make_recipe(
            **PLAIN | {"precision": "bf16", "learning_rate": 1e-12, "weight_decay": 0.0, "checkpoint_every": 9},
            zero_stage=stage,
        )
        for stage in (0, 2, 3)
    },
    "eager attention": make_recipe(**PLAIN, attention="eager"),
    "watched": make_recipe(**PLAIN, **WATCHED),
    "watched, stage 3": make_recipe(**PLAIN, **WATCHED, zero_stage=3),
    # With dropout, and noise on the embeddings: what a resume must find again is more than weights.
    "stopped early": make_recipe(
        **PLAIN | {"checkpoint_every": 3, "learning_rate": 0.05},
        **WATCHED,
        neftune_noise_alpha=5.0,
        optimizer=Optimizer(name="nadam"),
        early_stop=EarlyStop(patience=2),
    ),
    **{
        f"spikes skipped, stage {stage}": make_recipe(
            **PLAIN,
            zero_stage=stage,
            guards=Guards(loss_spike=LossSpike(factor=1.001, window=2, action="skip")),
        )
        for stage in (0, 2, 3)
    },
}
RESUMED = "stopped early"
PREFERRED = "preferences"
METHODS |= {
    f"{PREFERRED}{', stage 3' if stage == 3 else ''}": make_recipe(
        **PLAIN | {"checkpoint_every": 4}, **WATCHED, learning_rate=1e-3, zero_stage=stage, objective=PREFERENCE
    )
    for stage in (2, 3)
}


def example_recipe(name: str) -> Recipe:
    """An example of the project, at the size of the tests' model and data."""
    recipe = load_recipe(EXAMPLES[name])
    # Without what would be looked for elsewhere.
    recipe = replace(recipe, base_recipe=None)
    painter = {"flow_matching": TINY, "micro_batch": 2, "batch": 4} if recipe.objective == FLOW_MATCHING else {}
    small = {"micro_batch": 1, "batch": 2, "warmup_steps": 1, "precision": "fp32", "heldout_tokens_min": 50}
    length = {"epochs": 0.2} if recipe.epochs else {"steps": 4}
    every = {"evaluate_every": 2} if recipe.evaluate_every else {}
    return replace(recipe, **small | painter | length | every)


@dataclass(frozen=True)
class Gang:
    """What the gang made. `work`: each training's directory, by its name."""

    bench: Bench
    work: dict[str, Path]
    benches: Mapping[str, Bench]

    def outcome(self, name: str) -> dict[str, Any]:
        return json.loads((self.work[name] / "outcome.json").read_text())

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.work[name] / "progress.jsonl").read_text().splitlines()]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        bench = self.benches[PREFERENCE] if name.startswith(PREFERRED) else self.bench
        return load_file(open_directory(bench.store, self.outcome(name)["weights_digest"]) / "model.safetensors")


@pytest.fixture(scope="module")
def small_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("small-model")
    for path in tiny_model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = LlamaConfig.from_pretrained(tiny_model)
    config.update({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "attention_dropout": 0.1})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(config).float().save_pretrained(directory)
    drop_library_versions(directory)
    return directory


@pytest.fixture(scope="module")
def gang(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Gang:
    directory = tmp_path_factory.mktemp("methods")
    bench = make_bench(directory, small_model)
    painters = make_picture_bench(directory / "pictures", build_caption_encoder(directory / "encoder"))
    benches = {FLOW_MATCHING: painters, PREFERENCE: make_pair_bench(directory / "pairs", small_model)}
    recipes = METHODS | {f"example {name}": example_recipe(name) for name in EXAMPLES}
    recipes |= {f"{name}, resumed": METHODS[name] for name in (RESUMED, PREFERRED)}
    tasks = [(name, benches.get(recipe.objective, bench), recipe) for name, recipe in recipes.items()]
    work = {name: directory / "work" / name.replace(" ", "-") for name, _, _ in tasks}
    configs = [task_config(of, recipe, work[name]) for name, of, recipe in tasks]
    listed = [
        {"run_json": str(config.write(config.work / "run.json")), "resumes": name.endswith("resumed")}
        for config, (name, _, _) in zip(configs, tasks, strict=True)
    ]
    run_all(configs[0], listed)
    return Gang(bench, work, benches)


def task_config(bench: Bench, recipe: Recipe, work: Path) -> RunConfig:
    inputs = bench_inputs(bench, recipe)
    is_exact = recipe.precision != "fp32" and keeps_fp32(bench.store, bench.base_digest)
    request = TrainingRequest(
        recipe=recipe, base_weights_digest=bench.base_digest, inputs=inputs, exact_masters=is_exact
    )
    counted = num_train_rows(HandoffStore(bench.store), recipe.examples_asset, inputs)
    return make_run_config(
        work,
        training_id=request.training_id,
        attempt=0,
        recipe=recipe.with_steps(counted),
        base_weights_digest=bench.base_digest,
        store_url=bench.store.url,
        inputs=inputs,
        exact_masters=request.exact_masters,
    )


def bench_inputs(bench: Bench, recipe: Recipe) -> tuple[Any, ...]:
    return tuple(replace(item, is_heldout=item.partition in recipe.heldout_shards) for item in bench.inputs)


def run_all(first: RunConfig, listed: list[dict[str, Any]]) -> None:
    (first.work / "tasks.json").write_text(json.dumps(listed))
    plan = plan_launch(
        run_json=first.work / "run.json",
        world_size=2,
        device="cpu",
        work_directory=first.work,
        marker="many",
        environment=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        module="tests.processes.many_trainings",
    )
    done = subprocess.run(plan.argv, env=plan.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        logs = "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted(plan.logs.rglob("stderr.log")))
        pytest.fail(f"{done.stderr[-2000:]}\n{logs}")


@dataclass
class PlainRanks:
    """The random states of two ranks, in one process."""

    states: list[torch.Tensor]

    @contextmanager
    def of(self, rank: int) -> Iterator[None]:
        torch.set_rng_state(self.states[rank])
        yield
        self.states[rank] = torch.get_rng_state()


def plain_training(bench: Bench, small_model: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    """torch's own optimizer around transformers' own model, in one process: no DeepSpeed, no rank."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.neftune import activate_neftune

    states = []
    for rank in range(2):
        seed_everything(recipe.seed, rank)
        model: Any = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
        states.append(torch.get_rng_state())
    if recipe.neftune_noise_alpha:
        activate_neftune(model, recipe.neftune_noise_alpha)
    model.train()
    examples = open_examples(HandoffStore(bench.store), bench.inputs, "train")
    parameters = list(model.parameters())
    groups = [
        {"params": [one for one in parameters if is_matrix(one)], "weight_decay": recipe.weight_decay},
        {"params": [one for one in parameters if not is_matrix(one)], "weight_decay": 0.0},
    ]
    options = recipe.optimizer.options()
    if recipe.optimizer.name in ("adamw", "adam", "adamax", "nadam", "radam"):
        options["betas"] = (recipe.beta1, recipe.beta2)
    optimizer = torch_optimizer(recipe.optimizer.name)(groups, lr=1.0, **options)
    order = SampleOrder(seed=recipe.seed, num_sequences=len(examples), batch=2, world_size=2, micro_batch=1)
    ranks = PlainRanks(states)
    for step in range(recipe.steps):
        weight = examples.num_loss_tokens(order.batch(step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, step)
        for rank in range(2):
            for rows in order.micro_batches(step, rank):
                with ranks.of(rank):
                    (summed_loss(model, examples.take(rows), "cpu")[0] / weight).backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return {name: one.detach() for name, one in model.named_parameters()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    """The distance between two trained models, of the distance that one of them moved."""
    names = other.keys() & one.keys()
    assert names == one.keys()
    moved = sum(((one[name] - start[name]).double() ** 2).sum().item() for name in names)
    return (sum(((one[name] - other[name]).double() ** 2).sum().item() for name in names) / moved) ** 0.5


@pytest.mark.parametrize("name", [*(f"optimizer {name}" for name in STEPPED), "NEFTune"])
def test_ten_steps_of_a_gang_are_those_of_a_plain_loop(gang: Gang, small_model: Path, name: str) -> None:
    start = load_file(small_model / "model.safetensors")
    plain = plain_training(gang.bench, small_model, METHODS[name])
    assert apart(gang.weights(name), plain, start) < 1e-5


def test_noise_on_the_embeddings_changes_what_is_learnt(gang: Gang) -> None:
    assert gang.outcome("NEFTune")["state_digest"] != gang.outcome("plain")["state_digest"]


@pytest.mark.parametrize("stage", ["", ", stage 3"])
def test_what_is_computed_again_or_looked_at_meanwhile_changes_no_bit(gang: Gang, stage: str) -> None:
    digests = {
        name: gang.outcome(f"{name}{stage}")["state_digest"]
        for name in ("plain", "gradient checkpointing", "watched", "offload")
    }
    assert len(set(digests.values())) == 1, digests


def test_the_best_weights_are_exported_and_the_curve_says_which(gang: Gang) -> None:
    for name in ("watched", "watched, stage 3"):
        outcome, rows = gang.outcome(name), gang.rows(name)
        heldout = {row["step"]: row["heldout_loss"] for row in rows if "heldout_loss" in row}
        assert list(heldout) == [2, 4, 6, 8, 10]
        assert outcome["best_step"] == outcome["exported_step"] == min(heldout, key=lambda step: (heldout[step], step))
        assert outcome["heldout_loss_best"] == min(heldout.values())
        assert all(row["mfu"] > 0 for row in rows), "of a CPU the peak is measured"


def test_a_training_that_stops_early_exports_what_was_best_and_ends_so_when_it_is_resumed(
    gang: Gang, small_model: Path
) -> None:
    straight, resumed = (gang.outcome(name) for name in (RESUMED, f"{RESUMED}, resumed"))
    rows, again = (gang.rows(name) for name in (RESUMED, f"{RESUMED}, resumed"))
    assert straight["steps"] == len(rows) < STEPS
    assert straight["stopped"].startswith("none of the last 2 evaluations had a held-out loss below ")
    assert straight["exported_step"] == straight["best_step"] < straight["steps"]
    assert resumed["resumed_from_step"] in (3, 6)
    for name in ("state_digest", "weights_digest", "steps", "stopped", "best_step", "heldout_loss_best"):
        assert resumed[name] == straight[name], name
    for field in ("loss", "heldout_loss", "learning_rate"):
        assert [row.get(field) for row in again] == [row.get(field) for row in rows]


def test_preferences_move_weights_and_the_held_out_loss_begins_where_nothing_is_preferred(gang: Gang) -> None:
    rows = gang.rows(PREFERRED)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6), "the model has dropout, of which nothing is drawn"
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_preferences_that_were_interrupted_end_with_the_same_bits_at_any_stage_that_divides_them(gang: Gang) -> None:
    straight, resumed = gang.outcome(PREFERRED), gang.outcome(f"{PREFERRED}, resumed")
    assert resumed["resumed_from_step"] == 8
    for name in ("state_digest", "weights_digest", "heldout_loss_best"):
        assert resumed[name] == straight[name], name
    assert gang.outcome(f"{PREFERRED}, stage 3")["weights_digest"] == straight["weights_digest"]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_batch_with_a_spike_is_not_learnt(gang: Gang, stage: int) -> None:
    rows = gang.rows(f"spikes skipped, stage {stage}")
    skipped = [row for row in rows if not row["applied"]]
    assert skipped, "no loss was above the median of the two before"
    assert all(row["loss"] > row["spike_above"] for row in skipped)
    assert all("spike_above" not in row for row in rows if row["applied"])
    outcome = gang.outcome(f"spikes skipped, stage {stage}")
    assert outcome["steps_applied"] == STEPS - len(skipped)
    if stage:
        assert outcome["weights_digest"] == gang.outcome("spikes skipped, stage 2")["weights_digest"]


def masters_in(state: Any) -> Iterator[torch.Tensor]:
    """The fp32 parameters in a rank's file of DeepSpeed's, by the names of its stages."""
    if isinstance(state, dict):
        for key, value in state.items():
            if key in ("single_partition_of_fp32_groups", "fp32_flat_groups", "fp32_groups"):
                groups = [one for group in value for one in (group if isinstance(group, list) else [group])]
                yield from (one.detach().flatten() for one in groups)
            else:
                yield from masters_in(value)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_fp32_base_stays_fp32_in_the_masters_of_half_precision(gang: Gang, small_model: Path, stage: int) -> None:
    training_id = json.loads((gang.work[f"exact masters, stage {stage}"] / "run.json").read_text())["training_id"]
    found = newest_whole(gang.bench.store, training_id, world_size=2)
    assert found is not None
    files = [found.directory(gang.bench.store) / file.name for file in found.files if file.name.startswith("state/")]
    # At stage 0 every rank has them all, and one writes them.
    states = [torch.load(path, weights_only=False) for path in files]
    masters = torch.cat([one for state in states for one in masters_in(state)]).sort().values
    base = torch.cat([one.flatten() for one in load_file(small_model / "model.safetensors").values()]).sort().values
    padding = len(masters) - len(base)
    assert 0 <= padding < 100
    rounded = base.bfloat16().float()
    assert (base - rounded).abs().max() > 1e-5, "the base would lose nothing"
    without_padding = masters if not padding else masters[(masters != 0).nonzero().flatten()]
    kept = base if not padding else base[(base != 0).nonzero().flatten()]
    torch.testing.assert_close(without_padding, kept, rtol=0, atol=1e-9)


def test_attention_by_another_implementation_learns_nearly_the_same(gang: Gang, small_model: Path) -> None:
    start = load_file(small_model / "model.safetensors")
    one, other = gang.weights("eager attention"), gang.weights("plain")
    assert 0 < apart(one, other, start) < 0.5, "dropout draws other numbers"


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_trains(gang: Gang, name: str) -> None:
    outcome, rows = gang.outcome(f"example {name}"), gang.rows(f"example {name}")
    assert outcome["steps"] == len(rows) == rows[-1]["step"] > 1
    assert all(row["loss"] > 0 for row in rows)
    assert any(gang.bench.store.directory.parent.rglob(outcome["weights_digest"] + "*"))


def test_what_would_do_nothing_on_a_cpu_is_refused(gang: Gang) -> None:
    with pytest.raises(InvalidTrainingRun, match="offload would do nothing on a CPU"):
        check_on_devices(load_recipe(EXAMPLES["offload"]), CPU, 2)
    for name in EXAMPLES.keys() - {"offload"}:
        check_on_devices(load_recipe(EXAMPLES[name]), CPU, 2)


def test_a_shard_that_is_held_out_is_never_trained_on(gang: Gang) -> None:
    """`own-heldout` learns from the first shard alone, and is measured on the second one."""
    run = json.loads((gang.work["example own-heldout"] / "run.json").read_text())
    assert [(item["partition"], item["is_heldout"]) for item in run["inputs"]] == [
        ("shard-00", False),
        ("shard-01", True),
    ]
    inputs = bench_inputs(gang.bench, example_recipe("own-heldout"))
    handoffs = HandoffStore(gang.bench.store)
    taught, heldout = (open_examples(handoffs, inputs, split) for split in ("train", "heldout"))
    assert (len(taught), len(heldout)) == (32, 40)
    examples = {item.partition: handoffs.open("training_examples", item.partition, item.version) for item in inputs}
    base = pa.table({"weights_digest": [gang.bench.base_digest]})
    assert request_for(example_recipe("own-heldout"), base, examples, gang.bench.store).inputs == inputs
    with pytest.raises(InvalidTrainingRun, match="heldout_shards names 'shard-01', and training_examples has shard-00"):
        request_for(example_recipe("own-heldout"), base, {"shard-00": examples["shard-00"]}, gang.bench.store)

"""What recipes can ask for, trained by one real gang, each beside what plain torch, or the same without it, makes.

On a model of 40,000 parameters, beside the project's examples of recipes, at that size.
"""

import json
import math
from collections.abc import Iterator
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
from headrace.store.sealed_directory import open_directory, seal_directory
from headrace.training.attempts import TrainingResult
from headrace.training.checkpoints import newest_whole
from headrace.training.devices import Devices
from headrace.training.examples import ExamplesInput, num_train_rows, open_examples
from headrace.training.export import drop_library_versions
from headrace.training.order import SampleOrder
from headrace.training.preference_settings import Preference
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
from headrace.training.schedule import learning_rate_at
from headrace.training.session import request_for
from headrace.training.train import seed_everything
from headrace.training.zero import keeps_fp32
from tests.differential.one_gang import gang_config, train_in_one_gang
from tests.differential.plain_training import Weights, cosine_with_warmup, distance_share, mean_loss, train_plainly
from tests.pair_builders import make_pair_bench
from tests.picture_builders import TINY, build_caption_encoder, make_picture_bench
from tests.training_builders import Bench, make_bench, make_recipe

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

EXAMPLES = {
    path.stem: path for path in sorted((Path(__file__).parents[2] / "resources/recipes/examples").glob("*.yaml"))
}
CPU = Devices(num_gpus=0, memory_mib=None)
STEPS = 10
# A schedule that goes to nothing, and clipping low enough, to be much of what happens to a weight.
PLAIN: dict[str, Any] = {
    "steps": STEPS,
    "precision": "fp32",
    "weight_decay": 0.1,
    "clip_norm": 0.5,
    "learning_rate_end": 0.05,
    "checkpoint_every": 100,
}
# Each of torch's optimizers, by its class, with a rate that moves it; and each schedule with one of them.
STEPPED: dict[OptimizerName, tuple[Any, float, ScheduleName, dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, 1e-3, "cosine", {"eps": 1e-6}),
    "adam": (torch.optim.Adam, 1e-3, "linear", {"amsgrad": True}),
    "adamax": (torch.optim.Adamax, 1e-3, "polynomial", {}),
    "nadam": (torch.optim.NAdam, 1e-3, "inverse_sqrt", {}),
    "radam": (torch.optim.RAdam, 1e-2, "cosine_with_restarts", {}),
    "rmsprop": (torch.optim.RMSprop, 1e-3, "constant", {"momentum": 0.5}),
    "adadelta": (torch.optim.Adadelta, 1.0, "exponential", {"rho": 0.8}),
    "sgd": (torch.optim.SGD, 0.1, "warmup_stable_decay", {"momentum": 0.9, "nesterov": True}),
    "adafactor": (torch.optim.Adafactor, 1e-2, "step", {}),
}
WATCHED: dict[str, Any] = {"evaluate_every": 2, "keep": "best", "heldout_tokens_min": 100}
RESUMED, AGAIN = "stopped early", "stopped early, resumed"
PREFERRED, PREFERRED_AGAIN = "preferences", "preferences, resumed"


def stepped_by(name: OptimizerName) -> Recipe:
    _, rate, schedule, options = STEPPED[name]
    return make_recipe(
        **PLAIN,
        learning_rate=rate,
        schedule=schedule,
        schedule_shape=ScheduleShape(step_every=3) if schedule == "step" else None,
        optimizer=Optimizer(name=name, **options),
        zero_stage=0 if name == "adafactor" else 2,
    )


STOPPED_EARLY = make_recipe(
    **PLAIN | {"checkpoint_every": 3, "learning_rate": 0.01},
    **WATCHED,
    neftune_noise_alpha=5.0,
    optimizer=Optimizer(name="nadam"),
    # No evaluation is so much better than the first: it ends behind the fourth.
    early_stop=EarlyStop(patience=3, min_delta=100.0),
)
PREFERENCES = make_recipe(
    **PLAIN | {"checkpoint_every": 4}, **WATCHED, preference=Preference(beta=0.5), objective=PREFERENCE
)
METHODS: dict[str, Recipe] = {
    **{f"optimizer {name}": stepped_by(name) for name in STEPPED},
    "NEFTune": make_recipe(**PLAIN, neftune_noise_alpha=5.0),
    "plain": make_recipe(**PLAIN),
    "gradient checkpointing": make_recipe(**PLAIN, gradient_checkpointing=True),
    "offload": make_recipe(**PLAIN, offload=Offload(optimizer="cpu")),
    "watched": make_recipe(**PLAIN, **WATCHED),
    "eager attention": make_recipe(**PLAIN, attention="eager"),
    # On a base with dropout, and with noise on the embeddings: a resume must find more again than weights.
    RESUMED: STOPPED_EARLY,
    AGAIN: STOPPED_EARLY,
    PREFERRED: PREFERENCES,
    PREFERRED_AGAIN: PREFERENCES,
    **{
        # So slow that a loss follows its batch, rather than what was learnt.
        f"spikes skipped, stage {stage}": make_recipe(
            **PLAIN,
            learning_rate=1e-4,
            zero_stage=stage,
            guards=Guards(loss_spike=LossSpike(factor=1.001, window=2, action="skip")),
        )
        for stage in (0, 2, 3)
    },
    **{
        f"exact masters, stage {stage}": make_recipe(
            **PLAIN | {"precision": "bf16", "learning_rate": 1e-12, "weight_decay": 0.0, "checkpoint_every": 9},
            zero_stage=stage,
        )
        for stage in (0, 2, 3)
    },
    # Stage 3 last: what it leaves behind in its process must not help the others.
    "plain, stage 3": make_recipe(**PLAIN, zero_stage=3),
    f"{PREFERRED}, stage 3": replace(PREFERENCES, zero_stage=3),
    "gradient checkpointing, stage 3": make_recipe(**PLAIN, gradient_checkpointing=True, zero_stage=3),
    "watched, stage 3": make_recipe(**PLAIN, **WATCHED, zero_stage=3),
    "offload, stage 3": make_recipe(**PLAIN, offload=Offload(optimizer="cpu", parameters="cpu"), zero_stage=3),
}


def example_recipe(name: str) -> Recipe:
    """An example of the project, at the size of the tests' model and data."""
    # What another recipe trained is the tests' own base.
    recipe = replace(load_recipe(EXAMPLES[name]), base_recipe=None)
    painter = {"flow_matching": TINY, "micro_batch": 2, "batch": 4} if recipe.objective == FLOW_MATCHING else {}
    small = {"micro_batch": 1, "batch": 2, "warmup_steps": 1, "precision": "fp32", "heldout_tokens_min": 50}
    length = {"epochs": 0.5 if painter else 0.1} if recipe.epochs else {"steps": 4}
    every = {"evaluate_every": 2} if recipe.evaluate_every else {}
    return replace(recipe, **small | painter | length | every)


@dataclass(frozen=True)
class Made:
    """What the gang made. `work`: each training's directory, by its name."""

    bench: Bench
    base: Path
    work: dict[str, Path]
    results: dict[str, TrainingResult]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.work[name] / "progress.jsonl").read_text().splitlines()]

    def weights(self, name: str) -> Weights:
        return load_file(open_directory(self.bench.store, self.results[name].weights_digest) / "model.safetensors")

    def start(self) -> Weights:
        return load_file(self.base / "model.safetensors")


def build_base(directory: Path, tiny_model: Path, *, dropout: float) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    directory.mkdir()
    for path in tiny_model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = LlamaConfig.from_pretrained(tiny_model)
    small = {"hidden_size": 32, "head_dim": 8, "intermediate_size": 64, "num_hidden_layers": 2}
    config.update(small | {"attention_dropout": dropout})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(config).float().save_pretrained(directory)
    drop_library_versions(directory)
    return directory


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    directory = tmp_path_factory.mktemp("methods")
    base = build_base(directory / "base", tiny_model, dropout=0.0)
    bench = make_bench(directory, base)
    with_dropout = seal_directory(
        bench.store, build_base(directory / "dropout", tiny_model, dropout=0.1), attributes={}
    ).digest
    painters = make_picture_bench(directory / "pictures", build_caption_encoder(directory / "encoder"))
    others = {FLOW_MATCHING: painters, PREFERENCE: make_pair_bench(directory / "pairs", base)}
    recipes = METHODS | {f"example {name}": example_recipe(name) for name in EXAMPLES}
    tasks = {name: (others.get(recipe.objective, bench), recipe) for name, recipe in recipes.items()}
    names, configs = list(tasks), []
    for number, (name, (of, recipe)) in enumerate(tasks.items()):
        inputs = inputs_of(of, recipe)
        config = gang_config(
            directory,
            number,
            of,
            recipe.with_steps(num_examples(of, recipe, inputs)),
            base_weights_digest=with_dropout if name in (RESUMED, AGAIN) else of.base_digest,
            inputs=inputs,
            exact_masters=recipe.precision != "fp32" and keeps_fp32(of.store, of.base_digest),
        )
        configs.append(config)
    resumed = {AGAIN: RESUMED, PREFERRED_AGAIN: PREFERRED}
    resuming = {names.index(name): names.index(of) for name, of in resumed.items()}
    results = dict(zip(names, train_in_one_gang(directory, configs, resuming=resuming), strict=True))
    work = {name: config.work for name, config in zip(names, configs, strict=True)}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a rank has
    yield Made(bench, base, work, results)
    torch.set_num_threads(num_threads)


def inputs_of(bench: Bench, recipe: Recipe) -> tuple[ExamplesInput, ...]:
    return tuple(replace(item, is_heldout=item.partition in recipe.heldout_shards) for item in bench.inputs)


def num_examples(bench: Bench, recipe: Recipe, inputs: tuple[ExamplesInput, ...]) -> int:
    return (
        15
        if recipe.objective == FLOW_MATCHING
        else num_train_rows(HandoffStore(bench.store), recipe.examples_asset, inputs)
    )


@pytest.mark.parametrize("name", STEPPED)
def test_ten_steps_of_an_optimizer_and_a_schedule_are_those_of_plain_torch(made: Made, name: OptimizerName) -> None:
    optimizer_class, _, _, options = STEPPED[name]
    recipe = METHODS[f"optimizer {name}"]
    if name in ("adamw", "adam", "adamax", "nadam", "radam"):
        options = options | {"betas": (0.9, 0.95)}
    plain = train_plainly(
        made.base,
        open_examples(HandoffStore(made.bench.store), made.bench.inputs, "train"),
        recipe,
        world_size=2,
        optimizer_class=optimizer_class,
        options=options,
        rates=[learning_rate_at(recipe, step) for step in range(STEPS)],
    )
    assert distance_share(made.weights(f"optimizer {name}"), plain.weights, made.start()) < 1e-5


@dataclass
class PlainRanks:
    """The random states of two ranks, in one process."""

    states: list[torch.Tensor]

    @contextmanager
    def of(self, rank: int) -> Iterator[None]:
        torch.set_rng_state(self.states[rank])
        yield
        self.states[rank] = torch.get_rng_state()


def test_noise_on_the_embeddings_is_what_transformers_draws_from_the_same_seed(made: Made) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.integrations.neftune import activate_neftune

    recipe, states = METHODS["NEFTune"], []
    model: Any = None
    for rank in range(2):
        seed_everything(recipe.seed, rank)
        model = AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32).train()
        states.append(torch.get_rng_state())
    assert recipe.neftune_noise_alpha
    activate_neftune(model, recipe.neftune_noise_alpha)
    examples = open_examples(HandoffStore(made.bench.store), made.bench.inputs, "train")
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [one for one in parameters.values() if (one.dim() > 1) == is_decayed], "weight_decay": decay}
        for is_decayed, decay in ((True, recipe.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(recipe.beta1, recipe.beta2))
    order = SampleOrder(seed=recipe.seed, num_sequences=len(examples), batch=2, world_size=2, micro_batch=1)
    ranks = PlainRanks(states)
    for step in range(STEPS):
        weight = examples.num_loss_tokens(order.batch(step))
        for rank in range(2):
            [numbers] = order.micro_batches(step, rank)
            with ranks.of(rank):
                mean = mean_loss(model, examples, numbers)
            (mean * examples.num_loss_tokens(numbers) / weight).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = cosine_with_warmup(recipe, step)
        optimizer.step()
        optimizer.zero_grad()
    plain = {name: one.detach() for name, one in parameters.items()}
    assert distance_share(made.weights("NEFTune"), plain, made.start()) < 1e-5
    assert distance_share(made.weights("plain"), plain, made.start()) > 0.01, "the noise would be nothing"


@pytest.mark.parametrize("stage", ["", ", stage 3"])
def test_what_is_computed_again_or_looked_at_meanwhile_changes_no_bit(made: Made, stage: str) -> None:
    names = ("plain", "gradient checkpointing", "watched")
    digests = {name: made.results[f"{name}{stage}"].state_digest for name in names}
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize("stage", ["", ", stage 3"])
def test_what_is_offloaded_learns_the_same(made: Made, stage: str) -> None:
    """But for the rounding of the gradients' norm, which DeepSpeed adds up in another order then."""
    assert distance_share(made.weights(f"offload{stage}"), made.weights(f"plain{stage}"), made.start()) < 1e-5


@pytest.mark.parametrize("name", ["watched", "watched, stage 3"])
def test_the_best_weights_are_exported_and_the_curve_says_which(made: Made, name: str) -> None:
    result, rows = made.results[name], made.rows(name)
    heldout = {row["step"]: row["heldout_loss"] for row in rows if "heldout_loss" in row}
    assert list(heldout) == [2, 4, 6, 8, 10]
    assert result.best_step == result.exported_step == min(heldout, key=lambda step: (heldout[step], step))
    assert result.heldout_loss_best == min(heldout.values())
    assert all(row["mfu"] > 0 for row in rows), "of a CPU the peak is measured"


def test_a_training_that_stops_early_exports_what_was_best_and_ends_so_when_it_is_resumed(made: Made) -> None:
    straight, resumed = made.results[RESUMED], made.results[AGAIN]
    rows, again = made.rows(RESUMED), made.rows(AGAIN)
    assert straight.steps == len(rows) == 8
    assert straight.stopped
    assert straight.stopped.startswith("none of the last 3 evaluations had a held-out loss below ")
    assert straight.exported_step == straight.best_step
    assert resumed.resumed_from_step == 6
    for name in ("state_digest", "weights_digest", "steps", "stopped", "best_step", "heldout_loss_best"):
        assert getattr(resumed, name) == getattr(straight, name), name
    for field in ("loss", "heldout_loss", "learning_rate"):
        assert [row.get(field) for row in again] == [row.get(field) for row in rows]


def test_preferences_begin_where_nothing_is_preferred_and_are_learnt(
    made: Made,
) -> None:
    rows = made.rows(PREFERRED)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[-1]["loss"] < 0.98 * math.log(2)
    assert [row["step"] for row in rows if "heldout_loss" in row] == [2, 4, 6, 8, 10]


def test_preferences_that_were_interrupted_end_with_the_same_bits(made: Made) -> None:
    straight, resumed = made.results[PREFERRED], made.results[PREFERRED_AGAIN]
    assert resumed.resumed_from_step == 8
    for name in ("state_digest", "weights_digest", "best_step", "heldout_loss_best"):
        assert getattr(resumed, name) == getattr(straight, name), name
    assert [row["loss"] for row in made.rows(PREFERRED_AGAIN)] == [row["loss"] for row in made.rows(PREFERRED)]
    assert made.rows(f"{PREFERRED}, stage 3")[-1]["loss"] == pytest.approx(made.rows(PREFERRED)[-1]["loss"], abs=1e-5)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_batch_with_a_spike_is_not_learnt(made: Made, stage: int) -> None:
    rows = made.rows(f"spikes skipped, stage {stage}")
    skipped = [row for row in rows if not row["applied"]]
    assert skipped, "no loss was above the median of the two before"
    assert all(row["loss"] > row["spike_above"] for row in skipped)
    assert all("spike_above" not in row for row in rows if row["applied"])
    assert made.results[f"spikes skipped, stage {stage}"].steps_applied == STEPS - len(skipped)
    reference = made.weights("spikes skipped, stage 2")
    assert distance_share(made.weights(f"spikes skipped, stage {stage}"), reference, made.start()) < 1e-4


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
def test_an_fp32_base_stays_fp32_in_the_masters_of_half_precision(made: Made, stage: int) -> None:
    training_id = made.results[f"exact masters, stage {stage}"].training_id
    found = newest_whole(made.bench.store, training_id, world_size=2)
    assert found is not None
    files = [found.directory(made.bench.store) / file.name for file in found.files if file.name.startswith("state/")]
    states = [torch.load(path, weights_only=False) for path in files]
    masters = torch.cat([one for state in states for one in masters_in(state)])
    base = torch.cat([one.flatten() for one in made.start().values()])
    assert (base - base.bfloat16().float()).abs().max() > 1e-5, "the base would lose nothing"
    # ZeRO pads with zeros, and the embedding of the padding token is zeros, which a step moves by its rate alone.
    kept, wanted = (one[one.abs() > 1e-9].sort().values for one in (masters, base))
    torch.testing.assert_close(kept, wanted, rtol=0, atol=1e-9)


def test_attention_by_another_implementation_learns_nearly_the_same(made: Made) -> None:
    assert distance_share(made.weights("eager attention"), made.weights("plain"), made.start()) < 1e-3


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_trains(made: Made, name: str) -> None:
    result, rows = made.results[f"example {name}"], made.rows(f"example {name}")
    assert result.steps == len(rows) == rows[-1]["step"] > 1
    assert all(row["loss"] > 0 for row in rows)


def test_an_example_that_would_do_nothing_on_a_cpu_is_refused_there() -> None:
    with pytest.raises(InvalidTrainingRun, match="offload would do nothing on a CPU"):
        check_on_devices(load_recipe(EXAMPLES["offload"]), CPU, 2)
    for name in EXAMPLES.keys() - {"offload"}:
        check_on_devices(load_recipe(EXAMPLES[name]), CPU, 2)


def test_a_shard_that_is_held_out_is_never_trained_on(made: Made) -> None:
    """`own-heldout` learns from the first shard alone, and is measured on the second one."""
    recipe, handoffs = example_recipe("own-heldout"), HandoffStore(made.bench.store)
    inputs = inputs_of(made.bench, recipe)
    assert [(item.partition, item.is_heldout) for item in inputs] == [("shard-00", False), ("shard-01", True)]
    assert len(open_examples(handoffs, inputs, "train")) == 32
    assert len(open_examples(handoffs, inputs, "heldout")) == 40
    examples = {item.partition: handoffs.open("training_examples", item.partition, item.version) for item in inputs}
    base = pa.table({"weights_digest": [made.bench.base_digest]})
    assert request_for(recipe, base, examples, made.bench.store).inputs == inputs
    first = {"shard-00": examples["shard-00"]}
    with pytest.raises(InvalidTrainingRun, match="heldout_shards names 'shard-01', and training_examples has shard-00"):
        request_for(recipe, base, first, made.bench.store)

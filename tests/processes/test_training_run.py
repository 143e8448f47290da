"""Real gangs: two DeepSpeed ranks under torchrun, and a Dagster run around them.

A start costs some 13 CPU seconds, so there are few: one training through Dagster that nothing disturbs, and the same
training killed twice, once its worker and once a rank, and resumed.
"""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest

from assets.partitions import model_recipes
from assets.training import base_model, evaluation, trained_model
from headrace.errors import TrainingFailed
from headrace.handoff.versions import HandoffStore
from headrace.training.attempts import find_result, read_curve
from headrace.training.heldout import find_evaluation
from headrace.training.launch_plan import MARKER
from headrace.training.progress import read_phases
from headrace.training.recipe_parts import Guards, LossSpike, StalledRank
from headrace.training.session import train
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.resources.registry import RegistryResource
from headrace_dagster.training_launcher import TrainingLauncher
from resources.training import TrainingResource
from tests.processes.killed_training import run_until_checkpoint
from tests.training_builders import Bench, make_bench
from tests.waiting import eventually

# Three starts of a gang in one test, minutes each on a loaded machine.
pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

# Few, for each costs 0.3 CPU seconds, and fast: enough to see the loss fall and a checkpoint between two kills.
STEPS, CHECKPOINT_EVERY = 20, 3
RECIPE = {
    "steps": STEPS,
    "batch": 4,
    "learning_rate": 5e-3,
    "checkpoint_every": CHECKPOINT_EVERY,
    "warmup_steps": 3,
    "weight_decay": 0.1,
    "zero_stage": 2,
    "heldout_tokens_min": 100,
    # Looked at meanwhile, which changes nothing, and what a resume must find again.
    "evaluate_every": 4,
    "keep": "best",
    "guards": Guards(loss_spike=LossSpike(), stalled_rank=StalledRank(action="warn")),
    # A rank that lost its peers in a collective must not hold the test for the default quarter of an hour.
    "step_timeout_seconds": 120,
}


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With dropout, so that a resume that forgets the random state is found out."""
    directory = tmp_path_factory.mktemp("dropout-model")
    for path in tiny_model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))
    return directory


@pytest.fixture(scope="module")
def straight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """base_model, trained_model and evaluation of one recipe, materialized by Dagster."""
    directory = tmp_path_factory.mktemp("straight")
    bench = make_bench(directory, model)
    recipes = directory / "recipes"
    recipes.mkdir()
    recipe = bench.request(**RECIPE).recipe
    body = {key: value for key, value in recipe.to_body().items() if value is not None}
    (recipes / "tiny.test.yaml").write_text(json.dumps(body))
    materialize(bench, directory, recipes, model)
    return bench


def materialize(bench: Bench, directory: Path, recipes: Path, model: Path) -> None:
    store = str(bench.store.directory)
    shards = dg.StaticPartitionsDefinition(["shard-00", "shard-01"])
    examples = dg.AssetSpec("training_examples", partitions_def=shards)
    pictures = dg.AssetSpec("picture_examples", partitions_def=dg.StaticPartitionsDefinition(["shard-00"]))
    pairs = dg.AssetSpec("preference_pairs", partitions_def=model_recipes)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("model_recipe", ["tiny.test"])
        result = dg.materialize(
            [base_model, trained_model, evaluation, examples, pictures, pairs],
            partition_key="tiny.test",
            instance=instance,
            resources={
                "io_manager": ArrowHandoffIOManager(url=store),
                "store": StoreResource(url=store),
                "training": TrainingResource(recipes_directory=str(recipes), base_model=str(model)),
                "launcher": TrainingLauncher(store_url=store, work_directory=str(bench.work_root)),
                "registry": RegistryResource(
                    tracking_uri=f"sqlite:///{directory / 'mlflow.db'}", artifacts=(directory / "artifacts").as_uri()
                ),
            },
        )
        logs = [entry.user_message for entry in instance.all_logs(result.run_id)]
        seen = instance.fetch_observations(dg.AssetKey("trained_model"), limit=100).records
        shown = [record.asset_observation for record in seen]
    (directory / "run.log").write_text("\n".join(logs))
    shown = [
        {name: one.value for name, one in item.metadata.items()} | {"of": item.partition} for item in shown if item
    ]
    (directory / "shown.json").write_text(json.dumps(shown))


def test_a_materialized_recipe_seals_weights_that_transformers_loads(straight: Bench) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from headrace.store.sealed_directory import open_directory

    [row] = HandoffStore(straight.store).open("trained_model", "tiny.test").table().to_pylist()
    weights = open_directory(straight.store, row["weights_digest"])
    assert AutoModelForCausalLM.from_pretrained(weights).num_parameters() == 853_120
    assert AutoTokenizer.from_pretrained(weights).chat_template
    assert row["steps_applied"] == STEPS
    assert (row["zero_stage"], row["world_size"], row["resumed_from_step"]) == (2, 2, 0)


def test_progress_reaches_the_dagster_run_from_rank_zero_alone(straight: Bench) -> None:
    log = (straight.store.directory.parent / "run.log").read_text()
    assert log.count(f"step {STEPS}/{STEPS} · loss ") == 1
    assert "% of peak · 0 s left" in log


def test_the_page_of_the_asset_shows_the_training_while_it_runs(straight: Bench) -> None:
    [*_, first] = json.loads((straight.store.directory.parent / "shown.json").read_text())
    assert first["of"] == "tiny.test"
    assert 1 <= first["step"] <= STEPS
    assert {"train_loss", "tokens", "tokens_per_second", "model_flops_utilization", "seconds_left"} <= first.keys()
    assert first["loss"].startswith("![loss](data:image/svg+xml;base64,")


def test_the_curve_is_in_mlflow_once(straight: Bench) -> None:
    from mlflow import MlflowClient

    [row] = HandoffStore(straight.store).open("trained_model", "tiny.test").table().to_pylist()
    client = MlflowClient(f"sqlite:///{straight.store.directory.parent / 'mlflow.db'}")
    history = client.get_metric_history(row["mlflow_run_id"], "loss")
    assert sorted(metric.step for metric in history) == list(range(1, STEPS + 1))
    heldout = client.get_metric_history(row["mlflow_run_id"], "heldout_loss_in_training")
    assert [metric.step for metric in heldout] == [4, 8, 12, 16, 20]
    assert len(client.get_metric_history(row["mlflow_run_id"], "mfu")) == STEPS
    assert [artifact.path for artifact in client.list_artifacts(row["mlflow_run_id"])] == ["curves.png"]
    assert client.get_run(row["mlflow_run_id"]).data.params["learning_rate"] == str(RECIPE["learning_rate"])


def test_training_lowers_the_loss_on_the_same_held_out_tokens(straight: Bench) -> None:
    rows = HandoffStore(straight.store).open("evaluation", "tiny.test").table().to_pylist()
    base, trained = sorted(rows, key=lambda row: row["model"])
    assert base["heldout_digest"] == trained["heldout_digest"]
    assert base["heldout_tokens"] == trained["heldout_tokens"] >= 100
    assert trained["heldout_loss"] < base["heldout_loss"] - 0.5
    assert find_evaluation(straight.store, base["weights_digest"], base["heldout_digest"])


def test_a_finished_training_leaves_no_checkpoint_and_no_scratch(straight: Bench) -> None:
    training_id = straight.request(**RECIPE).training_id
    assert straight.store.children(f"training/{training_id}") == ["attempts", "checkpoints", "curves", "result.json"]
    assert straight.store.children(f"training/{training_id}/checkpoints") == []
    assert list(straight.work_root.iterdir()) == []


def test_a_finished_training_is_reused_without_starting_a_process(straight: Bench) -> None:
    outcome = train(straight.request(**RECIPE), straight.place({"PATH": "/nonexistent"}))
    assert outcome.reused


# The worker of the first attempt: a process that a test can kill.
WORKER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {checkout!r})
from headrace.training.recipe_parts import Guards, LossSpike, StalledRank
from headrace.training.session import train
from tests.training_builders import make_bench

bench = make_bench(Path({directory!r}), Path({model!r}))
train(bench.request(**{recipe!r}), bench.place(dict(os.environ)))
"""


def kill_worker_in_the_middle(directory: Path, model: Path) -> None:
    script = WORKER.format(
        checkout=str(Path(__file__).parents[2]), directory=str(directory), model=str(model), recipe=RECIPE
    )
    run_until_checkpoint(script, directory)


def processes_of(marker: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if f"{MARKER}={marker}" in (Path("/proc") / str(process.pid) / "environ").read_text().split("\0"):
                found.append(process.pid)
        except OSError:
            continue
    return found


def test_a_training_whose_worker_and_then_whose_rank_is_killed_ends_bit_for_bit_like_one_that_was_not(
    straight: Bench, model: Path, tmp_path: Path
) -> None:
    kill_worker_in_the_middle(tmp_path, model)
    bench = make_bench(tmp_path, model)
    request = bench.request(**RECIPE)
    ranks = [
        psutil.Process(phase.pid) for phase in phases_of(bench, request.training_id, 1) if psutil.pid_exists(phase.pid)
    ]
    assert psutil.wait_procs(ranks, timeout=120)[1] == [], "ranks outlived their worker"
    eventually(lambda: processes_of(f"{request.training_id}/1") == [], "torchrun ends after its ranks")

    def kill_rank_one(rows: list[dict]) -> None:
        [phase] = [phase for phase in phases_of(bench, request.training_id, 2) if phase.rank == 1]
        # Further rows may come before the gang's end is noticed.
        with suppress(ProcessLookupError):
            os.kill(phase.pid, signal.SIGKILL)

    with pytest.raises(TrainingFailed, match="rank 1 was killed without a word, exit code -9"):
        train(request, bench.place(dict(os.environ)), on_rows=kill_rank_one)
    outcome = train(request, bench.place(dict(os.environ)))

    undisturbed = find_result(straight.store, request.training_id)
    assert undisturbed is not None, "the two trainings have different ids"
    assert outcome.result.attempt == 3
    assert outcome.result.resumed_from_step >= CHECKPOINT_EVERY
    assert outcome.result.state_digest == undisturbed.state_digest
    assert outcome.result.weights_digest == undisturbed.weights_digest
    curve = read_curve(bench.store, outcome.result)
    assert [row["step"] for row in curve] == list(range(1, STEPS + 1))
    straight_curve = read_curve(straight.store, undisturbed)
    assert [row.get("heldout_loss") for row in curve] == [row.get("heldout_loss") for row in straight_curve]
    assert outcome.result.exported_step == undisturbed.exported_step
    assert [row["loss"] for row in curve] == [row["loss"] for row in straight_curve]
    assert [row["tokens"] for row in curve] == [row["tokens"] for row in straight_curve]
    own = curve[outcome.result.resumed_from_step :]
    assert outcome.result.attempt_tokens == own[-1]["tokens"] - curve[outcome.result.resumed_from_step - 1]["tokens"]
    assert outcome.result.tokens == undisturbed.tokens == undisturbed.attempt_tokens
    assert 0 < undisturbed.tokens < STEPS * RECIPE["batch"] * 64, "padding is no token"
    assert outcome.figures()["tokens_per_second"] == (outcome.result.attempt_tokens or 0) / outcome.result.seconds


def phases_of(bench: Bench, training_id: str, attempt: int):
    return list(read_phases(bench.work_root / training_id / f"{attempt:06d}").values())

"""Registration and rollout as Dagster runs, on a real store and a real embedded MLflow."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from assets.deployment import registered_version, rollout
from assets.deployment_checks import (
    aliases_follow_the_journals,
    gate_verdicts,
    has_a_version_set,
    journals_are_whole,
    registered_versions_fit,
)
from assets.partitions import model_recipes
from headrace.clock import FixedClock
from headrace.handoff.schemas import EVALUATION, REVIEWED_CONTENT
from headrace.handoff.versions import HandoffStore
from headrace.registry.mlflow_models import ModelRegistry
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState
from headrace.store.local import LocalStore
from headrace.training.tables import TRAINED_MODEL
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource
from headrace_dagster.resources.registry import RegistryResource
from headrace_dagster.resources.rollouts import RolloutsResource
from resources.training import TrainingResource
from tests.rollout.builders import reviewed_row, state_of

CAMPAIGN = """
name: tales
model: MODEL
num_shards: 2
prompts: {files: prompts.jsonl, per_shard: 2}
decoding: {temperature: 0.5, top_p: 1, max_new_tokens: 8}
engine: {name: echo}
rollout: {steps: [0.5], gate: {min_rows: 4, pass_rate_margin: 0.9, horizon_rows: 40}}
"""
RECIPE = "{name: NAME, model: MODEL, steps: 4, batch: 2, learning_rate: 0.001}"


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One embedded MLflow for the module: creating its tables costs seconds. Tests keep apart by model names."""
    return tmp_path_factory.mktemp("mlflow")


class Deployment:
    """A store, recipes `good` and `worse` of one model, a campaign of two shards, and a Dagster instance."""

    def __init__(self, home: Path, mlflow: Path, model: str, instance: dg.DagsterInstance) -> None:
        self.home, self.model, self.instance = home, model, instance
        self.handoffs = HandoffStore(LocalStore(home / "store"), FixedClock())
        self.journal = Journal(self.handoffs.objects, "tales", FixedClock())
        self.registry = RegistryResource(
            tracking_uri=f"sqlite:///{mlflow}/mlflow.db", artifacts=(mlflow / "artifacts").as_uri()
        )
        for folder, name, text in (
            ("campaigns", "tales", CAMPAIGN),
            ("recipes", "good", RECIPE.replace("NAME", "good")),
            ("recipes", "worse", RECIPE.replace("NAME", "worse")),
        ):
            (home / folder).mkdir(exist_ok=True)
            (home / folder / f"{name}.yaml").write_text(text.replace("MODEL", model))
        instance.add_dynamic_partitions("model_recipe", [f"{model}.good", f"{model}.worse"])
        instance.add_dynamic_partitions("campaign", ["tales"])

    def run(self, *definitions: Any, partition: str | None, **options: Any) -> dg.ExecuteInProcessResult:
        campaigns = CampaignsResource(
            directory=str(self.home / "campaigns"), home=str(self.home), reports=str(self.home / "reports")
        )
        config = options.pop("config", None)
        external = [
            dg.AssetSpec(name, partitions_def=model_recipes) for name in ("base_model", "trained_model", "evaluation")
        ]
        return dg.materialize(
            [registered_version, rollout, *external, *definitions],
            selection=options.pop("selection"),
            partition_key=partition,
            instance=self.instance,
            resources={
                "io_manager": ArrowHandoffIOManager(url=str(self.home / "store")),
                "store": StoreResource(url=str(self.home / "store")),
                "registry": self.registry,
                "training": TrainingResource(recipes_directory=str(self.home / "recipes"), base_model="none"),
                "campaigns": campaigns,
                "rollouts": RolloutsResource(
                    campaigns=campaigns, engines=EnginesResource(), services=str(self.home / "services")
                ),
            },
            run_config=config,
            **options,
        )

    def register(self, recipe: str, **options: Any) -> dg.ExecuteInProcessResult:
        return self.run(partition=f"{self.model}.{recipe}", selection=[registered_version], **options)

    def roll_out(self, **config: Any) -> Mapping[str, Any]:
        result = self.run(partition="tales", selection=[rollout], config={"ops": {"rollout": {"config": config}}})
        (materialization,) = result.asset_materializations_for_node("rollout")
        return {name: value.value for name, value in materialization.metadata.items()}

    def log(self) -> list[str]:
        """What the last run's body logged, after its level."""
        (run,) = self.instance.get_runs(limit=1)
        entries = [entry for entry in self.instance.all_logs(run.run_id) if not entry.dagster_event]
        return [f"{logging.getLevelName(entry.level)} {entry.user_message}" for entry in entries]

    def check(self, check: dg.AssetChecksDefinition) -> Any:
        result = self.run(check, partition=None, selection=dg.AssetSelection.checks(check))
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation

    def train(self, recipe: str, *, loss: float, weights: str | None = None, evaluated: str | None = None) -> None:
        """What training would have sealed for a recipe."""
        key, weights = f"{self.model}.{recipe}", weights or f"weights-{recipe}"
        self.seal("base_model", key, [trained_row("weights-base")], TRAINED_MODEL)
        self.seal("trained_model", key, [trained_row(weights, training_id="t1", zero_stage=2)], TRAINED_MODEL)
        rows = [evaluation_row("base", "weights-base", 4.0), evaluation_row("trained", evaluated or weights, loss)]
        self.seal("evaluation", key, rows, EVALUATION)

    def review(self, version_set: str, *, shard: int, num_kept: int) -> None:
        rows = [reviewed_row(position, version_set, kept=position < num_kept) for position in range(20)]
        self.seal("reviewed_content", f"2026-11-22|tales-{shard:02d}", rows, REVIEWED_CONTENT)

    def seal(self, asset: str, partition: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        table = pa.Table.from_pylist(rows, schema=schema)
        inputs = {"training_examples[shard-00]": "v1 abc"}
        self.handoffs.publish(asset, partition, table, code_version="1", run_id="r", input_versions=inputs)

    @property
    def models(self) -> ModelRegistry:
        return self.registry.models()

    @property
    def state(self) -> RolloutState:
        return state_of(self.journal)


@pytest.fixture
def deployment(tmp_path: Path, mlflow: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Deployment(tmp_path, mlflow, f"m{abs(hash(request.node.name))}", instance)


def trained_row(weights: str, *, training_id: str = "", zero_stage: int = 0) -> dict[str, Any]:
    return {
        "weights_digest": weights,
        "weights_uri": f"file:///store/weights/{weights}",
        "training_id": training_id,
        "steps_applied": 4,
        "tokens": 100,
        "train_loss_last": 3.0,
        "zero_stage": zero_stage,
        "world_size": 2,
        "resumed_from_step": 0,
        "seconds": 1.0,
        "mlflow_run_id": "",
    }


def evaluation_row(model: str, weights: str, loss: float) -> dict[str, Any]:
    return {
        "model": model,
        "weights_digest": weights,
        "heldout_loss": loss,
        "heldout_tokens": 10_000,
        "heldout_digest": "heldout",
        "samples": [],
    }


def test_registration_names_base_and_trained_weights_once(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0)
    first, second = deployment.register("good"), deployment.register("good")
    rows = deployment.handoffs.open("registered_version", f"{deployment.model}.good").table().to_pylist()
    assert [(row["kind"], row["version"], row["heldout_loss"]) for row in rows] == [
        ("base", "1", 4.0),
        ("trained", "2", 3.0),
    ]
    versions = [
        result.asset_materializations_for_node("registered_version")[0].metadata["version"].value
        for result in (first, second)
    ]
    assert versions == [1, 1]
    tags = deployment.models.connection.client().get_model_version(deployment.model, "2").tags
    assert tags["headrace.input_versions"] == '{"training_examples[shard-00]":"v1 abc"}'
    assert (tags["headrace.zero_stage"], tags["headrace.recipe"]) == ("2", "good")
    assert deployment.check(registered_versions_fit).passed


def test_an_evaluation_of_other_weights_is_not_registered(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0, evaluated="weights-of-yesterday")
    result = deployment.register("good", raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "Materialize evaluation." in str(failure.step_failure_data.error)
    assert deployment.models.find_by_digest(deployment.model, "weights-good") is None


def test_a_rollout_without_a_registered_model_says_what_to_materialize(deployment: Deployment) -> None:
    """In its metadata, in its log, and as a failed check: not green and silent."""
    reason = f"No base version of {deployment.model} is registered. Materialize registered_version."
    metadata = deployment.roll_out()
    assert metadata["head"] == 0
    assert metadata["reason"] == reason
    assert deployment.log() == [f"WARNING Nothing was rolled out, so tales has no version set: {reason}"]
    found = deployment.check(has_a_version_set)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.description == f"tales: {reason}"


def test_a_campaign_whose_models_are_registered_has_its_version_set_after_one_rollout_run(
    deployment: Deployment,
) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    found = deployment.check(has_a_version_set)
    assert not found.passed
    assert found.description.endswith("Materialize rollout, partition tales.")
    deployment.roll_out()
    first, *_, waits = deployment.log()
    assert first.startswith("INFO initialize: the first stable set is the base")
    assert waits.startswith("INFO Waits: Candidate ")
    assert deployment.check(has_a_version_set).passed


def test_a_candidate_is_promoted_and_a_worse_one_rolled_back_and_aliases_follow(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    assert deployment.roll_out()["num_entries_added"] == 3
    assert deployment.models.aliases(deployment.model) == {"champion": "1", "candidate": "2"}
    assert deployment.state.candidate is not None
    deployment.review(deployment.state.candidate, shard=0, num_kept=20)
    deployment.review(deployment.state.stable, shard=1, num_kept=20)
    metadata = deployment.roll_out()
    assert "|promoted|" in metadata["journal"]
    assert deployment.models.aliases(deployment.model) == {"champion": "2"}

    deployment.train("worse", loss=6.0)
    deployment.register("worse")
    metadata = deployment.roll_out()
    assert metadata["num_entries_added"] == 3
    assert "held-out loss 6.000 against 3.000 nats a token" in metadata["journal"]
    assert len(deployment.state.aborted) == 1
    assert deployment.models.aliases(deployment.model) == {"champion": "2"}
    table = deployment.handoffs.open("rollout", "tales").table().to_pylist()
    assert [(row["standing"], row["model_version"], row["weight"]) for row in table] == [("stable", "2", 1.0)]
    assert deployment.check(journals_are_whole).passed
    assert deployment.check(aliases_follow_the_journals).passed


def test_with_mlflow_stopped_new_sets_are_refused_and_a_trial_goes_on_to_its_end(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    running = deployment.registry
    (tmp_path / "stopped").mkdir()
    stopped = RegistryResource(tracking_uri=f"sqlite:///{tmp_path}/stopped")
    deployment.registry = stopped
    metadata = deployment.roll_out()
    assert metadata["num_entries_added"] == 0
    assert "is not tried now: MLflow at sqlite:///" in metadata["reason"]

    deployment.registry = running
    deployment.roll_out()
    candidate = deployment.state.candidate
    assert candidate is not None
    deployment.registry = stopped
    deployment.review(candidate, shard=0, num_kept=20)
    deployment.review(deployment.state.stable, shard=1, num_kept=20)
    metadata = deployment.roll_out()
    assert deployment.state.stable == candidate
    assert metadata["aliases"].startswith("Not written, the next tick tries again. MLflow at sqlite:///")
    drift = deployment.check(aliases_follow_the_journals)
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.WARN)

    deployment.registry = running
    assert deployment.roll_out()["num_entries_added"] == 0
    assert deployment.models.aliases(deployment.model) == {"champion": "2"}


def test_a_person_acts_on_a_rollout_from_the_launchpad_and_the_journal_says_who_and_why(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    deployment.roll_out()
    assert deployment.check(gate_verdicts).metadata["tales"].value.startswith("wait: 0 of 4 rows in this step")
    metadata = deployment.roll_out(action="pause", reason="the vendor calls")
    assert "gets 50% of the units" in metadata["status"]
    assert "the vendor calls" in Path(metadata["path"]).read_text()
    assert deployment.state.paused
    deployment.roll_out(action="abort", reason="the vendor says no", keep_sessions=True)
    aborted = deployment.journal.entries()[-1]
    assert aborted.event == "aborted"
    assert (aborted.fields["by"], aborted.fields["reason"]) == ("Dagster", "the vendor says no")
    assert deployment.state.evicted == frozenset()


def test_an_abort_from_the_launchpad_goes_through_beside_a_damaged_registration(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    deployment.roll_out()
    deployment.train("worse", loss=3.5)
    deployment.register("worse")
    [manifest] = (deployment.home / "store").rglob("registered_version/*worse*/**/manifest.json")
    manifest.chmod(0o644)
    manifest.write_text("{}")
    metadata = deployment.roll_out(action="abort", reason="rude answers")
    assert deployment.journal.entries()[-1].event == "aborted"
    assert "worse" in metadata["damaged_objects"]


def test_a_person_promotes_from_the_launchpad(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    deployment.roll_out()
    candidate = deployment.state.candidate
    deployment.roll_out(action="promote", reason="the board has read it")
    assert (deployment.state.stable, deployment.state.candidate) == (candidate, None)


def test_an_alias_moved_by_hand_is_a_warning_and_moves_nothing(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    deployment.roll_out()
    state = deployment.state
    deployment.models.set_alias(deployment.model, "champion", "2")
    drift = deployment.check(aliases_follow_the_journals)
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert drift.description == f"tales: champion of {deployment.model} is 2, the journal says 1"
    assert deployment.state == state


def test_an_edited_journal_fails_its_check(deployment: Deployment) -> None:
    deployment.train("good", loss=3.0)
    deployment.register("good")
    deployment.roll_out()
    journal = deployment.home / "store/rollout/tales/journal"
    entry = next(file for file in sorted(journal.glob("*.json")) if '"weight":0.5' in file.read_text())
    text = entry.read_text().replace('"weight":0.5', '"weight":1.0')
    entry.unlink()
    entry.write_text(text)
    whole = deployment.check(journals_are_whole)
    assert not whole.passed
    assert whole.description.startswith("tales: Journal tales cannot be believed. Entry ")


def test_a_rollout_waits_for_no_recipe_that_was_never_trained() -> None:
    mapping = rollout.get_partition_mapping_for_dep(dg.AssetKey("registered_version"))
    assert isinstance(mapping, dg.AllPartitionMapping)
    assert rollout.dependency_keys == {dg.AssetKey("registered_version")}

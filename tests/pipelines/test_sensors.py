"""What the sensors ask for, on a real store and instance: a repeated, late or lost tick starts nothing twice."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.utils import make_new_run_id

from headrace.clock import SystemClock
from headrace.generation.campaign import Campaign
from headrace.handoff.schemas import PROMPTS
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, to_table
from headrace.rollout.assignment import canary_units
from headrace.rollout.journal import Journal
from headrace.store.local import LocalStore
from pipelines.definitions import defs
from pipelines.schedules import nightly_campaigns
from pipelines.sensors import campaign_generation, partition_keys, rollout_ticks
from resources.campaigns_resource import campaigns_resource
from resources.settings import settings_from_environment

TODAY = datetime.now(UTC).strftime("%Y-%m-%d")


def model(version: int, kind: str = "trained") -> ModelVersion:
    return ModelVersion(
        model_name="smollm2-135m",
        version=str(version),
        kind=kind,
        weights_digest=f"weights-{version}",
        weights_uri=f"file:///weights-{version}",
        heldout_loss=3.0 - version / 10,
        heldout_tokens=10_000,
        heldout_digest="heldout",
        recipe="" if kind == "base" else f"recipe-{version}",
        zero_stage=2,
        mlflow_run_id=f"run-{version}",
        registered_at=float(version),
    )


class Deployment:
    """A store with the demo's campaign on the echo engine, and an instance; nothing runs."""

    def __init__(self, home: Path) -> None:
        self.objects = LocalStore(home / "store")
        self.handoffs = HandoffStore(self.objects)
        self.instance = dg.DagsterInstance.ephemeral()
        self.campaign: Campaign = campaigns_resource(settings_from_environment()).campaign("glossary")
        self.journal = Journal(self.objects, "glossary", SystemClock())
        self.instance.add_dynamic_partitions("campaign", ["glossary"])
        self.partitions = self.campaign.partition_keys(TODAY)

    def register(self, *models: ModelVersion) -> None:
        self.handoffs.publish("registered_version", "m.r", to_table(models), code_version="1", run_id="r")

    def list_prompts(self, *partitions: str, text: str = "Define it.") -> None:
        for key in partitions or self.partitions:
            rows = [{"prompt_id": key, "position": 0, "text": text, "term": None}]
            self.handoffs.publish(
                "prompts", key, pa.Table.from_pylist(rows, schema=PROMPTS), code_version="1", run_id="r"
            )

    def seal(self, partition: str, version_set: str) -> None:
        self.handoffs.publish(
            "generated_content",
            partition,
            pa.table({"output": ["it"]}),
            code_version="1",
            run_id="r",
            attributes={"version_set": version_set},
        )

    def begin(self, stable: str = "stable", candidate: str | None = None) -> None:
        self.journal.append("initialized", _fields(stable), expected=0)
        if candidate:
            fields = {**_fields(candidate), "step": 0, "weight": 0.1, "num_rows": 0}
            self.journal.append("started", fields, expected=1)

    def abort(self, candidate: str) -> None:
        self.journal.append("aborted", {**_fields(candidate), "num_rows": 1}, expected=self.journal.head())

    def run_of(self, job: str, partition: str) -> None:
        tags = {"dagster/partition": partition}
        status = dg.DagsterRunStatus.STARTED
        self.instance.add_run(dg.DagsterRun(job_name=job, run_id=make_new_run_id(), status=status, tags=tags))

    def requests(self, sensor: dg.SensorDefinition) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(instance=self.instance, definitions=defs)
        with partition_loading_context(dynamic_partitions_store=self.instance):
            return list(sensor.evaluate_tick(context).run_requests or [])

    def generated(self) -> list[str]:
        return [request.partition_key or "" for request in self.requests(campaign_generation)]


def _fields(version_set: str) -> dict[str, str]:
    return {"version_set": version_set, "weights_digest": f"weights of {version_set}", "reason": "a test"}


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADRACE_ENGINE", "echo")
    return Deployment(tmp_path)  # type: ignore[return-value]  # a fixture's annotation, not a generator


def test_nothing_is_generated_before_a_rollout_names_a_stable_set(deployment: Deployment) -> None:
    deployment.list_prompts()

    assert deployment.generated() == []


def test_every_partition_with_prompts_starts_when_there_is_no_candidate(deployment: Deployment) -> None:
    deployment.begin()
    deployment.list_prompts(*deployment.partitions[:3])

    assert sorted(deployment.generated()) == deployment.partitions[:3]


def test_canaries_start_first_and_the_rest_waits(deployment: Deployment) -> None:
    deployment.begin(candidate="candidate")
    deployment.list_prompts()

    assert deployment.generated() == canary_units(0.1, deployment.campaign.plan.salt, deployment.partitions)


def test_a_repeated_tick_asks_under_the_same_run_keys(deployment: Deployment) -> None:
    deployment.begin()
    deployment.list_prompts()

    first = [request.run_key for request in deployment.requests(campaign_generation)]
    again = [request.run_key for request in deployment.requests(campaign_generation)]

    assert first == again
    assert len(set(first)) == len(deployment.partitions)


def test_prompts_that_changed_ask_for_their_sealed_partition_under_another_key_only_when_told(
    deployment: Deployment,
) -> None:
    """A sealed partition is left alone: its new prompts wait for somebody to materialize it."""
    deployment.begin()
    deployment.list_prompts()
    deployment.seal(deployment.partitions[0], "stable")
    deployment.list_prompts(deployment.partitions[0], text="Define it again.")

    assert deployment.partitions[0] not in deployment.generated()


def test_a_partition_under_way_is_not_asked_for(deployment: Deployment) -> None:
    deployment.begin()
    deployment.list_prompts()
    deployment.run_of("generate", deployment.partitions[4])

    assert deployment.partitions[4] not in deployment.generated()


def test_a_sealed_partition_of_a_set_that_was_rolled_back_is_made_again(deployment: Deployment) -> None:
    deployment.begin(candidate="worse")
    deployment.list_prompts()
    for partition in deployment.partitions:
        deployment.seal(partition, "worse" if partition == deployment.partitions[2] else "stable")
    deployment.abort("worse")

    requests = deployment.requests(campaign_generation)

    assert [request.partition_key for request in requests] == [deployment.partitions[2]]
    assert requests[0].run_config["ops"]["generated_content"]["config"] == {"regenerate": "current_set"}


def test_older_days_are_made_only_when_told(deployment: Deployment) -> None:
    old = (datetime.now(UTC) - timedelta(days=9)).strftime("%Y-%m-%d")
    deployment.begin()
    deployment.list_prompts(*deployment.campaign.partition_keys(old))

    assert deployment.generated() == []


def test_a_registered_base_and_a_trained_model_ask_for_one_rollout_run(deployment: Deployment) -> None:
    deployment.register(model(1, "base"), model(2))

    requests = deployment.requests(rollout_ticks)

    assert [request.partition_key for request in requests] == ["glossary"]
    assert requests[0].run_key == deployment.requests(rollout_ticks)[0].run_key


def test_a_rollout_run_under_way_is_not_asked_for_again(deployment: Deployment) -> None:
    deployment.register(model(1, "base"))
    deployment.run_of("roll_out", "glossary")

    assert deployment.requests(rollout_ticks) == []


def test_a_rollout_without_models_asks_for_nothing(deployment: Deployment) -> None:
    assert deployment.requests(rollout_ticks) == []


def test_recipe_and_campaign_files_become_partition_keys_once(deployment: Deployment) -> None:
    context = dg.build_sensor_context(instance=deployment.instance, definitions=defs)
    deployment.instance.delete_dynamic_partition("campaign", "glossary")
    requests = partition_keys.evaluate_tick(context).dynamic_partitions_requests or []

    keys = {request.partitions_def_name: list(request.partition_keys) for request in requests}
    assert keys == {"model_recipe": ["smollm2-135m.define", "smollm2-135m.define-hot"], "campaign": ["glossary"]}

    for name, names in keys.items():
        deployment.instance.add_dynamic_partitions(name, names)
    assert not partition_keys.evaluate_tick(context).dynamic_partitions_requests


def test_the_nightly_schedule_asks_for_the_new_day_once_however_often_it_ticks() -> None:
    night = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
    repository = defs.get_repository_def()
    context = dg.build_schedule_context(scheduled_execution_time=night, repository_def=repository)
    ticks = [nightly_campaigns.evaluate_tick(context) for _ in range(2)]

    keys = [[request.run_key for request in tick.run_requests or []] for tick in ticks]
    assert keys[0] == keys[1] == [f"prompts:2026-11-22|glossary-{shard:02d}" for shard in range(10)]

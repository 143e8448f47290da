"""A store with the demo's campaign, and an instance, for what the sensors ask for."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
import yaml
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.utils import make_new_run_id

from headrace.clock import SystemClock
from headrace.generation.campaign import Campaign
from headrace.handoff.schemas import PROMPTS
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, to_table
from headrace.rollout.journal import Journal
from headrace.store.local import LocalStore
from headrace_dagster.partition_keys import register_keys
from headrace_dagster.resources.campaigns import campaigns_resource
from pipelines.definitions import defs
from pipelines.sensors import campaign_generation, partition_keys
from resources.settings import CHECKOUT, settings_from_environment
from simulation.models import model_of

TODAY = datetime.now(UTC).strftime("%Y-%m-%d")


def model(version: int, kind: str = "trained") -> ModelVersion:
    return model_of("smollm2-135m", version, kind=kind, heldout_loss=3.0 - version / 10, registered_at=float(version))


class Deployment:
    """A store with the demo's campaign on the echo engine, and an instance; nothing runs."""

    def __init__(self, home: Path) -> None:
        self.objects = LocalStore(home / "store")
        self.handoffs = HandoffStore(self.objects)
        self.instance = dg.DagsterInstance.ephemeral()
        self.campaign: Campaign = campaigns_resource(settings_from_environment()).campaign("glossary")
        self.journal = Journal(self.objects, "glossary", SystemClock())
        register_keys(self.instance, self.campaign.dynamic_keys)
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
            pa.table({name: [version_set] for name in ("row_id", "prompt_id", "version_set")}),
            code_version="1",
            run_id="r",
            attributes={"version_set": version_set},
        )

    def begin(
        self, stable: str = "stable", candidate: str | None = None, weight: float = 0.1, cap: int | None = None
    ) -> None:
        self.journal.append("initialized", set_fields(stable), expected=0)
        if candidate:
            fields = {**set_fields(candidate), "step": 0, "weight": weight, "num_rows": 0, "cap": cap}
            self.journal.append("started", fields, expected=1)

    def abort(self, candidate: str) -> None:
        self.journal.append("aborted", {**set_fields(candidate), "num_rows": 1}, expected=self.journal.head())

    def run_of(self, job: str, partition: str) -> None:
        tags = {"dagster/partition": partition}
        status = dg.DagsterRunStatus.STARTED
        self.instance.add_run(dg.DagsterRun(job_name=job, run_id=make_new_run_id(), status=status, tags=tags))

    def requests(self, sensor: dg.SensorDefinition, cursor: str | None = None) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(instance=self.instance, definitions=defs, cursor=cursor)
        with partition_loading_context(dynamic_partitions_store=self.instance):
            return list(sensor.evaluate_tick(context).run_requests or [])

    def tick(self, sensor: dg.SensorDefinition) -> SensorExecutionData:
        context = dg.build_sensor_context(instance=self.instance, definitions=defs)
        with partition_loading_context(dynamic_partitions_store=self.instance):
            return sensor.evaluate_tick(context)

    def new_keys(self) -> dict[str, list[str]]:
        requests = self.tick(partition_keys).dynamic_partitions_requests or []
        return {request.partitions_def_name: list(request.partition_keys) for request in requests}

    def generated(self) -> list[str]:
        return [request.partition_key or "" for request in self.requests(campaign_generation)]


def set_fields(version_set: str) -> dict[str, str]:
    return {"version_set": version_set, "weights_digest": f"weights of {version_set}", "reason": "a test"}


def with_mirrors(
    campaign: Campaign, rollout: dict[str, object], monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """The demo's campaign file with another rollout section."""
    (file,) = (CHECKOUT / "resources/campaigns").glob(f"{campaign.name}.y*ml")
    body = yaml.safe_load(file.read_text())
    body["rollout"] = body.get("rollout", {}) | rollout
    (directory / "campaigns").mkdir()
    (directory / "campaigns" / file.name).write_text(yaml.safe_dump(body))
    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(directory / "campaigns"))

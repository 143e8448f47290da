"""Garbage collection as a job: what Dagster's latest materializations name stays, whatever its age."""

import time
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from sqlalchemy import event as sql_event

from headrace.clock import FixedClock, SystemClock
from headrace.handoff.layout import manifest_key
from headrace.store.leases import HELD_SECONDS
from headrace.store.protection import Asked
from headrace.store.sealed_directory import seal_directory, was_collected
from headrace.store.small_objects import PassedOver
from headrace_dagster.collection import (
    OP,
    CollectionConfig,
    collection_job,
    collection_schedule,
    named_by,
)
from headrace_dagster.handoff_io import StoreResource
from tests.headrace_dagster.project import SHARDS, Project

AT_ONCE = CollectionConfig(keep_versions=1, grace_hours=0)


@dg.asset(partitions_def=SHARDS)
def sharded(context: dg.AssetExecutionContext) -> pa.Table:
    return pa.table({"x": [context.partition_key, context.run.tags.get("round", "1")]})


@dg.asset(key_prefix="deep")
def whole(context: dg.AssetExecutionContext) -> pa.Table:
    return pa.table({"x": [context.run.tags.get("round", "1")]})


@dg.asset
def without_rows() -> None: ...


def run(project: Project, config: CollectionConfig = AT_ONCE, **environment: str) -> dict[str, Any]:
    """The figures of one collection."""
    result = collection_job(environment=lambda: environment).execute_in_process(
        instance=project.instance,
        resources=project.resources(),
        run_config=dg.RunConfig(ops={OP: config}),
    )
    (output,) = [event for event in result.all_events if event.is_successful_output]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def named(project: Project) -> set[str]:
    """Keys of the versions that Dagster's instance names."""
    clock = SystemClock()
    asked = Asked(objects=project.handoffs.objects, now=clock.now(), clock=clock, grace_seconds=0, damaged=PassedOver())
    return {one.key for one in named_by(project.instance, asked)}


@pytest.fixture
def grown(project: Project) -> Project:
    """Three versions of a shard and of a whole asset; one of another shard."""
    project.make(sharded, partition_key="shard-01")
    project.make(without_rows)
    for number in "123":
        project.make(sharded, partition_key="shard-00", tags={"round": number})
        project.make(whole, tags={"round": number})
    return project


def test_the_latest_materializations_name_one_version_each(grown: Project) -> None:
    assert named(grown) == {
        manifest_key("sharded", "shard-00", 3),
        manifest_key("sharded", "shard-01", 1),
        manifest_key("deep/whole", "all", 3),
    }


def test_the_number_of_queries_does_not_grow_with_the_partitions(project: Project) -> None:
    def num_queries(partitions: list[str]) -> int:
        definition = dg.StaticPartitionsDefinition(partitions)

        @dg.asset(partitions_def=definition, backfill_policy=dg.BackfillPolicy.single_run())
        def many(context: dg.AssetExecutionContext) -> Any:
            return {key: pa.table({"x": [key]}) for key in context.partition_keys}

        project.make_all(many, partitions=(partitions[0], partitions[-1]))
        queries: list[str] = []
        storage: Any = project.instance.event_log_storage
        with storage.index_connection() as connection:
            engine = connection.engine

        def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            queries.append(statement)

        sql_event.listen(engine, "before_cursor_execute", count)
        found = named(project)
        sql_event.remove(engine, "before_cursor_execute", count)
        assert len(found) == len(partitions)
        return len(queries)

    assert num_queries(["a", "b"]) == num_queries([f"p{number}" for number in range(20)] + ["a", "b"])


def test_what_is_superseded_goes_and_what_is_named_stays(grown: Project) -> None:
    figures = run(grown)
    assert figures["num_versions"] == 4
    assert figures["bytes_freed"] > 0
    assert grown.handoffs.versions("sharded", "shard-00") == [3]
    assert grown.handoffs.versions("sharded", "shard-01") == [1]
    assert grown.handoffs.versions("deep/whole", "all") == [3]


def test_a_named_version_stays_although_newer_ones_are_sealed(grown: Project) -> None:
    """A version that a run sealed and never recorded: Dagster's word is still the older one."""
    for number in range(3):
        grown.handoffs.publish(
            "sharded", "shard-01", pa.table({"x": [number]}), code_version="1", run_id="died before it said so"
        )
    run(grown)
    assert grown.handoffs.versions("sharded", "shard-01") == [1, 4]


def test_what_an_asset_of_another_name_sealed_stays_though_its_key_is_nowhere_in_the_store(project: Project) -> None:
    @dg.asset(key=["tales", "sharded"], partitions_def=SHARDS, metadata={"handoff": "sharded"})
    def of_tales(context: dg.AssetExecutionContext) -> pa.Table:
        return pa.table({"x": [context.partition_key]})

    @dg.asset(key=["tales", "whole"], metadata={"handoff": "whole", "handoff_partition": "tales"})
    def whole_of_tales() -> pa.Table:
        return pa.table({"x": [1]})

    project.make(of_tales, partition_key="shard-00")
    project.make(whole_of_tales)
    for asset, partition in (("sharded", "shard-00"), ("whole", "tales")):
        for number in range(2):
            table = pa.table({"x": [f"later {number}"]})
            project.handoffs.publish(asset, partition, table, code_version="1", run_id="died before it said so")
    # As a person's "Report materialization" in the UI, which states nothing.
    project.instance.report_runless_asset_event(
        dg.AssetMaterialization(["tales", "sharded"], partition="shard-01", metadata={})
    )
    run(project)
    assert project.handoffs.versions("sharded", "shard-00") == [1, 3]
    assert project.handoffs.versions("whole", "tales") == [1, 3]


def test_a_dry_run_says_what_would_go_and_takes_nothing(grown: Project) -> None:
    figures = run(grown, CollectionConfig(keep_versions=1, grace_hours=0, dry_run=True))
    assert (figures["dry_run"], figures["num_versions"]) == (True, 4)
    assert figures["bytes_to_free"] > 0
    assert grown.handoffs.versions("sharded", "shard-00") == [1, 2, 3]


def test_young_versions_have_their_grace_time(grown: Project) -> None:
    assert run(grown, CollectionConfig())["num_versions"] == 0


def test_weights_go_once_mlflow_says_that_no_alias_names_them(project: Project, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"0123" * 1000)
    objects = project.handoffs.objects
    digest = seal_directory(objects, source, clock=FixedClock(time.time() - 2 * HELD_SECONDS)).digest
    assert run(project)["num_weights"] == 0
    figures = run(project, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (figures["num_weights"], figures["bytes_freed"]) == (1, 4000)
    assert was_collected(objects, digest)


def test_any_project_can_schedule_it_and_it_waits_for_its_owner() -> None:
    job = collection_job(name="gc")
    schedule = collection_schedule(job, timezone="Europe/Berlin", config=CollectionConfig(keep_versions=5))
    resources = {"store": StoreResource(url="s3://models/prod")}
    definitions = dg.Definitions(jobs=[job], schedules=[schedule], resources=resources)
    found = definitions.resolve_schedule_def("nightly_gc")
    assert found.default_status == dg.DefaultScheduleStatus.STOPPED
    data = schedule.evaluate_tick(dg.build_schedule_context())
    (request,) = data.run_requests or []
    assert request.run_config["ops"]["collect_handoffs"]["config"]["keep_versions"] == 5

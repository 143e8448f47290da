"""What `assets.partitions` leans on: a named dynamic dimension beside a daily one, with keys that come while it runs.

A failure here reads: Dagster changed, look at who asks for content partitions (sensors, automation, reports).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.partitions.snap import PartitionsSnap
from dagster._core.execution.backfill import PartitionBackfill

DAYS = dg.DailyPartitionsDefinition("2026-11-20")
SHARDS = dg.DynamicPartitionsDefinition(name="shards")
CONTENT = dg.MultiPartitionsDefinition({"day": DAYS, "shard": SHARDS})
DAY, NOW = "2026-11-22", datetime(2026, 11, 23, 4, tzinfo=UTC)
BY_DAY = dg.MultiToSingleDimensionPartitionMapping("day")


@dg.asset(partitions_def=CONTENT)
def prompts() -> None: ...


@dg.asset(
    partitions_def=CONTENT,
    deps=[prompts],
    automation_condition=dg.AutomationCondition.in_latest_time_window(timedelta(days=2))
    & dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_match(dg.AutomationCondition.missing()),
)
def content() -> None: ...


@dg.asset(partitions_def=DAYS, deps=[dg.AssetDep(content, partition_mapping=BY_DAY)])
def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"read": sorted(context.asset_partition_keys_for_input("content"))})


DEFS = dg.Definitions([prompts, content, report], jobs=[dg.define_asset_job("write", selection=[content])])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("shards", ["a", "b"])
        yield instance


def make(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str) -> dg.ExecuteInProcessResult:
    return dg.materialize([prompts, content, report], selection=[asset], partition_key=partition, instance=instance)


def test_a_key_is_valid_as_soon_as_the_instance_has_it(instance: dg.DagsterInstance) -> None:
    key = f"{DAY}|c"
    with partition_loading_context(NOW, instance):
        assert not CONTENT.has_partition_key(key)
    instance.add_dynamic_partitions("shards", ["c"])
    with partition_loading_context(NOW, instance):
        assert CONTENT.has_partition_key(key)
    # One context lists its keys once.
    with partition_loading_context(NOW + timedelta(seconds=1), instance):
        assert [one for one in CONTENT.get_partition_keys() if one.startswith(DAY)] == [f"{DAY}|{one}" for one in "abc"]


def test_a_key_that_the_instance_lacks_is_refused_and_its_tags_are_those_of_two_dimensions(
    instance: dg.DagsterInstance,
) -> None:
    with pytest.raises(dg.DagsterUnknownPartitionError, match="c"):
        make(instance, prompts, f"{DAY}|c")
    run = make(instance, prompts, f"{DAY}|a").dagster_run
    assert {name: value for name, value in run.tags.items() if name.startswith("dagster/partition/")} == {
        "dagster/partition/day": DAY,
        "dagster/partition/shard": "a",
    }


def test_a_day_reads_all_shards_of_the_moment_it_runs(instance: dg.DagsterInstance) -> None:
    def read() -> object:
        (event,) = make(instance, report, DAY).asset_materializations_for_node("report")
        return event.metadata["read"].value

    assert read() == [f"{DAY}|a", f"{DAY}|b"]
    instance.add_dynamic_partitions("shards", ["c"])
    assert read() == [f"{DAY}|a", f"{DAY}|b", f"{DAY}|c"]


def test_a_new_key_asks_for_its_own_partitions_of_the_latest_days_and_for_no_handled_one_again(
    instance: dg.DagsterInstance,
) -> None:
    cursor, now = None, NOW

    def requested() -> set[str | None]:
        nonlocal cursor, now
        now += timedelta(seconds=1)
        result = dg.evaluate_automation_conditions(DEFS, instance, cursor=cursor, evaluation_time=now)
        cursor = result.cursor
        return set(result.get_requested_partitions(content.key))

    assert requested() == set()
    for day in ("2026-11-20", DAY):
        make(instance, prompts, f"{day}|a")
    assert requested() == {f"{DAY}|a"}
    instance.add_dynamic_partitions("shards", ["c"])
    assert requested() == set()
    make(instance, prompts, f"{DAY}|c")
    assert requested() == {f"{DAY}|c"}
    assert requested() == set()


def test_a_sensor_may_add_a_key_and_ask_for_its_partition_in_one_tick(instance: dg.DagsterInstance) -> None:
    @dg.sensor(job_name="write")
    def asks(context: dg.SensorEvaluationContext) -> dg.RunRequest:
        context.instance.add_dynamic_partitions("shards", ["new"])
        return dg.RunRequest(partition_key=f"{DAY}|new")

    definitions = dg.Definitions([prompts, content, report], jobs=DEFS.jobs, sensors=[asks])
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    with partition_loading_context(NOW, instance):
        (request,) = asks.evaluate_tick(context).run_requests or []
    assert request.tags["dagster/partition/shard"] == "new"


def test_a_backfill_of_some_of_its_partitions_knows_them(instance: dg.DagsterInstance) -> None:
    keys = [f"{DAY}|a", f"{DAY}|b"]
    graph = DEFS.resolve_asset_graph()
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="one",
        asset_graph=graph,
        partition_names=keys,
        asset_selection=[content.key],
        backfill_timestamp=NOW.timestamp(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_dynamic_partitions("shards", ["c"])
    target = backfill.get_asset_backfill_data(graph).target_subset
    assert set(target.get_partitions_subset(content.key).get_partition_keys()) == set(keys)


def test_daemon_and_webserver_get_the_dimension_and_not_its_keys() -> None:
    """So no key is too old for them."""
    assert PartitionsSnap.from_def(CONTENT).get_partitions_definition() == CONTENT


def test_a_deleted_key_asks_for_nothing_and_comes_back_with_its_history(instance: dg.DagsterInstance) -> None:
    cursor, now = None, NOW

    def requested() -> set[str | None]:
        nonlocal cursor, now
        now += timedelta(seconds=1)
        result = dg.evaluate_automation_conditions(DEFS, instance, cursor=cursor, evaluation_time=now)
        cursor = result.cursor
        return set(result.get_requested_partitions(content.key))

    requested()
    for asset in (prompts, content):
        make(instance, asset, f"{DAY}|a")
    make(instance, prompts, f"{DAY}|b")
    assert requested() == {f"{DAY}|b"}
    make(instance, content, f"{DAY}|b")
    for key in "ab":
        instance.delete_dynamic_partition("shards", key)
    assert requested() == set()
    instance.add_dynamic_partitions("shards", ["a"])
    assert requested() == set()
    assert instance.get_materialized_partitions(content.key) >= {f"{DAY}|a", f"{DAY}|b"}
